"""What a plan chooses from: units, their options, the bytes and the damage of each; and solving it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..errors import BudgetError, ConfigError, ExportError
from ..formats import Checkpoint
from ..formats.output.manifest import VERSION
from ..shipping.rehearsal import source_nbytes
from ..sweeping.identity import engine_version
from ..wording import counted, shown, size_text
from .budget import Quality, budget_of, quality_of
from .choices import UNKNOWN
from .damage import OBJECTIVES, Objective
from .fitting import Fitted, Rest, best_within, first_within, of_one_scheme
from .plan import Plan, PlannedUnit, Step, Uniform
from .sizes import Sizes
from .solving.front import Front
from .solving.front import front as front_of
from .solving.simpler import simpler
from .solving.solve import Solution, smallest
from .solving.steps import Steps, pin_costs, steps
from .solving.worst import solve_worst
from .targets import Target
from .units import Unit

REMEMBERED = 1000  # plans whose sizes are known
SMALLER = 20  # files that are tried, each smaller than the one before


@dataclass(frozen=True)
class Left:
    """What a plan does not choose from: an option, or tensors that can only be copied, and why."""

    what: str
    reason: str


@dataclass(frozen=True, eq=False)
class Problem:
    """Units, options, and what each comes to: what every plan of a checkpoint for a target is chosen from.

    Attributes
    ----------
    checkpoint, target, format, objective : the model, the program, the file's format, and what is minimised.
    weighting : where weights come from, in a word. importance : whether relative errors are of weighted inputs.
    weights : how much the error of each unit counts: float64 [N].
    units : N of them, in the file's order. members : int64 [T]; the unit of every tensor, by its place in `sizes`.
    options : slugs of K - 1 configurations; the last option is "copy".
    nbytes : int64 [N, K]; what an option adds to the file.
    damage : float64 [N, K]; infinity where a unit cannot have an option. damages : the same under every objective that
        the table knows.
    pinned : unit -> why it has no choice, in a sentence.
    left : options and tensors that are left out. notes : what is to be known besides.
    missing : rows that the table lacks; 0 of a whole one.
    sizes : of the file to be.
    """

    checkpoint: Checkpoint
    target: Target
    format: str
    objective: Objective
    weighting: str
    importance: bool
    weights: np.ndarray
    units: tuple[Unit, ...]
    members: np.ndarray
    options: tuple[str, ...]
    nbytes: np.ndarray
    damages: Mapping[str, np.ndarray]
    references: Mapping[str, float]
    pinned: Mapping[int, str]
    left: tuple[Left, ...]
    notes: tuple[str, ...]
    missing: int
    sizes: Sizes = field(repr=False)
    _known_sizes: dict[bytes, int] = field(repr=False, default_factory=dict)

    @property
    def damage(self) -> np.ndarray:
        """float64 [N, K]; that of the objective."""
        return self.damages[self.objective.name]

    @cached_property
    def values(self) -> int:
        """Number of values of all tensors that are planned."""
        return sum(spec.size for spec in self.sizes.choices.specs)

    # -- sizes

    @cached_property
    def rest(self) -> Rest:
        """What the file takes beside the sum of its options."""
        return Rest(
            self.file_nbytes,
            lambda allowed, case: self.sizes.least(allowed[self.members], case),
            self._schemes(),
            self.sizes.unsharded,
        )

    def _schemes(self) -> np.ndarray:
        """Whether an option of a unit has a scheme for any of its members: bool [S, N, K]."""
        found = np.zeros((int(self.sizes.schemes.max(initial=-1)) + 1, *self.nbytes.shape), bool)
        tensor, option = np.nonzero(self.sizes.schemes >= 0)
        found[self.sizes.schemes[tensor, option], self.members[tensor], option] = True
        return found

    @cached_property
    def least_rest(self) -> int:
        """What of the file is no option's, at least."""
        return self.rest.least(np.isfinite(self.damage), UNKNOWN)

    def file_nbytes(self, chosen: np.ndarray) -> int:
        """Bytes of the file of a plan, to the byte; chosen: int64 [N]."""
        key = chosen.tobytes()
        if key not in self._known_sizes:
            if len(self._known_sizes) >= REMEMBERED:
                self._known_sizes.clear()
            self._known_sizes[key] = self.sizes.exact(chosen[self.members])
        return self._known_sizes[key]

    def bits(self, file_nbytes: int) -> float:
        """Bits per value that is planned, of a file of so many bytes: what else is in it is not counted."""
        return 8 * (file_nbytes - self.fixed) / self.values

    @cached_property
    def fixed(self) -> int:
        """Bytes of the file that are not the values of what is planned: other tensors, headers, companions."""
        try:
            copies = self.sizes.exact(np.full(len(self.members), len(self.options) - 1))
        except ExportError:  # the format has no copies of these tensors
            return self.least_rest
        return copies - sum(spec.nbytes for spec in self.sizes.choices.specs)

    @cached_property
    def source_nbytes(self) -> int:
        """Bytes of the model's own files."""
        return source_nbytes(self.checkpoint, self.format)

    # -- plans

    @cached_property
    def _front(self) -> Front:
        return front_of(self.nbytes, self.damage)

    @cached_property
    def front(self) -> Front:
        """Every plan that is the best of its size and has a price, all at once: bytes are those of files, nearly.

        Of what depends on all choices the least is counted, some bytes less than there will be.
        """
        return replace(self._front, nbytes=self._front.nbytes + self.least_rest)

    def solve(self, budget: int | str | None = None, quality: float | str | None = None, *, prove: bool = True) -> Plan:
        """The plan of least damage whose file has at most `budget` bytes, or the smallest one of a `quality`.

        Parameters
        ----------
        budget : bytes, or text: "4.7GB", "4.5bpw" (bits per planned value, what else is in the file aside), "60%" (of
            the model's own files).
        quality : in dB, as a number or "20dB": 10 log10 of what is at stake over the damage. The plan's damage is that
            of one whose tensors all have this SQNR, or less.
        prove : whether to prove a plan whose file has a few bytes that are no sum, which can take tenths of a second
            with many units; without, its gap stays, hardly more than the digits of a header.

        Raises
        ------
        BudgetError : there is none; the sentence says the least possible.
        ConfigError : a budget or quality that is none, or not exactly one of both.
        """
        if (budget is None) == (quality is None):
            raise ConfigError("give either a budget, such as '4.7GB', '4.5bpw' or '60%', or a quality, such as '20dB'")
        if quality is not None:
            asked = quality_of(quality)
            return self._planned(self._smallest(asked), str(asked), None)
        limit = budget_of(budget, fixed=self.fixed, values=self.values, source=self.source_nbytes)
        return self._planned(self._fitted(limit.nbytes, prove), str(limit), limit.nbytes)

    def _fitted(self, budget: int, prove: bool = True) -> Fitted:
        if self.objective.largest:
            return self._fitted_worst(budget)
        try:
            return best_within(self.nbytes, self.damage, budget, self.rest, self._front, self.least_rest, prove)
        except BudgetError as error:
            raise self._too_small(budget, int(error.possible)) from error

    def _fitted_worst(self, budget: int) -> Fitted:
        relative = self.damages["relative"]

        def solver(nbytes: np.ndarray, damage: np.ndarray, most: int, front: Front) -> Solution:
            found = solve_worst(nbytes, damage, most, np.where(np.isfinite(damage), relative, np.inf), front)
            worst = float(damage[np.arange(len(damage)), found.chosen].max(initial=0.0))
            return replace(found, damage=worst, bound=worst, gap=0.0, price=0.0)

        try:
            relaxed, found = first_within(
                self.nbytes, self.damage, budget, self.rest, self._front, self.least_rest, solver
            )
        except BudgetError as error:
            raise self._too_small(budget, int(error.possible)) from error
        if found.solution is not relaxed:
            found = of_one_scheme(self.nbytes, self.damage, budget, self.rest, found, solver)
        gap = found.solution.damage - relaxed.damage
        return replace(found, solution=replace(found.solution, bound=relaxed.damage, gap=gap))

    def _too_small(self, budget: int, possible: int) -> BudgetError:
        held = [(self.units[i].name, reason) for i, reason in self.pinned.items()]
        first = f"the first, {shown(held[0][0])}, since: {held[0][1]}" if held else ""
        why = f"; {len(held):,} of {counted(len(self.units), 'choice')} are not free, {first}" if held else ""
        return BudgetError(
            f"the budget of {budget:,} bytes is too small: the least possible for {self.target.label} is {possible:,} "
            f"bytes ({size_text(possible)}); raise it, or sweep smaller configurations{why}",
            possible,
        )

    def _smallest(self, quality: Quality) -> Fitted:
        most = self.references[self.objective.name] * quality.share
        damage = self.damage
        if self.objective.largest:
            damage = np.where(self.damage <= most, 0.0, np.inf)
            if not np.isfinite(damage).any(1).all():
                least = float(self.damage.min(1).max())
                raise BudgetError(f"no plan is as good as {quality}: the least possible is {least:.6g}", least)
            chosen = np.where(np.isfinite(damage), self.nbytes, np.iinfo(np.int64).max).argmin(1)
            return self._fitted(self.file_nbytes(chosen))
        found = smallest(self.nbytes, damage, most, self._front)
        return self._still_smaller(self._fitted(self.file_nbytes(found.chosen)), most)

    def _still_smaller(self, fitted: Fitted, most: float) -> Fitted:
        """The plan of the smallest file that is found: where a scheme less is used, a larger sum can be less of it."""
        for _ in range(SMALLER):
            try:
                found = self._fitted(fitted.file_nbytes - 1)
            except BudgetError:
                break
            if found.solution.damage > most:
                break
            fitted = found
        return fitted

    def _with_size(self, solution: Solution) -> Fitted:
        return Fitted(solution, self.file_nbytes(solution.chosen))

    def _as_fitted(self, chosen: np.ndarray) -> Fitted:
        """Any choice, as a solution that claims nothing."""
        total = self.damage_of(chosen)
        size = int(self.nbytes[np.arange(len(chosen)), chosen].sum())
        return self._with_size(Solution(chosen, size, total, total, 0.0, 0.0, size))

    def damage_of(self, chosen: np.ndarray, objective: str | None = None) -> float:
        """The damage of a choice, int64 [N], under an objective; by default the problem's own."""
        name = objective or self.objective.name
        each = self.damages[name][np.arange(len(chosen)), chosen]
        return float(each.max(initial=0.0)) if OBJECTIVES[name].largest else math.fsum(each.tolist())

    def simpler(self, plan: Plan, within: float = 0.01) -> Plan:
        """A plan of the same budget within 1 % of the damage, of as few different options as are found; or the same."""
        if self.objective.largest:
            return plan
        budget = plan.limit - (plan.nbytes - self.sum_of(self.chosen_of(plan)))
        try:
            found = simpler(self.nbytes, self.damage, budget, within, self._front)
            while (size := self.file_nbytes(found.chosen)) > plan.limit:
                found = simpler(self.nbytes, self.damage, found.nbytes - (size - plan.limit), within, self._front)
        except BudgetError:  # only the plan itself has a file that fits
            return plan
        return self._planned(Fitted(found, size), plan.budget, plan.limit)

    def sum_of(self, chosen: np.ndarray) -> int:
        """What options add up to, without the rest of the file."""
        return int(self.nbytes[np.arange(len(chosen)), chosen].sum())

    def chosen_of(self, plan: Plan) -> np.ndarray:
        """The options of a plan of this problem: int64 [N]. ConfigError for a plan that has others."""
        at = {option: k for k, option in enumerate(self.options)}
        try:
            return np.array([at[plan.choices[unit.members[0]]] for unit in self.units], np.int64)
        except KeyError as error:
            raise ConfigError(f"the plan is none of this problem: it has {error}") from error

    def costs_of_pins(self, plan: Plan, unit: int) -> np.ndarray:
        """By how much the damage would change if a unit had to have each option, at the same size: float64 [K]."""
        chosen = self.chosen_of(plan)
        solution = self._as_fitted(chosen).solution
        return pin_costs(self.nbytes, self.damage, solution, unit, self._front)

    # -- beside a plan

    @cached_property
    def uniform(self) -> tuple[Uniform, ...]:
        """One configuration for all units that may have it, one after the other, by size; what may not is copied."""
        found = [self._uniform(k) for k in range(len(self.options) - 1) if np.isfinite(self.damage[:, k]).any()]
        return tuple(sorted(found, key=lambda each: (each.nbytes, each.damage)))

    def _uniform(self, k: int) -> Uniform:
        may, copy = np.isfinite(self.damage), len(self.options) - 1
        chosen = np.where(may[:, k], k, np.where(may[:, copy], copy, self.damage.argmin(1)))
        return Uniform(
            self.options[k],
            self.file_nbytes(chosen),
            self.damage_of(chosen),
            int((chosen[self.members] != k).sum()),
            {name: self.damage_of(chosen, name) for name in self.damages},
        )

    def beside(self, nbytes: int) -> tuple[Uniform | None, Uniform | None]:
        """The uniform configuration of least damage that fits into so many bytes, and the next one above them."""
        fit = [each for each in self.uniform if each.nbytes <= nbytes]
        above = [each for each in self.uniform if each.nbytes > nbytes]
        return min(fit, key=lambda each: each.damage, default=None), above[0] if above else None

    # -- a solution as a plan

    @cached_property
    def sha256(self) -> str:
        """Of the model's files: reads all of them."""
        return self.checkpoint.sha256()

    def signed(self, plan: Plan) -> Plan:
        """The plan with the digest of its model, which a file of it needs: reads the model once."""
        return replace(plan, source={**plan.source, "sha256": self.sha256})

    def _planned(self, fitted: Fitted, asked: str, limit: int | None) -> Plan:
        solution, size = fitted.solution, fitted.file_nbytes
        limit = size if limit is None else limit
        best, above = self.beside(limit)
        return Plan(
            choices=self._choices(solution.chosen),
            nbytes=size,
            damage=self.damage_of(solution.chosen),
            bound=solution.bound,
            gap=solution.gap,
            target=self.target.name,
            format=self.format,
            objective=self.objective.name,
            weighting=self.weighting,
            importance=self.importance,
            weights={unit.name: float(weight) for unit, weight in zip(self.units, self.weights, strict=True)},
            damages={name: self.damage_of(solution.chosen, name) for name in self.damages},
            budget=asked,
            limit=limit,
            bits_per_weight=self.bits(size),
            units=self._units(solution, size),
            uniform=best,
            above=above,
            kept=tuple(name for name in self.checkpoint.names if name not in self.sizes.choices.planned),
            source={
                "name": self.checkpoint.title,
                "sha256": self.__dict__.get("sha256", ""),
                "tensors": len(self.checkpoint.names),
            },
            versions={"quantlab": VERSION, "engine": engine_version()},
        )

    def _choices(self, chosen: np.ndarray) -> dict[str, str]:
        return {
            spec.name: self.options[chosen[unit]]
            for spec, unit in zip(self.sizes.choices.specs, self.members, strict=True)
        }

    def _units(self, solution: Solution, size: int) -> tuple[PlannedUnit, ...]:
        around = steps(self.nbytes, self.damage, solution, self._front)
        more = size - solution.nbytes
        return tuple(self._unit(i, solution, around, more) for i in range(len(self.units)))

    def _unit(self, i: int, solution: Solution, around: Steps, more: int) -> PlannedUnit:
        k, low, high = int(solution.chosen[i]), int(around.low[i]), int(around.high[i])
        return PlannedUnit(
            unit=self.units[i],
            choice=self.options[k],
            nbytes=int(self.nbytes[i, k]),
            damage=float(self.damage[i, k]),
            weight=float(self.weights[i]),
            low=None if low < 0 else low + more,
            high=None if high < 0 else high + more,
            up=self._step(int(around.up[i]), around.up_bytes[i], around.up_damage[i]),
            down=self._step(int(around.down[i]), around.down_bytes[i], around.down_damage[i]),
            pinned=self.pinned.get(i, ""),
        )

    def _step(self, option: int, nbytes: np.int64, damage: np.float64) -> Step | None:
        return None if option < 0 else Step(self.options[option], int(nbytes), float(damage))
