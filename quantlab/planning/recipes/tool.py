"""What a recipe is, what a tool can express, and the sentence about what it cannot."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...core.calibration import MinMax
from ...core.config import QuantConfig
from ...core.dtypes import DTYPES, MAPPINGS
from ...core.granularity import Granularity, PerChannel, PerGroup, PerTensor
from ...errors import ConfigError, QuantlabError
from ...wording import counted, shown
from ..plan import Plan
from ..units import COPY

MODULE = ".weight"  # what the name of a tensor has behind that of its module, in PyTorch
COMMON_GROUPS = (16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Recipe:
    """A plan in the words of another tool.

    Attributes
    ----------
    text : the file's content. filename : what to call it. command : how it is run.
    remarks : what is to be known of it, in sentences; the first two stand at its top, where its grammar has comments.
    """

    text: str
    filename: str
    command: str
    remarks: tuple[str, ...] = ()


def anything(config: QuantConfig) -> str:
    """No objection."""
    return ""


@dataclass(frozen=True)
class Schemes:
    """The ways to quantize a tensor that a tool has words for.

    Attributes
    ----------
    bits, mappings : of integers. groups : sizes along a row; None for any. tensor, channel : whether one scale may do
    for a tensor, or for a channel of `axis`. types : number formats with rules of their own, and casts, by name.
    but : why it has no words for a configuration that all of the above allow; "" if it has.
    """

    bits: Collection[int] = ()
    mappings: Collection[str] = ()
    groups: Collection[int] | None = ()
    tensor: bool = False
    channel: bool = False
    axis: int = 0
    types: Collection[str] = ()
    but: Callable[[QuantConfig], str] = anything

    def refuses(self, config: QuantConfig) -> str:
        """What a tool lacks for a configuration, as in "it has no int5"; "" if nothing."""
        if not DTYPES[config.dtype].configurable or not self.bits:
            return "" if config.dtype in self.types else f"it has no {config.dtype}"
        if config.codec.bits not in self.bits:
            return f"it has no {config.dtype}"
        if config.mapping not in self.mappings:
            return f"it has no {config.mapping} {config.dtype}"
        if config.pow2_scale:
            return "it does not keep scales to powers of two"
        return self._refuses_granularity(config.granularity) or self.but(config)

    def _refuses_granularity(self, granularity: Granularity) -> str:
        if isinstance(granularity, PerGroup):
            fits = self.groups is None or granularity.group_size in self.groups
            return "" if fits else f"it has no groups of {granularity.group_size:,}"
        if isinstance(granularity, PerTensor):
            return "" if self.tensor else "it has no single scale for a whole tensor"
        if not self.channel:
            return "it has no scale per channel"
        return "" if granularity.axis == self.axis else f"it has no scales along axis {granularity.axis}"

    def nearest(self, config: QuantConfig) -> QuantConfig | None:
        """The configuration that a tool has words for and that is most like another one; None if there is none."""
        fitting = [other for other in neighbours(config, self.axis) if not self.refuses(other)]
        return min(fitting, key=lambda other: distance(config, other), default=None)


def neighbours(config: QuantConfig, axis: int) -> Iterator[QuantConfig]:
    """Configurations like one, with every number format, mapping and granularity; what cannot be is left out."""
    own = config.granularity.group_size if isinstance(config.granularity, PerGroup) else 32
    kept = config if DTYPES[config.dtype].configurable else QuantConfig(calibration=MinMax(), scale_dtype="fp16")
    places: list[Granularity] = [PerTensor(), PerChannel(axis), *map(PerGroup, sorted({own, *COMMON_GROUPS}))]
    for dtype, mapping, place in itertools.product(DTYPES, MAPPINGS, places):
        try:
            yield replace(kept, dtype=dtype, mapping=mapping, granularity=place, pow2_scale=False)
        except QuantlabError:
            continue


def distance(config: QuantConfig, other: QuantConfig) -> tuple[float, ...]:
    """How unlike two configurations are: bits first, of two as near the wider, then the mapping and the scales."""
    bits = DTYPES[other.dtype].bits - DTYPES[config.dtype].bits
    signs = is_symmetric(config) != is_symmetric(other)
    places = math.log2(width(config.granularity)), math.log2(width(other.granularity))
    words = config.mapping != other.mapping, config.dtype != other.dtype
    return abs(bits), bits < 0, signs, words[0], abs(places[0] - places[1]), places[1], words[1]


def width(granularity: Granularity) -> float:
    """About how many values share a scale; of channels and tensors, whose lengths nobody says here, many."""
    if isinstance(granularity, PerGroup):
        return granularity.group_size
    return 2.0**12 if isinstance(granularity, PerChannel) else 2.0**24


@dataclass(frozen=True)
class Known:
    """What a model's files tell beyond a plan: types by tensor (ggml's or NumPy's), and GGUF's architecture, or ""."""

    kinds: Mapping[str, str]
    arch: str = ""


@dataclass(frozen=True)
class Wanted:
    """A plan as a tool's writer gets it.

    Attributes
    ----------
    configs : tensor -> its configuration. copied : weights that the plan leaves as they are.
    others : tensors of the source that are no weights. known : what the source tells, where it is there.
    """

    plan: Plan
    configs: Mapping[str, QuantConfig]
    copied: tuple[str, ...]
    others: tuple[str, ...] = ()
    known: Known | None = None

    @property
    def title(self) -> str:
        """What the model is called."""
        return str(self.plan.source.get("name", "a model"))

    @property
    def is_onnx(self) -> bool:
        """Whether the plan names the initializers of an ONNX graph, [in, out], rather than modules' weights."""
        return self.title.lower().endswith(".onnx")

    def slugs(self) -> dict[str, QuantConfig]:
        """The configurations in use, by their slugs, in the order of the tensors."""
        return {config.slug: config for config in self.configs.values()}


