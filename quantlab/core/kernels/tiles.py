"""LANES groups of the same size, side by side, and what is known of each."""

from typing import NamedTuple

import numpy as np

from .compiling import fused, inlined, jit, screening
from .errors import difference
from .narrowing import largest_share, reach_of, refitted, taken_off
from .records import HARDLY
from .trials import HIGHEST, INVERSE, LANES, LOWEST, OFFSET, SCALE, SUM_EQ, SUM_QQ, fit_trial, power_above

FOUR, EIGHT = np.uint64(4) * LANES, np.uint64(8) * LANES
ZERO = np.float32(0)
# What is known of a group, in rows of LANES as that of a trial is: the range given and its error, the best one yet and
# its error, and those to compare; where a round starts, and what the whole share of a direction takes off there;
# extremes, and the ends that are worth no trial; the power of two that makes it about 1. Of a walk: the number of the
# next share, that share, and 1 over the magnitude that bounds how far it may leap.
FULL_LO, FULL_HI, FULL_ERROR, LO, HI, BEST, NEW_LO, NEW_HI, NEW_ERROR = (LANES * np.uint64(i) for i in range(9))
START_LO, START_HI, BELOW, ABOVE, SMALLEST, LARGEST, LEAST, MOST = (LANES * np.uint64(i) for i in range(9, 17))
LIMIT, FACTOR, SUM_XQ, SUM_CC, NEXT, SHARE, PACE, GRAIN, GROUP = (LANES * np.uint64(i) for i in range(17, 26))


class Tile(NamedTuple):
    """Room for LANES groups of the same size, side by side."""

    values: np.ndarray  # float32 [size * LANES]: value i of group k is at i * LANES + k
    scaled: np.ndarray  # the same, times powers of two that make the groups about 1
    state: np.ndarray  # float64 [GROUP]
    table: np.ndarray  # float32 [TRIAL]


@inlined
def lanes_of(state):
    """LANES, but not as a constant: short loops of so many steps would be written out, and not vectorise."""
    return np.uint64(state.shape[0]) // (GROUP // LANES)


@inlined
def weigh(tile, at, k):
    """(squared error, x q, q^2) of one value of lane k, encoded and decoded as the table says."""
    table, value = tile.table, tile.values[at]
    scale, offset = table[SCALE + k], table[OFFSET + k]
    code = min(max(np.rint((value - offset) / scale), table[LOWEST + k]), table[HIGHEST + k])
    error, wide = difference(value, offset + code * scale), np.float64(code)
    return error * error, np.float64(value) * wide, wide * wide


@jit
def measure(tile, count, lo_at, hi_at, error_at, grid, storage):
    """Set errors of a tile to those of encoding and decoding its `count` values each, with the ranges named.

    SUM_XQ and SUM_CC are set to what `refitted` needs to know of the codes.
    """
    state, whole, end = tile.state, (count & ~np.uint64(3)) * LANES, count * LANES
    for k in range(LANES):
        fit_trial(state[lo_at + k], state[hi_at + k], 1.0, grid, storage, tile.table, k)
        state[error_at + k], state[SUM_XQ + k], state[SUM_CC + k] = 0.0, 0.0, 0.0
    for start in range(np.uint64(0), whole, FOUR):
        for k in range(LANES):
            errors, xq, qq = 0.0, 0.0, 0.0
            for i in range(start + k, start + k + FOUR, LANES):
                error, product, square = weigh(tile, i, k)
                errors, xq, qq = errors + error, xq + product, qq + square
            state[error_at + k] += errors
            state[SUM_XQ + k] += xq
            state[SUM_CC + k] += qq
    for start in range(whole, end, LANES):
        for k in range(LANES):
            error, product, square = weigh(tile, start + k, k)
            state[error_at + k] += error
            state[SUM_XQ + k] += product
            state[SUM_CC + k] += square


@jit
def refit(tile, lo_at, hi_at, grid, storage):
    """Set the new ranges of a tile to those named, with the scales that are best for the codes just measured."""
    state = tile.state
    for k in range(lanes_of(state)):
        lo, hi = state[lo_at + k], state[hi_at + k]
        state[NEW_LO + k], state[NEW_HI + k] = refitted(lo, hi, state[SUM_XQ + k], state[SUM_CC + k], grid, storage)


