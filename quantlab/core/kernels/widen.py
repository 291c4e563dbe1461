"""Values of narrower types as float32, and matrices turned over."""

import numpy as np

from .compiling import CHUNK, jit


@jit
def widen_bfloat16(bits, x):
    """float32 from the bit patterns of bfloat16: uint16 [rows, cols] -> x, same shape."""
    for r in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            x[r, i] = np.uint32(np.uint32(bits[r, i]) << np.uint32(16)).view(np.float32)


@jit
def widen_float16(bits, x):
    """float32 from the bit patterns of float16: uint16 [rows, cols] -> x, same shape.

    Exponent and fraction, shifted into place, are the value times 2^-112, subnormal ones included; infinity and NaN
    need the exponent of float32.
    """
    for r in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            word = np.uint32(bits[r, i])
            magnitude = np.uint32((word & np.uint32(0x7FFF)) << np.uint32(13))
            finite = np.uint32(np.float32(magnitude.view(np.float32) * np.float32(2.0**112)).view(np.uint32))
            special = magnitude >= np.uint32(0x0F800000)
            pattern = np.uint32(magnitude | np.uint32(0x7F800000)) if special else finite
            x[r, i] = np.uint32(pattern | ((word & np.uint32(0x8000)) << np.uint32(16))).view(np.float32)


@jit
def transpose(matrix, out):
    """out = the transpose of matrix [rows, cols], strip by strip, so that what is read stays in cache until written."""
    rows, cols = np.uint64(matrix.shape[0]), np.uint64(matrix.shape[1])
    for first in range(np.uint64(0), rows, CHUNK):
        last = min(first + CHUNK, rows)
        for j in range(cols):
            for i in range(first, last):
                out[j, i] = matrix[i, j]
