"""Ranges narrowed along directions, and how far that is worth a trial."""

import math

import numpy as np

from .compiling import inlined
from .fitting import fit


@inlined
def reach_of(lo, hi, error, grid, storage):
    """How far beyond a narrower range than [lo, hi] a value may lie, if it is not to cost more than `error` alone.

    Codes reach a step beyond their range at most, and what scales and offsets are rounded by.
    """
    steps = 1.1 * (hi - lo) / grid.steps + grid.steps * storage.smallest
    return steps + storage.epsilon * (hi - lo + max(abs(lo), abs(hi))) + 1.001 * math.sqrt(error)


@inlined
def taken_off(lo, hi, ways, d):
    """What the whole share of a direction takes off below and above."""
    center, width = min(max(lo, 0.0), hi), hi - lo
    return ways[d, 0] * width + ways[d, 2] * (center - lo), ways[d, 1] * width + ways[d, 2] * (hi - center)


@inlined
def largest_share(lo, hi, below, above, least, most):
    """The share of which [lo + share * below, hi - share * above] just reaches `least` and `most`."""
    return min((least - lo) / below if below > 0.0 else np.inf, (hi - most) / above if above > 0.0 else np.inf)


@inlined
def refitted(lo, hi, a, b, grid, storage):
    """[lo, hi] with the scale that is best for the codes it gives: a = sum x q, b = sum q^2. The same with offsets."""
    zero_point = fit(lo, hi, grid, storage)[1]
    scale = a / b if a > 0.0 and b > 0.0 else 0.0
    below = -(zero_point if grid.has_zero_point == 1.0 else grid.steps / 2) * scale
    changed = grid.has_offset == 0.0 and scale > 0.0
    return below if changed else lo, below + grid.steps * scale if changed else hi
