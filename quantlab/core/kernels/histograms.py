"""Values counted in bins, of equal width or on a logarithmic scale."""

import numpy as np

from .codes import group
from .compiling import BLOCK, jit


@jit
def bin_indices(values, lo, factor, magnitude, last, indices):
    """The bin of every value, or of its magnitude: (x - lo) * factor, cut to 0 .. last and rounded down."""
    for i in range(values.shape[0]):
        value = np.float64(values[i])
        value = abs(value) if magnitude == 1 else value
        indices[i] = np.int32(min(max((value - lo) * factor, 0.0), last))


@jit
def histogram(x, size, lo, hi, magnitude, counts):
    """Counts of x (of |x| where `magnitude` is 1) in equal bins over [lo, hi] per group: int64 [rows, groups, bins].

    Values outside the range count in the end bins. Indices are found first, block by block, in a loop that vectorises:
    in one loop with the counting it would not, and took three to five times as long.
    """
    bins = counts.shape[2]
    indices = np.empty(BLOCK, np.uint64)  # signed ones would be checked for counting from the end
    for r in range(x.shape[0]):
        for j in range(counts.shape[1]):
            width = hi[r, j] - lo[r, j]
            factor = bins / width if width > 0.0 else 0.0
            values, out = group(x, r, j, size), counts[r, j]
            out[:] = 0
            for start in range(0, values.shape[0], BLOCK):
                block = values[start : start + BLOCK]
                bin_indices(block, lo[r, j], factor, magnitude, bins - 1.0, indices)
                for i in range(block.shape[0]):
                    out[indices[i]] += 1


@jit
def log_histogram(values, center, first, bins):
    """Count and sum values [n], less `center`, in bins of equal width on a logarithmic scale: float64 [2, n bins, 2].

    bins[0] holds those above the center and bins[1] those below. A bin is what shares the sign, the exponent and the
    first 9 bits of the mantissa: 1/512 wide, relative to where it lies; what is smaller goes into the `first`.
    """
    last = bins.shape[1] - 1
    for i in range(values.shape[0]):
        value = np.float32(values[i] - center)
        place = min(max((np.float32(abs(value)).view(np.int32) >> np.int32(14)) - first, 0), last)
        side = 1 if value < np.float32(0) else 0
        bins[side, place, 0] += 1.0
        bins[side, place, 1] += np.float64(value)


@jit
def level_zero(lo, hi, counts):
    """Give the bin of 0 the count of its neighbour, or the mean of two: counts of `histogram` over lo, hi, changed.

    Not where nothing would be left, or 0 is not within.
    """
    last = counts.shape[2] - 1
    for r in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            width, bins = hi[r, j] - lo[r, j], counts[r, j]
            if lo[r, j] > 0.0 or hi[r, j] < 0.0 or width <= 0.0:
                continue
            zero = np.int64(min(max(-lo[r, j] * ((last + 1) / width), 0.0), np.float64(last)))
            below, above = bins[zero - 1 if zero > 0 else 1], bins[zero + 1 if zero < last else last - 1]
            level = (below + above) // 2
            if level > 0 or bins.sum() > bins[zero]:
                bins[zero] = level
