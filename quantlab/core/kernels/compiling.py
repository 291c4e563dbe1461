"""How kernels are compiled: every one by one of these decorators.

`fast` allows sums to be reordered, which lets them vectorise, and nothing else. The values summed come out of `jit`
helpers, whose instructions keep strict IEEE order after inlining: reassociation must never touch `offset + q * scale`.
Nor may "contract" be allowed where values are decoded: it reaches through the widening of a decoded value to the
product that made it, and the error would be that of another value than the one that is shipped. `fused` allows it for
adding a product to a sum, and nothing else: there it only spares a rounding. `screening` allows it for errors that say
which of many ranges are worth a look; what is chosen among those goes by errors without it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from .cache import kept

BLOCK = 4096  # values summed in one go: short enough that the compiler keeps them in registers
TILE = 2048  # values decoded, then summed: two buffers of it stay in the first cache
CHUNK, CHUNK_BITS = np.uint64(32), np.uint64(5)  # values of a loop whose length the compiler knows

REORDERED = {"reassoc", "nsz"}


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """A decorator that compiles with these options of Numba's, and keeps on disk what comes of it."""
    # Division by zero gives what IEEE says: Python's check for it, at every division, keeps loops from vectorising.
    compiler = njit(nogil=True, error_model="numpy", **options)
    return lambda function: kept(compiler(function))


jit = compiled()
fast = compiled(fastmath=REORDERED)
# Parts of a kernel with flags of their own. As calls they would count references to every view, and not vectorise.
inlined = compiled(forceinline=True)
inlined_fast = compiled(forceinline=True, fastmath=REORDERED)
fused = compiled(forceinline=True, fastmath=REORDERED | {"contract"})
# The same for a kernel of its own, whose sums only say which of several ranges to look at.
screening = compiled(fastmath=REORDERED | {"contract"})
