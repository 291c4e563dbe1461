"""MLX's affine quantization: what mlx-lm loads.

A weight X.weight of [O, I] becomes, b being the bits and g the group size::

    X.weight  uint32 [O, I * b / 32]   each row a low-first bit stream of unsigned codes
    X.scales  [O, I / g]               in the scale's dtype
    X.biases  [O, I / g]               likewise: w = scale * code + bias

This is quantlab's uniform mapping; the stream is that of `packed`, so nothing is computed on the way. Their reader
computes in the scale's dtype, with a rounding after the product and one after the sum: `decoded` does the same, and
that is what is measured for this format.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.config import QuantConfig
from ...core.dtypes import MAPPINGS, SCALE_DTYPES
from ...core.granularity import PerGroup
from ...core.tensor import PartSpec, QuantizedTensor
from ...errors import ExportError
from ...wording import shown
from ..checkpoint import Checkpoint
from ..output.outgoing import Outgoing, rounded
from .beside import own_config
from .model import SUFFIX, TIED_HEAD, experts_of, is_one_expert, is_tied_head, module_of

# Architectures whose experts mlx-lm (0.32) stacks from packed arrays too, as far as its models' `sanitize` shows.
STACKS_PACKED = frozenset(
    (
        *("bailing_moe", "bailing_moe_linear", "deepseek", "deepseek_v2", "deepseek_v3", "deepseek_v32", "exaone_moe"),
        *("glm4_moe", "glm4_moe_lite", "hunyuan", "jamba", "joyai_llm_flash", "kimi_k2", "kimi_vl", "longcat_flash"),
        *("mimo_v2_flash", "mixtral", "olmoe", "phimoe", "qwen2_moe"),
    )
)
_SWITCHED = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}  # what it calls a projection once it is stacked
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


def unfit(tensors: Sequence[Outgoing], source: Checkpoint | None) -> dict[str, str]:
    """What mlx-lm cannot load of a model: name -> why. Of tensors without a model, nothing."""
    config = own_config(source)
    found = {t.name: _unfit(t.name, config) for t in tensors if t.config is not None} if config else {}
    return {name: why for name, why in found.items() if why}


def _unfit(name: str, config: dict[str, Any]) -> str:
    kind = config.get("model_type")
    if not name.endswith(SUFFIX):
        return "mlx-lm looks for modules, whose weights are called X.weight"
    if is_tied_head(name, config):
        return TIED_HEAD
    if is_one_expert(name) and isinstance(kind, str) and kind not in STACKS_PACKED:
        return (
            f"mlx-lm stacks the experts of {kind} as plain numbers only: convert the model first, without -q, and "
            f"quantize what it wrote"
        )
    return ""


def check(tensors: Sequence[Outgoing], source: Checkpoint | None) -> None:
    """ExportError for what no single tensor tells: a projection of all experts of a layer becomes one tensor."""
    found: dict[str, Outgoing] = {}
    for tensor in tensors:
        if is_one_expert(tensor.name):
            first = found.setdefault(read_as(module_of(tensor.name)), tensor)
            if _scheme(first) != _scheme(tensor):
                raise ExportError(
                    f"{shown(first.name)} is {first.config or 'a copy'} and {shown(tensor.name)} "
                    f"{tensor.config or 'a copy'}: mlx-lm stacks a projection of all experts of a layer, so give them "
                    f"the same, or copy all"
                )


def read_as(module: str) -> str:
    """The module that mlx-lm has in the place of one: experts that lie one by one are stacked as they are loaded.

    >>> read_as("model.layers.0.block_sparse_moe.experts.3.w1")
    'model.layers.0.block_sparse_moe.switch_mlp.gate_proj'
    """
    if not is_one_expert(module) or not (found := experts_of(module)):
        return module
    experts, projection = found
    return f"{experts.removesuffix('experts')}switch_mlp.{_SWITCHED.get(projection, projection)}"


def _scheme(tensor: Outgoing) -> dict[str, int] | None:
    """Group size and bits of a tensor; None of a copy."""
    if tensor.config is None:
        return None
    assert isinstance(tensor.config.granularity, PerGroup)
    return {"group_size": tensor.config.granularity.group_size, "bits": tensor.config.codec.bits}


def settings(tensors: list[Outgoing], config: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of the quantization: one scheme for all, and where there are several, that of each module.

    Those of the first scheme are named as well: so each module takes as many bytes whatever the others are. What mlx-lm
    stacks is named by itself and by what it becomes.
    """
    found = {module_of(tensor.name): scheme for tensor in tensors if (scheme := _scheme(tensor))}
    first = next(iter(found.values()), {})
    named: dict[str, Any] = _read(found) if any(scheme != first for scheme in found.values()) else {}
    copied = [t for t in tensors if t.config is None and len(t.shape) == 2 and t.name.endswith(SUFFIX)]
    return {
        "quantization": {**first, "mode": "affine", **named, **_read({module_of(t.name): False for t in copied})},
    }


def _read(modules: dict[str, Any]) -> dict[str, Any]:
    """The same, and each entry once more under the module that mlx-lm has in its place."""
    return modules | {read_as(module): what for module, what in modules.items()}
