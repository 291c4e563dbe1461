"""The best plan whose file fits a budget, to the byte: a solver of sums, and what of a file is no sum.

Without the rest of a file that depends on all choices, the best plan is found and proved by the solver. So it is asked
with the least that this rest can take: what it says is a bound, and its plan is the best one if the file fits. If not,
the budget is lowered by what is missing, and the bound raised: no plan that takes an option whose price leads beyond
the best plan found can be better, and without these options the rest takes more at least.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..errors import BudgetError
from .solving.front import Front
from .solving.front import front as front_of
from .solving.solve import Solution, bound_of, solve

ROUNDS = 12  # of lowering the budget, which few plans need more than twice, and of raising the bound
ROUNDING = 1e-12  # of a sum of damages, relatively: no option is ruled out by less


@dataclass(frozen=True)
class Rest:
    """What a file takes beside the sum of its options.

    exact : int64 [N], the options -> bytes of the file. least : bool [N, K], what may be chosen -> bytes that the rest
    takes at least.
    """

    exact: Callable[[np.ndarray], int]
    least: Callable[[np.ndarray], int]


@dataclass(frozen=True)
class Fitted:
    """A plan that fits: the solver's solution, whose budget is what the sum may be, and the bytes of the file."""

    solution: Solution
    file_nbytes: int


def best_within(
    nbytes: np.ndarray,
    damage: np.ndarray,
    budget: int,
    rest: Rest,
    front: Front,
    least: int | None = None,
    solver: Callable[[np.ndarray, np.ndarray, int, Front], Solution] = solve,
) -> Fitted:
    """The plan of least damage whose file has at most `budget` bytes.

    Parameters
    ----------
    nbytes, damage, front : as for `solving.solve`.
    least : what the rest of any plan takes at least, where it is known.

    Returns
    -------
    Fitted : its bound is one of all plans whose files fit, and `gap` 0.0 if it is proved.

    Raises
    ------
    BudgetError : no plan was found that fits; `possible` are the bytes of the smallest file that was found.
    """
    under = rest.least(np.isfinite(damage)) if least is None else least
    try:
        relaxed = solver(nbytes, damage, budget - under, front)
        found = _fits(nbytes, damage, budget, rest, front, relaxed, solver)
    except BudgetError as error:
        smallest = rest.exact(front.chosen(0))
        raise BudgetError(str(error), smallest) from error
    if found.solution is relaxed:
        return found
    return _bounded(nbytes, damage, budget, rest, found, relaxed, solver)


def _fits(
    nbytes: np.ndarray,
    damage: np.ndarray,
    budget: int,
    rest: Rest,
    front: Front,
    first: Solution,
    solver: Callable[[np.ndarray, np.ndarray, int, Front], Solution],
) -> Fitted:
    """The first plan whose file fits, of a budget that is lowered each time by what was missing."""
    solution = first
    while (size := rest.exact(solution.chosen)) > budget:
        solution = solver(nbytes, damage, solution.nbytes - (size - budget), front)
    return Fitted(solution, size)


def _bounded(
    nbytes: np.ndarray,
    damage: np.ndarray,
    budget: int,
    rest: Rest,
    found: Fitted,
    relaxed: Solution,
    solver: Callable[[np.ndarray, np.ndarray, int, Front], Solution],
) -> Fitted:
    """The same plan, or a better one, with the best bound that ruling options out leads to."""
    best, bound, allowed = found, relaxed.bound, np.isfinite(damage)
    under = budget - relaxed.budget
    for _ in range(ROUNDS):
        left = allowed & (penalties(nbytes, damage, allowed, relaxed) <= best.solution.damage * (1 + ROUNDING))
        left[np.arange(len(left)), best.solution.chosen] = True
        more = rest.least(left)
        if more <= under:
            break
        under, allowed = more, left
        only = np.where(allowed, damage, np.inf)
        try:
            relaxed = solver(nbytes, only, budget - under, front_of(nbytes, only))
        except BudgetError:  # nothing but the plan itself is left
            bound = best.solution.damage
            break
        bound = max(bound, min(relaxed.bound, best.solution.damage))
        size = rest.exact(relaxed.chosen)
        if size <= budget and relaxed.damage <= best.solution.damage:
            best = Fitted(relaxed, size)
            break
    gap = max(0.0, best.solution.damage - bound)
    return replace(best, solution=replace(best.solution, gap=gap, bound=bound_of(best.solution.damage, gap)))


def penalties(nbytes: np.ndarray, damage: np.ndarray, allowed: np.ndarray, at: Solution) -> np.ndarray:
    """What any plan within a solution's budget has at least that takes an option: float64 [N, K].

    By the Lagrangian bound at the solution's price.
    """
    cost = np.where(allowed, damage, np.inf) + at.price * nbytes
    least = cost.min(1)
    return least.sum() - at.price * at.budget + (cost - least[:, None])
