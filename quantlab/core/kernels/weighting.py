"""Errors weighted by input columns: every value has the weight of the input that it is multiplied by."""

import numpy as np

from .compiling import TILE, inlined_fast, jit
from .errors import difference
from .fitting import bounds, grid_of
from .records import Fitted
from .totals import decode_nearest


@jit
def spread(weights, first, run, stack_run, out):
    """Write the weights of values `first`, `first` + 1, ... into out (float32 [n]).

    weights : float32 [stacks, inputs]. Value i has weights[i // stack_run % stacks, i // run % inputs].
    """
    stacks, inputs = weights.shape
    at, count = 0, out.shape[0]
    while at < count:
        i = first + at
        stack, until = i // stack_run % stacks, stack_run - i % stack_run
        if run == 1:
            column = i % inputs
            size = min(inputs - column, until, count - at)
            out[at : at + size] = weights[stack, column : column + size]
        else:
            size = min(run - i % run, until, count - at)
            out[at : at + size] = weights[stack, i // run % inputs]
        at += size


@jit
def weighted_squares(x, weights):
    """sum w x^2 of values and their weights, both float32 [n]."""
    total = 0.0
    for start in range(0, x.shape[0], TILE):  # sums of sums: a long one would lose digits to its own size
        total += squares_of(x[start : start + TILE], weights[start : start + TILE])
    return total


@jit
def weighted_distance(x, decoded, weights):
    """sum w e^2, e = x - decoded, of values, what they became and their weights: all float32 [n]."""
    total = 0.0
    for start in range(0, x.shape[0], TILE):
        end = start + TILE
        total += distance_of(x[start:end], decoded[start:end], weights[start:end])
    return total


@jit
def weighted_error(x, size, fitted, grid, weights):
    """sum w e^2 of encoding and decoding x (float32 [rows, cols]); weights : of its values, float32 [rows * cols].

    Values are decoded into a buffer in a float32 loop, and summed up from there in a float64 loop, as in
    `totals.total_error_sums`.
    """
    flat, decoded, total = x.reshape(-1), np.empty(TILE, np.float32), 0.0
    cols, first = x.shape[1], 0
    for r in range(x.shape[0]):
        for j in range(fitted.scale.shape[1]):
            scale, offset = fitted.scale[r, j], fitted.offset[r, j]
            lowest, highest = bounds(scale, fitted.zero_point[r, j], offset, grid)
            end = first + min(size, cols - j * size)
            while first < end:
                count = min(end - first, TILE)
                values = flat[first : first + count]
                for i in range(count):
                    decoded[i] = decode_nearest(values[i], scale, offset, lowest, highest)[0]
                total += distance_of(values, decoded[:count], weights[first : first + count])
                first += count
    return total


@jit
def all_weighted_errors(x, size, fitted, grids, weights, errors):
    """`weighted_error` under several codecs, into errors [codecs]; `fitted` [codecs, rows, groups] each."""
    for k in range(grids.shape[0]):
        one = Fitted(fitted.scale[k], fitted.zero_point[k], fitted.offset[k])
        errors[k] = weighted_error(x, size, one, grid_of(grids[k]), weights)


@inlined_fast
def squares_of(x, weights):
    """`weighted_squares` of few values."""
    total = 0.0
    for i in range(x.shape[0]):
        total += np.float64(x[i]) * np.float64(x[i]) * np.float64(weights[i])
    return total


@inlined_fast
def distance_of(x, decoded, weights):
    """`weighted_distance` of few values."""
    total = 0.0
    for i in range(x.shape[0]):
        error = difference(x[i], decoded[i])
        total += error * error * np.float64(weights[i])
    return total
