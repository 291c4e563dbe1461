"""Sums over the errors of a whole piece, and of each output channel in it, while it is in cache."""

import numpy as np

from .compiling import CHUNK, CHUNK_BITS, TILE, fused, inlined, inlined_fast, jit
from .errors import difference, squared_distance
from .fitting import bounds, grid_of
from .records import Fitted

LONG = np.uint64(128)  # values of a channel that follow each other, from which each run is summed on its own
ZEROED = np.float32(2 * TILE)  # a flag that no number of clipped values adds up to; sums of both are exact in float32


@inlined
def decode_nearest(value, scale, offset, lowest, highest):
    """(decoded value, flag), both float32: 1 if its code was clipped, and ZEROED if it was not 0 and became 0."""
    code = np.rint((value - offset) / scale)
    inside = min(max(code, lowest), highest)
    decoded = offset + inside * scale
    zeroed = ZEROED if (decoded == np.float32(0)) & (value != np.float32(0)) else np.float32(0)
    return decoded, zeroed + (np.float32(1) if code != inside else np.float32(0))


@inlined
def decode_centered(value, scale, lowest, highest):
    """The same without an offset, and ZEROED also for zeros, which stay zeros. A tenth less to do."""
    code = np.rint(value / scale)
    inside = min(max(code, lowest), highest)
    decoded = inside * scale
    zeroed = ZEROED if decoded == np.float32(0) else np.float32(0)
    return decoded, zeroed + (np.float32(1) if code != inside else np.float32(0))


@fused
def plus_product(total, a, b):
    """total + a * b in one instruction."""
    return total + a * b


@inlined_fast
def add_differences(x, decoded, total):
    """Add the sums over e = x - decoded, both [n], that `total_error_sums` names; returns sum e^2."""
    squared, absolute, power, product, largest = 0.0, 0.0, 0.0, 0.0, np.int64(0)
    for i in range(x.shape[0]):
        error = difference(x[i], decoded[i])
        squared = plus_product(squared, error, error)
        power = plus_product(power, np.float64(decoded[i]), np.float64(decoded[i]))
        product = plus_product(product, np.float64(x[i]), np.float64(decoded[i]))
        magnitude = abs(error)
        absolute += magnitude
        # The bits of non-negative floats order like the floats, and integer maxima vectorise.
        largest = max(largest, np.float64(magnitude).view(np.int64))
    total[0] += squared
    total[1] += absolute
    total[2] += power
    total[3] = max(total[3], np.int64(largest).view(np.float64))
    total[5] += product
    return squared


@inlined_fast
def add_flags(flags, total):
    """Add clipped and zeroed values, flagged in float32 [n]: an integer count would not vectorise beside them."""
    found = np.float32(0)
    for i in range(flags.shape[0]):
        found += flags[i]
    zeroed = np.floor(found / ZEROED)
    total[4] += np.float64(found - zeroed * ZEROED)
    total[6] += np.float64(zeroed)


@inlined_fast
def add_squares(x, decoded, sums):
    """Add every squared difference to a sum of its own: all [n]."""
    for i in range(x.shape[0]):
        error = difference(x[i], decoded[i])
        sums[i] = plus_product(sums[i], error, error)


@inlined
def moved(left, slot, count, place):
    """(left, slot) after so many values, of one run at most. Not by division: that took a tenth of a tile's time."""
    if count < left:
        return left - count, slot
    return place.run, slot + np.uint64(1) if slot + np.uint64(1) < place.slots else np.uint64(0)


@jit
def add_channels(x, decoded, left, slot, place, sums):
    """Add the squared differences of x and decoded [n] to the sums of their channels; returns (left, slot) after them.

    Channels that are columns have runs of one value: then the runs of all of them are one loop.
    """
    start, end = np.uint64(0), np.uint64(x.shape[0])
    while start < end:
        if place.run == np.uint64(1):
            count = min(end - start, place.slots - slot)
            add_squares(x[start : start + count], decoded[start : start + count], sums[slot : slot + count])
            slot = slot + count if slot + count < place.slots else np.uint64(0)
        else:
            count = min(end - start, left)
            sums[slot] += squared_distance(x[start : start + count], decoded[start : start + count])
            left, slot = moved(left, slot, count, place)
        start += count
    return left, slot


