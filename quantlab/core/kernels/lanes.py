"""Search of ranges for LANES groups at a time, side by side: the same number of values each."""

import numpy as np

from .codes import group
from .compiling import jit, screening
from .narrowing import reach_of
from .tiles import (
    ABOVE,
    BELOW,
    BEST,
    EIGHT,
    FACTOR,
    FOUR,
    FULL_ERROR,
    FULL_HI,
    FULL_LO,
    GROUP,
    HI,
    LIMIT,
    LO,
    NEW_ERROR,
    NEW_HI,
    NEW_LO,
    SHARE,
    START_HI,
    START_LO,
    ZERO,
    Tile,
    fill,
    fit_lanes,
    keep_better,
    lanes_of,
    measure,
    refit,
    scale_lanes,
    start_direction,
    start_round,
    try_lanes,
)
from .trials import ALSO, HIGHEST, LANES, LOWEST, TRIAL, WIDTH
from .walk import walk

EVERY, LONG = np.uint64(8), np.uint64(7)  # how often a search asks in a long list of ranges whether all have lost
REFITS = 2


@screening
def clip_lanes(scaled, count, table):
    """Set the errors of a tile's trials to what lies beyond `LOWEST` and `HIGHEST`, here values, squared and summed."""
    for k in range(LANES):
        table[k], table[ALSO + k] = np.float32(0), np.float32(0)
    whole, end = (count & ~np.uint64(7)) * LANES, count * LANES
    for start in range(np.uint64(0), whole, EIGHT):
        for k in range(start, start + LANES):
            lowest, highest, some, others = table[LOWEST + k - start], table[HIGHEST + k - start], ZERO, ZERO
            for i in range(k, k + FOUR, LANES):
                beyond = max(lowest - scaled[i], scaled[i] - highest, ZERO)
                some += beyond * beyond
                beyond = max(lowest - scaled[i + FOUR], scaled[i + FOUR] - highest, ZERO)
                others += beyond * beyond
            table[k - start] += some
            table[ALSO + k - start] += others
    for start in range(whole, end, LANES):
        for k in range(LANES):
            beyond = max(table[LOWEST + k] - scaled[start + k], scaled[start + k] - table[HIGHEST + k], ZERO)
            table[k] += beyond * beyond
    for k in range(LANES):
        table[k] += table[ALSO + k]


@jit
def all_lost(tile, count, share, grid, storage):
    """Whether under a share of a direction clipping alone costs more than the best range yet, in all lanes.

    A lane where it does takes none of what follows.
    """
    state, table, hopeful = tile.state, tile.table, 0.0
    for k in range(lanes_of(state)):
        lo, hi = state[START_LO + k], state[START_HI + k]
        reach = reach_of(lo, hi, 0.0, grid, storage)
        lo, hi = lo + share * state[BELOW + k], hi - share * state[ABOVE + k]
        table[LOWEST + k] = (min(lo, grid.widest_lo) - reach) * state[FACTOR + k]
        table[HIGHEST + k] = (max(hi, -grid.widest_lo) + reach) * state[FACTOR + k]
    clip_lanes(tile.scaled, count, table)
    for k in range(LANES):
        hopes = table[k] * 0.999 <= state[BEST + k]
        state[LIMIT + k] = state[LIMIT + k] if hopes else -1.0
        hopeful += 1.0 if hopes else 0.0
    return hopeful == 0.0


@jit
def search_direction(tile, count, shares, first, last, limit, grid, storage):
    """Try the ranges of a direction, shares[first:last], in all lanes of a tile."""
    state, table = tile.state, tile.table
    for i in range(first, last):
        share = shares[i]
        # Long lists take off ever more at both ends, and those of short ones are not worth the question.
        if share > limit or ((i - first) % EVERY == LONG and all_lost(tile, count, share, grid, storage)):
            break
        for k in range(lanes_of(state)):
            state[SHARE + k] = share
        fit_lanes(tile, grid, storage)
        try_lanes(tile.scaled, count, table)
        keep_better(tile, grid, storage)


@jit
def search_tile(tile, count, plan, grid, storage):
    """`search_alone` for the LANES groups of a tile, whose ranges are replaced."""
    state = tile.state
    measure(tile, count, FULL_LO, FULL_HI, FULL_ERROR, grid, storage)
    for k in range(lanes_of(state)):
        state[LO + k], state[HI + k] = state[FULL_LO + k], state[FULL_HI + k]
        state[BEST + k] = state[FULL_ERROR + k] * state[FACTOR + k] * state[FACTOR + k]
    walk(tile, count, plan, grid, storage)
    now = -1
    for d in range(np.uint64(1), np.uint64(plan.slices.shape[0])):
        if plan.slices[d, 0] != now:
            now = plan.slices[d, 0]
            start_round(state, now == 0, grid, storage)
        limit = start_direction(state, plan.ways, d)
        search_direction(
            tile, count, plan.shares, np.uint64(plan.slices[d, 1]), np.uint64(plan.slices[d, 2]), limit, grid, storage
        )
    decide(tile, count, grid, storage)


@jit
def decide(tile, count, grid, storage):
    """Replace the ranges given by the best ones, each improved for the codes it gives, where that costs less."""
    state = tile.state
    measure(tile, count, LO, HI, BEST, grid, storage)
    for _ in range(REFITS):
        refit(tile, LO, HI, grid, storage)
        measure(tile, count, NEW_LO, NEW_HI, NEW_ERROR, grid, storage)
        for k in range(lanes_of(state)):
            better = state[NEW_ERROR + k] < state[BEST + k]
            state[BEST + k] = state[NEW_ERROR + k] if better else state[BEST + k]
            state[LO + k] = state[NEW_LO + k] if better else state[LO + k]
            state[HI + k] = state[NEW_HI + k] if better else state[HI + k]
    for k in range(lanes_of(state)):
        # A difference in the last digits is summation order, not a better range.
        better = state[BEST + k] < state[FULL_ERROR + k] * (1.0 - 1e-9)
        state[FULL_LO + k] = state[LO + k] if better else state[FULL_LO + k]
        state[FULL_HI + k] = state[HI + k] if better else state[FULL_HI + k]


@jit
def search_abreast(x, size, first, groups, plan, grid, storage, lo, hi):
    """`search_ranges` for some groups of every row, those from `first` on: of the same size, LANES at a time."""
    count = np.uint64(min(size, x.shape[1] - first * size))
    room = np.empty(count * LANES, np.float32), np.empty(count * LANES, np.float32)
    tile = Tile(room[0], room[1], np.ones(GROUP), np.empty(TRIAL, np.float32))
    last = x.shape[0] * groups - 1
    for start in range(0, last + 1, WIDTH):
        for k in range(WIDTH):
            place = min(start + k, last)  # the last group fills the lanes that are left
            r, j = place // groups, first + place % groups
            fill(tile, np.uint64(k), group(x, r, j, size), lo[r, j], hi[r, j])
        scale_lanes(tile, count)
        search_tile(tile, count, plan, grid, storage)
        for k in range(min(WIDTH, last + 1 - start)):
            r, j = (start + k) // groups, first + (start + k) % groups
            lo[r, j], hi[r, j] = tile.state[FULL_LO + np.uint64(k)], tile.state[FULL_HI + np.uint64(k)]
