"""Squared errors of encoding and decoding: of groups, and of what searches try."""

import numpy as np

from .codes import group, round_trip
from .compiling import fast, inlined, jit
from .fitting import bounds, fit


@inlined
def difference(value, decoded):
    """value - decoded in float64, exact but for extreme ratios."""
    return np.float64(value) - np.float64(decoded)


@fast
def squared_error(values, scale, offset, lowest, highest):
    """sum (x - decoded)^2 over values [n], in float64."""
    total = 0.0
    for i in range(values.shape[0]):
        error = np.float64(values[i]) - np.float64(round_trip(values[i], scale, offset, lowest, highest)[1])
        total += error * error
    return total


@jit
def group_errors(x, size, fitted, grid, errors):
    """`squared_error` of every group: float64 [rows, groups]."""
    for r in range(x.shape[0]):
        for j in range(errors.shape[1]):
            scale, offset = fitted.scale[r, j], fitted.offset[r, j]
            lowest, highest = bounds(scale, fitted.zero_point[r, j], offset, grid)
            errors[r, j] = squared_error(group(x, r, j, size), scale, offset, lowest, highest)


@fast
def squared_distance(values, decoded):
    """sum (x - decoded)^2 over two arrays [n], in float64."""
    total = 0.0
    for i in range(values.shape[0]):
        error = difference(values[i], decoded[i])
        total += error * error
    return total


@jit
def group_distances(x, decoded, size, errors):
    """`squared_distance` of every group: float64 [rows, groups]."""
    for r in range(x.shape[0]):
        for j in range(errors.shape[1]):
            errors[r, j] = squared_distance(group(x, r, j, size), group(decoded, r, j, size))


@jit
def range_error(values, lo, hi, grid, storage):
    """Squared error of values [n] under a range."""
    scale, zero_point, offset = fit(lo, hi, grid, storage)
    lowest, highest = bounds(scale, zero_point, offset, grid)
    return squared_error(values, np.float32(scale), np.float32(offset), lowest, highest)


@fast
def projection(values, scale, lowest, highest):
    """(sum x * q, sum q^2) for the codes of values [n] under a scale: the best scale for these codes is their ratio."""
    a, b = 0.0, 0.0
    for i in range(values.shape[0]):
        code = np.float64(min(max(np.rint(values[i] / scale), lowest), highest))
        a += np.float64(values[i]) * code
        b += code * code
    return a, b
