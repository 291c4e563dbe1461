"""The optimum under a budget, and the smallest plan of a quality, each with a proof of how good it is."""

import math
from dataclasses import dataclass, replace

import numpy as np

from ...errors import BudgetError, check_number
from .core import Found, Moves, search
from .front import Front
from .front import front as front_of_table
from .options import Options

EXACT_UNITS = 2_000  # up to so many units a plan is searched until it is proved
TOLERANCE = 1e-6  # of the damage: with more units, what a plan may be above the optimum


@dataclass(frozen=True)
class Solution:
    """A plan, and how good it is.

    Damage is float64. A plan is called proved where no other plan is better by more than the rounding of sums: at most
    N x 2^-50 of the largest damage in the table, and nothing at all where sums are exact. Any gap beyond that, however
    small beside the damage, is there: `gap` is summed from the differences between options, not taken from two sums,
    and `bound` is a smaller number than `damage` unless the plan is proved.

    Attributes
    ----------
    chosen : int64 [N]; the option of each unit.
    nbytes : of all units; at most the budget.
    damage : of all units, correctly rounded.
    bound : no plan within the budget has less damage.
    gap : damage - bound; 0.0 where proved.
    price : by how much damage a byte more would lessen it, along the front; 0.0 where nothing is left to be gained.
    budget : in bytes.
    lightest : of `smallest`, in bytes: no plan that is as good is smaller. -1 elsewhere.
    """

    chosen: np.ndarray
    nbytes: int
    damage: float
    bound: float
    gap: float
    price: float
    budget: int
    lightest: int = -1

    @property
    def proved(self) -> bool:
        """Whether there is no better plan: none of less damage, and none smaller if that was asked for."""
        return self.gap == 0.0 and self.lightest in (-1, self.nbytes)


def solve(nbytes: np.ndarray, damage: np.ndarray, budget: int, front: Front | None = None) -> Solution:
    """The plan of least damage among those of at most `budget` bytes.

    Parameters
    ----------
    nbytes : int64 [N, K]; bytes of each option of each unit.
    damage : float64 [N, K]; infinity where a unit cannot have an option, whose bytes are then ignored.
    budget : in bytes.
    front : that of the same table, where it is known: making it is most of the work.

    Returns
    -------
    Solution : proved for up to 2,000 units, but for what the search's memory leaves open; with more units, or then,
        its gap says how far the optimum can be: with more units at most 1e-6 of the damage, as a rule.

    Raises
    ------
    BudgetError : a budget below the least possible, and QuantlabError for a table that is none.

    >>> solution = solve(np.array([[2, 4, 8], [2, 4, 8]]), np.array([[9.0, 4.0, 0.0], [6.0, 1.0, 0.0]]), 10)
    >>> solution.chosen, solution.nbytes, solution.damage, solution.proved
    (array([1, 1]), 8, 5.0, True)
    """
    known = front if front is not None else front_of_table(nbytes, damage)
    best = optimum(known, budget)
    return solution_of(damage, known, best, budget)


@dataclass(frozen=True)
class Optimum:
    """What a search came to, in the terms of a front's options: their indices, scaled damage."""

    taken: np.ndarray
    gap: float
    price: float


