"""Sums over the errors of encoding and decoding."""

import numpy as np

from .codes import group, round_trip
from .compiling import BLOCK, CHUNK, CHUNK_BITS, TILE, fast, fused, inlined, inlined_fast, jit
from .fitting import bounds, fit, grid_of
from .records import Fitted


@fast
def error_sums(x, size, fitted, grid, sums):
    """Error of encoding and decoding, per group: float64 [rows, groups, 5].

    sums[r, j] = (sum e^2, sum |e|, sum decoded^2, max |e|, clipped); e = x - decoded. A value is clipped when its
    nearest code lies beyond the last one.
    """
    for r in range(x.shape[0]):
        for j in range(fitted.scale.shape[1]):
            scale, offset = fitted.scale[r, j], fitted.offset[r, j]
            lowest, highest = bounds(scale, fitted.zero_point[r, j], offset, grid)
            values = group(x, r, j, size)
            squared, absolute, power, largest = 0.0, 0.0, 0.0, np.int64(0)
            clipped = 0.0
            for start in range(0, values.shape[0], BLOCK):
                block = values[start : start + BLOCK]
                outside = np.float32(0)  # an integer count would cost a third of the speed
                for i in range(block.shape[0]):
                    value = block[i]
                    code, decoded = round_trip(value, scale, offset, lowest, highest)
                    error = np.float64(value) - np.float64(decoded)
                    squared += error * error
                    absolute += abs(error)
                    power += np.float64(decoded) * np.float64(decoded)
                    # The bits of non-negative floats order like the floats, and integer maxima vectorise.
                    largest = max(largest, np.float64(abs(error)).view(np.int64))
                    outside += np.float32(1) if code < lowest or code > highest else np.float32(0)
                clipped += np.float64(outside)
            sums[r, j, 0], sums[r, j, 1], sums[r, j, 2] = squared, absolute, power
            sums[r, j, 3], sums[r, j, 4] = np.int64(largest).view(np.float64), clipped


@inlined
def decode_nearest(value, scale, offset, lowest, highest):
    """(decoded value, 1 if its code was clipped else 0), both float32."""
    code = np.rint((value - offset) / scale)
    inside = min(max(code, lowest), highest)
    return offset + inside * scale, np.float32(1) if code != inside else np.float32(0)


@inlined
def difference(value, decoded):
    """value - decoded in float64, exact but for extreme ratios."""
    return np.float64(value) - np.float64(decoded)


@fused
def plus_product(total, a, b):
    """total + a * b in one instruction."""
    return total + a * b


@inlined_fast
def add_differences(x, decoded, total):
    """Add (sum e^2, sum |e|, sum decoded^2, max |e|), e = x - decoded, both [n], to total; the fourth is a maximum."""
    squared, absolute, power, largest = 0.0, 0.0, 0.0, np.int64(0)
    for i in range(x.shape[0]):
        error = difference(x[i], decoded[i])
        squared = plus_product(squared, error, error)
        power = plus_product(power, np.float64(decoded[i]), np.float64(decoded[i]))
        magnitude = abs(error)
        absolute += magnitude
        # The bits of non-negative floats order like the floats, and integer maxima vectorise.
        largest = max(largest, np.float64(magnitude).view(np.int64))
    total[0] += squared
    total[1] += absolute
    total[2] += power
    total[3] = max(total[3], np.int64(largest).view(np.float64))


@inlined_fast
def count_ones(flags):
    """Sum of ones and zeros, float32 [n]: an integer count would not vectorise beside them."""
    total = np.float32(0)
    for i in range(flags.shape[0]):
        total += flags[i]
    return np.float64(total)


@jit
def total_error_sums(x, size, fitted, grid, total):
    """`error_sums` of all groups together, added to total [5]; about twice as fast.

    Tile by tile: values are decoded into a buffer in a float32 loop, and summed up from there in a float64 loop that
    knows of no groups. In one loop the wider type would set the width of all; sums per group would cost as much as the
    groups themselves where these are small. Indices are unsigned: signed ones are checked for counting from the end,
    and slices, which need no such check, are not taken out of inner loops.
    """
    flat = x.reshape(-1)
    decoded, clipped = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    cols, groups = np.uint64(x.shape[1]), np.uint64(fitted.scale.shape[1])
    lowest, highest = np.empty(groups, np.float32), np.empty(groups, np.float32)
    first, filled, tile = np.uint64(0), np.uint64(0), np.uint64(TILE)
    for r in range(np.uint64(x.shape[0])):
        scales, zero_points, offsets = fitted.scale[r], fitted.zero_point[r], fitted.offset[r]
        for j in range(groups):
            lowest[j], highest[j] = bounds(scales[j], zero_points[j], offsets[j], grid)
        for j in range(groups):
            scale, offset, low, high = scales[j], offsets[j], lowest[j], highest[j]
            left = min(np.uint64(size), cols - j * np.uint64(size))
            while left > np.uint64(0):
                count = min(left, tile - filled)
                chunks = count >> CHUNK_BITS
                for k in range(chunks):
                    at = filled + k * CHUNK
                    for i in range(CHUNK):
                        decoded[at + i], clipped[at + i] = decode_nearest(
                            flat[first + at + i], scale, offset, low, high
                        )
                for i in range(filled + (chunks << CHUNK_BITS), filled + count):
                    decoded[i], clipped[i] = decode_nearest(flat[first + i], scale, offset, low, high)
                filled += count
                left -= count
                if filled == tile:
                    add_differences(flat[first : first + filled], decoded, total)
                    total[4] += count_ones(clipped)
                    first += filled
                    filled = np.uint64(0)
    add_differences(flat[first : first + filled], decoded[:filled], total)
    total[4] += count_ones(clipped[:filled])


