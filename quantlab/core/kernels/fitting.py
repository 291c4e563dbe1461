"""Scales, zero points and offsets from ranges, rounded to the type they are stored in."""

import numpy as np

from .compiling import inlined, jit
from .records import FLOAT32_MAX, Grid, Storage

HALF_STEP_AT_MAX = 2.0**103  # half the distance of the two largest float32


@inlined
def spacing(value, storage):
    """Distance between neighbours of a narrower float type around `value` (float64, finite)."""
    # The exponent bits alone are a power of two. frexp and ldexp say the same, and took most of the time of a fit.
    power = np.int64(np.float64(value).view(np.int64) & 0x7FF0000000000000).view(np.float64)
    return max(power * storage.epsilon, storage.smallest)


@inlined
def round_to(value, storage):
    """`value` (float64, finite) rounded half to even to a narrower float type, saturated at its largest."""
    step = spacing(value, storage)
    return min(max(np.rint(value / step) * step, -storage.largest), storage.largest)


@inlined
def round_down(value, storage):
    """`value` rounded towards -infinity to a narrower float type, saturated at its largest."""
    step = spacing(value, storage)
    return min(max(np.floor(value / step) * step, -storage.largest), storage.largest)


@inlined
def fit(lo, hi, grid, storage):
    """Scale, zero point and offset that spread the codes of `grid` over [lo, hi] (float64).

    scale = (hi - lo) / steps, never 0 or infinite in its storage type; a range of no width gets scale 1. Codes count
    up from the offset as it is stored, so it is rounded down and the scale reaches from there: a bfloat16 offset for
    [1001, 1002] is 1000, and 255 steps of 1/255 would end at 1001.
    """
    lo = min(lo, grid.widest_lo)
    hi = max(hi, -grid.widest_lo)
    below = round_down(lo, storage)
    lo = below if grid.has_offset == 1.0 else lo
    step = max(hi - lo, 0.0) / grid.steps
    rounded = max(round_to(step, storage), storage.smallest)
    scale = 1.0 if step == 0.0 else rounded
    zero_point = grid.has_zero_point * min(max(np.rint(-lo / scale), 0.0), grid.steps)
    return scale, zero_point, grid.has_offset * lo


@inlined
def bounds(scale, zero_point, offset, grid):
    """Lowest and highest code relative to the zero point whose value is finite in float32."""
    # The product is rounded before a positive offset is added: by up to half a step, and the sum must not pass the end.
    room = max(FLOAT32_MAX - (offset + HALF_STEP_AT_MAX if offset > 0.0 else 0.0), 0.0)
    limit = np.floor(room / abs(scale))  # math.floor would make it an int64
    return np.float32(max(grid.qmin - zero_point, -limit)), np.float32(min(grid.qmax - zero_point, limit))


@jit
def fit_groups(lo, hi, grid, storage, scale, zero_point, offset):
    """`fit` for arrays [rows, groups]; signed codes are spread over [-m, m], m the larger magnitude of lo and hi."""
    lows, highs, signed = lo.reshape(-1), hi.reshape(-1), grid.qmin < 0.0
    scales, zero_points, offsets = scale.reshape(-1), zero_point.reshape(-1), offset.reshape(-1)
    for i in range(np.uint64(lows.shape[0])):
        low, high = lows[i], highs[i]
        largest = max(abs(low), abs(high))
        low, high = -largest if signed else low, largest if signed else high
        scales[i], zero_points[i], offsets[i] = fit(low, high, grid, storage)


@jit
def grid_of(numbers):
    """A Grid from its numbers, float64 [6]."""
    return Grid(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5])


@jit
def storage_of(numbers):
    """A Storage from its numbers, float64 [3]."""
    return Storage(numbers[0], numbers[1], numbers[2])


@jit
def fit_all(lo, hi, grids, storages, fitted):
    """`fit_groups` for several codecs: rows of `grids` and `storages` are a Grid and a Storage each.

    fitted : float32 [codecs, rows, groups] each.
    """
    for k in range(grids.shape[0]):
        grid, storage = grid_of(grids[k]), storage_of(storages[k])
        fit_groups(lo, hi, grid, storage, fitted.scale[k], fitted.zero_point[k], fitted.offset[k])
