"""The codes of a group, followed as its scale shrinks: they change one by one."""

import math

import numpy as np

from .compiling import inlined, inlined_fast, jit
from .sides import best_storable

MANY = 8  # ways to lay codes from which all of them are followed at once


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
