"""compressed-tensors' `pack-quantized`: what vLLM, transformers and llama.cpp's converter load.

A weight X.weight of [O, I] becomes, b being the bits::

    X.weight_packed      int32 [O, ceil(I * b / 32)]   each row a low-first bit stream of code + 2^(b-1)
    X.weight_scale       [O, I / g], [O, 1] or [1]      in the scale's dtype
    X.weight_zero_point  int32 [ceil(O * b / 32), G]    affine only: one stream per column, down the rows
    X.weight_shape       int64 [2]                      O, I

Its own decompressor computes (code - zero point) * scale with one rounding to the scale's dtype, as `decoded` does.
transformers and vLLM hold all floats of a model in one dtype, scales too: `held` is what they compute, and that is
what is measured for this format. So a scale that may have any dtype is `stored` in the model's own.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ...core import packing
from ...core.config import QuantConfig
from ...core.dtypes import MAPPINGS, SCALE_DTYPES
from ...core.granularity import Granularity, PerChannel, PerGroup, PerTensor
from ...core.tensor import PartSpec, QuantizedTensor, dtype_named
from ...errors import ExportError, NonFiniteError
from ...wording import shown
from ..checkpoint import Checkpoint
from ..output.layout import Layout
from ..output.outgoing import Outgoing, rounded
from .beside import own_config
from .fused import fused_in
from .model import (
    HEADS,
    SCALES,
    SUFFIX,
    dtype_of,
    dtype_said,
    experts_of,
    first_dtype,
    module_of,
    no_linear,
)

VERSION = "0.20.0"  # of compressed-tensors: the layout of 2, 4 and 8 bits has been the same since 0.9
BITS = (2, 4, 8)  # 3, 5, 6 and 7 bits were laid out otherwise before 0.18, and vLLM and llama.cpp disagree on them
AT_ONCE = 1 << 20  # codes that are packed in one go
# Heads that models share with their embedding, so that no file has them: lm_head in nearly all, in transformers 5 also
# the others. Their module is a Linear, which "Linear" would turn into a packed one that nobody fills.
TIED = f"re:{HEADS}$"


def refuses(shape: tuple[int, ...], config: QuantConfig) -> str | None:
    """Why the format cannot hold a tensor; None if it can."""
    kind = config.codec
    if len(shape) != 2:
        return f"it packs matrices [out, in], and this has shape {shape}: copy it, or choose safetensors"
    if not config.dtype.startswith("int") or kind.bits not in BITS:
        return f"it holds int2, int4 and int8, not {config.dtype}"
    if MAPPINGS[config.mapping].has_offset:
        return "it has zero points but no float offsets: use the symmetric or the affine mapping"
    return _refuses_granularity(shape, config)


def _refuses_granularity(shape: tuple[int, ...], config: QuantConfig) -> str | None:
    granularity, affine = config.granularity, MAPPINGS[config.mapping].has_zero_point
    if isinstance(granularity, PerTensor):
        return "zero points go per channel or per group, not per tensor" if affine else None
    if isinstance(granularity, PerChannel):
        return None if granularity.index(shape) == 0 else "channels run along axis 0 (the outputs): use PerChannel(0)"
    if shape[1] % granularity.group_size:
        return f"rows of {shape[1]} values cannot be cut into whole groups of {granularity.group_size}"
    if affine and config.codec.bits == 4 and shape[0] <= 8 and shape[1] > granularity.group_size:
        # Found by running it: the transpose of a single row of words is not what its unpacker expects.
        return f"its reader fails on the 4-bit zero points of only {shape[0]} rows: use the symmetric mapping"
    return None


def words(count: int, bits: int) -> int:
    """32-bit words that a stream of `count` codes takes."""
    return -(-count * bits // 32)


def scale_shape(shape: tuple[int, ...], granularity: Granularity) -> tuple[int, ...]:
    """Shape of `weight_scale`."""
    if isinstance(granularity, PerTensor):
        return (1,)
    return (shape[0], 1) if isinstance(granularity, PerChannel) else granularity.scale_shape(shape)


def specs(tensor: Outgoing) -> dict[str, PartSpec]:
    """The arrays that hold a tensor, by their names in the file."""
    config, module = tensor.config, module_of(tensor.name)
    assert config is not None
    rows, columns = tensor.shape
    bits, scales = config.codec.bits, scale_shape(tensor.shape, config.granularity)
    found = {
        f"{module}.weight_packed": PartSpec(np.dtype(np.int32), (rows, words(columns, bits))),
        f"{module}.weight_scale": PartSpec(SCALE_DTYPES[config.scale_dtype].dtype, scales),
        f"{module}.weight_shape": PartSpec(np.dtype(np.int64), (2,)),
    }
    if MAPPINGS[config.mapping].has_zero_point:
        found[f"{module}.weight_zero_point"] = PartSpec(np.dtype(np.int32), (words(rows, bits), scales[1]))
    return found


def arrays(name: str, q: QuantizedTensor) -> dict[str, np.ndarray]:
    """The arrays of `specs`, filled."""
    module, bits = module_of(name), q.config.codec.bits
    assert q.scale is not None
    scales = scale_shape(q.shape, q.config.granularity)
    middle = 2 ** (bits - 1) if MAPPINGS[q.config.mapping].signed else 0
    found = {
        f"{module}.weight_packed": pack_rows(q.codes, bits, middle),
        f"{module}.weight_scale": q.scale.reshape(scales),
        f"{module}.weight_shape": np.array(q.shape, np.int64),
    }
    if q.packed_zero_point is not None and q.zero_point is not None:
        columns = np.ascontiguousarray(q.zero_point.reshape(scales).T)
        found[f"{module}.weight_zero_point"] = np.ascontiguousarray(pack_rows(columns, bits, 0).T)
    return found


def pack_rows(codes: np.ndarray, bits: int, middle: int) -> np.ndarray:
    """Each row of codes [rows, n] as a bit stream of code + middle, zero-padded to whole words: int32 [rows, w]."""
    rows, n = codes.shape
    packed, step = np.empty((rows, words(n, bits)), "<i4"), max(1, AT_ONCE // n)
    for start in range(0, rows, step):
        packed[start : start + step] = _pack_some(codes[start : start + step], bits, middle)
    return packed


def _pack_some(codes: np.ndarray, bits: int, middle: int) -> np.ndarray:
    """`pack_rows` of so few rows that copies of them do not matter."""
    rows, n = codes.shape
    # A row padded with zero codes to a multiple of 32 of them ends on a word; what is beyond the last word is cut off.
    padded = np.zeros((rows, -(-n // 32) * 32), np.uint8)
    np.add(codes, middle, out=padded[:, :n], dtype=np.int16, casting="unsafe")
    stream = packing.pack(padded, bits).view("<i4").reshape(rows, -1)
    return stream[:, : words(n, bits)]


def unpack_rows(stream: np.ndarray, bits: int, n: int) -> np.ndarray:
    """Inverse of `pack_rows`, without the middle: uint8 [rows, n]."""
    rows, count = len(stream), -(-n // 32) * 32
    padded = np.ascontiguousarray(stream, "<i4")
    if stream.shape[1] < words(count, bits):
        padded = np.zeros((rows, words(count, bits)), "<i4")
        padded[:, : stream.shape[1]] = stream
    codes = packing.unpack(padded.reshape(-1).view(np.uint8), bits, rows * count, signed=False)
    return np.ascontiguousarray(codes.reshape(rows, count)[:, :n])


def restore(tensor: Outgoing, found: dict[str, np.ndarray]) -> QuantizedTensor:
    """The quantized tensor that `arrays` laid out, from what a reader found in the file."""
    config, module = tensor.config, module_of(tensor.name)
    assert config is not None
    bits, mapping = config.codec.bits, MAPPINGS[config.mapping]
    rows, columns = tensor.shape
    codes = unpack_rows(found[f"{module}.weight_packed"], bits, columns)
    if mapping.signed:
        codes -= np.uint8(2 ** (bits - 1))  # wraps around: two's complement, and no copy
        codes = codes.view(np.int8)
    zero_point = None
    if mapping.has_zero_point:
        streams = np.ascontiguousarray(found[f"{module}.weight_zero_point"].T)
        zero_point = packing.pack(np.ascontiguousarray(unpack_rows(streams, bits, rows).T), bits)
    scale = found[f"{module}.weight_scale"].reshape(config.granularity.scale_shape(tensor.shape))
    return QuantizedTensor(config, tensor.shape, tensor.source_dtype, packing.pack(codes, bits), scale, zero_point)


def decoded(q: QuantizedTensor) -> np.ndarray:
    """The values that compressed-tensors computes, as float32: those of `dequantize`, rounded to the scale's dtype.

    For codes of up to 8 bits the float32 product of an integer and a float16 or bfloat16 is exact, so there is one
    rounding in all.
    """
    assert q.scale is not None
    return rounded(q.dequantize(), q.scale.dtype)


def stored(config: QuantConfig, source_dtype: str, dtype: str | None = None) -> QuantConfig:
    """The configuration as it is written: a scale of the default dtype takes that of the model, or of the tensor."""
    return replace(config, scale_dtype=SCALES[_model(source_dtype, dtype)]) if config.scale_dtype == "fp32" else config


def held(q: QuantizedTensor, dtype: str | None = None) -> np.ndarray:
    """The values that transformers computes with in a model of a dtype (by default the tensor's own), as float32.

    It casts symmetric scales to the dtype and multiplies in it. What is affine it can only load by decompressing it
    first, in the scale's dtype, which is cast thereafter.
    """
    target = dtype_named(_model(q.source_dtype, dtype))
    assert q.scale is not None
    if MAPPINGS[q.config.mapping].has_zero_point:
        return rounded(decoded(q), target)
    with np.errstate(over="ignore"):
        scale = q.scale.astype(target)
    if not (np.isfinite(scale).all() and (scale != 0).all()):
        raise NonFiniteError(
            f"its scales leave the range of {target}, in which the model is held: choose scales of "
            f"{SCALES[target.name]}"
        )
    return rounded(
        replace(q, config=replace(q.config, scale_dtype=SCALES[target.name]), scale=scale).dequantize(), target
    )


def rounds(config: QuantConfig, source_dtype: str, dtype: str | None = None) -> bool:
    """Whether `held` differs from `dequantize()`."""
    affine = MAPPINGS[config.mapping].has_zero_point
    return _model(source_dtype, dtype) != "float32" or (affine and config.scale_dtype != "fp32")


def _model(source_dtype: str, dtype: str | None) -> str:
    return dtype or (source_dtype if source_dtype in SCALES else "float32")


def bound(layout: Layout, source: Checkpoint) -> Layout:
    """The layout for tensors of a source: its model's dtype decides how scales are stored and what is measured."""
    dtype = dtype_of(source)
    return replace(
        layout,
        stored=partial(stored, dtype=dtype),
        decoded=partial(held, dtype=dtype),
        rounds=partial(rounds, dtype=dtype),
    )


def remarks(tensors: Sequence[Outgoing], source: Checkpoint) -> list[str]:
    """Which scales are stored otherwise than their configuration says, and what transformers or vLLM do not load."""
    dtype = dtype_of(source)
    ours = [(t.config, _model(t.source_dtype, dtype)) for t in tensors if t.config is not None]
    others = [held for config, held in ours if config.scale_dtype == "fp32" and held != "float32"]
    found = [f"scales are stored as {others[0]}, in which transformers holds this model"] if others else []
    return found + _of_experts(tensors, source) + _of_fused(tensors, source)


def _of_experts(tensors: Sequence[Outgoing], source: Checkpoint) -> list[str]:
    """What transformers (5.23) makes of experts: beside packed layers it expects packed ones, all under one scheme."""
    schemes = {tensor.name: _scheme(tensor) for tensor in tensors if tensor.config is not None}
    experts = [name for name in source.names if experts_of(name) and name.endswith(SUFFIX)]
    if len({schemes.get(name) for name in experts}) < 2 and all(name in schemes for name in experts):
        return []
    return [
        "transformers loads the experts of all layers by one configuration, and none that are copied: with these "
        "the folder is for vLLM alone"
    ]


def _of_fused(tensors: Sequence[Outgoing], source: Checkpoint) -> list[str]:
    """What vLLM computes in one multiplication, and so by the scheme of the first, under several schemes."""
    schemes = {tensor.name: _scheme(tensor) for tensor in tensors if tensor.config is not None}
    together: dict[tuple[str, str], set[str | None]] = {}
    for name in source.names:
        if (fused := fused_in(name)) and not experts_of(name):
            together.setdefault(fused, set()).add(schemes.get(name))
    several = [fused for fused, each in together.items() if len(each) > 1]
    if not several:
        return []
    path, words = several[0]
    more = f", as {len(several) - 1:,} more" if len(several) > 1 else ""
    return [
        f"vLLM fuses {words}, which have several configurations in {shown(path)}{more}: the folder is for "
        f"transformers alone"
    ]


def unfit(tensors: Sequence[Outgoing], source: Checkpoint | None) -> dict[str, str]:
    """What the readers of the format cannot load of a model: name -> why. Of tensors without a model, nothing."""
    config = own_config(source)
    return no_linear(tensors, config) | _affine_experts(tensors) if config else {}


def _affine_experts(tensors: Sequence[Outgoing]) -> dict[str, str]:
    why = "transformers and vLLM load experts without zero points: use the symmetric mapping"
    affine = [t.name for t in tensors if t.config is not None and MAPPINGS[t.config.mapping].has_zero_point]
    return {name: why for name in affine if experts_of(name)}


def check(tensors: Sequence[Outgoing], source: Checkpoint | None) -> None:
    """ExportError for what no single tensor tells.

    transformers decompresses all that is affine by one scheme, and no program has several for the experts of a layer.
    """
    schemes = {repr(weights_scheme(tensor.config)) for tensor in tensors if tensor.config is not None}
    affine = [tensor for tensor in tensors if tensor.config and MAPPINGS[tensor.config.mapping].has_zero_point]
    if affine and len(schemes) > 1:
        raise ExportError(
            f"compressed-tensors cannot be loaded with {affine[0].config} beside other configurations: transformers "
            f"loads affine weights only where all have one bit width and one granularity; use the symmetric mapping"
        )
    _check_experts(tensors)


def _check_experts(tensors: Sequence[Outgoing]) -> None:
    found: dict[str, Outgoing] = {}
    for tensor in tensors:
        if (experts := experts_of(tensor.name)) and tensor.name.endswith(SUFFIX):
            first = found.setdefault(experts[0], tensor)
            if _scheme(first) != _scheme(tensor):
                raise ExportError(
                    f"{shown(first.name)} is {first.config or 'a copy'} and {shown(tensor.name)} "
                    f"{tensor.config or 'a copy'}: the programs that load compressed-tensors have all experts of a "
                    f"layer under one configuration, so give them the same, or copy all"
                )


def _scheme(tensor: Outgoing) -> str:
    return repr(tensor.config and weights_scheme(tensor.config))


def weights_scheme(config: QuantConfig) -> dict[str, Any]:
    """The `weights` entry of a config group."""
    strategies = {PerTensor: "tensor", PerChannel: "channel", PerGroup: "group"}
    scheme = {
        "num_bits": config.codec.bits,
        "type": "int",
        "symmetric": MAPPINGS[config.mapping].signed,
        "strategy": strategies[type(config.granularity)],
        "dynamic": False,
    }
    if isinstance(config.granularity, PerGroup):
        scheme["group_size"] = config.granularity.group_size
    return scheme


def settings(tensors: list[Outgoing], config: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of the quantization: one group per scheme, and what is not quantized under `ignore`.

    With one scheme the target is the class Linear, which every loader understands; several name their modules. A model
    whose config.json says no dtype gets one: transformers would take that of the first tensor, which may be a scale.
    """
    found = {
        "quant_method": "compressed-tensors",
        "version": VERSION,
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "ignore": ignored(tensors),
        "kv_cache_scheme": None,
        "config_groups": _groups(tensors),
    }
    dtype = first_dtype(tensor.source_dtype for tensor in tensors)
    own = {"torch_dtype": dtype} if config and not dtype_said(config) and dtype else {}
    return {**own, "quantization_config": found}


def ignored(tensors: Sequence[Outgoing]) -> list[str]:
    """Linear layers that stay as they are: the matrices that are copied, and a head that shares the embedding's."""
    quantized = {module_of(t.name) for t in tensors if t.config is not None}
    copied = [module_of(t.name) for t in tensors if t.config is None and len(t.shape) == 2 and t.name.endswith(SUFFIX)]
    heads = ["lm_head"] if "lm_head" not in quantized and "lm_head" not in copied else []
    pattern = TIED.removeprefix("re:")
    return copied + heads + ([] if any(re.match(pattern, module) for module in quantized) else [TIED])


def _groups(tensors: Sequence[Outgoing]) -> dict[str, Any]:
    schemes: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for tensor in tensors:
        if tensor.config is not None:
            scheme = weights_scheme(tensor.config)
            schemes.setdefault(repr(scheme), (scheme, []))[1].append(module_of(tensor.name))
    # transformers (5.23) decodes all experts by the first group, whoever it names.
    first = next((_scheme(tensor) for tensor in tensors if tensor.config and experts_of(tensor.name)), "")
    return {
        f"group_{i}": {
            "targets": ["Linear"] if len(schemes) == 1 else modules,
            "format": "pack-quantized",
            "input_activations": None,
            "output_activations": None,
            "weights": scheme,
        }
        for i, (scheme, modules) in enumerate(sorted(schemes.values(), key=lambda each: repr(each[0]) != first))
    }
