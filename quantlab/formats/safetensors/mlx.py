"""MLX's affine quantization: what mlx-lm loads.

A weight X.weight of [O, I] becomes, b being the bits and g the group size::

    X.weight  uint32 [O, I * b / 32]   each row a low-first bit stream of unsigned codes
    X.scales  [O, I / g]               in the scale's dtype
    X.biases  [O, I / g]               likewise: w = scale * code + bias

This is quantlab's uniform mapping; the stream is that of `packed`, so nothing is computed on the way. Their reader
computes in the scale's dtype, with a rounding after the product and one after the sum: `decoded` does the same, and
that is what is measured for this format.
"""

from typing import Any

import numpy as np

from ...core.config import QuantConfig
from ...core.dtypes import MAPPINGS, SCALE_DTYPES
from ...core.granularity import PerGroup
from ...core.tensor import PartSpec, QuantizedTensor
from ..output.outgoing import Outgoing, rounded
from .model import SUFFIX, module_of

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


def refuses(shape: tuple[int, ...], config: QuantConfig) -> str | None:
    """Why the format cannot hold a tensor; None if it can."""
    if len(shape) < 2:
        return f"it packs matrices [out, in], and this has shape {shape}: copy it, or choose safetensors"
    if not config.dtype.startswith("int") or config.codec.bits not in BITS:
        return f"it holds int2 to int6 and int8, not {config.dtype}"
    if not MAPPINGS[config.mapping].has_offset:
        return f"it stores a bias per group, which is the uniform mapping, not {config.mapping}"
    if not isinstance(config.granularity, PerGroup) or config.granularity.group_size not in GROUP_SIZES:
        return f"its groups have 32, 64 or 128 values, and this is {config.granularity}"
    if shape[-1] % config.granularity.group_size:
        return f"rows of {shape[-1]} values cannot be cut into whole groups of {config.granularity.group_size}"
    return None


def specs(tensor: Outgoing) -> dict[str, PartSpec]:
    """The arrays that hold a tensor, by their names in the file."""
    config, module = tensor.config, module_of(tensor.name)
    assert config is not None and isinstance(config.granularity, PerGroup)
    *rows, columns = tensor.shape
    scales = PartSpec(SCALE_DTYPES[config.scale_dtype].dtype, (*rows, columns // config.granularity.group_size))
    return {
        f"{module}.weight": PartSpec(np.dtype(np.uint32), (*rows, columns * config.codec.bits // 32)),
        f"{module}.scales": scales,
        f"{module}.biases": scales,
    }


def arrays(name: str, q: QuantizedTensor) -> dict[str, np.ndarray]:
    """The arrays of `specs`, filled."""
    module = module_of(name)
    assert q.scale is not None and q.offset is not None and isinstance(q.config.granularity, PerGroup)
    *rows, columns = q.shape
    scales = (*rows, columns // q.config.granularity.group_size)
    return {
        f"{module}.weight": q.packed.view("<u4").reshape(*rows, -1),
        f"{module}.scales": q.scale.reshape(scales),
        f"{module}.biases": q.offset.reshape(scales),
    }


def restore(tensor: Outgoing, found: dict[str, np.ndarray]) -> QuantizedTensor:
    """The quantized tensor that `arrays` laid out, from what a reader found in the file."""
    config, module = tensor.config, module_of(tensor.name)
    assert config is not None
    shape = config.granularity.scale_shape(tensor.shape)
    return QuantizedTensor(
        config,
        tensor.shape,
        tensor.source_dtype,
        np.ascontiguousarray(found[f"{module}.weight"]).reshape(-1).view(np.uint8),
        found[f"{module}.scales"].reshape(shape),
        None,
        found[f"{module}.biases"].reshape(shape),
    )


def decoded(q: QuantizedTensor) -> np.ndarray:
    """The values that MLX computes, as float32: those of `dequantize` where scales are float32."""
    assert q.scale is not None and q.offset is not None and isinstance(q.config.granularity, PerGroup)
    scale, offset = (values.astype(np.float32).reshape(-1, 1) for values in (q.scale, q.offset))
    values = q.codes.reshape(-1, q.config.granularity.group_size).astype(np.float32)
    values *= scale
    rounded(values, q.scale.dtype)
    values += offset
    return rounded(values, q.scale.dtype).reshape(q.shape)


def settings(tensors: list[Outgoing], config: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of the quantization: one scheme for all, and where there are several, that of each module.

    Those of the first scheme are named as well: so each module takes as many bytes whatever the others are.
    """
    found = {
        module_of(t.name): {"group_size": t.config.granularity.group_size, "bits": t.config.codec.bits}  # type: ignore[union-attr]
        for t in tensors
        if t.config is not None
    }
    first = next(iter(found.values()), {})
    named: dict[str, Any] = found if any(scheme != first for scheme in found.values()) else {}
    copied = {
        module_of(t.name): False for t in tensors if t.config is None and len(t.shape) == 2 and t.name.endswith(SUFFIX)
    }
    return {"quantization": {**first, "mode": "affine", **named, **copied}}
