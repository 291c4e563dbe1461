"""Search of ranges for LANES groups at a time, side by side: the same number of values each."""

from typing import NamedTuple

import numpy as np

from .codes import group, round_trip
from .compiling import inlined, jit, screening
from .errors import difference
from .narrowing import largest_share, reach_of, refitted, taken_off
from .order import extent
from .trials import ALSO, HIGHEST, LANES, LOWEST, OFFSET, SCALE, TRIAL, WIDTH, about_squared, fit_trial, power_above

FOUR, EIGHT = np.uint64(4) * LANES, np.uint64(8) * LANES
EVERY, LONG = np.uint64(8), np.uint64(7)  # how often a search asks in a long list of ranges whether all have lost
ZERO = np.float32(0)
# What is known of a group, in rows of LANES as that of a trial is: the range given and its error, the best one yet and
# its error, and those to compare; where a round starts, and what the whole share of a direction takes off there;
# extremes, and the ends that are worth no trial; the power of two that makes it about 1.
FULL_LO, FULL_HI, FULL_ERROR, LO, HI, BEST, NEW_LO, NEW_HI, NEW_ERROR = (LANES * np.uint64(i) for i in range(9))
START_LO, START_HI, BELOW, ABOVE, SMALLEST, LARGEST, LEAST, MOST = (LANES * np.uint64(i) for i in range(9, 17))
LIMIT, FACTOR, SUM_XQ, SUM_QQ, GROUP = (LANES * np.uint64(i) for i in range(17, 22))


class Tile(NamedTuple):
    """Room for LANES groups of the same size, side by side."""

    values: np.ndarray  # float32 [size * LANES]: value i of group k is at i * LANES + k
    scaled: np.ndarray  # the same, times powers of two that make the groups about 1
    state: np.ndarray  # float64 [GROUP]
    table: np.ndarray  # float32 [TRIAL]


@jit
def exact_errors(tile, count, lo_at, hi_at, error_at, grid, storage):
    """Set errors of a tile to those of encoding and decoding its `count` values each, with the ranges named."""
    values, state, table = tile.values, tile.state, tile.table
    for k in range(LANES):
        fit_trial(state[lo_at + k], state[hi_at + k], 1.0, grid, storage, table, k)
        state[error_at + k] = 0.0
    for i in range(count):
        for k in range(LANES):
            value = values[i * LANES + k]
            scale, offset = table[SCALE + k], table[OFFSET + k]
            decoded = round_trip(value, scale, offset, table[LOWEST + k], table[HIGHEST + k])[1]
            error = difference(value, decoded)
            state[error_at + k] += error * error


@jit
def refit_lanes(tile, count, grid, storage):
    """Set the new ranges of a tile to the best ones, with the scales that are best for the codes they give."""
    values, state, table = tile.values, tile.state, tile.table
    for k in range(LANES):
        fit_trial(state[LO + k], state[HI + k], 1.0, grid, storage, table, k)
        state[SUM_XQ + k], state[SUM_QQ + k] = 0.0, 0.0
    for i in range(count):
        for k in range(LANES):
            value = values[i * LANES + k]
            code = np.float64(min(max(np.rint(value / table[SCALE + k]), table[LOWEST + k]), table[HIGHEST + k]))
            state[SUM_XQ + k] += np.float64(value) * code
            state[SUM_QQ + k] += code * code
    for k in range(LANES):
        state[NEW_LO + k], state[NEW_HI + k] = refitted(
            state[LO + k], state[HI + k], state[SUM_XQ + k], state[SUM_QQ + k], grid, storage
        )


@screening
def try_lanes(scaled, count, table):
    """Set the errors of a tile's trials: each lane's range on its own `count` values, summed in float32."""
    for k in range(LANES):
        table[k], table[ALSO + k] = np.float32(0), np.float32(0)
    whole, end = (count & ~np.uint64(7)) * LANES, count * LANES
    for start in range(np.uint64(0), whole, EIGHT):
        for k in range(start, start + LANES):
            some, others = np.float32(0), np.float32(0)
            for i in range(k, k + FOUR, LANES):
                some += about_squared(scaled[i], table, k - start)
                others += about_squared(scaled[i + FOUR], table, k - start)
            table[k - start] += some
            table[ALSO + k - start] += others
    for start in range(whole, end, LANES):
        for k in range(LANES):
            table[k] += about_squared(scaled[start + k], table, k)
    for k in range(LANES):
        table[k] += table[ALSO + k]


@jit
def fill_lane(tile, k, values, lo, hi):
    """Put a group and the range given for it into lane k of a tile."""
    smallest, largest = extent(values)
    factor = power_above(max(-smallest, largest, 2.0**-149))
    state, own, scaled = tile.state, tile.values, tile.scaled
    for i in range(np.uint64(values.shape[0])):
        own[i * LANES + k] = values[i]
        scaled[i * LANES + k] = np.float64(values[i]) * factor
    state[SMALLEST + k], state[LARGEST + k], state[FACTOR + k] = smallest, largest, factor
    state[FULL_LO + k], state[FULL_HI + k] = lo, hi


@inlined
def lanes_of(state):
    """LANES, but not as a constant: short loops of so many steps would be written out, and not vectorise."""
    return np.uint64(state.shape[0]) // (GROUP // LANES)


