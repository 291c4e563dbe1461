"""About the squared errors of a group under many ranges at once, as the lanes of vectors."""

from typing import NamedTuple

import numpy as np

from .compiling import fused, inlined, jit, screening
from .fitting import bounds, fit

GLANCE = 512  # values after which a search asks whether candidates have lost already
WIDTH, LANES = 32, np.uint64(32)  # trials of a search that are made together, as the lanes of vectors
# What is known of a trial: two parts of its error, and how it encodes. It lies in rows of LANES in one array, at
# distances that the compiler knows: so it need not ask whether what it writes is what it reads.
TRIED, ALSO, SCALE, INVERSE, LOWEST, HIGHEST, OFFSET, SUM_EQ, SUM_QQ, TRIAL = (LANES * np.uint64(i) for i in range(10))


class Trials(NamedTuple):
    """Room for the ranges of one round of a group's search, in blocks of LANES."""

    lo: np.ndarray  # float64 [n]
    hi: np.ndarray
    errors: np.ndarray
    table: np.ndarray  # float32 [blocks * TRIAL]
    values: np.ndarray  # float32 [largest group]: the group, times a power of two that makes it about 1


@inlined
def power_above(amax):
    """The power of two that takes a float32 > 0 to between 1 and 2, float64."""
    return 1.0 / np.int64(np.float64(amax).view(np.int64) & 0x7FF0000000000000).view(np.float64)


@inlined
def fit_trial(lo, hi, factor, grid, storage, table, at):
    """Write the parameters of a range, times `factor`, into a lane of a table."""
    scale, zero_point, offset = fit(lo, hi, grid, storage)
    lowest, highest = bounds(scale, zero_point, offset, grid)
    step = scale * factor
    table[at + SCALE], table[at + INVERSE] = step, 1.0 / step
    table[at + LOWEST], table[at + HIGHEST] = lowest, highest
    table[at + OFFSET] = offset * factor


@fused
def about_squared(value, table, at):
    """About the squared error of a value in a lane: by the inverse of its scale, and with less rounding."""
    distance = value - table[at + OFFSET]
    code = min(max(np.rint(distance * table[at + INVERSE]), table[at + LOWEST]), table[at + HIGHEST])
    error = distance - code * table[at + SCALE]
    return error * error


@screening
def try_ranges(values, table, at):
    """Set the errors of the trials at `at` of a table to those of values [n], summed in float32."""
    end = np.uint64(values.shape[0])
    whole = end & ~np.uint64(7)
    for k in range(at, at + LANES):
        table[k], table[ALSO + k] = np.float32(0), np.float32(0)
    for start in range(np.uint64(0), whole, np.uint64(8)):
        for k in range(at, at + LANES):
            some, others = np.float32(0), np.float32(0)
            for i in range(start, start + np.uint64(4)):
                some += about_squared(values[i], table, k)
                others += about_squared(values[i + np.uint64(4)], table, k)
            table[k] += some
            table[ALSO + k] += others
    for i in range(whole, end):
        for k in range(at, at + LANES):
            table[k] += about_squared(values[i], table, k)
    for k in range(at, at + LANES):
        table[k] += table[ALSO + k]


@jit
def fit_trials(trials, count, factor, grid, storage):
    """Write the parameters of the first `count` ranges, times `factor`, into the table; returns how many blocks."""
    blocks = (np.uint64(count) + LANES - np.uint64(1)) // LANES
    for k in range(np.uint64(count), blocks * LANES):
        trials.lo[k], trials.hi[k] = trials.lo[0], trials.hi[0]
    for block in range(blocks):
        first, at = block * LANES, block * TRIAL
        for k in range(LANES):
            fit_trial(trials.lo[first + k], trials.hi[first + k], factor, grid, storage, trials.table, at + k)
    return blocks


@jit
def try_all(values, trials, blocks, best):
    """Set the errors of so many blocks of trials to those of values [n]: float64 sums of float32 ones.

    They become infinite as soon as the values so far cost more than `best` under all trials of a block.
    """
    errors, table = trials.errors, trials.table
    for k in range(blocks * LANES):
        errors[k] = 0.0
    for start in range(0, values.shape[0], GLANCE):
        part = values[start : start + GLANCE]
        for block in range(blocks):
            first, at, least = block * LANES, block * TRIAL, np.inf
            if errors[first] == np.inf:
                continue
            try_ranges(part, table, at)
            for k in range(LANES):
                errors[first + k] += np.float64(table[at + k])
                least = min(least, errors[first + k])
            if least > best:
                for k in range(LANES):
                    errors[first + k] = np.inf


@jit
def scale_values(values, factor, out):
    """out = values times `factor`, a float64; float32 [n]."""
    for i in range(np.uint64(values.shape[0])):
        out[i] = np.float64(values[i]) * factor


@jit
def trials_for(ranges, size):
    """Trials for so many ranges of groups of up to `size` values."""
    blocks = (np.uint64(ranges) + LANES - np.uint64(1)) // LANES
    lo, hi, errors = np.empty(blocks * LANES), np.empty(blocks * LANES), np.empty(blocks * LANES)
    return Trials(lo, hi, errors, np.empty(blocks * TRIAL, np.float32), np.empty(size, np.float32))


@jit
def about_errors(values, lo, hi, factor, grid, storage, errors):
    """About `range_errors`, times factor^2, several times as fast; `factor` is a power of two that makes them about 1.

    Sums are float32, codes come of the inverse of scales, and decoded values are not rounded.
    """
    trials = trials_for(lo.shape[0], values.shape[0])
    trials.lo[: lo.shape[0]], trials.hi[: lo.shape[0]] = lo, hi
    blocks = fit_trials(trials, lo.shape[0], factor, grid, storage)
    scale_values(values, factor, trials.values)
    try_all(trials.values, trials, blocks, np.inf)
    errors[:] += trials.errors[: lo.shape[0]]
