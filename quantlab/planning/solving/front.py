"""The front: every plan that is the best of its size and can be found by one price for a byte, all at once.

The plans are those of the Lagrangian relaxation. At a price p, each unit takes what minimises damage + p x bytes, which
lies on the lower convex hull of its options; as p falls, units move along their hulls, the steepest segment of all
first. So the segments of all hulls, sorted by slope, are the front: its plans are their prefixes.
"""

from dataclasses import dataclass, field

import numpy as np

from ...errors import BudgetError, check_integer
from .options import Options, pareto

MOST_BUDGET = (1 << 63) - 1


@dataclass(frozen=True)
class Front:
    """All plans that are optimal at a price for a byte; between two of them there is only one unit's step.

    Attributes
    ----------
    nbytes : int64 [P], ascending; the first is the least possible.
    damage : float64 [P], descending; the last is the least possible. Sums of many: up to their rounding.
    price : float64 [P], descending; damage per byte at which a plan becomes optimal: that of the step into it. inf for
        the first.
    options : what the plans choose from.
    first : int64 [N]; index into `options` of what each unit has in the first plan.
    steps : int64 [P - 1]; index into `options` of what the unit of each step comes to have.
    grain : bytes by whose multiples all plans differ.
    """

    nbytes: np.ndarray
    damage: np.ndarray
    price: np.ndarray
    options: Options = field(repr=False)
    first: np.ndarray = field(repr=False)
    steps: np.ndarray = field(repr=False)
    grain: int

    def at(self, i: int) -> np.ndarray:
        """What each unit has in plan `i`, as indices into `options`: int64 [N]."""
        taken = self.first.copy()
        taken[self.options.unit[self.steps[:i]]] = self.steps[:i]  # of a unit's several steps the last one stays
        return taken

    def chosen(self, i: int) -> np.ndarray:
        """The option that each unit has in plan `i`: int64 [N]."""
        return self.options.option[self.at(range(len(self.nbytes))[i])].astype(np.int64)

    def below(self, budget: int) -> int:
        """The largest plan of at most `budget` bytes; BudgetError if there is none."""
        budget = check_integer("the budget", budget, -MOST_BUDGET, MOST_BUDGET)
        least = int(self.nbytes[0])
        if budget < least:
            raise BudgetError(
                f"{budget:,} bytes are not enough: the least possible is {least:,} bytes; "
                "raise the budget to that, or allow smaller options",
                least,
            )
        return int(np.searchsorted(self.nbytes, budget, "right")) - 1


def front(nbytes: np.ndarray, damage: np.ndarray) -> Front:
    """The front of a table.

    Parameters
    ----------
    nbytes : int64 [N, K]; bytes of each option of each unit.
    damage : float64 [N, K]; infinity where a unit cannot have an option, whose bytes are then ignored.

    Raises
    ------
    QuantlabError : a table that is none (see `pareto`), or a unit that can have nothing (BudgetError).

    >>> found = front(np.array([[2, 4, 8]]), np.array([[9.0, 4.0, 0.0]]))
    >>> found.nbytes, found.damage, found.price
    (array([2, 4, 8]), array([9., 4., 0.]), array([inf, 2.5, 1. ]))
    """
    options = pareto(nbytes, damage)
    return front_of(options, options.least(np.asarray(damage)))


def front_of(options: Options, least: np.ndarray) -> Front:
    """The front of options; `least` is the least damage of each unit: float64 [N]."""
    corners = np.flatnonzero(options.corner)
    inside = np.flatnonzero(options.unit[corners[1:]] == options.unit[corners[:-1]])
    before, after = corners[inside], corners[inside + 1]
    more, drop = options.nbytes[after] - options.nbytes[before], options.damage[before] - options.damage[after]
    price = descending(drop / more, options.unit[after])
    order = np.argsort(-price, kind="stable")
    smallest = options.nbytes[options.start[:-1]].sum()
    # From the least damage up, where the terms are small, and in long double where there is one.
    above = np.cumsum(np.append(0.0, drop[order][::-1]), dtype=np.longdouble)[::-1]
    return Front(
        np.cumsum(np.append(smallest, more[order])).astype(np.int64),
        (above / options.scale + least.sum(dtype=np.longdouble)).astype(np.float64),
        np.append(np.inf, price[order] / options.scale),
        options,
        options.start[:-1],
        after[order],
        grain_of(options),
    )


def descending(price: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Prices of the steps of each unit, made to fall: rounding can turn two that are as good as equal."""
    while (wrong := np.flatnonzero((unit[1:] == unit[:-1]) & (price[1:] > price[:-1]))).size:
        price[wrong + 1] = price[wrong]
    return price


def grain_of(options: Options) -> int:
    """The largest number of bytes by whose multiples all options of each unit differ; 1 if they do not differ."""
    grain = 0
    for _, block in options.blocks():
        nbytes = options.nbytes[block].astype(np.int64)
        more = np.diff(nbytes)[options.unit[block][1:] == options.unit[block][:-1]]
        if grain != 1 and (more % grain if grain else more).any():  # the division is several times as fast as a gcd
            grain = int(np.gcd.reduce(more, initial=grain))
    return grain or 1
