"""QuantConfig: one way to quantize a tensor, and how to name it."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from ..errors import ConfigError, check_known
from .calibration import CALIBRATIONS, MSE, Calibration, MinMax, parse_calibration
from .dtypes import DTYPES, MAPPINGS, SCALE_DTYPES, BlockFormat, Codec, codec_of
from .granularity import GRANULARITIES, Granularity, PerChannel, PerGroup, PerTensor, parse_granularity

Named = TypeVar("Named")


@dataclass(frozen=True, kw_only=True)
class QuantConfig:
    """One way to quantize a tensor. Hashable, so it can key a cache or a table.

    fp16 and bf16 are casts, and ggml's types (q4_0 ...) have rules of their own: mapping, granularity, calibration and
    scale do not apply to them, and are folded to what the format fixes, so that equal results are equal configurations.

    >>> QuantConfig(dtype="int4", granularity=PerGroup(128), calibration=MSE()).slug
    'int4-sym-g128-mse'
    >>> QuantConfig.parse("int8-aff-ch0-percentile1_99-sfp16").scale_dtype
    'fp16'
    """

    dtype: str = "int8"
    mapping: str = "symmetric"
    granularity: Granularity = PerTensor()
    calibration: Calibration = MinMax()
    scale_dtype: str = "fp32"
    pow2_scale: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            check_option(field.name, getattr(self, field.name))
        if not DTYPES[self.dtype].configurable:
            self._fold()
        self.calibration.check(self.codec)

    def _fold(self) -> None:
        """Set what the number format fixes, and to the default what it has no use for."""
        for field in fields(self)[1:]:
            object.__setattr__(self, field.name, field.default)
        kind = DTYPES[self.dtype]
        if isinstance(kind, BlockFormat):
            object.__setattr__(self, "mapping", kind.mapping)
            object.__setattr__(self, "granularity", PerGroup(kind.block))
            object.__setattr__(self, "scale_dtype", kind.scale_dtype)

    @property
    def codec(self) -> Codec:
        """What encodes and decodes under this configuration."""
        return codec_of(self.dtype, self.mapping, self.scale_dtype, self.pow2_scale)

    @property
    def slug(self) -> str:
        """A short unique name: `int4-sym-g128-mse`, `fp16`; `parse` is its inverse."""
        if not DTYPES[self.dtype].configurable:
            return self.dtype
        parts = [self.dtype, MAPPINGS[self.mapping].token, self.granularity.slug, self.calibration.slug]
        parts += [f"s{self.scale_dtype}"] * (self.scale_dtype != "fp32") + ["pow2"] * self.pow2_scale
        return "-".join(parts)

    def __str__(self) -> str:
        return self.slug

    @classmethod
    def parse(cls, slug: str) -> "QuantConfig":
        """The configuration of a slug, or of a preset's name. Raises ConfigError."""
        if not isinstance(slug, str):
            raise ConfigError(f"a configuration is named by text such as 'int4-sym-g128-mse', not by {slug!r}")
        if slug in PRESETS:
            return PRESETS[slug]
        if slug in DTYPES and not DTYPES[slug].configurable:
            return cls(dtype=slug)
        match = SLUG.fullmatch(slug)
        if match is None:
            raise ConfigError(
                f"{slug[:80]!r} is no configuration: write DTYPE-MAPPING-GRANULARITY-CALIBRATION such as "
                "int4-sym-g128-mse, fp16, or a preset such as w4_g128"
            )
        mappings = {mapping.token: name for name, mapping in MAPPINGS.items()}
        check_known("mapping", match["mapping"], mappings)
        return cls(
            dtype=match["dtype"],
            mapping=mappings[match["mapping"]],
            granularity=parse_granularity(match["granularity"]),
            calibration=parse_calibration(match["calibration"]),
            scale_dtype=match["scale"] or "fp32",
            pow2_scale=match["pow2"] is not None,
        )


NAMED: dict[str, Iterable[str]] = {"dtype": DTYPES, "mapping": MAPPINGS, "scale_dtype": SCALE_DTYPES}
TYPED: dict[str, tuple[tuple[type, ...], str]] = {
    "granularity": (tuple(GRANULARITIES.values()), "PerTensor(), PerChannel(axis) or PerGroup(size)"),
    "calibration": (tuple(CALIBRATIONS.values()), "an instance such as MinMax() or MSE()"),
    "pow2_scale": ((bool,), "True or False"),
}


def check_option(name: str, value: object) -> None:
    """Raise ConfigError unless a configuration's field `name` may have this value."""
    if name in NAMED:
        check_known(name, value, NAMED[name])
    elif not isinstance(value, TYPED[name][0]):
        raise ConfigError(f"{name} is {value!r}: give {TYPED[name][1]}")


def check_config(config: object) -> None:
    """Raise ConfigError unless `config` is a configuration; a slug is not one yet."""
    if not isinstance(config, QuantConfig):
        raise ConfigError(
            f"the configuration is {str(repr(config))[:80]}: give a QuantConfig, such as "
            "QuantConfig.parse('int4-sym-g128-mse')"
        )