@inlined
def add_tile(x, decoded, left, slot, place, total, sums):
    """Add what a tile of values and what they became add to a piece's total and to its channels: (left, slot) after."""
    if place.run < LONG:
        add_differences(x, decoded, total)
        return add_channels(x, decoded, left, slot, place, sums)
    start, end = np.uint64(0), np.uint64(x.shape[0])
    while start < end:
        count = min(end - start, left)
        sums[slot] += add_differences(x[start : start + count], decoded[start : start + count], total)
        left, slot = moved(left, slot, count, place)
        start += count
    return left, slot


@jit
def total_error_sums(x, size, fitted, grid, zeros, place, total, sums):
    """Add the error of encoding and decoding a piece to total [7], and the squared one to sums [channels].

    total : sum e^2, sum |e|, sum decoded^2, max |e|, clipped, sum x * decoded, zeroed; e = x - decoded. A value is
    clipped when its nearest code lies beyond the last one, and zeroed when it was not 0 and became 0; `zeros` were 0.

    Tile by tile: values are decoded into a buffer in a float32 loop, and summed up from there in a float64 loop that
    knows of no groups. In one loop the wider type would set the width of all; sums per group would cost as much as the
    groups themselves where these are small. Indices are unsigned: signed ones are checked for counting from the end,
    and slices, which need no such check, are not taken out of inner loops.
    """
    flat = x.reshape(-1)
    decoded, flags = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    cols, groups = np.uint64(x.shape[1]), np.uint64(fitted.scale.shape[1])
    lowest, highest = np.empty(groups, np.float32), np.empty(groups, np.float32)
    first, filled, tile = np.uint64(0), np.uint64(0), np.uint64(TILE)
    until, slot = place.left, place.slot
    for r in range(np.uint64(x.shape[0])):
        scales, zero_points, offsets = fitted.scale[r], fitted.zero_point[r], fitted.offset[r]
        for j in range(groups):
            lowest[j], highest[j] = bounds(scales[j], zero_points[j], offsets[j], grid)
        for j in range(groups):
            scale, offset, low, high = scales[j], offsets[j], lowest[j], highest[j]
            left = min(np.uint64(size), cols - j * np.uint64(size))
            while left > np.uint64(0):
                count = min(left, tile - filled)
                rest = filled + (count >> CHUNK_BITS << CHUNK_BITS)
                if grid.has_offset == 0.0:
                    for at in range(filled, rest, CHUNK):
                        for i in range(CHUNK):
                            value = flat[first + at + i]
                            decoded[at + i], flags[at + i] = decode_centered(value, scale, low, high)
                    for i in range(rest, filled + count):
                        decoded[i], flags[i] = decode_centered(flat[first + i], scale, low, high)
                else:
                    for at in range(filled, rest, CHUNK):
                        for i in range(CHUNK):
                            value = flat[first + at + i]
                            decoded[at + i], flags[at + i] = decode_nearest(value, scale, offset, low, high)
                    for i in range(rest, filled + count):
                        decoded[i], flags[i] = decode_nearest(flat[first + i], scale, offset, low, high)
                filled += count
                left -= count
                if filled == tile:
                    until, slot = add_tile(flat[first : first + filled], decoded, until, slot, place, total, sums)
                    add_flags(flags, total)
                    first += filled
                    filled = np.uint64(0)
    add_tile(flat[first : first + filled], decoded[:filled], until, slot, place, total, sums)
    add_flags(flags[:filled], total)
    total[6] -= zeros if grid.has_offset == 0.0 else 0.0


