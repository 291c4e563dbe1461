"""A plan that is nearly as good as the best one and takes fewer different options."""

from dataclasses import replace

import numpy as np

from ...errors import BudgetError, check_number
from .front import Front
from .solve import Solution, bound_of, solve


def simpler(
    nbytes: np.ndarray, damage: np.ndarray, budget: int, within: float = 0.01, front: Front | None = None
) -> Solution:
    """A plan within `within` of the optimum's damage, of as few different options as were found.

    Options go one by one, that first which the units that have it miss least at the price of bytes; the rest is solved
    anew each time. So it is no proof that there are not fewer. The bound is that of all plans within the budget.

    Raises
    ------
    BudgetError, QuantlabError : as `solve`.
    """
    within = check_number("how far the damage may be above the optimum", within, 0, np.inf)
    nbytes, damage = np.asarray(nbytes), np.asarray(damage)
    best = plan = solve(nbytes, damage, budget, front)
    limit = best.damage + within * abs(best.damage)
    while (less := with_fewer(nbytes, damage, plan, limit)) is not None:
        plan = less
    gap = max(plan.damage - best.bound, best.gap)
    return replace(plan, gap=gap, bound=bound_of(plan.damage, gap))


def with_fewer(nbytes: np.ndarray, damage: np.ndarray, plan: Solution, limit: float) -> Solution | None:
    """A plan of at most `limit` damage without one of the options that `plan` has; None if none was found."""
    used = np.unique(plan.chosen)
    for missed in used[np.argsort(misses(nbytes[:, used], damage[:, used], plan.price), kind="stable")]:
        kept = used[used != missed]
        try:
            found = solve(nbytes[:, kept], damage[:, kept], plan.budget)
        except BudgetError:
            continue
        if found.damage <= limit:
            return replace(found, chosen=kept[found.chosen])
    return None


def misses(nbytes: np.ndarray, damage: np.ndarray, price: float) -> np.ndarray:
    """By how much damage + price x bytes of all units rises if an option goes: float64 [K]."""
    cost = damage + price * nbytes
    if cost.shape[1] < 2:
        return np.full(cost.shape[1], np.inf)
    best, next_best = np.partition(cost, 1, axis=1)[:, :2].T
    first = np.argmin(cost, axis=1)
    return np.bincount(first, next_best - best, minlength=cost.shape[1])