SLUG = re.compile(
    r"(?P<dtype>[a-z0-9]+)-(?P<mapping>[a-z]+)-(?P<granularity>[a-z]+-?\d*)-(?P<calibration>[a-z][a-z0-9._]*)"
    r"(?:-s(?P<scale>fp32|fp16|bf16))?(?P<pow2>-pow2)?"
)

# Ten methods by the names that people search for, then the usual ones for weights.
PRESETS: dict[str, QuantConfig] = {
    "int8_symmetric": QuantConfig(),
    "int8_asymmetric": QuantConfig(mapping="affine"),
    "int8_per_channel": QuantConfig(granularity=PerChannel(0)),
    "int4_symmetric": QuantConfig(dtype="int4"),
    "int4_per_channel": QuantConfig(dtype="int4", granularity=PerChannel(0)),
    "uniform": QuantConfig(mapping="uniform"),
    "symmetric": QuantConfig(),
    "affine": QuantConfig(mapping="affine"),
    "power_of_two": QuantConfig(mapping="uniform", pow2_scale=True),
    "int4": QuantConfig(dtype="int4"),
    "uint4": QuantConfig(dtype="int4", mapping="uniform"),
    "float16": QuantConfig(dtype="fp16"),
    "bfloat16": QuantConfig(dtype="bf16"),
    "per_channel_symmetric": QuantConfig(granularity=PerChannel(-1)),
    "per_channel_affine": QuantConfig(mapping="affine", granularity=PerChannel(-1)),
    "w4_g32": QuantConfig(dtype="int4", granularity=PerGroup(32), calibration=MSE(), scale_dtype="fp16"),
    "w4_g128": QuantConfig(dtype="int4", granularity=PerGroup(128), calibration=MSE(), scale_dtype="fp16"),
    "w4_g128_affine": QuantConfig(
        dtype="int4", mapping="affine", granularity=PerGroup(128), calibration=MSE(), scale_dtype="fp16"
    ),
    "w8_channel": QuantConfig(granularity=PerChannel(0), scale_dtype="fp16"),
    "w8_g128": QuantConfig(granularity=PerGroup(128), scale_dtype="fp16"),
    "w3_g64": QuantConfig(dtype="int3", granularity=PerGroup(64), calibration=MSE(), scale_dtype="fp16"),
}

# What engines for LLMs are given most: in a first sweep beside its grid, whose scales are fp32.
POPULAR = ("w4_g128", "w4_g128_affine", "w8_channel", "w8_g128")


def combinations(
    dtypes: Iterable[str] = ("int8", "int4"),
    mappings: Iterable[str] = ("symmetric",),
    granularities: Iterable[Granularity | str] = (PerTensor(),),
    calibrations: Iterable[Calibration | str] = (MinMax(),),
    scale_dtypes: Iterable[str] = ("fp32",),
    pow2_scales: Iterable[bool] = (False,),
) -> tuple[list[QuantConfig], list[str]]:
    """Every configuration that the options make together, and the sentences of those that cannot be built.

    Granularities and calibrations may be given as objects or as in slugs (`"g128"`, `"mse"`). Configurations that come
    to the same (fp16 under several mappings) are listed once; the order is that of the arguments.
    """
    axes: list[list[Any]] = [
        listed("dtypes", dtypes),
        listed("mappings", mappings),
        [parse_granularity(g) if isinstance(g, str) else g for g in listed("granularities", granularities)],
        [parse_calibration(c) if isinstance(c, str) else c for c in listed("calibrations", calibrations)],
        listed("scale_dtypes", scale_dtypes),
        listed("pow2_scales", pow2_scales),
    ]
    names = [field.name for field in fields(QuantConfig)]
    # What no configuration may have is a mistake, not a combination that does not work.
    for name, values in zip(names, axes, strict=True):
        for value in values:
            check_option(name, value)
    configs: dict[QuantConfig, None] = {}
    refusals: dict[str, None] = {}
    for options in itertools.product(*axes):
        try:
            configs[QuantConfig(**dict(zip(names, options, strict=True)))] = None
        except ConfigError as error:
            refusals[str(error)] = None
    return list(configs), list(refusals)


def listed(name: str, values: Iterable[Named]) -> list[Named]:
    """`values` as a list; a lone string is one value, not its letters."""
    if isinstance(values, (str, *GRANULARITIES.values(), Calibration)):
        return [values]  # type: ignore[list-item]
    try:
        return list(values)
    except TypeError:
        raise ConfigError(f"{name} is {values!r}: give a list of them") from None


def grid(
    dtypes: Iterable[str] = ("int8", "int4"),
    mappings: Iterable[str] = ("symmetric",),
    granularities: Iterable[Granularity | str] = (PerTensor(),),
    calibrations: Iterable[Calibration | str] = (MinMax(),),
    scale_dtypes: Iterable[str] = ("fp32",),
    pow2_scales: Iterable[bool] = (False,),
) -> list[QuantConfig]:
    """The configurations of `combinations`, without those that cannot be built.

    >>> [c.slug for c in grid(["int4", "fp16"], ["symmetric", "affine"], ["g32"], ["mse"])]
    ['int4-sym-g32-mse', 'int4-aff-g32-mse', 'fp16']
    """
    return combinations(dtypes, mappings, granularities, calibrations, scale_dtypes, pow2_scales)[0]
