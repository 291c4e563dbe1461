"""The window of a histogram that loses least information when it is quantized."""

import math
from typing import NamedTuple

import numpy as np

from .compiling import fast, inlined, jit

LOG_2, SQRT_HALF_BITS = math.log(2.0), 0x3FE6A09E667F3BCD
TINY = 1e-300  # stands for 0 where a logarithm is taken
COARSE = 128  # edges that a two-sided search tries first


class Histogram(NamedTuple):
    """A histogram and what the search for a window needs of it."""

    counts: np.ndarray  # int64 [bins]
    total: np.ndarray  # total[i], filled[i], entropy[i] over counts[:i]: float64 [bins + 1]
    filled: np.ndarray
    entropy: np.ndarray
    mass: np.ndarray  # room for what is found of every level of a window: float64 [levels]
    bins: np.ndarray


@jit
def prefix_sums(counts, total, filled, entropy):
    """total[i], filled[i], entropy[i] over counts[:i]: sum, non-empty bins, sum of c*log(c); arrays are one longer."""
    for i in range(counts.shape[0]):
        c = np.float64(counts[i])
        total[i + 1] = total[i] + c
        filled[i + 1] = filled[i] + (1.0 if c > 0 else 0.0)
        entropy[i + 1] = entropy[i] + (c * math.log(c) if c > 0 else 0.0)


@jit
def histogram_of(counts, levels):
    """A Histogram of counts int64 [bins]."""
    total, filled, entropy = np.zeros(counts.size + 1), np.zeros(counts.size + 1), np.zeros(counts.size + 1)
    prefix_sums(counts, total, filled, entropy)
    return Histogram(counts, total, filled, entropy, np.empty(levels), np.empty(levels))


@inlined
def logarithm(x):
    """ln(x) of a positive normal float64 to 5e-16, relatively, in arithmetic that vectorises; math.log is a call.

    x = m * 2^k with m in [sqrt(1/2), sqrt(2)); ln(m) = 2 artanh((m - 1) / (m + 1)), by its series.
    """
    bits = np.float64(x).view(np.int64)
    exponent = (bits - SQRT_HALF_BITS) >> 52
    m = np.int64(bits - (exponent << 52)).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = z / 21.0 + 1.0 / 19.0
    series = series * z + 1.0 / 17.0
    series = series * z + 1.0 / 15.0
    series = series * z + 1.0 / 13.0
    series = series * z + 1.0 / 11.0
    series = series * z + 1.0 / 9.0
    series = series * z + 1.0 / 7.0
    series = series * z + 1.0 / 5.0
    series = series * z + 1.0 / 3.0
    return np.float64(exponent) * LOG_2 + (2.0 * s + 2.0 * s * z * series)


@fast
def cross_entropy(mass, bins):
    """(sum mass * ln(mass / bins), number of parts that are not empty) over parts [levels] of a histogram."""
    cross, parts = 0.0, 0.0
    for i in range(mass.shape[0]):
        cross += mass[i] * logarithm(max(mass[i], 1.0) / max(bins[i], 1.0))
        parts += 1.0 if mass[i] > 0.0 else 0.0
    return cross, parts


@jit
def divergence(histogram, left, right):
    """(KL(P || Q) in nats, degrees of freedom) for the window [left, right) of a histogram; inf where Q is 0 and P not.

    P is the window with all that lies outside added to its edge bins; Q is the window merged into as many equal parts
    as there are levels, each spread evenly over its non-empty bins (Migacz, GTC 2017, s7310). With prefix sums a
    candidate costs O(levels): sum p log q needs only the total and the number of non-empty bins of each part. The
    degrees of freedom are the non-empty bins less the non-empty parts.
    """
    counts, total, filled, entropy, mass, bins = histogram
    levels = mass.shape[0]
    everything = total[counts.shape[0]]
    inside = total[right] - total[left]
    below, above = total[left], everything - total[right]
    first, last = np.float64(counts[left]), np.float64(counts[right - 1])
    if (below > 0 and first == 0) or (above > 0 and last == 0) or inside == 0:
        return np.inf, 0.0
    # sum P log P: the window's own, with the two edge bins replaced by what they hold after clipping.
    own = entropy[right] - entropy[left]
    if below > 0:
        own += (first + below) * math.log(first + below) - first * math.log(first)
    if above > 0:
        if right - 1 == left:
            last += below
        own += (last + above) * math.log(last + above) - last * math.log(last)
    # The ends of the parts, left + (level + 1) * width // levels, without a division for each.
    width = right - left
    whole, rest, over, end = width // levels, width % levels, 0, np.uint64(left)
    mass_before, bins_before = total[left], filled[left]
    for level in range(levels):
        over += rest
        carry = 1 if over >= levels else 0
        over -= carry * levels
        end += np.uint64(whole + carry)
        mass[level], bins[level] = total[end] - mass_before, filled[end] - bins_before
        mass_before, bins_before = total[end], filled[end]
    cross, parts = cross_entropy(mass, bins)
    cross += below * math.log(mass[0] / bins[0]) if below > 0 else 0.0
    cross += above * math.log(mass[levels - 1] / bins[levels - 1]) if above > 0 else 0.0
    value = (own - cross) / everything - math.log(everything) + math.log(inside)
    return value, filled[right] - filled[left] - parts


@jit
def beats(value, freedom, best, full, full_freedom, samples, bins):
    """Whether a window is better than the best one so far, and better than the full range by more than noise.

    Counting noise alone gives a divergence of freedom / 2n with a standard error of sqrt(2 freedom) / 2n (the
    chi-square law of likelihood ratios), so narrow windows look good on sparse histograms. From 32 values per bin on
    it no longer matters, and the least divergence decides by itself.
    """
    if value >= best:
        return False
    noise = (full_freedom - freedom + math.sqrt(2.0 * full_freedom)) / (2.0 * samples)
    return samples >= 32 * bins or full - value > noise


