"""The best plan whose file fits a budget, to the byte: a solver of sums, and what of a file is no sum.

Asked with the least that the rest of a file can take, the solver finds a plan and a bound. If the plan's file fits, it
is the best one. If not, the budget is lowered by what is missing until one fits, and then the bound is raised: no
option whose price leads beyond that plan can be in a better one, and without these the rest takes more at least. What a
file has once for each scheme that is used (a group of a config.json) is decided by cases: with the scheme, and without.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from ..errors import BudgetError
from .choices import Case
from .solving.front import Front
from .solving.front import front as front_of
from .solving.solve import Solution, bound_of, solve

CASES = 200  # that are looked at; few need more than ten
ROUNDS = 5  # of ruling options out
ROUNDING = 1e-12  # of a sum of damages, relatively: no option is ruled out by less

Solver = Callable[[np.ndarray, np.ndarray, int, Front], Solution]


@dataclass(frozen=True)
class Rest:
    """What a file takes beside the sum of its options.

    Attributes
    ----------
    exact : int64 [N], the options -> bytes of the file.
    least : (bool [N, K], what may be chosen; a case of plans) -> bytes that the rest takes at least.
    schemes : bool [S, N, K]; whether an option is of a scheme that the file says something of once.
    unsharded : what options may add up to at most in a plan that is not cut into shards; None where none is.
    """

    exact: Callable[[np.ndarray], int]
    least: Callable[[np.ndarray, Case], int]
    schemes: np.ndarray
    unsharded: int | None = None


@dataclass(frozen=True)
class Fitted:
    """A plan that fits: the solver's solution, whose budget is what the sum may be, and the bytes of the file."""

    solution: Solution
    file_nbytes: int


def best_within(
    nbytes: np.ndarray, damage: np.ndarray, budget: int, rest: Rest, front: Front, under: int, prove: bool = True
) -> Fitted:
    """The plan of least damage whose file has at most `budget` bytes.

    Parameters
    ----------
    nbytes, damage, front : as for `solving.solve`.
    under : what the rest of any plan takes at least.
    prove : whether to go on where the first plan that fits may not be the best one.

    Returns
    -------
    Fitted : its bound is one of all plans whose files fit, and `gap` 0.0 if it is proved.

    Raises
    ------
    BudgetError : no plan was found that fits; `possible` are the bytes of the smallest file that was found.
    """
    relaxed, found = first_within(nbytes, damage, budget, rest, front, under)
    if found.solution is relaxed:
        return found
    search = _Search(nbytes, damage, budget, rest, found, relaxed.price, budget - under)
    bound = max(relaxed.bound, search.bound(np.isfinite(damage))) if prove else relaxed.bound
    best = search.best
    gap = max(0.0, best.solution.damage - bound)
    return replace(best, solution=replace(best.solution, gap=gap, bound=bound_of(best.solution.damage, gap)))


def first_within(
    nbytes: np.ndarray, damage: np.ndarray, budget: int, rest: Rest, front: Front, under: int, solver: Solver = solve
) -> tuple[Solution, Fitted]:
    """The solver's plan as if the rest were the least possible, and the first one whose file fits, maybe the same.

    BudgetError as `best_within`.
    """
    try:
        relaxed = solver(nbytes, damage, budget - under, front)
    except BudgetError as error:
        raise BudgetError(str(error), smallest_file(nbytes, damage, rest)[0]) from error
    try:
        return relaxed, fitted(nbytes, damage, budget, rest, front, relaxed, solver)
    except BudgetError as error:
        size, least = smallest_file(nbytes, damage, rest)
        if size > budget:
            raise BudgetError(str(error), size) from error
    only = np.where(np.arange(nbytes.shape[1]) == least[:, None], damage, np.inf)
    return relaxed, Fitted(solver(nbytes, only, budget, front_of(nbytes, only)), size)


