"""A quantized tensor slice by slice, so that what it decodes to is never held whole.

A slice is a run of values in C order that starts on a byte of every packed part and never cuts a group: it is a
quantized tensor of its own.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from ..errors import ShapeError
from .arrays import as_float32, check_array, raise_non_finite
from .granularity import PerGroup, PerTensor
from .metrics import Differences, ErrorReport
from .packing import packed_size
from .tensor import QuantizedTensor

VALUES = 1 << 22  # about as many in a slice: 16 MiB of float32
Slices = Iterator[tuple[slice, QuantizedTensor]]


def slices(q: QuantizedTensor, values: int = VALUES) -> Slices:
    """The tensor in slices of about `values` values: where each lies among the values in C order, and the slice.

    It has whole rows of the tensor; where all values share a scale, or the tensor is one row of groups, it is 1-D.
    """
    shape, granularity = q.shape, q.config.granularity
    if isinstance(granularity, PerTensor) or (isinstance(granularity, PerGroup) and shape[:-1] in ((), (1,))):
        shape = (q.size,)
    one_row = isinstance(granularity, PerGroup) and len(shape) == 1
    inner = granularity.group_size if one_row else math.prod(shape[1:])  # type: ignore[union-attr]
    count, width = -(-q.size // inner), _scales_per_unit(q, shape)
    bits = q.config.codec.bits
    aligned = next(unit for unit in (1, 2, 4, 8) if not (unit * inner * bits % 8 or unit * width * bits % 8))
    step = max(aligned, values // inner // aligned * aligned)
    for start in range(0, count, step):
        at = slice(start * inner, min((start + step) * inner, q.size))
        scales = slice(start * width, min(start + step, count) * width)
        yield at, _cut(q, at, scales, shape[1:])


def _scales_per_unit(q: QuantizedTensor, shape: tuple[int, ...]) -> int:
    """How many scales each row of a tensor seen as `shape` has, or each group of its only row; 0: they share all."""
    granularity = q.config.granularity
    if q.scale is None or not (isinstance(granularity, PerGroup) or granularity.by_rows(q.shape)):
        return 0
    return q.scale.shape[1] if q.scale.ndim == 2 and len(shape) > 1 else 1


def _cut(q: QuantizedTensor, at: slice, scales: slice, row: tuple[int, ...]) -> QuantizedTensor:
    """The slice of a run of values, rows of a shape each, and of the scales that are theirs; none of these: all."""
    bits, floats, zeros = q.config.codec.bits, [q.scale, q.offset], q.packed_zero_point
    shape = ((at.stop - at.start) // math.prod(row), *row)
    if scales.stop:
        target = q.config.granularity.scale_shape(shape)
        floats = [None if part is None else part.reshape(-1)[scales].reshape(target) for part in floats]
        if zeros is not None:
            zeros = zeros[scales.start * bits // 8 : packed_size(scales.stop, bits)]
    packed = q.packed[at.start * bits // 8 : packed_size(at.stop, bits)]
    return QuantizedTensor(q.config, shape, q.source_dtype, packed, floats[0], zeros, floats[1])


def measure_slices(
    x: np.ndarray,
    q: QuantizedTensor,
    decode: Callable[[QuantizedTensor], np.ndarray] = QuantizedTensor.dequantize,
    values: int = VALUES,
    channel_axis: int = 0,
) -> ErrorReport:
    """`measure(x, decode(q))`, of which no more than a slice is held; so is x where it is not float32 yet.

    Parameters
    ----------
    x : the original, any float dtype, finite, of the shape of q. float64 is rounded to float32, as it was quantized.
    decode : quantized tensor -> its values, float32; must treat every group on its own.
    values : about as many in a slice.
    channel_axis : along which output channels lie.

    Raises ShapeError if the shapes differ, and what `quantize` raises for an x that is not of finite floats.
    """
    if check_array(x).shape != q.shape:
        raise ShapeError(f"cannot compare shape {x.shape} with shape {q.shape}: give two of the same shape")
    return measure_parts(x, ((at, decode(part).reshape(-1)) for at, part in slices(q, values)), channel_axis)


def measure_parts(x: np.ndarray, parts: Iterator[tuple[slice, np.ndarray]], channel_axis: int = 0) -> ErrorReport:
    """The error half of a report for a tensor and what its values, in C order, became, which comes part by part."""
    flat, differences = check_array(x).reshape(-1), Differences(x.shape, channel_axis)
    for at, became in parts:
        values = as_float32(flat[at])
        if not np.isfinite(PerTensor().to_groups(values).batch_extents(1)).all():
            raise_non_finite(flat)
        differences.add(at.start, values, became)
    return differences.report()
