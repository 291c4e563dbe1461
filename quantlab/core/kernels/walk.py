"""A walk from the full range down to nothing, each lane of a tile at its own pace.

Every decoded vector under a range is, but for its size, one under any range that is wider by a factor. So a range that
is narrower by less than 1 + (d - best) / (|x| + best) cannot cost less than the best one yet, where d and `best` are
roots of errors, d that of the range just tried: the triangle inequality. Such ranges are not tried.
"""

import math

import numpy as np

from .compiling import inlined, jit
from .fitting import fit
from .tiles import (
    BEST,
    FACTOR,
    FULL_ERROR,
    FULL_HI,
    FULL_LO,
    GRAIN,
    LARGEST,
    LIMIT,
    NEXT,
    PACE,
    SHARE,
    SMALLEST,
    fit_lanes,
    keep_better,
    lanes_of,
    start_direction,
    start_round,
    try_lanes,
)
from .trials import LANES

EVEN = 200  # a walk begins with the shares 0, 1 / EVEN, 2 / EVEN ... short of 1, and goes on with finer ones
SURE, RANGES = np.float32(0.999), np.float32(EVEN)
HUGE = 1e37  # codes may not be finite beyond, and are fewer under wider ranges


@inlined
def leaps(lo, hi, largest, grid, storage):
    """1 if ranges narrower than [lo, hi] decode to the same vectors but for their size, else 0."""
    scale, zero_point, _ = fit(lo, hi, grid, storage)
    fraction = zero_point - -lo / scale  # what it was rounded by
    steady = grid.has_zero_point == 0.0 or abs(fraction) < 0.5 - 4.0 * grid.steps * storage.epsilon
    fine = grid.has_offset == 0.0 or storage.epsilon * (abs(lo) + abs(hi)) < 0.01 * scale
    return 1.0 if steady and fine and largest < HUGE else 0.0


@jit
def set_pace(tile, count, grid, storage):
    """Find how far the lanes of a tile may leap."""
    state, scaled = tile.state, tile.scaled
    for k in range(LANES):
        state[PACE + k] = 0.0
    for i in range(count):
        for k in range(LANES):
            lo, hi = state[FULL_LO + k], state[FULL_HI + k]
            center = 0.5 * (lo + hi) if grid.has_offset == 1.0 else min(max(lo, 0.0), hi)
            distance = np.float64(scaled[i * LANES + k]) - center * state[FACTOR + k]
            state[PACE + k] += distance * distance
    for k in range(lanes_of(state)):
        largest = max(-state[SMALLEST + k], state[LARGEST + k])
        size = 1.001 * math.sqrt(state[PACE + k]) + math.sqrt(state[FULL_ERROR + k]) * state[FACTOR + k]
        sure = leaps(state[FULL_LO + k], state[FULL_HI + k], largest, grid, storage)
        state[PACE + k] = sure / size if size > 0.0 else 0.0
        # How much a small scale may be rounded, as a share of the widest range.
        width = state[FULL_HI + k] - state[FULL_LO + k]
        state[GRAIN + k] = min(grid.steps * storage.smallest / width if width > 0.0 else 1.0, 1.0) + 1e-6


@jit
def next_shares(state, shares, last):
    """Set the shares that the lanes of a tile try next, 0 where one has arrived; returns how many have not."""
    walking = 0
    for k in range(LANES):
        share = shares[min(np.uint64(state[NEXT + k]), last - np.uint64(1))]
        if state[NEXT + k] < last and share <= state[LIMIT + k] and state[BEST + k] > 0.0:
            state[SHARE + k] = share
            walking += 1
        else:
            state[SHARE + k], state[NEXT + k] = 0.0, last
    return walking


@jit
def leap(tile, grid, storage):
    """Move the lanes of a tile on, beyond the ranges that cannot be better than the best one yet."""
    state, table, rounded = tile.state, tile.table, np.float32(1.0 + storage.epsilon)
    for k in range(LANES):  # in float32, as its roots and its division take longest
        rest = np.float32(1) - np.float32(state[SHARE + k])
        apart = max(SURE * np.sqrt(table[k]) - np.sqrt(np.float32(state[BEST + k])), np.float32(0))
        least = (rest * rounded + np.float32(state[GRAIN + k])) / (np.float32(1) + apart * np.float32(state[PACE + k]))
        evenly = min(np.ceil(RANGES * (np.float32(1) - least)), RANGES)
        state[NEXT + k] = max(state[NEXT + k] + 1.0, np.float64(evenly))


@jit
def walk(tile, count, plan, grid, storage):
    """Find the best range of a plan's first direction for all lanes of a tile."""
    state, last = tile.state, np.uint64(plan.slices[0, 2])
    start_round(state, True, grid, storage)
    start_direction(state, plan.ways, 0)
    set_pace(tile, count, grid, storage)
    for k in range(LANES):
        state[NEXT + k] = 0.0
    while next_shares(state, plan.shares, last) > 0:
        fit_lanes(tile, grid, storage)
        try_lanes(tile.scaled, count, tile.table)
        leap(tile, grid, storage)
        keep_better(tile, grid, storage)