@jit
def small_group_sums(x, size, fitted, grid, zeros, place, total, sums):
    """`total_error_sums` for groups of 32, 64, ... up to TILE values that fill their rows: a tile is whole groups.

    Small groups cost less without the questions that others need: how much is left of a group, and of a tile.
    """
    flat, decoded, flags = x.reshape(-1), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    width, groups, most = np.uint64(size), np.uint64(fitted.scale.shape[1]), np.uint64(TILE // size)
    lowest, highest = np.empty(groups, np.float32), np.empty(groups, np.float32)
    first, left, slot = np.uint64(0), place.left, place.slot
    for r in range(np.uint64(x.shape[0])):
        scales, zero_points, offsets = fitted.scale[r], fitted.zero_point[r], fitted.offset[r]
        for j in range(groups):
            lowest[j], highest[j] = bounds(scales[j], zero_points[j], offsets[j], grid)
        for start in range(np.uint64(0), groups, most):
            count = min(most, groups - start)
            for j in range(count):
                at = start + j
                scale, offset, low, high = scales[at], offsets[at], lowest[at], highest[at]
                if grid.has_offset == 0.0:
                    for k in range(j * width, (j + np.uint64(1)) * width, CHUNK):
                        for i in range(CHUNK):
                            value = flat[first + k + i]
                            decoded[k + i], flags[k + i] = decode_centered(value, scale, low, high)
                else:
                    for k in range(j * width, (j + np.uint64(1)) * width, CHUNK):
                        for i in range(CHUNK):
                            value = flat[first + k + i]
                            decoded[k + i], flags[k + i] = decode_nearest(value, scale, offset, low, high)
            filled = count * width
            values = flat[first : first + filled]
            left, slot = add_tile(values, decoded[:filled], left, slot, place, total, sums)
            add_flags(flags[:filled], total)
            first += filled
    total[6] -= zeros if grid.has_offset == 0.0 else 0.0


@jit
def all_error_sums(x, size, fitted, grids, place, totals, sums):
    """`total_error_sums` under several codecs, added to totals [codecs, 7] and sums [codecs, channels].

    One call for all of them: x stays in cache from one to the next, and threads that leave and enter Python in between
    wait for each other.
    """
    small = size % 32 == 0 and size <= TILE // 2 and x.shape[1] % size == 0 and x.shape[1] >= TILE // 8
    zeros = count_zeros(x.reshape(-1))
    for k in range(grids.shape[0]):
        one = Fitted(fitted.scale[k], fitted.zero_point[k], fitted.offset[k])
        if small:
            small_group_sums(x, size, one, grid_of(grids[k]), zeros, place, totals[k], sums[k])
        else:
            total_error_sums(x, size, one, grid_of(grids[k]), zeros, place, totals[k], sums[k])


@jit
def count_zeros(x):
    """How many of the values [n] are 0, float64."""
    total = 0.0
    for start in range(0, x.shape[0], TILE):
        total += zeros_of(x[start : start + TILE])
    return total


@inlined_fast
def zeros_of(x):
    """How many of few values [n] are 0: counted in float32, as `add_flags` counts."""
    found = np.float32(0)
    for i in range(x.shape[0]):
        found += np.float32(1) if x[i] == 0 else np.float32(0)
    return np.float64(found)


@jit
def difference_sums(x, decoded, place, total, sums):
    """`total_error_sums` for values [n] and what they became; nothing of it is clipped."""
    left, slot = place.left, place.slot
    for start in range(0, x.shape[0], TILE):  # sums of sums: a long one would lose digits to its own size
        values, became = x[start : start + TILE], decoded[start : start + TILE]
        left, slot = add_tile(values, became, left, slot, place, total, sums)
        total[6] += zeroed_of(values, became)


@inlined_fast
def zeroed_of(x, decoded):
    """How many of few values [n] were not 0 and became 0."""
    found = np.float32(0)
    for i in range(x.shape[0]):
        found += np.float32(1) if (decoded[i] == 0) & (x[i] != 0) else np.float32(0)
    return np.float64(found)


@inlined_fast
def power_of(x):
    """sum x^2 of few values [n]."""
    total = 0.0
    for i in range(x.shape[0]):
        total = plus_product(total, np.float64(x[i]), np.float64(x[i]))
    return total


@inlined_fast
def add_powers(x, sums):
    """Add every square to a sum of its own: all [n]."""
    for i in range(x.shape[0]):
        sums[i] = plus_product(sums[i], np.float64(x[i]), np.float64(x[i]))


@jit
def channel_powers(x, place, sums):
    """Add the squares of values [n] to the sums of their channels."""
    start, end, left, slot = np.uint64(0), np.uint64(x.shape[0]), place.left, place.slot
    while start < end:
        if place.run == np.uint64(1):
            count = min(end - start, place.slots - slot)
            add_powers(x[start : start + count], sums[slot : slot + count])
            slot = slot + count if slot + count < place.slots else np.uint64(0)
        else:
            count = min(end - start, left, np.uint64(TILE))
            sums[slot] += power_of(x[start : start + count])
            left, slot = moved(left, slot, count, place)
        start += count
