"""Blocks of ggml, whose rules for scales and ties are its own."""

import math

import numpy as np

from .codes import group
from .compiling import jit
from .order import extent
from .records import FLOAT32_MAX


@jit
def first_extreme(values):
    """The first value of largest magnitude."""
    extreme = values[0]
    for i in range(1, values.shape[0]):
        if abs(values[i]) > abs(extreme):
            extreme = values[i]
    return extreme


@jit
def inverse(scale):
    """1 / scale, 0 where that is not finite: ggml multiplies by it, so a division would give other codes."""
    factor = np.float32(1) / scale if scale != 0 else np.float32(0)
    return factor if abs(factor) <= np.float32(FLOAT32_MAX) else np.float32(0)


@jit
def encode_extreme(x, size, qmin, qmax, codes, scale, offset):
    """ggml's Q4_0 and Q5_0: the scale, of either sign, puts the value of largest magnitude on qmin. offset is 0."""
    shift = np.float32(0.5) - qmin
    for r in range(x.shape[0]):
        for j in range(scale.shape[1]):
            values, out = group(x, r, j, size), group(codes, r, j, size)
            step = np.float32(first_extreme(values) / qmin)
            factor = inverse(step)
            for i in range(values.shape[0]):
                out[i] = min(np.trunc(np.float32(values[i] * factor) + shift), qmax - qmin) + qmin
            scale[r, j], offset[r, j] = step, 0


@jit
def encode_ranged(x, size, qmin, qmax, codes, scale, offset):
    """ggml's Q4_1 and Q5_1: offset is the smallest value, scale the range over qmax; ties go up."""
    for r in range(x.shape[0]):
        for j in range(scale.shape[1]):
            values, out = group(x, r, j, size), group(codes, r, j, size)
            smallest, largest = extent(values)
            step = np.float32((largest - smallest) / qmax)
            factor = inverse(step)
            for i in range(values.shape[0]):
                code = np.trunc(np.float32((values[i] - smallest) * factor) + np.float32(0.5))
                out[i] = min(code, qmax)
            scale[r, j], offset[r, j] = step, smallest


@jit
def encode_magnitude(x, size, qmin, qmax, codes, scale, offset):
    """ggml's Q8_0: scale = max|x| / qmax, rounding half away from zero. offset is 0."""
    for r in range(x.shape[0]):
        for j in range(scale.shape[1]):
            values, out = group(x, r, j, size), group(codes, r, j, size)
            step = np.float32(abs(first_extreme(values)) / qmax)
            factor = inverse(step)
            for i in range(values.shape[0]):
                code = values[i] * factor
                floor = np.floor(abs(code))
                out[i] = math.copysign(floor + np.floor(2 * (abs(code) - floor)), code)
            scale[r, j], offset[r, j] = step, 0
