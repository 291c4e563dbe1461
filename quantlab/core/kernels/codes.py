"""Values to codes and back."""

import numpy as np

from .compiling import CHUNK, CHUNK_BITS, TILE, inlined, jit
from .fitting import bounds

INFINITE_BITS = np.uint32(0x7F800000)  # of a float32; NaN has more


@jit
def round_trip(value, scale, offset, lowest, highest):
    """(unclipped code, decoded value), both float32; codes are relative to the zero point."""
    code = np.rint((value - offset) / scale)
    return code, offset + min(max(code, lowest), highest) * scale


@jit
def group(matrix, r, j, size):
    """The values of group j of row r. Loops count from 0 over this view: other starts keep them from vectorising."""
    return matrix[r, j * size : min((j + 1) * size, matrix.shape[1])]


@inlined
def nearest_code(value, scale, offset, zero_point, lowest, highest):
    """clip(rint((value - offset) / scale)) + zero point, float32; clipped as a float: others have no defined cast."""
    return min(max(np.rint((value - offset) / scale), lowest), highest) + zero_point


@inlined
def largest_bits(values, first, end):
    """The bits of the largest magnitude of values[first:end], NaN the largest of all."""
    largest = np.uint32(0)
    for i in range(first, end):
        largest = max(largest, np.uint32(np.float32(values[i]).view(np.uint32) & np.uint32(0x7FFFFFFF)))
    return largest


@jit
def encode(x, size, fitted, grid, check, codes):
    """codes = clip(rint((x - offset) / scale) + zero_point, qmin, qmax); False if `check` and x is not all finite.

    Chunks of a length that the compiler knows, and no views: for groups of 32 values a third faster than one loop each.
    Tiles are checked just before they are encoded: that costs no second way through memory.
    """
    flat, out = x.reshape(-1), codes.reshape(-1)
    cols, groups, tile = np.uint64(x.shape[1]), np.uint64(fitted.scale.shape[1]), np.uint64(TILE)
    lowest, highest = np.empty(groups, np.float32), np.empty(groups, np.float32)
    first, seen, largest = np.uint64(0), np.uint64(0), np.uint32(0)
    for r in range(np.uint64(x.shape[0])):
        scales, zero_points, offsets = fitted.scale[r], fitted.zero_point[r], fitted.offset[r]
        for j in range(groups):
            lowest[j], highest[j] = bounds(scales[j], zero_points[j], offsets[j], grid)
        for j in range(groups):
            scale, offset, zero_point, low, high = scales[j], offsets[j], zero_points[j], lowest[j], highest[j]
            left = min(np.uint64(size), cols - j * np.uint64(size))
            while left > np.uint64(0):
                count = min(left, tile)
                if check and seen < first + count:
                    end = min(seen + tile, np.uint64(flat.shape[0]))
                    largest = max(largest, largest_bits(flat, seen, end))
                    seen = end
                chunks = count >> CHUNK_BITS
                for k in range(chunks):
                    at = first + k * CHUNK
                    for i in range(CHUNK):
                        out[at + i] = nearest_code(flat[at + i], scale, offset, zero_point, low, high)
                for i in range(first + (chunks << CHUNK_BITS), first + count):
                    out[i] = nearest_code(flat[i], scale, offset, zero_point, low, high)
                first += count
                left -= count
    return largest < INFINITE_BITS


@jit
def decode(codes, size, fitted, x):
    """x = offset + (codes - zero_point) * scale, in float32."""
    for r in range(codes.shape[0]):
        for j in range(fitted.scale.shape[1]):
            scale, offset, zero_point = fitted.scale[r, j], fitted.offset[r, j], fitted.zero_point[r, j]
            values, out = group(codes, r, j, size), group(x, r, j, size)
            for i in range(values.shape[0]):
                out[i] = offset + (np.float32(values[i]) - zero_point) * scale