@jit
def small_group_sums(x, size, fitted, grid, total):
    """`total_error_sums` for groups of 32, 64, ... up to TILE values that fill their rows: a tile is whole groups.

    Small groups cost less without the questions that others need: how much is left of a group, and of a tile.
    """
    flat, decoded, clipped = x.reshape(-1), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    width, groups, most = np.uint64(size), np.uint64(fitted.scale.shape[1]), np.uint64(TILE // size)
    lowest, highest = np.empty(groups, np.float32), np.empty(groups, np.float32)
    first = np.uint64(0)
    for r in range(np.uint64(x.shape[0])):
        scales, zero_points, offsets = fitted.scale[r], fitted.zero_point[r], fitted.offset[r]
        for j in range(groups):
            lowest[j], highest[j] = bounds(scales[j], zero_points[j], offsets[j], grid)
        for start in range(np.uint64(0), groups, most):
            count = min(most, groups - start)
            for j in range(count):
                at = start + j
                scale, offset, low, high = scales[at], offsets[at], lowest[at], highest[at]
                for k in range(j * width, (j + np.uint64(1)) * width, CHUNK):
                    for i in range(CHUNK):
                        value = flat[first + k + i]
                        decoded[k + i], clipped[k + i] = decode_nearest(value, scale, offset, low, high)
            filled = count * width
            add_differences(flat[first : first + filled], decoded[:filled], total)
            total[4] += count_ones(clipped[:filled])
            first += filled


@jit
def all_error_sums(x, size, fitted, grids, totals):
    """`total_error_sums` under several codecs, added to totals [codecs, 5]: x stays in cache from one to the next.

    One call for all of them: threads that leave and enter Python in between wait for each other.
    """
    small = size % 32 == 0 and size <= TILE // 2 and x.shape[1] % size == 0 and x.shape[1] >= TILE // 8
    for k in range(grids.shape[0]):
        one = Fitted(fitted.scale[k], fitted.zero_point[k], fitted.offset[k])
        if small:
            small_group_sums(x, size, one, grid_of(grids[k]), totals[k])
        else:
            total_error_sums(x, size, one, grid_of(grids[k]), totals[k])


@jit
def difference_sums(x, decoded, sums):
    """`error_sums` for two arrays [n]: sums = (sum e^2, sum |e|, sum decoded^2, max |e|)."""
    sums[:4] = 0.0
    for start in range(0, x.shape[0], TILE):  # sums of sums: a long one would lose digits to its own size
        add_differences(x[start : start + TILE], decoded[start : start + TILE], sums)


@jit
def group_difference_sums(x, decoded, size, sums):
    """`difference_sums` of every group: sums [rows, groups, 4 or more]."""
    for r in range(x.shape[0]):
        for j in range(sums.shape[1]):
            difference_sums(group(x, r, j, size), group(decoded, r, j, size), sums[r, j])


@jit
def fold_sums(sums, total):
    """Add the error sums of groups [rows, groups, 5] to those in total [5]; the fourth is a maximum.

    NumPy takes as long for this as `error_sums` does for groups of 32 values, and does not let other threads run.
    """
    squared, absolute, power, largest, clipped = total[0], total[1], total[2], total[3], total[4]
    for r in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            squared += sums[r, j, 0]
            absolute += sums[r, j, 1]
            power += sums[r, j, 2]
            largest = max(largest, sums[r, j, 3])
            clipped += sums[r, j, 4]
    total[0], total[1], total[2], total[3], total[4] = squared, absolute, power, largest, clipped


@fast
def sum_of_squares(x):
    """sum x^2 of float32 [rows, cols], in float64."""
    total = 0.0
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            total += np.float64(x[r, i]) * np.float64(x[r, i])
    return total


@fast
def squared_error(values, scale, offset, lowest, highest):
    """sum (x - decoded)^2 over values [n], in float64."""
    total = 0.0
    for i in range(values.shape[0]):
        error = np.float64(values[i]) - np.float64(round_trip(values[i], scale, offset, lowest, highest)[1])
        total += error * error
    return total


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
