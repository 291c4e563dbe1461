"""Columns that a method has scaled before it rounded them, as AWQ and SmoothQuant do: found, and undone.

What scales a layer's columns divides the norm before it by the same numbers, so that the model computes what it did.
Compared as they are, the weights look ruined.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .comparing import Comparison
from .matching import Matching
from .roles import role_of
from .stored import Pair, Stored

LEAST_ROWS = 32  # scales that are fitted to rounding errors alone lower them by 1 part in so many
DOUBTFUL = 1 / 16  # relative error from which on scales of rows are tried though no norm has changed: worse than 3 bits
EXPLAINED = 1 / 4  # of the squared error is left at most where scales of columns explain a difference: 6 dB


@dataclass(frozen=True)
class Scaling:
    """Scales of columns that explain a difference: in words, "" for none; and the relative error without them."""

    words: str = ""
    relative: float = 0.0


class Norms:
    """The norms that two checkpoints have of every layer: what they differ by, columns were scaled by."""

    def __init__(self, stored: Stored, origin: Stored, matching: Matching) -> None:
        self._stored, self._origin, self._pairs = stored, origin, matching.pairs
        self._of: dict[int | None, list[tuple[str, np.ndarray]]] = {}

    def of(self, name: str) -> list[tuple[str, np.ndarray]]:
        """The norms of a tensor's layer that are not the source's: name -> source over own, float64 [n], not 0."""
        block = role_of(name).block
        if block not in self._of:
            pairs = [pair for pair in self._pairs if "norm" in pair.name.lower() and role_of(pair.name).block == block]
            ratios = ((pair.name, self._ratio(pair)) for pair in pairs)
            self._of[block] = [(name, ratio) for name, ratio in ratios if ratio is not None]
        return self._of[block]

    def _ratio(self, pair: Pair) -> np.ndarray | None:
        shapes = self._stored.shape(pair.name), self._origin.shape_of(pair)
        if shapes[0] != shapes[1] or len(shapes[0]) != 1:
            return None
        if self._stored.fault(pair.name) or self._origin.fault(pair.source):
            return None
        before, now = (
            np.asarray(x, np.float64) for x in (self._origin.values_of(pair), self._stored.values(pair.name))
        )
        with np.errstate(all="ignore"):
            ratio = before / now
        usable = np.isfinite(ratio).all() and ratio.all() and not np.array_equal(before, now)
        return ratio if usable else None


def scaling(
    found: Comparison, norms: Sequence[tuple[str, np.ndarray]], again: Callable[[np.ndarray], Comparison]
) -> Scaling:
    """The scales that explain the difference of a matrix from its source; none where none do.

    Parameters
    ----------
    norms : what the columns of each norm of the layer were divided by, float64 [n], not 0, by its name: scales that
        nobody has to fit. Where none explains it, those of least squares are tried.
    again : (scales of columns [inputs]) -> the comparison with the source's columns scaled so, its sums those of rows:
        what comes before a layer may have taken the scales of the next one's columns as those of its own rows.
    """
    experts, inputs = found.power.shape
    if experts > 1 or found.rows < LEAST_ROWS or not 0 < found.relative < math.inf:
        return Scaling()
    norms = [(name, ratio) for name, ratio in norms if ratio.shape == (inputs,)]
    by_columns = _by_columns(found, norms)
    left = by_columns.relative if by_columns.words else found.relative
    if left <= DOUBTFUL and (by_columns.words or not norms):
        return by_columns
    by_rows = _by_rows(found, norms, again)
    return by_rows if by_rows.words and by_rows.relative < left else by_columns


def _by_columns(found: Comparison, norms: Sequence[tuple[str, np.ndarray]]) -> Scaling:
    tried = [Scaling(f"columns are scaled as {name} says", found.undone(ratio)) for name, ratio in norms]
    best = min(tried, key=lambda each: each.relative, default=Scaling())
    for each in (best, Scaling("columns are scaled, as least squares find", found.fitted())):
        if each.words and each.relative <= EXPLAINED * found.relative:
            return each
    return Scaling()


def _by_rows(
    found: Comparison, norms: Sequence[tuple[str, np.ndarray]], again: Callable[[np.ndarray], Comparison]
) -> Scaling:
    """Scales of rows, as least squares find, behind those of columns that a norm says, if any."""
    best = Scaling()
    for name, ratio in [("", np.ones(found.power.shape[1])), *norms]:
        rows = again(ratio)
        left = rows.fitted()
        explains = rows.rows >= LEAST_ROWS and left <= EXPLAINED * min(found.relative, rows.relative)
        if explains and (not best.words or left < best.relative):
            behind = f", and columns as {name} says" if name else ""
            best = Scaling(f"rows are scaled, as least squares find{behind}", left)
    return best
