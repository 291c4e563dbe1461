"""All compiled code: arithmetic over the rows of a float32 matrix, nothing else; one subject a file.

Every kernel sees `x`, float32 [rows, cols] in C order, each row cut into groups of `size` values (the last one may be
short): group j of a row is `x[row, j * size : (j + 1) * size]`. Arrays per group are [rows, groups of a row].
Kernels check nothing, release the GIL and run on one thread; `pool.run` spreads them over ranges of rows or columns.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        alone,
        cache,
        changes,
        codes,
        entropy,
        errors,
        exact,
        fitting,
        ggml,
        histograms,
        lanes,
        narrowing,
        octav,
        order,
        packing,
        ranges,
        sides,
        tiles,
        totals,
        trials,
        walk,
        weighting,
        widen,
    )

__all__ = [
    "alone",
    "cache",
    "changes",
    "codes",
    "entropy",
    "errors",
    "exact",
    "fitting",
    "ggml",
    "histograms",
    "lanes",
    "narrowing",
    "octav",
    "order",
    "packing",
    "ranges",
    "sides",
    "tiles",
    "totals",
    "trials",
    "walk",
    "weighting",
    "widen",
]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
