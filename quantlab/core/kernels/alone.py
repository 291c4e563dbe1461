"""Search of a range for one group at a time: many ranges on the same values."""

import numpy as np

from .compiling import jit
from .errors import projection, range_error
from .fitting import bounds, fit
from .narrowing import largest_share, reach_of, refitted, taken_off
from .order import extent
from .trials import fit_trials, power_above, scale_values, try_all


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
