"""Errors weighted by input columns: every value has the weight of the input that it is multiplied by."""

import numpy as np

from .compiling import TILE, inlined_fast, jit
from .errors import difference


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
