"""The plan whose worst unit is the best possible, and of those the one of least damage in all."""

import numpy as np

from ...errors import ShapeError
from .front import Front
from .front import front as front_of_table
from .options import Options
from .solve import Solution, solve


def solve_worst(
    nbytes: np.ndarray, damage: np.ndarray, budget: int, summed: np.ndarray | None = None, front: Front | None = None
) -> Solution:
    """The plan within the budget whose largest damage of a unit is the least; of those, the one of least sum.

    Parameters
    ----------
    nbytes, damage, budget, front : as for `solve`.
    summed : float64 [N, K]; what is summed instead of `damage`, where that is no sum: the worst tensor of several that
        share a decision. It is infinite where `damage` is.

    Returns
    -------
    Solution : its damage, bound and gap are those of the sum among plans whose worst unit is no worse.

    Raises
    ------
    BudgetError, QuantlabError : as `solve`.
    """
    damage = np.asarray(damage)
    summed = damage if summed is None else np.asarray(summed)
    if summed.shape != damage.shape:
        raise ShapeError(f"what is summed has the shape {summed.shape} and damage {damage.shape}: give both alike")
    known = front if front is not None else front_of_table(nbytes, damage)
    known.below(budget)  # refuses a budget that nothing fits into
    limit = least_worst(known.options, damage, budget)
    return solve(nbytes, np.where(damage <= limit, summed, np.inf), budget)


def least_worst(options: Options, damage: np.ndarray, budget: int) -> float:
    """The least damage that no unit has to exceed within a budget that some plan fits into."""
    own = damage[options.unit, options.option]  # of each unit by itself, not beyond its least
    limits = np.unique(own)
    low, high = 0, len(limits) - 1
    while low < high:
        middle = (low + high) // 2
        sizes = np.where(own <= limits[middle], options.nbytes, np.inf)
        if np.minimum.reduceat(sizes, options.start[:-1]).sum() <= budget:
            high = middle
        else:
            low = middle + 1
    return float(limits[low]) if len(limits) else np.inf