@jit
def fill(tile, k, values, lo, hi):
    """Put a group and the range given for it into lane k of a tile."""
    own = tile.values
    for i in range(np.uint64(values.shape[0])):
        own[i * LANES + k] = values[i]
    tile.state[FULL_LO + k], tile.state[FULL_HI + k] = lo, hi


@jit
def scale_lanes(tile, count):
    """Find the extremes of the groups in a tile, and make them about 1."""
    state, own, scaled = tile.state, tile.values, tile.scaled
    for k in range(LANES):
        state[SMALLEST + k], state[LARGEST + k] = own[k], own[k]
    for i in range(count):
        for k in range(LANES):
            value = np.float64(own[i * LANES + k])
            state[SMALLEST + k], state[LARGEST + k] = min(state[SMALLEST + k], value), max(state[LARGEST + k], value)
    for k in range(lanes_of(state)):
        state[FACTOR + k] = power_above(max(-state[SMALLEST + k], state[LARGEST + k], 2.0**-149))
    for i in range(count):
        for k in range(LANES):
            scaled[i * LANES + k] = np.float64(own[i * LANES + k]) * state[FACTOR + k]


@fused
def about(value, table, at):
    """About (squared error, error times code, squared code) of a value in a lane, as `about_squared` has it."""
    distance = value - table[at + OFFSET]
    code = min(max(np.rint(distance * table[at + INVERSE]), table[at + LOWEST]), table[at + HIGHEST])
    error = distance - code * table[at + SCALE]
    return error * error, error * code, code * code


@screening
def try_lanes(scaled, count, table):
    """Set the errors of a tile's trials: each lane's range on its own `count` values, summed in float32.

    SUM_EQ and SUM_QQ say how much better the best scale for these codes is.
    """
    for k in range(LANES):
        table[k], table[SUM_EQ + k], table[SUM_QQ + k] = ZERO, ZERO, ZERO
    whole, end = (count & ~np.uint64(7)) * LANES, count * LANES
    for start in range(np.uint64(0), whole, EIGHT):
        for k in range(LANES):
            errors, eq, qq = ZERO, ZERO, ZERO
            for i in range(start + k, start + k + EIGHT, LANES):
                squared, product, square = about(scaled[i], table, k)
                errors += squared
                eq += product
                qq += square
            table[k] += errors
            table[SUM_EQ + k] += eq
            table[SUM_QQ + k] += qq
    for start in range(whole, end, LANES):
        for k in range(LANES):
            squared, product, square = about(scaled[start + k], table, k)
            table[k] += squared
            table[SUM_EQ + k] += product
            table[SUM_QQ + k] += square


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


@jit
def keep_better(tile, grid, storage):
    """Take the new ranges of a tile as the best ones, where the trials just made cost less.

    A scale that is hardly rounded is first moved to what is best for the codes it gave.
    """
    state, table = tile.state, tile.table
    moves = 1.0 if grid.has_offset == 0.0 and storage.epsilon < HARDLY else 0.0
    for k in range(LANES):
        eq, qq = np.float64(table[SUM_EQ + k]) * moves, max(np.float64(table[SUM_QQ + k]), 1.0)
        error = np.float64(table[k]) - eq * eq / qq
        scale = (np.float64(table[SCALE + k]) + eq / qq) / state[FACTOR + k]
        below = -scale * (grid.steps / 2 if grid.has_zero_point == 0.0 else -np.float64(table[LOWEST + k]))
        lo = below if moves == 1.0 else state[NEW_LO + k]
        hi = below + grid.steps * scale if moves == 1.0 else state[NEW_HI + k]
        # A trial that is made for the sake of other lanes alone does not count.
        better = error < state[BEST + k] and state[SHARE + k] <= state[LIMIT + k]
        state[BEST + k] = error if better else state[BEST + k]
        state[LO + k] = lo if better else state[LO + k]
        state[HI + k] = hi if better else state[HI + k]


@jit
def fit_lanes(tile, grid, storage):
    """Make trials of the new ranges of a tile: its shares of what a direction takes off."""
    state, table = tile.state, tile.table
    for k in range(LANES):
        lo = state[START_LO + k] + state[SHARE + k] * state[BELOW + k]
        hi = state[START_HI + k] - state[SHARE + k] * state[ABOVE + k]
        state[NEW_LO + k], state[NEW_HI + k] = lo, hi
        fit_trial(lo, hi, state[FACTOR + k], grid, storage, table, k)