def optimum(front: Front, budget: int, tolerance: float | None = None) -> Optimum:
    """The best plan of a budget, or one within a `tolerance`, a share of its damage: by default as `solve` has it."""
    i = front.below(budget)
    if i == len(front.steps):
        return Optimum(front.at(i), 0.0, 0.0)
    options, taken = front.options, front.at(i)
    price = float(front.price[i + 1]) * options.scale
    room = float((budget - int(front.nbytes[i])) // front.grain * front.grain)
    if tolerance is None:
        tolerance = 0.0 if len(taken) <= EXACT_UNITS else TOLERANCE
    # Of the damage that is left where the plan's whole gap is closed.
    allowed = tolerance * max(0.0, abs(float(front.damage[i])) * options.scale - price * room) if tolerance else 0.0
    moves = moves_from(options, taken, options.nbytes, options.damage, price, room)
    found = search(moves, price, room, allowed)
    return Optimum(moved(options, taken, found), max(0.0, found.gap - found.bound), price)


def moves_from(
    options: Options, taken: np.ndarray, weight: np.ndarray, value: np.ndarray, price: float, room: float
) -> Moves:
    """All options but those that a plan has whose penalty beside them is below the plan's gap, price x room."""
    found = []
    for units, block in options.blocks():
        own, unit = taken[units], options.unit[block] - units.start
        more = weight[block] - weight[own][unit]
        with np.errstate(over="ignore"):  # infinity is right for what costs that much more
            penalty = value[block] - value[own][unit] + price * more
        # What a plan of the front has is the least of its unit up to rounding: no penalty is less than 0.
        np.maximum(penalty, 0.0, out=penalty)
        use = penalty < price * room
        use[own - block.start] = False
        at = np.flatnonzero(use)
        found.append((options.unit[block][at], at + block.start, more[at], penalty[at]))
    return Moves(*(np.concatenate([part[i] for part in found]) for i in range(4)))


def solution_of(damage: np.ndarray, front: Front, best: Optimum, budget: int) -> Solution:
    """A plan in the terms of the table."""
    options = front.options
    chosen = options.option[best.taken].astype(np.int64)
    total = total_damage(damage, chosen)
    gap = best.gap / options.scale + options.lost
    if best.gap > 0 or gap > 0:
        gap = max(gap, math.ulp(0.0))
    return Solution(
        chosen,
        int(options.nbytes[best.taken].sum()),
        total,
        bound_of(total, gap),
        gap,
        best.price / options.scale,
        int(budget),
    )


def bound_of(total: float, gap: float) -> float:
    """What no plan can be below: less than the plan's own damage if there is a gap, even one that rounding hides."""
    return min(total - gap, math.nextafter(total, -math.inf)) if gap > 0 else total


def total_damage(damage: np.ndarray, chosen: np.ndarray) -> float:
    """The damage of a plan, correctly rounded."""
    return math.fsum(damages(damage, chosen))


def damages(damage: np.ndarray, chosen: np.ndarray) -> list[float]:
    """The damage of each unit of a plan."""
    return np.asarray(damage)[np.arange(len(chosen)), chosen].astype(np.float64).tolist()


def smallest(nbytes: np.ndarray, damage: np.ndarray, most_damage: float, front: Front | None = None) -> Solution:
    """The plan of fewest bytes among those of at most `most_damage`; of that size, the one of least damage.

    Parameters are those of `solve`; of the solution, `budget` is the plan's own size, `lightest` says what no plan that
    is as good can be below, and the rest is as if that size had been the budget.

    Raises
    ------
    BudgetError : less damage than the least possible, and QuantlabError for a table that is none.
    """
    most_damage = check_number("the most damage", most_damage, -np.inf, np.inf)
    known = front if front is not None else front_of_table(nbytes, damage)
    i = first_as_good(damage, known, most_damage)
    light = lighter(damage, known, i, most_damage)
    size = int(known.options.nbytes[light.taken].sum())
    best = solve(nbytes, damage, size, known)
    if best.damage > most_damage:  # where the search was cut off: the plan that is good enough is at hand
        chosen = known.options.option[light.taken].astype(np.int64)
        own = total_damage(damage, chosen)
        gap = max(own - best.bound, best.gap)
        best = replace(best, chosen=chosen, nbytes=size, damage=own, gap=gap, bound=bound_of(own, gap))
    return replace(best, lightest=min(best.nbytes, up_to_grain(known, size - light.gap)))


def up_to_grain(front: Front, size: float) -> int:
    """The least size from `size` on that a plan can have."""
    least = int(front.nbytes[0])
    return least + max(0, math.ceil((size - least) / front.grain - 1e-6)) * front.grain


def first_as_good(damage: np.ndarray, front: Front, most_damage: float) -> int:
    """The smallest plan of the front that is good enough by its correctly rounded damage."""
    plans = len(front.nbytes)
    i = max(0, int(np.searchsorted(-front.damage, -most_damage)) - 1)
    while i < plans and total_damage(damage, front.chosen(i)) > most_damage:
        i += 1
    if i == plans:
        least = total_damage(damage, front.chosen(plans - 1))
        raise BudgetError(
            f"no plan has a damage of {most_damage:.6g} or less: the least possible is {least:.6g}; "
            "allow that, or larger options",
            least,
        )
    return i


def lighter(damage: np.ndarray, front: Front, i: int, most_damage: float) -> Optimum:
    """The lightest plan that is good enough, from plan `i` of the front: its gap is in bytes.

    Damage is what is limited here, in float64: the search may go as far beyond the limit as rounding can, for its
    bound; if what it finds is too bad by the correctly rounded sum, one that stays as far within is the plan.
    """
    options, taken = front.options, front.at(i)
    slope = float(front.price[i]) * options.scale
    if i == 0 or not slope > 0 or math.isinf(1 / slope):
        return Optimum(taken, float(front.nbytes[i] - front.nbytes[0]), slope)
    price = 1 / slope
    room = -math.fsum([-most_damage, *damages(damage, options.option[taken])]) * options.scale
    rounding = len(taken) * 2.0**-50 * float(options.damage.max()) + 2 * math.ulp(most_damage) * options.scale
    tolerance = front.grain - 0.5  # a plan that is lighter at all is lighter by the grain
    if len(taken) > EXACT_UNITS:
        tolerance = max(tolerance, TOLERANCE * float(front.nbytes[i]))
    moves = moves_from(options, taken, options.damage, options.nbytes, price, room + rounding)
    found = search(moves, price, room + rounding, tolerance)
    plan = moved(options, taken, found)
    least = options.nbytes[plan].sum() - max(0.0, found.gap - found.bound)
    if total_damage(damage, options.option[plan]) > most_damage:
        plan = moved(options, taken, search(moves, price, max(0.0, room - rounding), tolerance))
    return Optimum(plan, float(options.nbytes[plan].sum() - least), slope)


def moved(options: Options, taken: np.ndarray, found: Found) -> np.ndarray:
    """A plan after the moves that a search found."""
    plan = taken.copy()
    plan[options.unit[found.taken]] = found.taken
    return plan
