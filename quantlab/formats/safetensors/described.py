"""What the config.json of a folder says of the packed weights in it; nothing of it is believed before it is checked."""

import math
from typing import Any

from ...core.config import QuantConfig, check_config
from ...core.granularity import Granularity, PerChannel, PerGroup, PerTensor
from ...errors import CheckpointError, QuantlabError
from ...wording import shown
from ..checkpoint import Checkpoint
from ..output.described import Described
from . import compressed_tensors, mlx
from .beside import own_config
from .model import SCALES, SUFFIX

MAX_GROUP = 1 << 30  # values
PACKED, SHAPE = ".weight_packed", ".weight_shape"


def of_compressed_tensors(export: Checkpoint) -> dict[str, Described]:
    """The packed weights of a folder in compressed-tensors' layout, by name; {} for what is none.

    Raises CheckpointError where config.json and the arrays contradict each other.
    """
    settings = own_config(export).get("quantization_config")
    if not isinstance(settings, dict) or settings.get("quant_method") != "compressed-tensors":
        return {}
    modules = [name.removesuffix(PACKED) for name in export.names if name.endswith(PACKED)]
    found = {module + SUFFIX: _packed(export, module, settings) for module in modules}
    _check(export, found, compressed_tensors.specs)
    return found


def of_mlx(export: Checkpoint) -> dict[str, Described]:
    """The packed weights of a folder in MLX's layout, by name; {} for what is none. Raises as the above."""
    settings = own_config(export).get("quantization")
    if not isinstance(settings, dict):
        return {}
    modules = [name.removesuffix(".scales") for name in export.names if name.endswith(".scales")]
    found = {module + SUFFIX: _mlx(export, module, settings) for module in modules}
    _check(export, found, mlx.specs)
    return found


def _packed(export: Checkpoint, module: str, settings: dict[str, Any]) -> Described:
    scheme = _scheme(module, settings.get("config_groups"))
    if scheme is None:
        raise CheckpointError(f"config.json of {export} says nothing of {shown(module)}, whose weight is packed")
    if export.spec(module + SHAPE).shape != (2,):
        raise CheckpointError(f"{shown(module + SHAPE)} of {export} is no shape of a matrix")
    rows, columns = map(int, export.raw(module + SHAPE))
    if rows < 1 or columns < 1:
        raise CheckpointError(f"{shown(module + SHAPE)} of {export} says {rows} x {columns}")
    mapping = "symmetric" if scheme.get("symmetric") is True else "affine"
    granularity = _granularity(scheme)
    scale = SCALES.get(export.spec(module + ".weight_scale").dtype)
    return Described((rows, columns), _config(export, module, scheme.get("num_bits"), mapping, granularity, scale))


def _scheme(module: str, groups: object) -> dict[str, Any] | None:
    """The scheme of a module, of those that name it or all Linear layers."""
    for group in groups.values() if isinstance(groups, dict) else ():
        if isinstance(group, dict) and isinstance(group.get("weights"), dict):
            targets = group.get("targets")
            if isinstance(targets, list) and ("Linear" in targets or module in targets):
                return group["weights"]
    return None


def _granularity(scheme: dict[str, Any]) -> Granularity | None:
    size = scheme.get("group_size")
    if scheme.get("strategy") == "group":
        return _groups(size)
    kinds: dict[str, Granularity] = {"tensor": PerTensor(), "channel": PerChannel(0)}
    return kinds.get(str(scheme.get("strategy")))


def _groups(size: object) -> Granularity | None:
    return PerGroup(size) if type(size) is int and 0 < size <= MAX_GROUP else None


def _mlx(export: Checkpoint, module: str, settings: dict[str, Any]) -> Described:
    own = settings.get(module)
    scheme = own if isinstance(own, dict) else settings
    bits, granularity = scheme.get("bits"), _groups(scheme.get("group_size"))
    spec, scale = export.spec(module + SUFFIX), SCALES.get(export.spec(module + ".scales").dtype)
    config = _config(export, module, bits, "uniform", granularity, scale)
    *rows, words = spec.shape or (0,)
    return Described((*rows, words * 32 // config.codec.bits), config)


def _config(
    export: Checkpoint, module: str, bits: object, mapping: str, granularity: Granularity | None, scale: str | None
) -> QuantConfig:
    if granularity is not None and scale is not None and type(bits) is int:
        try:
            config = QuantConfig(dtype=f"int{bits}", mapping=mapping, granularity=granularity, scale_dtype=scale)
            check_config(config)
            return config
        except QuantlabError as error:
            raise CheckpointError(f"config.json of {export} says of {shown(module)}: {error}") from error
    raise CheckpointError(f"config.json of {export} describes {shown(module)} in a way that quantlab does not write")


def _check(export: Checkpoint, found: dict[str, Described], specs: Any) -> None:
    """CheckpointError unless the arrays have the types and shapes that follow from what config.json says."""
    for name, described in found.items():
        if not math.prod(described.shape):
            raise CheckpointError(f"{shown(name)} of {export} has no elements")
        for array, spec in specs(described.outgoing(name, "float32")).items():
            there = export.spec(array)
            if (there.dtype, there.shape) != (spec.dtype.name, spec.shape):
                raise CheckpointError(
                    f"{shown(array)} of {export} is {there.dtype} of shape {list(there.shape)}, and config.json says "
                    f"{spec.dtype.name} of shape {list(spec.shape)}"
                )
