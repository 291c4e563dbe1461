"""Columns that a method has scaled before it rounded them, as AWQ and SmoothQuant do: found, and undone.

What scales a layer's columns divides the norm before it by the same numbers, so that the model computes what it did.
Compared as they are, the weights look ruined.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .comparing import Comparison

LEAST_ROWS = 32  # scales that are fitted to rounding errors alone lower them by 1 part in so many
EXPLAINED = 1 / 4  # of the squared error is left at most where scales of columns explain a difference: 6 dB


@dataclass(frozen=True)
class Scaling:
    """Scales of columns that explain a difference: in words, "" for none; and the relative error without them."""

    words: str = ""
    relative: float = 0.0


def scaling(found: Comparison, norms: Iterable[tuple[str, np.ndarray]]) -> Scaling:
    """The scales that explain the difference of a matrix from its source; none where none do.

    norms : what the columns of each norm of the layer were divided by, float64 [n], not 0, by its name: scales that
        nobody has to fit. Where none explains it, those of least squares are tried.
    """
    experts, inputs = found.power.shape
    if experts > 1 or found.rows < LEAST_ROWS:
        return Scaling()
    tried = [
        Scaling(f"columns are scaled as {name} says", found.undone(ratio))
        for name, ratio in norms
        if ratio.shape == (inputs,)
    ]
    best = min(tried, key=lambda each: each.relative, default=Scaling())
    for each in (best, Scaling("columns are scaled, as least squares find", found.fitted())):
        if each.words and each.relative <= EXPLAINED * found.relative:
            return each
    return Scaling()
