"""The range of least squared error, of every group; and errors of one large group under many ranges."""

import numpy as np

from .alone import search_alone
from .codes import group
from .compiling import BLOCK, jit
from .errors import squared_error
from .fitting import bounds, fit
from .lanes import search_abreast
from .trials import trials_for

ABREAST = 2048  # values of a group up to which a search takes LANES groups at a time


@jit
def search_ranges(x, size, plan, walked, grid, storage, lo, hi):
    """The ranges [lo, hi] (float64 [rows, groups], replaced) of least squared error that a search finds.

    How a group is searched depends on nothing but its own length: not on what is beside it, nor on how x was cut.
    """
    full, rest = x.shape[1] // size, x.shape[1] % size
    if size <= ABREAST and full > 0:
        search_abreast(x, size, 0, full, walked, grid, storage, lo, hi)
    if 0 < rest <= ABREAST:
        search_abreast(x, size, full, 1, walked, grid, storage, lo, hi)
    if size > ABREAST:
        trials = trials_for(plan.shares.shape[0], size)
        for r in range(x.shape[0]):
            for j in range(full if 0 < rest <= ABREAST else lo.shape[1]):
                values = group(x, r, j, size)
                lo[r, j], hi[r, j] = search_alone(values, plan, grid, storage, lo[r, j], hi[r, j], trials)


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
