"""The scale of least squared error, of all that can be stored."""

import math

import numpy as np

from .changes import follow_all
from .codes import group
from .compiling import fast, inlined, jit
from .errors import projection, squared_error
from .fitting import bounds
from .order import extent
from .records import FLOAT32_MAX
from .sides import best_storable, least_of

FLOAT32_EPSILON = float(np.finfo(np.float32).eps)
NEAR = 3  # neighbours of a scale, on either side, that it is compared with


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


@jit
def try_scale(values, scale, zero_point, grid, found):
    """found = (error, scale, zero point) for these parameters, if encoding and decoding says that they are better."""
    lowest, highest = bounds(scale, zero_point, np.float32(0), grid)
    error = squared_error(values, scale, np.float32(0), lowest, highest)
    if error < found[0]:
        found[0], found[1], found[2] = error, scale, zero_point
        return True
    return False


@jit
def settle(values, grid, found):
    """Move the scale found to its neighbours in float32 until no one up to NEAR steps off is better.

    What its codes are multiplied to is rounded to float32, of which the sums that have found it know nothing.
    """
    moved = True
    while moved:
        moved, middle = False, np.int64(np.float32(found[1]).view(np.int32))
        for step in range(-NEAR, NEAR + 1):
            scale = np.int32(middle + step).view(np.float32)
            if 0.0 < abs(scale) <= FLOAT32_MAX and (scale > 0.0) == (found[1] > 0.0):
                moved |= try_scale(values, scale, np.float32(found[2]), grid, found)


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


@inlined
def exact_group(values, sides, grid, storage, pow2, settled, found, work):
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
        try_scale(values, np.float32(sides.sign[side] * scale), np.float32(sides.zero_point[side]), grid, found)
    # A code times a narrower scale is a float32 as it is.
    if settled and storage.epsilon == FLOAT32_EPSILON and pow2 == 0.0:
        settle(values, grid, found)


@jit
def exact_scales(x, size, sides, grid, storage, pow2, settled, work, scale, zero_point):
    """Scales (of either sign) and zero points of least squared error; those given are where the search starts.

    `settled` says whether they are to be the best of their neighbours to the last bit.
    """
    found = np.empty(3)
    for r in range(x.shape[0]):
        for j in range(scale.shape[1]):
            values = group(x, r, j, size)
            lowest, highest = bounds(scale[r, j], zero_point[r, j], np.float32(0), grid)
            found[0] = squared_error(values, scale[r, j], np.float32(0), lowest, highest)
            found[1], found[2] = scale[r, j], zero_point[r, j]
            if found[0] > 0.0:
                exact_group(values, sides, grid, storage, pow2, settled, found, work)
                scale[r, j], zero_point[r, j] = found[1], found[2]