@inlined
def start_round(state, first, grid, storage):
    """Start a round of the lanes of a tile: the first two from the range given, others from the best one yet."""
    for k in range(lanes_of(state)):
        lo, hi = state[FULL_LO + k] if first else state[LO + k], state[FULL_HI + k] if first else state[HI + k]
        error = state[BEST + k] / state[FACTOR + k] / state[FACTOR + k]
        reach = reach_of(lo, hi, error, grid, storage)
        state[START_LO + k], state[START_HI + k] = lo, hi
        state[LEAST + k], state[MOST + k] = state[SMALLEST + k] + reach, state[LARGEST + k] - reach


@inlined
def start_direction(state, ways, d):
    """What a direction takes off the lanes of a tile; returns the largest share that is worth a trial in any."""
    for k in range(lanes_of(state)):
        lo, hi = state[START_LO + k], state[START_HI + k]
        below, above = taken_off(lo, hi, ways, d)
        state[LIMIT + k] = largest_share(lo, hi, below, above, state[LEAST + k], state[MOST + k])
        state[BELOW + k], state[ABOVE + k] = below, above
    limit = state[LIMIT]
    for k in range(lanes_of(state)):
        limit = max(limit, state[LIMIT + k])
    return limit


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
    """Whether under a share of a direction clipping alone costs more than the best range yet, in all lanes."""
    state, table, hopeful = tile.state, tile.table, 0.0
    for k in range(lanes_of(state)):
        lo, hi = state[START_LO + k], state[START_HI + k]
        reach = reach_of(lo, hi, 0.0, grid, storage)
        lo, hi = lo + share * state[BELOW + k], hi - share * state[ABOVE + k]
        table[LOWEST + k] = (min(lo, grid.widest_lo) - reach) * state[FACTOR + k]
        table[HIGHEST + k] = (max(hi, -grid.widest_lo) + reach) * state[FACTOR + k]
    clip_lanes(tile.scaled, count, table)
    for k in range(LANES):
        hopeful += 1.0 if table[k] * 0.999 <= state[BEST + k] else 0.0
    return hopeful == 0.0


@jit
def search_direction(tile, count, shares, first, last, limit, grid, storage):
    """Try the ranges of a direction, shares[first:last], in all lanes of a tile."""
    state, table, scaled = tile.state, tile.table, tile.scaled
    for i in range(first, last):
        share = shares[i]
        # Long lists take off ever more at both ends, and those of short ones are not worth the question.
        if share > limit or ((i - first) % EVERY == LONG and all_lost(tile, count, share, grid, storage)):
            break
        for k in range(LANES):
            lo = state[START_LO + k] + share * state[BELOW + k]
            hi = state[START_HI + k] - share * state[ABOVE + k]
            state[NEW_LO + k], state[NEW_HI + k] = lo, hi
            fit_trial(lo, hi, state[FACTOR + k], grid, storage, table, k)
        try_lanes(scaled, count, table)
        for k in range(LANES):
            error = np.float64(table[k])
            better = error < state[BEST + k]
            state[BEST + k] = error if better else state[BEST + k]
            state[LO + k] = state[NEW_LO + k] if better else state[LO + k]
            state[HI + k] = state[NEW_HI + k] if better else state[HI + k]


@jit
def search_tile(tile, count, plan, grid, storage):
    """`search_alone` for the LANES groups of a tile, whose ranges are replaced."""
    state = tile.state
    exact_errors(tile, count, FULL_LO, FULL_HI, FULL_ERROR, grid, storage)
    for k in range(lanes_of(state)):
        state[LO + k], state[HI + k] = state[FULL_LO + k], state[FULL_HI + k]
        state[BEST + k] = state[FULL_ERROR + k] * state[FACTOR + k] * state[FACTOR + k]
    now = -1
    for d in range(np.uint64(plan.slices.shape[0])):
        if plan.slices[d, 0] != now:
            now = plan.slices[d, 0]
            start_round(state, now <= 1, grid, storage)
        limit = start_direction(state, plan.ways, d)
        search_direction(
            tile, count, plan.shares, np.uint64(plan.slices[d, 1]), np.uint64(plan.slices[d, 2]), limit, grid, storage
        )
    exact_errors(tile, count, LO, HI, BEST, grid, storage)
    refit_lanes(tile, count, grid, storage)
    exact_errors(tile, count, NEW_LO, NEW_HI, NEW_ERROR, grid, storage)
    for k in range(lanes_of(state)):
        better = state[NEW_ERROR + k] < state[BEST + k]
        error = state[NEW_ERROR + k] if better else state[BEST + k]
        lo, hi = state[NEW_LO + k] if better else state[LO + k], state[NEW_HI + k] if better else state[HI + k]
        # A difference in the last digits is summation order, not a better range.
        better = error < state[FULL_ERROR + k] * (1.0 - 1e-9)
        state[FULL_LO + k] = lo if better else state[FULL_LO + k]
        state[FULL_HI + k] = hi if better else state[FULL_HI + k]


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
            fill_lane(tile, np.uint64(k), group(x, r, j, size), lo[r, j], hi[r, j])
        search_tile(tile, count, plan, grid, storage)
        for k in range(min(WIDTH, last + 1 - start)):
            r, j = (start + k) // groups, first + (start + k) % groups
            lo[r, j], hi[r, j] = tile.state[FULL_LO + np.uint64(k)], tile.state[FULL_HI + np.uint64(k)]
