"""Extremes, values counted by rank, and sums beyond ends."""

import numpy as np

from .codes import group
from .compiling import BLOCK, fast, jit


@jit
def extents(x, size, first, total, lo, hi):
    """Smallest and largest value of B equal consecutive batches of each group: lo, hi float32 [rows, groups, B].

    Batch b of a group of n values is [b * n // B, (b + 1) * n // B). Where x is a part of a single group, `first` is
    its position in the group and `total` the group's length; else both are 0. lo > hi marks a batch not seen here.
    NaN comes out as an extreme, so one look at the result also tells whether all values are finite.
    """
    batches = lo.shape[2]
    for r in range(x.shape[0]):
        for j in range(lo.shape[1]):
            values = group(x, r, j, size)
            length = max(total, values.shape[0])
            for b in range(batches):
                start = max(0, b * length // batches - first)
                end = min(values.shape[0], (b + 1) * length // batches - first)
                lo[r, j, b], hi[r, j, b] = extent(values[start : max(start, end)])


@jit
def extent(values):
    """(min, max) of values [n]; (inf, -inf) of nothing."""
    if values.shape[0] == 0:
        return np.float32(np.inf), np.float32(-np.inf)
    smallest, largest = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    for i in range(values.shape[0]):
        # Float min/max do not vectorise. Flipping the magnitude bits of negative values makes int32 order float order.
        bits = np.float32(values[i]).view(np.int32)
        key = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
        smallest = min(smallest, key)
        largest = max(largest, key)
    return key_to_float(smallest), key_to_float(largest)


@jit
def key_to_float(key):
    """The float32 whose ordered int32 key is `key`: its own inverse, so it also makes keys from bits."""
    return np.int32(key ^ ((key >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)


@jit
def key_histogram(x, prefix, shift, counts):
    """Count ordered keys by 16 of their bits (radix selection).

    `shift` 16 counts the high halves of all keys; `shift` 0 the low halves of those whose high half is `prefix`.
    x float32 [n]; counts int64 [65536].
    """
    for i in range(x.shape[0]):
        bits = np.float32(x[i]).view(np.int32)
        key = np.int64(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))) + 0x80000000
        if shift == 16:
            counts[key >> 16] += 1
        elif key >> 16 == prefix:
            counts[key & 0xFFFF] += 1


@fast
def tail_sums(x, below, above, sums):
    """sums = (sum of x < below, their count, sum of x > above, their count), float64; x float32 [n]."""
    low, lows, high, highs = 0.0, 0.0, 0.0, 0.0
    for start in range(0, x.shape[0], BLOCK):
        block = x[start : start + BLOCK]
        # Counted in float32, and chosen before they are widened: ten times as fast as in float64.
        few, many = np.float32(0), np.float32(0)
        for i in range(block.shape[0]):
            value = block[i]
            low += np.float64(value if value < below else np.float32(0))
            high += np.float64(value if value > above else np.float32(0))
            few += np.float32(1) if value < below else np.float32(0)
            many += np.float32(1) if value > above else np.float32(0)
        lows += np.float64(few)
        highs += np.float64(many)
    sums[0], sums[1], sums[2], sums[3] = low, lows, high, highs


@jit
def group_tail_sums(x, size, below, above, sums):
    """`tail_sums` of every group, beyond ends of its own [rows, groups]: sums float64 [rows, groups, 4]."""
    for r in range(x.shape[0]):
        for j in range(sums.shape[1]):
            tail_sums(group(x, r, j, size), np.float32(below[r, j]), np.float32(above[r, j]), sums[r, j])
