"""All compiled code: arithmetic over the rows of a float32 matrix, nothing else.

Every kernel sees `x`, float32 [rows, cols] in C order, each row cut into groups of `size` values (the last one may be
short): group j of a row is `x[row, j * size : (j + 1) * size]`. Arrays per group are [rows, groups of a row].
Kernels check nothing, release the GIL and run on one thread; `pool.run` spreads them over ranges of rows or columns.

`fast` allows sums to be reordered, which lets them vectorise, and nothing else. The values summed come out of `jit`
helpers, whose instructions keep strict IEEE order after inlining: reassociation must never touch `offset + q * scale`.
Nor may "contract" be allowed where values are decoded: it reaches through the widening of a decoded value to the
product that made it, and the error would be that of another value than the one that is shipped. `fused` allows it for
adding a product to a sum, and nothing else: there it only spares a rounding. `screening` allows it for errors that say
which of many ranges are worth a look; what is chosen among those goes by errors without it.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

# Division by zero gives what IEEE says: Python's check for it, at every division, keeps loops from vectorising.
jit = njit(nogil=True, cache=True, error_model="numpy")
fast = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz"})
# Parts of a kernel with flags of their own. As calls they would count references to every view, and not vectorise.
inlined = njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
inlined_fast = njit(nogil=True, cache=True, error_model="numpy", forceinline=True, fastmath={"reassoc", "nsz"})
fused = njit(nogil=True, cache=True, error_model="numpy", forceinline=True, fastmath={"reassoc", "nsz", "contract"})
# The same for a kernel of its own, whose sums only say which of several ranges to look at.
screening = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})

FLOAT32_MAX = float(np.finfo(np.float32).max)
INFINITE_BITS = np.uint32(0x7F800000)  # of a float32; NaN has more
HALF_STEP_AT_MAX = 2.0**103  # half the distance of the two largest float32
GLANCE = 512  # values after which a search asks whether candidates have lost already
WIDTH, LANES = 32, np.uint64(32)  # trials of a search that are made together, as the lanes of vectors
FOUR, EIGHT = np.uint64(4) * LANES, np.uint64(8) * LANES
EVERY, LONG = np.uint64(8), np.uint64(7)  # how often a search asks in a long list of ranges whether all have lost
ZERO = np.float32(0)
ABREAST = 2048  # values of a group up to which a search takes LANES groups at a time
# What a search knows of its lanes lies in rows of LANES in one array, at distances that the compiler knows: so it need
# not ask whether what it writes is what it reads. Of a trial: two parts of its error, and how it encodes.
TRIED, ALSO, SCALE, INVERSE, LOWEST, HIGHEST, OFFSET, TRIAL = (LANES * np.uint64(i) for i in range(8))
# Of a group: the range given and its error, the best one yet and its error, and those to compare; where a round starts,
# and what the whole share of a direction takes off there; extremes, and the ends that are worth no trial; the power of
# two that makes it about 1.
FULL_LO, FULL_HI, FULL_ERROR, LO, HI, BEST, NEW_LO, NEW_HI, NEW_ERROR = (LANES * np.uint64(i) for i in range(9))
START_LO, START_HI, BELOW, ABOVE, SMALLEST, LARGEST, LEAST, MOST = (LANES * np.uint64(i) for i in range(9, 17))
LIMIT, FACTOR, SUM_XQ, SUM_QQ, GROUP = (LANES * np.uint64(i) for i in range(17, 22))
BLOCK = 4096  # values summed in one go: short enough that the compiler keeps them in registers
LOG_2, SQRT_HALF_BITS = math.log(2.0), 0x3FE6A09E667F3BCD
MANY = 8  # ways to lay codes from which all of them are followed at once
TINY = 1e-300  # stands for 0 where a logarithm is taken
COARSE = 128  # edges that a two-sided search tries first
TILE = 2048  # values decoded, then summed: two buffers of it stay in the first cache
CHUNK, CHUNK_BITS = np.uint64(32), np.uint64(5)  # values of a loop whose length the compiler knows


class Grid(NamedTuple):
    """Integer codes under one mapping, as the numbers that `fit` needs."""

    steps: float  # intervals between the lowest and the highest code that a range is spread over
    qmin: float
    qmax: float
    widest_lo: float  # the range is widened until lo <= widest_lo and hi >= -widest_lo: 0 keeps zero inside
    has_zero_point: float  # 1 or 0
    has_offset: float  # 1 or 0


class Storage(NamedTuple):
    """A float type that scales are rounded to, as the numbers that `round_to` needs."""

    epsilon: float  # distance from 1 to its upper neighbour
    smallest: float  # smallest positive subnormal
    largest: float


class Fitted(NamedTuple):
    """What turns values into codes and back: float32 arrays [rows, groups]."""

    scale: np.ndarray
    zero_point: np.ndarray
    offset: np.ndarray


class Sides(NamedTuple):
    """Codes to search a scale for: float64 arrays [S], one entry per way to lay them around 0."""

    down: np.ndarray  # codes below 0, as a count: values down to -down * scale
    up: np.ndarray
    sign: np.ndarray  # of the scale that comes of it; -1 turns the codes around
    zero_point: np.ndarray
    most: np.ndarray  # largest scale whose outermost code is finite in float32
    farthest_down: float  # the most of `down`
    farthest_up: float


class Plan(NamedTuple):
    """Rounds of ranges to try around the best one yet."""

    ways: np.ndarray  # float64 [directions, 3]: what a share takes off, as `list_ranges` takes it
    shares: np.ndarray  # float64 [n], those of every direction from none to the most
    slices: np.ndarray  # int64 [directions, 3]: the round that each belongs to, and which shares are its own


class Trials(NamedTuple):
    """Room for the ranges of one round of a group's search, in blocks of LANES."""

    lo: np.ndarray  # float64 [n]
    hi: np.ndarray
    errors: np.ndarray
    table: np.ndarray  # float32 [blocks * TRIAL]
    values: np.ndarray  # float32 [largest group]: the group, times a power of two that makes it about 1


class Tile(NamedTuple):
    """Room for LANES groups of the same size, side by side."""

    values: np.ndarray  # float32 [size * LANES]: value i of group k is at i * LANES + k
    scaled: np.ndarray  # the same, times powers of two that make the groups about 1
    state: np.ndarray  # float64 [GROUP]
    table: np.ndarray  # float32 [TRIAL]


class Work(NamedTuple):
    """Room for the search of one group after another, and for so many changes of codes at a time as `order` holds.

    That must be at least a group's size: then there always is a stretch with few enough changes.
    """

    times: np.ndarray  # float64 [changes + 4]: 1 / scale at which a code changes
    rises: np.ndarray  # how much its square grows, 2 k - 1 for k - 1 to k, with the sign of the value
    weights: np.ndarray  # |x|
    order: np.ndarray  # uint64 [changes]: their indices, by time
    starts: np.ndarray  # uint64 [2 * changes]: of the buckets they are sorted into
    codes: np.ndarray  # float64 [largest group]: magnitudes reached so far
    sums_xq: np.ndarray  # float64 [S]: sum x q for each of the sides, and sum q^2
    sums_qq: np.ndarray
    ends: np.ndarray  # float64 [S]: how far each is worth following


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


@inlined
def spacing(value, storage):
    """Distance between neighbours of a narrower float type around `value` (float64, finite)."""
    # The exponent bits alone are a power of two. frexp and ldexp say the same, and took most of the time of a fit.
    power = np.int64(np.float64(value).view(np.int64) & 0x7FF0000000000000).view(np.float64)
    return max(power * storage.epsilon, storage.smallest)


@inlined
def round_to(value, storage):
    """`value` (float64, finite) rounded half to even to a narrower float type, saturated at its largest."""
    step = spacing(value, storage)
    return min(max(np.rint(value / step) * step, -storage.largest), storage.largest)


@inlined
def round_down(value, storage):
    """`value` rounded towards -infinity to a narrower float type, saturated at its largest."""
    step = spacing(value, storage)
    return min(max(np.floor(value / step) * step, -storage.largest), storage.largest)


