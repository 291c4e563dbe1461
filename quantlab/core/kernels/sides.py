"""Ways to lay codes around 0, and the scales that can be stored for them."""

import math

import numpy as np

from .compiling import inlined, jit
from .fitting import round_to


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


@jit
def least_of(end, codes):
    """The least scale with which so many codes reach an end; infinite if none do and one is needed."""
    return 0.0 if end <= 0.0 else end / codes if codes > 0.0 else np.inf