def of_one_scheme(
    nbytes: np.ndarray, damage: np.ndarray, budget: int, rest: Rest, found: Fitted, solver: Solver
) -> Fitted:
    """The best of a plan and of the first ones that fit with one scheme alone, whose file says less of them."""
    others = rest.schemes.sum(0) > rest.schemes
    for scheme, other in enumerate(others):
        only = np.where(other, np.inf, damage)
        if not np.isfinite(only).any(1).all():
            continue
        room = budget - rest.least(np.isfinite(only), Case(frozenset([scheme])))
        with suppress(BudgetError):  # nothing so small is of this scheme alone
            front = front_of(nbytes, only)
            one = fitted(nbytes, only, budget, rest, front, solver(nbytes, only, room, front), solver)
            found = min(found, one, key=lambda each: each.solution.damage)
    return found


def smallest_file(nbytes: np.ndarray, damage: np.ndarray, rest: Rest) -> tuple[int, np.ndarray]:
    """Bytes and options of the smallest file that is found: of the least sum, or of one scheme alone."""
    others = rest.schemes.sum(0) > rest.schemes
    among = [np.isfinite(damage), *(np.isfinite(damage) & ~other for other in others)]
    plans = [np.where(may, nbytes, np.iinfo(np.int64).max).argmin(1) for may in among if may.any(1).all()]
    return min(((rest.exact(plan), plan) for plan in plans), key=lambda found: found[0])


def fitted(
    nbytes: np.ndarray,
    damage: np.ndarray,
    budget: int,
    rest: Rest,
    front: Front,
    solution: Solution,
    solver: Solver = solve,
) -> Fitted:
    """The first plan whose file fits, of a budget that is lowered each time by what was missing."""
    while (size := rest.exact(solution.chosen)) > budget:
        solution = solver(nbytes, damage, solution.nbytes - (size - budget), front)
    return Fitted(solution, size)