@inlined
def fit(lo, hi, grid, storage):
    """Scale, zero point and offset that spread the codes of `grid` over [lo, hi] (float64).

    scale = (hi - lo) / steps, never 0 or infinite in its storage type; a range of no width gets scale 1. Codes count
    up from the offset as it is stored, so it is rounded down and the scale reaches from there: a bfloat16 offset for
    [1001, 1002] is 1000, and 255 steps of 1/255 would end at 1001.
    """
    lo = min(lo, grid.widest_lo)
    hi = max(hi, -grid.widest_lo)
    below = round_down(lo, storage)
    lo = below if grid.has_offset == 1.0 else lo
    step = max(hi - lo, 0.0) / grid.steps
    rounded = max(round_to(step, storage), storage.smallest)
    scale = 1.0 if step == 0.0 else rounded
    zero_point = grid.has_zero_point * min(max(np.rint(-lo / scale), 0.0), grid.steps)
    return scale, zero_point, grid.has_offset * lo


@inlined
def bounds(scale, zero_point, offset, grid):
    """Lowest and highest code relative to the zero point whose value is finite in float32."""
    # The product is rounded before a positive offset is added: by up to half a step, and the sum must not pass the end.
    room = max(FLOAT32_MAX - (offset + HALF_STEP_AT_MAX if offset > 0.0 else 0.0), 0.0)
    limit = np.floor(room / abs(scale))  # math.floor would make it an int64
    return np.float32(max(grid.qmin - zero_point, -limit)), np.float32(min(grid.qmax - zero_point, limit))


@jit
def round_trip(value, scale, offset, lowest, highest):
    """(unclipped code, decoded value), both float32; codes are relative to the zero point."""
    code = np.rint((value - offset) / scale)
    return code, offset + min(max(code, lowest), highest) * scale


@jit
def fit_groups(lo, hi, grid, storage, scale, zero_point, offset):
    """`fit` for arrays [rows, groups]; signed codes are spread over [-m, m], m the larger magnitude of lo and hi."""
    lows, highs, signed = lo.reshape(-1), hi.reshape(-1), grid.qmin < 0.0
    scales, zero_points, offsets = scale.reshape(-1), zero_point.reshape(-1), offset.reshape(-1)
    for i in range(np.uint64(lows.shape[0])):
        low, high = lows[i], highs[i]
        largest = max(abs(low), abs(high))
        low, high = -largest if signed else low, largest if signed else high
        scales[i], zero_points[i], offsets[i] = fit(low, high, grid, storage)


@jit
def grid_of(numbers):
    """A Grid from its numbers, float64 [6]."""
    return Grid(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5])


@jit
def storage_of(numbers):
    """A Storage from its numbers, float64 [3]."""
    return Storage(numbers[0], numbers[1], numbers[2])


@jit
def fit_all(lo, hi, grids, storages, fitted):
    """`fit_groups` for several codecs: rows of `grids` and `storages` are a Grid and a Storage each.

    fitted : float32 [codecs, rows, groups] each.
    """
    for k in range(grids.shape[0]):
        grid, storage = grid_of(grids[k]), storage_of(storages[k])
        fit_groups(lo, hi, grid, storage, fitted.scale[k], fitted.zero_point[k], fitted.offset[k])


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


@inlined
def power_above(amax):
    """The power of two that takes a float32 > 0 to between 1 and 2, float64."""
    return 1.0 / np.int64(np.float64(amax).view(np.int64) & 0x7FF0000000000000).view(np.float64)


@inlined
def reach_of(lo, hi, error, grid, storage):
    """How far beyond a narrower range than [lo, hi] a value may lie, if it is not to cost more than `error` alone.

    Codes reach a step beyond their range at most, and what scales and offsets are rounded by.
    """
    steps = 1.1 * (hi - lo) / grid.steps + grid.steps * storage.smallest
    return steps + storage.epsilon * (hi - lo + max(abs(lo), abs(hi))) + 1.001 * math.sqrt(error)


@inlined
def taken_off(lo, hi, ways, d):
    """What the whole share of a direction takes off below and above."""
    center, width = min(max(lo, 0.0), hi), hi - lo
    return ways[d, 0] * width + ways[d, 2] * (center - lo), ways[d, 1] * width + ways[d, 2] * (hi - center)


@inlined
def largest_share(lo, hi, below, above, least, most):
    """The share of which [lo + share * below, hi - share * above] just reaches `least` and `most`."""
    return min((least - lo) / below if below > 0.0 else np.inf, (hi - most) / above if above > 0.0 else np.inf)


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
def list_ranges(lo, hi, plan, d, least, most, trials, count):
    """Add [lo, hi] narrowed along direction d to the first `count` of `trials`, and return how many there are then.

    Ranges that leave out `least` or `most` are not added, nor are those after them.
    """
    below, above = taken_off(lo, hi, plan.ways, d)
    limit = largest_share(lo, hi, below, above, least, most)
    for i in range(plan.slices[d, 1], plan.slices[d, 2]):
        if plan.shares[i] > limit:
            break
        trials.lo[count], trials.hi[count] = lo + plan.shares[i] * below, hi - plan.shares[i] * above
        count += 1
    return count


@jit
def best_trial(values, trials, count, factor, grid, storage, best):
    """(number of the best of the first `count` ranges of `trials`, its error); -1 if none is below `best`.

    values : float32 [n], a group's times `factor`; errors are so times factor^2, as `best` is.
    """
    blocks = fit_trials(trials, count, factor, grid, storage)
    try_all(values, trials, blocks, best)
    chosen = -1
    for k in range(count):
        if trials.errors[k] < best:
            chosen, best = k, trials.errors[k]
    return chosen, best


@jit
def search_group(values, plan, grid, storage, lo, hi, error, trials):
    """(lo, hi): the best range found for a group, around the one given, whose error is above 0.

    The first two rounds start from the range given, others from the best range of those before. Ranges that leave out
    an extreme by so much that this alone costs more than the best one are not tried.
    """
    smallest, largest = extent(values)
    factor = power_above(max(abs(smallest), abs(largest)))
    scaled = trials.values[: values.shape[0]]
    scale_values(values, factor, scaled)
    best, best_lo, best_hi, d = error * factor * factor, lo, hi, 0
    while d < plan.slices.shape[0]:
        now, count = plan.slices[d, 0], 0
        if now > 1:
            lo, hi = best_lo, best_hi
        reach = reach_of(lo, hi, best / factor / factor, grid, storage)
        while d < plan.slices.shape[0] and plan.slices[d, 0] == now:
            count = list_ranges(lo, hi, plan, d, smallest + reach, largest - reach, trials, count)
            d += 1
        if count > 0:
            chosen, best = best_trial(scaled, trials, count, factor, grid, storage, best)
            if chosen >= 0:
                best_lo, best_hi = trials.lo[chosen], trials.hi[chosen]
    return best_lo, best_hi


@inlined
def refitted(lo, hi, a, b, grid, storage):
    """[lo, hi] with the scale that is best for the codes it gives: a = sum x q, b = sum q^2. The same with offsets."""
    zero_point = fit(lo, hi, grid, storage)[1]
    scale = a / b if a > 0.0 and b > 0.0 else 0.0
    below = -(zero_point if grid.has_zero_point == 1.0 else grid.steps / 2) * scale
    changed = grid.has_offset == 0.0 and scale > 0.0
    return below if changed else lo, below + grid.steps * scale if changed else hi


@jit
def trials_for(ranges, size):
    """Trials for so many ranges of groups of up to `size` values."""
    blocks = (np.uint64(ranges) + LANES - np.uint64(1)) // LANES
    lo, hi, errors = np.empty(blocks * LANES), np.empty(blocks * LANES), np.empty(blocks * LANES)
    return Trials(lo, hi, errors, np.empty(blocks * TRIAL, np.float32), np.empty(size, np.float32))