@jit
def best_edge(histogram, fixed, edges, best, full):
    """(edge of the best window, its divergence) of some edges, the other edge being fixed; -1 where none is better.

    full : (divergence, degrees of freedom) of the window of all bins.
    """
    found = -1
    for edge in edges:
        value, freedom = divergence(histogram, min(fixed, edge), max(fixed, edge))
        if beats(value, freedom, best, full[0], full[1], histogram.total[-1], histogram.counts.size):
            found, best = edge, value
    return found, best


@jit
def least_divergences(total, least):
    """What the divergence of each window [0, edge) cannot be below, for the `edge` of levels, levels + 1, ... bins.

    total : float64 [bins + 1], as `prefix_sums` has it; least : float64 [bins + 1 - levels]. Of two parts alone, the
    last level and all before it, the divergence is less: merging adds none (data processing inequality). And
    r * ln(r / s) >= r - s stands for the part before.
    """
    bins = np.uint64(total.shape[0] - 1)
    levels, everything = bins + np.uint64(1) - np.uint64(least.shape[0]), total[bins]
    for i in range(np.uint64(least.shape[0])):
        edge = levels + i
        inside = total[edge]
        last = inside - total[(levels - np.uint64(1)) * edge // levels]
        p, q = (last + everything - inside) / everything, last / inside
        least[i] = p * logarithm(max(p, TINY) / max(q, TINY)) - (p - q)


@jit
def best_right_edge(histogram, levels, full):
    """The edge of the best window that starts at bin 0. All are tried but those that `least_divergences` rules out."""
    size, samples = histogram.counts.size, histogram.total[-1]
    least = np.empty(size + 1 - levels)
    least_divergences(histogram.total, least)
    # `beats` asks for that much at least, whatever the freedom.
    noise = 0.0 if samples >= 32 * size else math.sqrt(2.0 * full[1]) / (2.0 * samples)
    found, best = size, full[0]
    for edge in range(size - 1, levels - 1, -1):
        if least[edge - levels] <= min(best, full[0] - noise) + 1e-9:
            value, freedom = divergence(histogram, 0, edge)
            if beats(value, freedom, best, full[0], full[1], samples, size):
                found, best = edge, value
    return found


@jit
def best_window(counts, levels, two_sided):
    """(left, right) of the window of least divergence; the widest of equals. counts int64 [bins].

    One-sided windows start at bin 0, and the best of all right edges from `levels` up is found. Two-sided ones
    alternate between right edges and left edges until neither moves; of more than 2 * COARSE bins some COARSE edges are
    tried first, and then all between the neighbours of the best one.
    """
    histogram, size = histogram_of(counts, levels), counts.size
    full = divergence(histogram, 0, size)
    if not two_sided:
        return 0, best_right_edge(histogram, levels, full)
    left, right, best, moved, stride = 0, size, full[0], True, max(1, size // COARSE)
    while moved:
        before = best
        edge, best = best_edge(histogram, left, range(size, left + levels - 1, -stride), best, full)
        right = right if edge < 0 else edge
        if stride > 1:
            near = range(min(size, right + stride - 1), max(left + levels, right - stride + 1) - 1, -1)
            edge, best = best_edge(histogram, left, near, best, full)
            right = right if edge < 0 else edge
        edge, best = best_edge(histogram, right, range(0, right - levels + 1, stride), best, full)
        left = left if edge < 0 else edge
        if stride > 1:
            near = range(max(0, left - stride + 1), min(right - levels, left + stride - 1) + 1)
            edge, best = best_edge(histogram, right, near, best, full)
            left = left if edge < 0 else edge
        moved = best < before
    return left, right


@jit
def best_windows(counts, levels, two_sided, left, right):
    """`best_window` for int64 counts [rows, groups, bins]; left, right int64 [rows, groups]."""
    for r in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            left[r, j], right[r, j] = best_window(counts[r, j], levels, two_sided)


@jit
def window_cost(counts, left, right, origin, levels):
    """About the squared error of a histogram, in squared bins, under codes spread over a window.

    As if every value lay in the middle of its bin, with what bins are wide on top. One code lies on the origin, which
    the codes reach to wherever it is.
    """
    low, high = min(left, origin), max(right, origin)
    step = (high - low) / (levels - 1.0)
    spread, cost = min(step * step, 1.0) / 12.0, 0.0
    for i in range(counts.shape[0]):
        center = i + 0.5
        decoded = min(max(origin + np.rint((center - origin) / step) * step, low), high)
        cost += counts[i] * ((center - decoded) * (center - decoded) + spread)
    return cost


@jit
def doubtful_windows(counts, left, right, origins, levels, doubtful):
    """Whether each window may cost many times what the full one does: bool [rows, groups], as of `best_windows`.

    By twice its cost in the histogram; and where no more bins are filled than there are levels, since values on a grid
    may cost nothing under the full range. Origins, where 0 lies: float64 [rows, groups], in bins; infinite where a code
    lies on the lower end instead.
    """
    bins = counts.shape[2]
    for r in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            histogram, start, end, origin = counts[r, j], left[r, j], right[r, j], origins[r, j]
            if start == 0 and end == bins:
                doubtful[r, j] = False
            elif np.count_nonzero(histogram) <= levels:
                doubtful[r, j] = True
            else:
                cost = window_cost(histogram, start, end, start if origin == np.inf else origin, levels)
                full = window_cost(histogram, 0, bins, 0.0 if origin == np.inf else origin, levels)
                doubtful[r, j] = cost > 2.0 * full