@dataclass
class _Search:
    """Looks for plans that are better than the best one that is known, and bounds those that there can be.

    price, room : of the solver's first plan; of what options may add up to in any plan.
    """

    nbytes: np.ndarray
    damage: np.ndarray
    budget: int
    rest: Rest
    best: Fitted
    price: float
    room: int
    cases: int = 0

    @property
    def limit(self) -> float:
        """What a better plan stays below."""
        return self.best.solution.damage

    def bound(self, allowed: np.ndarray) -> float:
        """What no fitting plan is below: be it in one file or in shards, of several schemes, of one, or of none."""
        if self.rest.unsharded is None:
            return self._of_schemes(allowed, False)
        return min(self._of_schemes(allowed, sharded) for sharded in (False, True))

    def _of_schemes(self, allowed: np.ndarray, sharded: bool) -> float:
        schemes, nothing = self.rest.schemes, frozenset[int]()
        if self._hopeless(allowed, sharded):
            return self.limit
        case = Case(several=True, sharded=sharded)
        several = self.explore(allowed, case, frozenset(range(len(schemes))))
        none = self.explore(allowed & ~schemes.any(0), Case(sharded=sharded), nothing)
        others = schemes.sum(0) > schemes  # the option has another scheme, for some member
        one = [
            self.explore(allowed & ~others[s], Case(frozenset([s]), sharded=sharded), nothing)
            for s in range(len(schemes))
            if (allowed & schemes[s]).any() and not self._hopeless(allowed & ~others[s], sharded)
        ]
        return min([several, none, *one])

    def _hopeless(self, allowed: np.ndarray, sharded: bool) -> bool:
        """Whether no better plan can be among these, as one price tells, which is much less work than the front."""
        room = self.room if sharded or self.rest.unsharded is None else min(self.room, self.rest.unsharded)
        cost = np.where(allowed, self.damage, np.inf) + self.price * self.nbytes
        return bool(cost.min(1).sum() - self.price * room >= self.limit * (1 + ROUNDING))

    def explore(self, allowed: np.ndarray, case: Case, open_: frozenset[int]) -> float:
        """What no fitting plan of a case is below, or the best plan's damage where that is less.

        open_ : schemes of which it is not known whether the plans have them.
        """
        if not allowed.any(1).all():
            return self.limit
        self.cases += 1
        for _ in range(ROUNDS):
            case, open_ = self._decided(allowed, case, open_)
            room = self._room(allowed, case)
            only = np.where(allowed, self.damage, np.inf)
            front = front_of(self.nbytes, only)
            if room < front.nbytes[0]:  # there is no such plan
                return self.limit
            lower, penalties = self._penalties(only, front, room)
            left = allowed & (penalties <= self.limit + ROUNDING * abs(self.limit))
            if lower >= self.limit or not left.any(1).all():
                return self.limit
            if (left == allowed).all():
                break
            allowed = left
        if self.cases < CASES and (scheme := self._open(allowed, case, open_)) is not None:
            others = open_ - {scheme}
            with_it = self.explore(allowed, replace(case, used=case.used | {scheme}), others)
            return min(with_it, self.explore(allowed & ~self.rest.schemes[scheme], case, others))
        return self._solved(allowed, case, only, front, room)

    def _room(self, allowed: np.ndarray, case: Case) -> int:
        """What the options of a fitting plan add up to at most."""
        room = self.budget - self.rest.least(allowed, case)
        if case.sharded is False and self.rest.unsharded is not None:
            return min(room, self.rest.unsharded)
        return room

    def _decided(self, allowed: np.ndarray, case: Case, open_: frozenset[int]) -> tuple[Case, frozenset[int]]:
        """Schemes that some unit cannot do without are used; those that no unit can have are not open."""
        among = [s for s in open_ if (allowed & self.rest.schemes[s]).any()]
        certain = frozenset(s for s in among if (~allowed | self.rest.schemes[s]).all(1).any())
        return replace(case, used=case.used | certain), frozenset(among) - certain

    def _open(self, allowed: np.ndarray, case: Case, open_: frozenset[int]) -> int | None:
        """The scheme to decide on: that of the fewest units; None where nothing depends on it any more."""
        everything = replace(case, used=case.used | open_)
        if not open_ or self.rest.least(allowed, everything) == self.rest.least(allowed, case):
            return None
        return min(open_, key=lambda s: int((allowed & self.rest.schemes[s]).any(1).sum()))

    def _penalties(self, only: np.ndarray, front: Front, room: int) -> tuple[float, np.ndarray]:
        """What any plan within so many bytes has at least, and any that takes an option: float64 [N, K].

        By the Lagrangian bound, at the price at which the front meets the room.
        """
        next_ = front.below(room) + 1
        price = float(front.price[next_]) if next_ < len(front.price) else 0.0
        cost = only + price * self.nbytes
        least = cost.min(1)
        lower = float(least.sum() - price * room)
        return lower, lower + (cost - least[:, None])

    def _solved(self, allowed: np.ndarray, case: Case, only: np.ndarray, front: Front, room: int) -> float:
        """The bound of the solver. Its plan is the best one if it fits and is better; if not, there are two cases more.

        With a unit left what it has, the rest is better known; without that option, all others are worse.
        """
        relaxed = solve(self.nbytes, only, room, front)
        if relaxed.bound >= self.limit:
            return self.limit
        size = self.rest.exact(relaxed.chosen)
        with suppress(BudgetError):  # none was found that fits
            found = fitted(self.nbytes, only, self.budget, self.rest, front, relaxed)
            if found.solution.damage < self.limit:
                self.best = found
        if size <= self.budget or self.cases >= CASES or (unit := self._split(only, relaxed)) is None:
            return min(relaxed.bound, self.limit)
        chosen = np.zeros_like(allowed)
        chosen[unit, relaxed.chosen[unit]] = True
        others = np.arange(len(allowed)) != unit
        with_it = self.explore(allowed & (chosen | others[:, None]), case, frozenset())
        return max(relaxed.bound, min(with_it, self.explore(allowed & ~chosen, case, frozenset())))

    def _split(self, only: np.ndarray, relaxed: Solution) -> int | None:
        """The unit that would miss most what it has, at the price of bytes; None where none has a choice."""
        cost = only + relaxed.price * self.nbytes
        units = np.arange(len(only))
        own = cost[units, relaxed.chosen].copy()
        cost[units, relaxed.chosen] = np.inf
        missed = cost.min(1) - own
        missed[~np.isfinite(missed)] = -np.inf
        return int(missed.argmax()) if missed.max(initial=-np.inf) > -np.inf else None