@jit
def search_alone(values, plan, grid, storage, lo, hi, trials):
    """(lo, hi): the range of least squared error that is found for a group, around the one given."""
    full = range_error(values, lo, hi, grid, storage)
    if full == 0.0:
        return lo, hi
    found_lo, found_hi = search_group(values, plan, grid, storage, lo, hi, full, trials)
    error = range_error(values, found_lo, found_hi, grid, storage)
    scale, zero_point, offset = fit(found_lo, found_hi, grid, storage)
    lowest, highest = bounds(scale, zero_point, offset, grid)
    a, b = projection(values, np.float32(scale), lowest, highest)
    new_lo, new_hi = refitted(found_lo, found_hi, a, b, grid, storage)
    new_error = range_error(values, new_lo, new_hi, grid, storage)
    if new_error < error:
        error, found_lo, found_hi = new_error, new_lo, new_hi
    # A difference in the last digits is summation order, not a better range.
    better = error < full * (1.0 - 1e-9)
    return found_lo if better else lo, found_hi if better else hi


@jit
def exact_errors(tile, count, lo_at, hi_at, error_at, grid, storage):
    """Set errors of a tile to those of encoding and decoding its `count` values each, with the ranges named."""
    values, state, table = tile.values, tile.state, tile.table
    for k in range(LANES):
        fit_trial(state[lo_at + k], state[hi_at + k], 1.0, grid, storage, table, k)
        state[error_at + k] = 0.0
    for i in range(count):
        for k in range(LANES):
            value = values[i * LANES + k]
            scale, offset = table[SCALE + k], table[OFFSET + k]
            decoded = round_trip(value, scale, offset, table[LOWEST + k], table[HIGHEST + k])[1]
            error = difference(value, decoded)
            state[error_at + k] += error * error


@jit
def refit_lanes(tile, count, grid, storage):
    """Set the new ranges of a tile to the best ones, with the scales that are best for the codes they give."""
    values, state, table = tile.values, tile.state, tile.table
    for k in range(LANES):
        fit_trial(state[LO + k], state[HI + k], 1.0, grid, storage, table, k)
        state[SUM_XQ + k], state[SUM_QQ + k] = 0.0, 0.0
    for i in range(count):
        for k in range(LANES):
            value = values[i * LANES + k]
            code = np.float64(min(max(np.rint(value / table[SCALE + k]), table[LOWEST + k]), table[HIGHEST + k]))
            state[SUM_XQ + k] += np.float64(value) * code
            state[SUM_QQ + k] += code * code
    for k in range(LANES):
        state[NEW_LO + k], state[NEW_HI + k] = refitted(
            state[LO + k], state[HI + k], state[SUM_XQ + k], state[SUM_QQ + k], grid, storage
        )


@screening
def try_lanes(scaled, count, table):
    """Set the errors of a tile's trials: each lane's range on its own `count` values, summed in float32."""
    for k in range(LANES):
        table[k], table[ALSO + k] = np.float32(0), np.float32(0)
    whole, end = (count & ~np.uint64(7)) * LANES, count * LANES
    for start in range(np.uint64(0), whole, EIGHT):
        for k in range(start, start + LANES):
            some, others = np.float32(0), np.float32(0)
            for i in range(k, k + FOUR, LANES):
                some += about_squared(scaled[i], table, k - start)
                others += about_squared(scaled[i + FOUR], table, k - start)
            table[k - start] += some
            table[ALSO + k - start] += others
    for start in range(whole, end, LANES):
        for k in range(LANES):
            table[k] += about_squared(scaled[start + k], table, k)
    for k in range(LANES):
        table[k] += table[ALSO + k]


@jit
def fill_lane(tile, k, values, lo, hi):
    """Put a group and the range given for it into lane k of a tile."""
    smallest, largest = extent(values)
    factor = power_above(max(-smallest, largest, 2.0**-149))
    state, own, scaled = tile.state, tile.values, tile.scaled
    for i in range(np.uint64(values.shape[0])):
        own[i * LANES + k] = values[i]
        scaled[i * LANES + k] = np.float64(values[i]) * factor
    state[SMALLEST + k], state[LARGEST + k], state[FACTOR + k] = smallest, largest, factor
    state[FULL_LO + k], state[FULL_HI + k] = lo, hi


@inlined
def lanes_of(state):
    """LANES, but not as a constant: short loops of so many steps would be written out, and not vectorise."""
    return np.uint64(state.shape[0]) // (GROUP // LANES)


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


@screening
def clip_lanes(scaled, count, table):
    """Set the errors of a tile's trials to what lies beyond `LOWEST` and `HIGHEST`, here values, squared and summed."""
    for k in range(LANES):
        table[k], table[ALSO + k] = np.float32(0), np.float32(0)
    whole, end = (count & ~np.uint64(7)) * LANES, count * LANES
    for start in range(np.uint64(0), whole, EIGHT):
        for k in range(start, start + LANES):
            lowest, highest, some, others = table[LOWEST + k - start], table[HIGHEST + k - start], ZERO, ZERO
            for i in range(k, k + FOUR, LANES):
                beyond = max(lowest - scaled[i], scaled[i] - highest, ZERO)
                some += beyond * beyond
                beyond = max(lowest - scaled[i + FOUR], scaled[i + FOUR] - highest, ZERO)
                others += beyond * beyond
            table[k - start] += some
            table[ALSO + k - start] += others
    for start in range(whole, end, LANES):
        for k in range(LANES):
            beyond = max(table[LOWEST + k] - scaled[start + k], scaled[start + k] - table[HIGHEST + k], ZERO)
            table[k] += beyond * beyond
    for k in range(LANES):
        table[k] += table[ALSO + k]


@jit
def all_lost(tile, count, share, grid, storage):
    """Whether under a share of a direction clipping alone costs more than the best range yet, in all lanes."""
    state, table, hopeful = tile.state, tile.table, 0.0
    for k in range(lanes_of(state)):
        lo, hi = state[START_LO + k], state[START_HI + k]
        reach = reach_of(lo, hi, 0.0, grid, storage)
        lo, hi = lo + share * state[BELOW + k], hi - share * state[ABOVE + k]
        table[LOWEST + k] = (min(lo, grid.widest_lo) - reach) * state[FACTOR + k]
        table[HIGHEST + k] = (max(hi, -grid.widest_lo) + reach) * state[FACTOR + k]
    clip_lanes(tile.scaled, count, table)
    for k in range(LANES):
        hopeful += 1.0 if table[k] * 0.999 <= state[BEST + k] else 0.0
    return hopeful == 0.0


@jit
def search_direction(tile, count, shares, first, last, limit, grid, storage):
    """Try the ranges of a direction, shares[first:last], in all lanes of a tile."""
    state, table, scaled = tile.state, tile.table, tile.scaled
    for i in range(first, last):
        share = shares[i]
        # Long lists take off ever more at both ends, and those of short ones are not worth the question.
        if share > limit or ((i - first) % EVERY == LONG and all_lost(tile, count, share, grid, storage)):
            break
        for k in range(LANES):
            lo = state[START_LO + k] + share * state[BELOW + k]
            hi = state[START_HI + k] - share * state[ABOVE + k]
            state[NEW_LO + k], state[NEW_HI + k] = lo, hi
            fit_trial(lo, hi, state[FACTOR + k], grid, storage, table, k)
        try_lanes(scaled, count, table)
        for k in range(LANES):
            error = np.float64(table[k])
            better = error < state[BEST + k]
            state[BEST + k] = error if better else state[BEST + k]
            state[LO + k] = state[NEW_LO + k] if better else state[LO + k]
            state[HI + k] = state[NEW_HI + k] if better else state[HI + k]


@jit
def search_tile(tile, count, plan, grid, storage):
    """`search_alone` for the LANES groups of a tile, whose ranges are replaced."""
    state = tile.state
    exact_errors(tile, count, FULL_LO, FULL_HI, FULL_ERROR, grid, storage)
    for k in range(lanes_of(state)):
        state[LO + k], state[HI + k] = state[FULL_LO + k], state[FULL_HI + k]
        state[BEST + k] = state[FULL_ERROR + k] * state[FACTOR + k] * state[FACTOR + k]
    now = -1
    for d in range(np.uint64(plan.slices.shape[0])):
        if plan.slices[d, 0] != now:
            now = plan.slices[d, 0]
            start_round(state, now <= 1, grid, storage)
        limit = start_direction(state, plan.ways, d)
        search_direction(
            tile, count, plan.shares, np.uint64(plan.slices[d, 1]), np.uint64(plan.slices[d, 2]), limit, grid, storage
        )
    exact_errors(tile, count, LO, HI, BEST, grid, storage)
    refit_lanes(tile, count, grid, storage)
    exact_errors(tile, count, NEW_LO, NEW_HI, NEW_ERROR, grid, storage)
    for k in range(lanes_of(state)):
        better = state[NEW_ERROR + k] < state[BEST + k]
        error = state[NEW_ERROR + k] if better else state[BEST + k]
        lo, hi = state[NEW_LO + k] if better else state[LO + k], state[NEW_HI + k] if better else state[HI + k]
        # A difference in the last digits is summation order, not a better range.
        better = error < state[FULL_ERROR + k] * (1.0 - 1e-9)
        state[FULL_LO + k] = lo if better else state[FULL_LO + k]
        state[FULL_HI + k] = hi if better else state[FULL_HI + k]