@dataclass(frozen=True)
class Tool:
    """Another program that quantizes, and how a plan is told to it.

    Attributes
    ----------
    label : what it is called. filename, command : of its recipes.
    schemes : what it can express of a plan. write : the recipe's text, without what stands at its top.
    remarks : what else is to be known of it, in sentences. comment : what begins a comment; "" where there is none.
    """

    label: str
    filename: str
    command: Callable[[Wanted], str]
    schemes: Callable[[Wanted], Schemes]
    write: Callable[[Wanted], str]
    remarks: Callable[[Wanted], Sequence[str]] = lambda wanted: ()
    comment: str = "#"


def wanted_of(plan: Plan, names: Iterable[str] | None = None, known: Known | None = None) -> Wanted:
    """What a plan asks for. ConfigError for a word in it that is no configuration, or one without any."""
    configs = {name: QuantConfig.parse(word) for name, word in plan.choices.items() if word != COPY}
    if not configs:
        raise ConfigError("the plan leaves every tensor as it is: there is nothing to write a recipe for")
    copied = tuple(name for name, word in plan.choices.items() if word == COPY)
    others = plan.kept if names is None else tuple(name for name in names if name not in plan.choices)
    return Wanted(plan, configs, copied, others, known)


def check_expressible(wanted: Wanted, tool: Tool) -> None:
    """ConfigError for what a tool has no words for: the first by name, with the nearest that it has, and the count."""
    schemes = tool.schemes(wanted)
    refused = {slug: why for slug, config in wanted.slugs().items() if (why := schemes.refuses(config))}
    names = [name for name, config in wanted.configs.items() if config.slug in refused]
    if not names:
        return
    config = wanted.configs[names[0]]
    nearest = schemes.nearest(config)
    way = f"the nearest that it has is {nearest}" if nearest else "it can only be left as it is"
    more = f" ({counted(len(names), 'tensor')} of {len(wanted.configs):,} cannot be expressed)" if names[1:] else ""
    raise ConfigError(
        f"{tool.label} cannot be told this plan: tensor {shown(names[0])} is {config}, and {refused[config.slug]}; "
        f"{way}: plan with that, or copy the tensor{more}"
    )


def modules(wanted: Wanted, tool: str) -> dict[str, QuantConfig]:
    """Configurations by the names of modules. ConfigError for a tensor that is no module's weight."""
    for name in wanted.configs:
        if not name.endswith(MODULE) or name == MODULE:
            raise ConfigError(
                f"{tool} names modules, and tensor {shown(name)} is no module's: its name does not end with {MODULE}; "
                "copy it, or choose another tool"
            )
    return {module(name): config for name, config in wanted.configs.items()}


def module(name: str) -> str:
    """The module whose weight a tensor is."""
    return name.removesuffix(MODULE)


def left_modules(wanted: Wanted) -> list[str]:
    """The modules that a plan leaves as they are, as far as their names are known."""
    return [module(name) for name in (*wanted.copied, *wanted.others) if name.endswith(MODULE)]


def group_size(config: QuantConfig, channel: int = -1, tensor: int = 0) -> int:
    """Values that share a scale, as many tools write it: -1 for a whole channel."""
    granularity: Any = config.granularity
    if isinstance(granularity, PerGroup):
        return int(granularity.group_size)
    return channel if isinstance(granularity, PerChannel) else tensor


def is_symmetric(config: QuantConfig) -> bool:
    """Whether codes are signed and have no zero point."""
    return MAPPINGS[config.mapping].signed
