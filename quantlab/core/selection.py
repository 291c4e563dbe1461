"""Exact order statistics and tail means of groups, large or small, without a copy of the tensor."""

from collections.abc import Callable
from threading import Lock

import numpy as np

from . import kernels, pool
from .arrays import widened
from .granularity import PIECE, Groups, Piece

STEP = 1 << 20  # values per radix table: the table of 65536 counters must not outweigh the values it counts


def order_statistics(groups: Groups, ranks_of: Callable[[int], np.ndarray]) -> np.ndarray:
    """The values at some ranks (from 0) of each sorted group: float64 [rows, groups, ranks].

    `ranks_of(n)` gives the ranks for a group of n values. Groups of up to PIECE values are sorted; larger ones are
    selected by radix, 16 bits at a time, from histograms of the values' ordered bit patterns.
    """
    count = len(ranks_of(1))
    out = np.empty((*groups.shape, count))
    if groups.size > PIECE:
        for r, j, values in large_groups(groups):
            out[r, j] = select(values, ranks_of(values.size))
        return out

    def fill(part: np.ndarray, size: int, piece: Piece) -> None:
        for columns, ordered in sorted_groups(part, size):
            out[piece.at][:, columns] = ordered[..., ranks_of(ordered.shape[-1])]

    groups.each(fill)
    return out


def tail_means(groups: Groups, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the `window` smallest and of the `window` largest values of each group, at most half of it each.

    float64 [rows, groups], twice. A group of one value is its own tail.
    """
    lo, hi = np.empty(groups.shape), np.empty(groups.shape)
    if groups.size > PIECE:
        for r, j, values in large_groups(groups):
            lo[r, j], hi[r, j] = large_tail_means(values, width_of(values.size, window))
        return lo, hi

    def fill(part: np.ndarray, size: int, piece: Piece) -> None:
        for columns, ordered in sorted_groups(part, size):
            width = width_of(ordered.shape[-1], window)
            lo[piece.at][:, columns] = ordered[..., :width].mean(axis=-1, dtype=np.float64)
            hi[piece.at][:, columns] = ordered[..., -width:].mean(axis=-1, dtype=np.float64)

    groups.each(fill)
    return lo, hi


def width_of(n: int, window: int) -> int:
    """How many of n values make a tail."""
    return min(window, max(1, n // 2))


def sorted_groups(part: np.ndarray, size: int) -> list[tuple[slice, np.ndarray]]:
    """The whole groups of a part [rows, cols] sorted, as (slice of groups, float32 [rows, groups, n]) by length."""
    rows, cols = part.shape
    full = cols // size
    found = []
    if full:
        # NumPy's sort is vectorised for AVX-512 and AVX2; no kernel of ours comes near it.
        whole = np.ascontiguousarray(part[:, : full * size]).reshape(rows, full, size)
        found.append((slice(0, full), np.sort(whole, axis=-1)))
    if cols % size:
        found.append((slice(full, full + 1), np.sort(part[:, full * size :], axis=-1)[:, None]))
    return found


def large_groups(groups: Groups) -> list[tuple[int, int, np.ndarray]]:
    """(row, group, values [n]) of every group."""
    rows, per_row = groups.shape
    size = groups.size
    return [(r, j, groups.matrix[r, j * size : (j + 1) * size]) for r in range(rows) for j in range(per_row)]


def step_of(values: np.ndarray, start: int) -> np.ndarray:
    """float32 [STEP or less] of some values [n]."""
    return widened(values[None, start : start + STEP])[0]


def radix_counts(values: np.ndarray, prefix: int, shift: int) -> np.ndarray:
    """Counts of the keys of `values` by 16 bits: int64 [65536] (see `kernels.order.key_histogram`)."""
    total, lock = np.zeros(1 << 16, np.int64), Lock()

    def count(start: int) -> None:
        counts = np.zeros(1 << 16, np.int64)
        kernels.order.key_histogram(step_of(values, start), prefix, shift, counts)
        with lock:  # a list of all tables would take half as much memory as the values
            np.add(total, counts, out=total)

    pool.run(count, range(0, values.size, STEP))
    return total


def select(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The values at `ranks` of sorted `values` ([n], finite): float64 [ranks]."""
    high = np.cumsum(radix_counts(values, 0, 16))
    prefixes = np.searchsorted(high, ranks, side="right")
    low = {int(p): np.cumsum(radix_counts(values, int(p), 0)) for p in np.unique(prefixes)}
    keys = []
    for rank, prefix in zip(ranks, prefixes, strict=True):
        before = high[prefix - 1] if prefix else 0
        keys.append((int(prefix) << 16) + int(np.searchsorted(low[int(prefix)], rank - before, side="right")))
    signed = (np.asarray(keys, np.int64) - 0x80000000).astype(np.int32)
    # The ordered key of a negative float has its magnitude bits flipped.
    return np.where(signed < 0, signed ^ 0x7FFFFFFF, signed).astype(np.int32).view(np.float32).astype(np.float64)


def large_tail_means(values: np.ndarray, width: int) -> tuple[float, float]:
    """`tail_means` of one large group: the sum beyond the order statistic that ends the tail, plus its ties."""
    below, above = select(values, np.array([width - 1, values.size - width]))

    def sums(start: int) -> np.ndarray:
        out = np.empty(4)
        kernels.order.tail_sums(step_of(values, start), np.float32(below), np.float32(above), out)
        return out

    low, lows, high, highs = np.sum(pool.run(sums, range(0, values.size, STEP)), axis=0)
    return (low + (width - lows) * below) / width, (high + (width - highs) * above) / width