@jit
def search_abreast(x, size, first, groups, plan, grid, storage, lo, hi):
    """`search_ranges` for some groups of every row, those from `first` on: of the same size, LANES at a time."""
    count = np.uint64(min(size, x.shape[1] - first * size))
    room = np.empty(count * LANES, np.float32), np.empty(count * LANES, np.float32)
    tile = Tile(room[0], room[1], np.ones(GROUP), np.empty(TRIAL, np.float32))
    last = x.shape[0] * groups - 1
    for start in range(0, last + 1, WIDTH):
        for k in range(WIDTH):
            place = min(start + k, last)  # the last group fills the lanes that are left
            r, j = place // groups, first + place % groups
            fill_lane(tile, np.uint64(k), group(x, r, j, size), lo[r, j], hi[r, j])
        search_tile(tile, count, plan, grid, storage)
        for k in range(min(WIDTH, last + 1 - start)):
            r, j = (start + k) // groups, first + (start + k) % groups
            lo[r, j], hi[r, j] = tile.state[FULL_LO + np.uint64(k)], tile.state[FULL_HI + np.uint64(k)]


@jit
def search_ranges(x, size, plan, grid, storage, lo, hi):
    """The ranges [lo, hi] (float64 [rows, groups], replaced) of least squared error that a search finds.

    How a group is searched depends on nothing but its own length: not on what is beside it, nor on how x was cut.
    """
    full, rest = x.shape[1] // size, x.shape[1] % size
    if size <= ABREAST and full > 0:
        search_abreast(x, size, 0, full, plan, grid, storage, lo, hi)
    if 0 < rest <= ABREAST:
        search_abreast(x, size, full, 1, plan, grid, storage, lo, hi)
    if size > ABREAST:
        trials = trials_for(plan.shares.shape[0], size)
        for r in range(x.shape[0]):
            for j in range(full if 0 < rest <= ABREAST else lo.shape[1]):
                values = group(x, r, j, size)
                lo[r, j], hi[r, j] = search_alone(values, plan, grid, storage, lo[r, j], hi[r, j], trials)


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


@jit
def range_errors(values, lo, hi, grid, storage, errors):
    """Squared error of values [n] under each of several ranges: lo, hi, errors float64 [ranges]."""
    for start in range(0, values.shape[0], BLOCK):  # a block stays in the nearest cache from one range to the next
        block = values[start : start + BLOCK]
        for k in range(lo.shape[0]):
            scale, zero_point, offset = fit(lo[k], hi[k], grid, storage)
            lowest, highest = bounds(scale, zero_point, offset, grid)
            errors[k] += squared_error(block, np.float32(scale), np.float32(offset), lowest, highest)


@jit
def log_histogram(values, center, first, bins):
    """Count and sum values [n], less `center`, in bins of equal width on a logarithmic scale: float64 [2, n bins, 2].

    bins[0] holds those above the center and bins[1] those below. A bin is what shares the sign, the exponent and the
    first 9 bits of the mantissa: 1/512 wide, relative to where it lies; what is smaller goes into the `first`.
    """
    last = bins.shape[1] - 1
    for i in range(values.shape[0]):
        value = np.float32(values[i] - center)
        place = min(max((np.float32(abs(value)).view(np.int32) >> np.int32(14)) - first, 0), last)
        side = 1 if value < np.float32(0) else 0
        bins[side, place, 0] += 1.0
        bins[side, place, 1] += np.float64(value)


@jit
def binned_errors(counts, means, center, lo, hi, grid, storage, errors):
    """About the squared error under each of several ranges, from bins of `log_histogram`; counts, means float64 [n].

    Bins narrower than a step lie at their mean. In wider ones errors are spread evenly, unless the bin is clipped.
    """
    for k in range(lo.shape[0]):
        scale, zero_point, offset = fit(lo[k], hi[k], grid, storage)
        lowest, highest = bounds(scale, zero_point, offset, grid)
        lowest, highest = np.float64(lowest), np.float64(highest)
        shift, total = center - offset, 0.0
        for i in range(counts.shape[0]):
            place = (means[i] + shift) / scale
            code = np.rint(place)
            error = place - min(max(code, lowest), highest)
            wide = abs(means[i]) > 512.0 * scale and lowest <= code <= highest
            total += counts[i] * (1.0 / 12.0 if wide else error * error)
        errors[k] = total * scale * scale


@jit
def storable(scale, storage, pow2):
    """The value of a storage type nearest to a positive scale, of its powers of two if `pow2` is 1; never 0."""
    if pow2 == 1.0:
        scale = 2.0 ** min(np.rint(math.log2(scale)), math.frexp(storage.largest)[1] - 1.0)
    return max(round_to(scale, storage), storage.smallest)


@inlined
def best_storable(a, b, most, storage, pow2):
    """(gain, scale): the storable scale that takes most, 2 s a - s^2 b, off the error for codes with these sums."""
    scale = min(storable(a / b, storage, pow2), most)
    gain = scale * (2.0 * a - scale * b)
    if pow2 == 1.0:  # the nearer power may be the worse one
        for factor in (0.5, 2.0):
            other = min(storable(scale * factor, storage, pow2), most)
            if other * (2.0 * a - other * b) > gain:
                gain, scale = other * (2.0 * a - other * b), other
    return gain, scale


@fast
def projection(values, scale, lowest, highest):
    """(sum x * q, sum q^2) for the codes of values [n] under a scale: the best scale for these codes is their ratio."""
    a, b = 0.0, 0.0
    for i in range(values.shape[0]):
        code = np.float64(min(max(np.rint(values[i] / scale), lowest), highest))
        a += np.float64(values[i]) * code
        b += code * code
    return a, b


@fast
def beyond(values, sign, end):
    """(sum (|x| - end)^2, sum (|x| - end)) over the values of one sign whose magnitude is above `end`."""
    squares, sums = 0.0, 0.0
    for i in range(values.shape[0]):
        excess = max(np.float64(values[i]) * sign - end, 0.0)
        squares += excess * excess
        sums += excess
    return squares, sums


@jit
def least_end(values, sign, extreme, error):
    """An end of the range below which clipping the values of one sign would alone cost more than `error`.

    At least so far from the extreme magnitude that this one would not; from there by Newton's method: the cost is
    convex and falls, so every step stays on the side that costs more.
    """
    end = max(extreme - math.sqrt(error), 0.0)
    for _ in range(12):
        squares, sums = beyond(values, sign, end)
        if squares <= error * 1.02:
            break
        end += (squares - error) / (2.0 * sums)
    return end


@fast
def least_error(values, scale):
    """What values [n] below `scale` cost at least under it or any larger scale: codes 0 and 1 are all they can have."""
    total = 0.0
    for i in range(values.shape[0]):
        value = abs(np.float64(values[i]))
        distance = max(min(value, scale - value), 0.0)
        total += distance * distance
    return total


@jit
def most_scale(values, amax, error):
    """A scale above which the values below it would alone cost more than `error`, to a few percent."""
    scale = 2.0 * amax
    for ratio in (0.7, 0.9, 0.97):
        while least_error(values, ratio * scale) > error:
            scale *= ratio
    return scale


@inlined
def settle(values, sides, k, scale, grid, found):
    """found = (error, scale, zero point) for a scale of sides k, if encoding and decoding says that it is better."""
    step = np.float32(sides.sign[k] * scale)
    lowest, highest = bounds(step, sides.zero_point[k], np.float32(0), grid)
    error = squared_error(values, step, np.float32(0), lowest, highest)
    if error < found[0]:
        found[0], found[1], found[2] = error, step, sides.zero_point[k]


@inlined
def first_guess(values, up, down, power, sides, storage, pow2, zero_point, gain):
    """(gain, side, scale): the best of scales that clip more and more, each improved once for the codes it gives.

    Sides with the zero point given are tried until what they clip alone costs more than is left of `power`, the sum of
    squares, by the best scale yet. If none takes off more than `gain`, the side is -1.
    """
    chosen, best = -1, 0.0
    for k in range(sides.up.shape[0]):
        if sides.zero_point[k] != zero_point:
            continue
        scale = max(least_of(up, sides.up[k]), least_of(down, sides.down[k]))
        for _ in range(100):
            excess = max(up - sides.up[k] * scale, down - sides.down[k] * scale, 0.0)
            if excess * excess > power - gain or not storage.smallest <= scale <= storage.largest:
                break
            a, b = projection(values, np.float32(scale), np.float32(-sides.down[k]), np.float32(sides.up[k]))
            if b > 0.0 and a * a > gain * b:
                possible, candidate = best_storable(a, b, sides.most[k], storage, pow2)
                if possible > gain:
                    gain, chosen, best = possible, k, candidate
            scale *= 0.88
    return gain, chosen, best


@jit
def code_at(magnitude, t, limit):
    """The code of a magnitude under the scale 1 / t, up to a limit."""
    return min(np.floor(magnitude * t + 0.5), limit)


@inlined_fast
def count_changes(values, t, down, up, codes):
    """How many codes change on the way from `codes` [n] to those under 1 / t."""
    total = 0.0
    for i in range(values.shape[0]):
        total += code_at(abs(np.float64(values[i])), t, up if values[i] > np.float32(0) else down) - codes[i]
    return np.int64(total)


@inlined
def list_changes(values, end, down, up, codes, work):
    """List the changes from `codes` [n] to those under 1 / end, value by value; moves `codes`. Returns their count."""
    count = np.int64(0)
    for i in range(values.shape[0]):
        magnitude, rise = abs(np.float64(values[i])), math.copysign(2.0, values[i])
        reached = code_at(magnitude, end, up if values[i] > np.float32(0) else down)
        middle, inverse = codes[i] + 0.5, 1.0 / max(magnitude, 1e-300)
        left = np.int64(reached - codes[i])
        while True:
            # Four at a time, wanted or not: a loop of an unforeseeable length costs more than what it saves.
            for k in range(4):
                work.times[count + k] = (middle + k) * inverse
                work.rises[count + k] = (middle + k) * rise
                work.weights[count + k] = magnitude
            if left <= 4:
                break
            count, middle, left = count + 4, middle + 4.0, left - 4
        count += left
        codes[i] = reached
    return count


@inlined
def order_changes(count, start, end, work):
    """Put the indices of the changes listed into `work.order`, by time.

    Each value's changes lie at equal distances in t, so that two buckets for each hold few, and sorting them by
    insertion has little to move.
    """
    times, order, starts = work.times, work.order, work.starts
    factor, last = 2 * count / (end - start), 2.0 * count - 1.0
    for bucket in range(2 * count):
        starts[bucket] = 0
    # Unsigned indices: signed ones would be checked for counting from the end.
    for i in range(count):
        starts[np.uint64(min(max((times[i] - start) * factor, 0.0), last))] += 1
    before, fullest = np.uint64(0), np.uint64(0)
    for bucket in range(2 * count):
        fullest = max(fullest, starts[bucket])
        before += starts[bucket]
        starts[bucket] = before - starts[bucket]
    if fullest > 64:
        order_crowded(times[:count], order)
        return
    for i in range(count):
        place = np.uint64(min(max((times[i] - start) * factor, 0.0), last))
        order[starts[place]] = i
        starts[place] += 1
    latest = times[order[0]]
    for i in range(1, count):
        late, j = order[i], i
        time = times[late]
        if latest <= time:
            latest = time
            continue
        while j > 0 and times[order[j - 1]] > time:
            order[j] = order[j - 1]
            j -= 1
        order[j] = late


@jit
def order_crowded(times, order):
    """The same where many changes come at nearly the same time."""
    ordered = np.argsort(times)
    for i in range(times.shape[0]):
        order[i] = ordered[i]


@inlined
def follow(count, end, k, sides, storage, pow2, gain, work):
    """Follow the codes of sides k through the `count` changes listed, up to t = `end`; carries `work.sums` on.

    Returns (gain, scale): the most that a storable scale takes off the error for any of the codes passed, and that
    scale; or the gain given and 0 if none takes off more.
    """
    a, b, best, most = work.sums_xq[k], work.sums_qq[k], 0.0, sides.most[k]
    lowest, highest = -2.0 * sides.down[k], 2.0 * sides.up[k]
    times, rises, weights, order = work.times, work.rises, work.weights, work.order
    for place in range(count):
        i = order[place]
        if times[i] > end:
            break
        rise = rises[i]
        if lowest < rise < highest:
            a += weights[i]
            b += abs(rise)
            # a^2 / b would be taken off by the best scale of all; rounding can only take less.
            if a * a > gain * b:
                possible, scale = best_storable(a, b, most, storage, pow2)
                if possible > gain:
                    gain, best = possible, scale
    work.sums_xq[k], work.sums_qq[k] = a, b
    return gain, best


@inlined_fast
def step_sides(time, rise, weight, gain, downs, ups, ends, sums_xq, sums_qq):
    """Carry the sums of all sides, float64 [S], over one change; returns how many might take off more than `gain`."""
    hopeful, rising = 0.0, abs(rise)
    for k in range(np.uint64(sums_xq.shape[0])):
        inside = 1.0 if (rise < 2.0 * ups[k]) & (rise > -2.0 * downs[k]) & (time <= ends[k]) else 0.0
        a, b = sums_xq[k] + inside * weight, sums_qq[k] + inside * rising
        sums_xq[k], sums_qq[k] = a, b
        hopeful += inside if a * a > gain * b else 0.0
    return hopeful


@jit
def follow_sides(count, end, downs, ups, most, ends, storage, pow2, gain, work):
    """`follow` for all sides at once: (gain, scale, side). A vector holds eight of them."""
    times, rises, weights, order, chosen, best = work.times, work.rises, work.weights, work.order, -1, 0.0
    sums_xq, sums_qq = work.sums_xq, work.sums_qq
    for place in range(count):
        i = order[place]
        time = times[i]
        if time > end:
            break
        if step_sides(time, rises[i], weights[i], gain, downs, ups, ends, sums_xq, sums_qq) == 0.0:
            continue
        for k in range(ends.shape[0]):
            # a^2 / b would be taken off by the best scale of all; rounding can only take less.
            if time <= ends[k] and sums_xq[k] * sums_xq[k] > gain * sums_qq[k]:
                possible, scale = best_storable(sums_xq[k], sums_qq[k], most[k], storage, pow2)
                if possible > gain:
                    gain, best, chosen = possible, scale, k
    return gain, best, chosen


@jit
def least_of(end, codes):
    """The least scale with which so many codes reach an end; infinite if none do and one is needed."""
    return 0.0 if end <= 0.0 else end / codes if codes > 0.0 else np.inf


@inlined_fast
def begin(values, t, sides, codes, sums_xq, sums_qq):
    """The codes of values [n] under 1 / t, as magnitudes, and sum x q and sum q^2 for all sides: float64 [S] each."""
    down, up = sides.farthest_down, sides.farthest_up
    for i in range(values.shape[0]):
        codes[i] = code_at(abs(np.float64(values[i])), t, up if values[i] > np.float32(0) else down)
    for k in range(sides.up.shape[0]):
        sums_xq[k], sums_qq[k] = code_sums(values, codes, sides.down[k], sides.up[k])


@inlined_fast
def code_sums(values, codes, down, up):
    """(sum x q, sum q^2) for codes given as magnitudes [n], up to the limits of either sign."""
    a, b = 0.0, 0.0
    for i in range(values.shape[0]):
        code = min(codes[i], up if values[i] > np.float32(0) else down)
        a += abs(np.float64(values[i])) * code
        b += code * code
    return a, b


@inlined
def follow_all(values, start, farthest, sides, storage, pow2, gain, work):
    """`follow` for all sides, from t = start to their own `work.ends`, the largest of which is `farthest`.

    Returns (side, scale) of what takes most off the error, or -1 as the side if nothing takes off more than `gain`.
    Changes are listed for as much of the way at a time as `work` has room for.
    """
    down, up, ends = sides.farthest_down, sides.farthest_up, work.ends
    codes, sums_xq, sums_qq, chosen, best = work.codes[: values.shape[0]], work.sums_xq, work.sums_qq, -1, 0.0
    begin(values, start, sides, codes, sums_xq, sums_qq)
    for k in range(ends.shape[0]):
        if ends[k] > start and sums_xq[k] * sums_xq[k] > gain * sums_qq[k]:
            possible, scale = best_storable(sums_xq[k], sums_qq[k], sides.most[k], storage, pow2)
            if possible > gain:
                gain, best, chosen = possible, scale, k
    while start < farthest:
        end = farthest
        count = count_changes(values, end, down, up, codes)
        while count > work.order.shape[0]:
            end = start + 0.5 * (end - start)
            count = count_changes(values, end, down, up, codes)
        if count > 0:
            order_changes(list_changes(values, end, down, up, codes, work), start, end, work)
            if ends.shape[0] >= MANY:
                possible, scale, k = follow_sides(
                    count, farthest, sides.down, sides.up, sides.most, ends, storage, pow2, gain, work
                )
                if possible > gain:
                    gain, best, chosen = possible, scale, k
            for k in range(ends.shape[0] if ends.shape[0] < MANY else 0):
                if ends[k] > start:
                    possible, scale = follow(count, ends[k], k, sides, storage, pow2, gain, work)
                    if possible > gain:
                        gain, best, chosen = possible, scale, k
        start = end
    return chosen, best


@inlined
def exact_group(values, sides, grid, storage, pow2, found, work):
    """found = (error, scale, zero point) of least squared error for one group, over all storable scales.

    For codes held, the error is sum x^2 - 2 s a + s^2 b with a = sum x q, b = sum q^2. As t = 1 / s grows, codes change
    one by one, where x t passes the middle between two. The best scale has the codes nearest to x / s, so it is the
    best one for some codes on the way. Nothing is followed where clipping, or code 0, alone would cost more than the
    best guess does. The last word has the error of encoding and decoding.
    """
    smallest, largest = extent(values)
    up, down = max(np.float64(largest), 0.0), max(-np.float64(smallest), 0.0)
    power = beyond(values, 1.0, 0.0)[0] + beyond(values, -1.0, 0.0)[0]
    noise = 1e-13 * power  # of sums that cancel
    gain, side, scale = first_guess(values, up, down, power, sides, storage, pow2, found[2], power - found[0] - noise)
    error = (power - gain) * (1.0 + 1e-9) + noise
    above, below = least_end(values, 1.0, up, error), least_end(values, -1.0, down, error)
    start = (1.0 - 1e-6) / min(most_scale(values, max(up, down), error), storage.largest)
    farthest = 0.0
    for k in range(sides.up.shape[0]):
        least = max(least_of(above, sides.up[k]), least_of(below, sides.down[k]), storage.smallest)
        work.ends[k] = (1.0 + 1e-6) / least
        farthest = max(farthest, work.ends[k])
    better, better_scale = follow_all(values, start, farthest, sides, storage, pow2, gain, work)
    if better >= 0:
        side, scale = better, better_scale
    if side >= 0:
        settle(values, sides, side, scale, grid, found)


@jit
def exact_scales(x, size, sides, grid, storage, pow2, work, scale, zero_point):
    """Scales (of either sign) and zero points of least squared error; those given are where the search starts."""
    found = np.empty(3)
    for r in range(x.shape[0]):
        for j in range(scale.shape[1]):
            values = group(x, r, j, size)
            lowest, highest = bounds(scale[r, j], zero_point[r, j], np.float32(0), grid)
            found[0] = squared_error(values, scale[r, j], np.float32(0), lowest, highest)
            found[1], found[2] = scale[r, j], zero_point[r, j]
            if found[0] > 0.0:
                exact_group(values, sides, grid, storage, pow2, found, work)
                scale[r, j], zero_point[r, j] = found[1], found[2]


@jit
def extents(x, size, first, total, lo, hi):
    """Smallest and largest value of B equal consecutive batches of each group: lo, hi float32 [rows, groups, B].

    Batch b of a group of n values is [b * n // B, (b + 1) * n // B). Where x is a part of a single group, `first` is
    its position in the group and `total` the group's length; else both are 0. lo > hi marks a batch not seen here.
    NaN comes out as an extreme, so one look at the result also tells whether all values are finite.
    """
    batches = lo.shape[2]
    for r in range(x.shape[0]):
        for j in range(lo.shape[1]):
            values = group(x, r, j, size)
            length = max(total, values.shape[0])
            for b in range(batches):
                start = max(0, b * length // batches - first)
                end = min(values.shape[0], (b + 1) * length // batches - first)
                lo[r, j, b], hi[r, j, b] = extent(values[start : max(start, end)])


@jit
def extent(values):
    """(min, max) of values [n]; (inf, -inf) of nothing."""
    if values.shape[0] == 0:
        return np.float32(np.inf), np.float32(-np.inf)
    smallest, largest = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    for i in range(values.shape[0]):
        # Float min/max do not vectorise. Flipping the magnitude bits of negative values makes int32 order float order.
        bits = np.float32(values[i]).view(np.int32)
        key = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
        smallest = min(smallest, key)
        largest = max(largest, key)
    return key_to_float(smallest), key_to_float(largest)


@jit
def key_to_float(key):
    """The float32 whose ordered int32 key is `key`: its own inverse, so it also makes keys from bits."""
    return np.int32(key ^ ((key >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)


@jit
def key_histogram(x, prefix, shift, counts):
    """Count ordered keys by 16 of their bits (radix selection).

    `shift` 16 counts the high halves of all keys; `shift` 0 the low halves of those whose high half is `prefix`.
    x float32 [n]; counts int64 [65536].
    """
    for i in range(x.shape[0]):
        bits = np.float32(x[i]).view(np.int32)
        key = np.int64(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))) + 0x80000000
        if shift == 16:
            counts[key >> 16] += 1
        elif key >> 16 == prefix:
            counts[key & 0xFFFF] += 1


@fast
def tail_sums(x, below, above, sums):
    """sums = (sum of x < below, their count, sum of x > above, their count), float64; x float32 [n]."""
    low, lows, high, highs = 0.0, 0.0, 0.0, 0.0
    for start in range(0, x.shape[0], BLOCK):
        block = x[start : start + BLOCK]
        # Counted in float32, and chosen before they are widened: ten times as fast as in float64.
        few, many = np.float32(0), np.float32(0)
        for i in range(block.shape[0]):
            value = block[i]
            low += np.float64(value if value < below else np.float32(0))
            high += np.float64(value if value > above else np.float32(0))
            few += np.float32(1) if value < below else np.float32(0)
            many += np.float32(1) if value > above else np.float32(0)
        lows += np.float64(few)
        highs += np.float64(many)
    sums[0], sums[1], sums[2], sums[3] = low, lows, high, highs


@jit
def group_tail_sums(x, size, below, above, sums):
    """`tail_sums` of every group, beyond ends of its own [rows, groups]: sums float64 [rows, groups, 4]."""
    for r in range(x.shape[0]):
        for j in range(sums.shape[1]):
            tail_sums(group(x, r, j, size), np.float32(below[r, j]), np.float32(above[r, j]), sums[r, j])


@jit
def octav_end(total, count, inside, share, other, extreme):
    """The best end of a range for the sum and the count of what lies beyond it; the extreme if nothing does."""
    return (total + share * inside * other) / (count + share * inside) if count > 0.0 else extreme


@jit
def octav_step(sums, counted, share, symmetric, smallest, largest, lo, hi):
    """One iteration of OCTAV for ranges [lo, hi] (float64 [rows, groups], replaced); returns how many moved.

    sums : `group_tail_sums` of the ranges; counted : the values that rounding costs; smallest, largest : the extremes.
    share : weight of a value inside, 4^-bits / 3 if `symmetric` is 1, else 4^-bits / 12; 0 gives the means beyond.
    """
    moved = 0
    for r in range(lo.shape[0]):
        for j in range(lo.shape[1]):
            below, belows, above, aboves = sums[r, j, 0], sums[r, j, 1], sums[r, j, 2], sums[r, j, 3]
            inside = max(counted[r, j] - belows - aboves, 0.0)  # zeros outside are not counted
            if symmetric == 1.0:
                new_hi = octav_end(above - below, aboves + belows, inside, share, 0.0, largest[r, j])
                new_lo = -new_hi
            else:
                new_hi = octav_end(above, aboves, inside, share, lo[r, j], largest[r, j])
                new_lo = octav_end(below, belows, inside, share, hi[r, j], smallest[r, j])
            new_lo, new_hi = max(new_lo, smallest[r, j]), min(new_hi, largest[r, j])
            # A group that stands still keeps its range to the last bit, whatever goes on in others.
            if max(abs(new_hi - hi[r, j]), abs(new_lo - lo[r, j])) > 1e-9 * (new_hi - new_lo):
                lo[r, j], hi[r, j], moved = new_lo, new_hi, moved + 1
    return moved


@jit
def bin_indices(values, lo, factor, magnitude, last, indices):
    """The bin of every value, or of its magnitude: (x - lo) * factor, cut to 0 .. last and rounded down."""
    for i in range(values.shape[0]):
        value = np.float64(values[i])
        value = abs(value) if magnitude == 1 else value
        indices[i] = np.int32(min(max((value - lo) * factor, 0.0), last))


@jit
def histogram(x, size, lo, hi, magnitude, counts):
    """Counts of x (of |x| where `magnitude` is 1) in equal bins over [lo, hi] per group: int64 [rows, groups, bins].

    Values outside the range count in the end bins. Indices are found first, block by block, in a loop that vectorises:
    in one loop with the counting it would not, and took three to five times as long.
    """
    bins = counts.shape[2]
    indices = np.empty(BLOCK, np.uint64)  # signed ones would be checked for counting from the end
    for r in range(x.shape[0]):
        for j in range(counts.shape[1]):
            width = hi[r, j] - lo[r, j]
            factor = bins / width if width > 0.0 else 0.0
            values, out = group(x, r, j, size), counts[r, j]
            out[:] = 0
            for start in range(0, values.shape[0], BLOCK):
                block = values[start : start + BLOCK]
                bin_indices(block, lo[r, j], factor, magnitude, bins - 1.0, indices)
                for i in range(block.shape[0]):
                    out[indices[i]] += 1


class Histogram(NamedTuple):
    """A histogram and what the search for a window needs of it."""

    counts: np.ndarray  # int64 [bins]
    total: np.ndarray  # total[i], filled[i], entropy[i] over counts[:i]: float64 [bins + 1]
    filled: np.ndarray
    entropy: np.ndarray
    mass: np.ndarray  # room for what is found of every level of a window: float64 [levels]
    bins: np.ndarray


@jit
def prefix_sums(counts, total, filled, entropy):
    """total[i], filled[i], entropy[i] over counts[:i]: sum, non-empty bins, sum of c*log(c); arrays are one longer."""
    for i in range(counts.shape[0]):
        c = np.float64(counts[i])
        total[i + 1] = total[i] + c
        filled[i + 1] = filled[i] + (1.0 if c > 0 else 0.0)
        entropy[i + 1] = entropy[i] + (c * math.log(c) if c > 0 else 0.0)


@jit
def histogram_of(counts, levels):
    """A Histogram of counts int64 [bins]."""
    total, filled, entropy = np.zeros(counts.size + 1), np.zeros(counts.size + 1), np.zeros(counts.size + 1)
    prefix_sums(counts, total, filled, entropy)
    return Histogram(counts, total, filled, entropy, np.empty(levels), np.empty(levels))


@inlined
def logarithm(x):
    """ln(x) of a positive normal float64 to 5e-16, relatively, in arithmetic that vectorises; math.log is a call.

    x = m * 2^k with m in [sqrt(1/2), sqrt(2)); ln(m) = 2 artanh((m - 1) / (m + 1)), by its series.
    """
    bits = np.float64(x).view(np.int64)
    exponent = (bits - SQRT_HALF_BITS) >> 52
    m = np.int64(bits - (exponent << 52)).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = z / 21.0 + 1.0 / 19.0
    series = series * z + 1.0 / 17.0
    series = series * z + 1.0 / 15.0
    series = series * z + 1.0 / 13.0
    series = series * z + 1.0 / 11.0
    series = series * z + 1.0 / 9.0
    series = series * z + 1.0 / 7.0
    series = series * z + 1.0 / 5.0
    series = series * z + 1.0 / 3.0
    return np.float64(exponent) * LOG_2 + (2.0 * s + 2.0 * s * z * series)


@fast
def cross_entropy(mass, bins):
    """(sum mass * ln(mass / bins), number of parts that are not empty) over parts [levels] of a histogram."""
    cross, parts = 0.0, 0.0
    for i in range(mass.shape[0]):
        cross += mass[i] * logarithm(max(mass[i], 1.0) / max(bins[i], 1.0))
        parts += 1.0 if mass[i] > 0.0 else 0.0
    return cross, parts


@jit
def divergence(histogram, left, right):
    """(KL(P || Q) in nats, degrees of freedom) for the window [left, right) of a histogram; inf where Q is 0 and P not.

    P is the window with all that lies outside added to its edge bins; Q is the window merged into as many equal parts
    as there are levels, each spread evenly over its non-empty bins (Migacz, GTC 2017, s7310). With prefix sums a
    candidate costs O(levels): sum p log q needs only the total and the number of non-empty bins of each part. The
    degrees of freedom are the non-empty bins less the non-empty parts.
    """
    counts, total, filled, entropy, mass, bins = histogram
    levels = mass.shape[0]
    everything = total[counts.shape[0]]
    inside = total[right] - total[left]
    below, above = total[left], everything - total[right]
    first, last = np.float64(counts[left]), np.float64(counts[right - 1])
    if (below > 0 and first == 0) or (above > 0 and last == 0) or inside == 0:
        return np.inf, 0.0
    # sum P log P: the window's own, with the two edge bins replaced by what they hold after clipping.
    own = entropy[right] - entropy[left]
    if below > 0:
        own += (first + below) * math.log(first + below) - first * math.log(first)
    if above > 0:
        if right - 1 == left:
            last += below
        own += (last + above) * math.log(last + above) - last * math.log(last)
    # The ends of the parts, left + (level + 1) * width // levels, without a division for each.
    width = right - left
    whole, rest, over, end = width // levels, width % levels, 0, np.uint64(left)
    mass_before, bins_before = total[left], filled[left]
    for level in range(levels):
        over += rest
        carry = 1 if over >= levels else 0
        over -= carry * levels
        end += np.uint64(whole + carry)
        mass[level], bins[level] = total[end] - mass_before, filled[end] - bins_before
        mass_before, bins_before = total[end], filled[end]
    cross, parts = cross_entropy(mass, bins)
    cross += below * math.log(mass[0] / bins[0]) if below > 0 else 0.0
    cross += above * math.log(mass[levels - 1] / bins[levels - 1]) if above > 0 else 0.0
    value = (own - cross) / everything - math.log(everything) + math.log(inside)
    return value, filled[right] - filled[left] - parts


@jit
def beats(value, freedom, best, full, full_freedom, samples, bins):
    """Whether a window is better than the best one so far, and better than the full range by more than noise.

    Counting noise alone gives a divergence of freedom / 2n with a standard error of sqrt(2 freedom) / 2n (the
    chi-square law of likelihood ratios), so narrow windows look good on sparse histograms. From 32 values per bin on
    it no longer matters, and the least divergence decides by itself.
    """
    if value >= best:
        return False
    noise = (full_freedom - freedom + math.sqrt(2.0 * full_freedom)) / (2.0 * samples)
    return samples >= 32 * bins or full - value > noise


@jit
def best_edge(histogram, fixed, edges, best, full):
    """(edge of the best window, its divergence) of some edges, the other edge being fixed; -1 where none is better.

    full : (divergence, degrees of freedom) of the window of all bins.
    """
    found = -1
    for edge in edges:
        value, freedom = divergence(histogram, min(fixed, edge), max(fixed, edge))
        if beats(value, freedom, best, full[0], full[1], histogram.total[-1], histogram.counts.size):
            found, best = edge, value
    return found, best


@jit
def least_divergences(total, least):
    """What the divergence of each window [0, edge) cannot be below, for the `edge` of levels, levels + 1, ... bins.

    total : float64 [bins + 1], as `prefix_sums` has it; least : float64 [bins + 1 - levels]. Of two parts alone, the
    last level and all before it, the divergence is less: merging adds none (data processing inequality). And
    r * ln(r / s) >= r - s stands for the part before.
    """
    bins = np.uint64(total.shape[0] - 1)
    levels, everything = bins + np.uint64(1) - np.uint64(least.shape[0]), total[bins]
    for i in range(np.uint64(least.shape[0])):
        edge = levels + i
        inside = total[edge]
        last = inside - total[(levels - np.uint64(1)) * edge // levels]
        p, q = (last + everything - inside) / everything, last / inside
        least[i] = p * logarithm(max(p, TINY) / max(q, TINY)) - (p - q)


@jit
def best_right_edge(histogram, levels, full):
    """The edge of the best window that starts at bin 0. All are tried but those that `least_divergences` rules out."""
    size, samples = histogram.counts.size, histogram.total[-1]
    least = np.empty(size + 1 - levels)
    least_divergences(histogram.total, least)
    # `beats` asks for that much at least, whatever the freedom.
    noise = 0.0 if samples >= 32 * size else math.sqrt(2.0 * full[1]) / (2.0 * samples)
    found, best = size, full[0]
    for edge in range(size - 1, levels - 1, -1):
        if least[edge - levels] <= min(best, full[0] - noise) + 1e-9:
            value, freedom = divergence(histogram, 0, edge)
            if beats(value, freedom, best, full[0], full[1], samples, size):
                found, best = edge, value
    return found


@jit
def best_window(counts, levels, two_sided):
    """(left, right) of the window of least divergence; the widest of equals. counts int64 [bins].

    One-sided windows start at bin 0, and the best of all right edges from `levels` up is found. Two-sided ones
    alternate between right edges and left edges until neither moves; of more than 2 * COARSE bins some COARSE edges are
    tried first, and then all between the neighbours of the best one.
    """
    histogram, size = histogram_of(counts, levels), counts.size
    full = divergence(histogram, 0, size)
    if not two_sided:
        return 0, best_right_edge(histogram, levels, full)
    left, right, best, moved, stride = 0, size, full[0], True, max(1, size // COARSE)
    while moved:
        before = best
        edge, best = best_edge(histogram, left, range(size, left + levels - 1, -stride), best, full)
        right = right if edge < 0 else edge
        if stride > 1:
            near = range(min(size, right + stride - 1), max(left + levels, right - stride + 1) - 1, -1)
            edge, best = best_edge(histogram, left, near, best, full)
            right = right if edge < 0 else edge
        edge, best = best_edge(histogram, right, range(0, right - levels + 1, stride), best, full)
        left = left if edge < 0 else edge
        if stride > 1:
            near = range(max(0, left - stride + 1), min(right - levels, left + stride - 1) + 1)
            edge, best = best_edge(histogram, right, near, best, full)
            left = left if edge < 0 else edge
        moved = best < before
    return left, right


@jit
def best_windows(counts, levels, two_sided, left, right):
    """`best_window` for int64 counts [rows, groups, bins]; left, right int64 [rows, groups]."""
    for r in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            left[r, j], right[r, j] = best_window(counts[r, j], levels, two_sided)


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


@jit
def lanes(bits, width):
    """uint64 with the low `bits` bits of every `width` bits set."""
    mask = np.uint64(0)
    for lane in range(0, 64, width):
        mask |= ((np.uint64(1) << np.uint64(bits)) - np.uint64(1)) << np.uint64(lane)
    return mask


@jit
def close_gaps(word, bits):
    """The `bits` low bits of each byte of a uint64, side by side.

    Every other byte closes up to its neighbour, then every other pair, then the upper four:
    4 bits  0a 0b 0c 0d -> 00ab 00cd -> 0000abcd.
    """
    one, two, four = lanes(bits, 16), lanes(2 * bits, 32), lanes(4 * bits, 64)
    word = (word & one) | ((word >> np.uint64(8 - bits)) & (one << np.uint64(bits)))
    word = (word & two) | ((word >> np.uint64(16 - 2 * bits)) & (two << np.uint64(2 * bits)))
    return (word & four) | ((word >> np.uint64(32 - 4 * bits)) & (four << np.uint64(4 * bits)))


@jit
def open_gaps(word, bits):
    """Inverse of `close_gaps`."""
    one, two, four = lanes(bits, 16), lanes(2 * bits, 32), lanes(4 * bits, 64)
    word = (word & four) | ((word & (four << np.uint64(4 * bits))) << np.uint64(32 - 4 * bits))
    word = (word & two) | ((word & (two << np.uint64(2 * bits))) << np.uint64(16 - 2 * bits))
    return (word & one) | ((word & (one << np.uint64(bits))) << np.uint64(8 - bits))


@jit
def pack_words(words, bits, packed):
    """Pack up to 8 codes at a time, low-first, at less than 8 bits.

    words : unsigned [n], each the bytes of so many codes as fill whole bytes; packed : those bytes, uint8 [n, m].
    """
    for i in range(words.shape[0]):
        word = close_gaps(np.uint64(words[i]), bits)
        if packed.shape[1] == 1:  # 2 and 4 bits: without the inner loop the outer one vectorises
            packed[i, 0] = word & np.uint64(0xFF)
        else:
            for k in range(packed.shape[1]):
                packed[i, k] = (word >> np.uint64(8 * k)) & np.uint64(0xFF)


@jit
def unpack_words(packed, bits, sign, words):
    """Inverse of `pack_words`; `sign` is 2^(bits-1) for two's complement codes, 0 for unsigned ones."""
    flip, top = lanes(1, 8) * np.uint64(sign), lanes(1, 8) << np.uint64(7)
    for i in range(words.shape[0]):
        word = np.uint64(0)
        if packed.shape[1] == 1:
            word = np.uint64(packed[i, 0])
        else:
            for k in range(packed.shape[1]):
                word |= np.uint64(packed[i, k]) << np.uint64(8 * k)
        # Flipping a code's sign bit and subtracting its weight extends it; `top` keeps bytes from borrowing.
        words[i] = (((open_gaps(word, bits) ^ flip) | top) - flip) ^ top


@jit
def pack_bits(codes, bits, packed):
    """Write the `bits` low bits of each code, low-first: the plain way, for 9 to 15 bits; codes uint16 [n]."""
    mask = (np.uint32(1) << np.uint32(bits)) - np.uint32(1)
    buffer, filled, position = np.uint32(0), np.uint32(0), 0
    for i in range(codes.shape[0]):
        buffer |= (np.uint32(codes[i]) & mask) << filled
        filled += np.uint32(bits)
        while filled >= 8:
            packed[position] = buffer & np.uint32(0xFF)
            buffer >>= np.uint32(8)
            filled -= np.uint32(8)
            position += 1


@jit
def unpack_bits(packed, bits, sign, codes):
    """Inverse of `pack_bits`; `sign` as in `unpack_words`."""
    mask = (np.uint32(1) << np.uint32(bits)) - np.uint32(1)
    buffer, filled, position = np.uint32(0), np.uint32(0), 0
    for i in range(codes.shape[0]):
        while filled < bits:
            buffer |= np.uint32(packed[position]) << filled
            filled += np.uint32(8)
            position += 1
        codes[i] = np.int32((buffer & mask) ^ np.uint32(sign)) - np.int32(sign)
        buffer >>= np.uint32(bits)
        filled -= np.uint32(bits)
