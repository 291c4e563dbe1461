"""From a table of measurements to a problem, and to a plan."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.config import QuantConfig
from ..errors import ConfigError, check_known
from ..formats import FORMATS, Checkpoint
from ..formats.checkpoint import TensorSpec
from ..late import pandas as pd
from ..shipping.recipe import matches
from ..shipping.rehearsal import bound
from ..wording import counted, shown
from .damage import OBJECTIVES, Objective, Weighting, read_weights, weighting
from .measured import Measured, measured
from .plan import Plan
from .problem import Left, Problem
from .sizes import Sizes
from .solving.options import dominated
from .targets import TARGETS, Target
from .units import COPY, Unit
from .wishes import Floor, Pin, Pinned, Tie, check_patterns, parse_floor, parse_pin, parse_tie, pinned


def problem(
    table: pd.DataFrame,
    checkpoint: Checkpoint,
    *,
    target: str = "any",
    objective: str = "relative",
    prior: bool = True,
    weights: Mapping[str, float] | str | os.PathLike[str] | None = None,
    importance: bool = False,
    pins: Iterable[Pin | str] = (),
    ties: Iterable[Tie | str] = (),
    floors: Iterable[Floor | str] = (),
    format: str | None = None,
    partial: bool = False,
) -> Problem:
    """What plans of a checkpoint are chosen from, and what each choice takes and costs.

    Parameters
    ----------
    table : of `sweep`: a row for every weight under every configuration that may be chosen.
    target : of `TARGETS`; the program that will load the file.
    objective : of `OBJECTIVES`; what is minimised.
    prior : whether roles count as `damage.PRIOR` says; otherwise all tensors count alike.
    weights : how much each tensor counts instead, by name, or a file of that.
    importance : whether relative errors are those of `weighted_sqnr_db`, where the sweep had an importance.
    pins, ties, floors : of `wishes`, or text: "lm_head*=copy", "*.experts.*", "*v_proj*>=int4", "sqnr>=20".
    format : of the target's formats; by default its own.
    partial : whether the table may lack rows; what was not measured can then only be copied.

    Raises
    ------
    CheckpointError : the table is of another model.
    ConfigError : an unknown name, a table that lacks rows, weights or wishes that cannot be met.
    ExportError : the format cannot hold what is copied.
    """
    check_known("target", target, TARGETS)
    check_known("objective", objective, OBJECTIVES)
    chosen = TARGETS[target]
    format = chosen.format if format is None else format
    check_known(f"format of {target}", format, chosen.formats)
    found = measured(table, checkpoint, partial)
    wishes = Wishes(
        [parse_pin(pin) if isinstance(pin, str) else pin for pin in pins],
        [parse_tie(tie) if isinstance(tie, str) else tie for tie in ties],
        [parse_floor(floor) if isinstance(floor, str) else floor for floor in floors],
    )
    return _Builder(found, checkpoint, chosen, format, OBJECTIVES[objective], wishes).built(
        read_weights(weights) if isinstance(weights, str | os.PathLike) else weights, prior, importance
    )


def plan(
    table: pd.DataFrame,
    checkpoint: Checkpoint,
    *,
    budget: int | str | None = None,
    quality: float | str | None = None,
    target: str = "any",
    objective: str = "relative",
    prior: bool = True,
    weights: Mapping[str, float] | str | os.PathLike[str] | None = None,
    importance: bool = False,
    pins: Iterable[Pin | str] = (),
    ties: Iterable[Tie | str] = (),
    floors: Iterable[Floor | str] = (),
    format: str | None = None,
) -> Plan:
    """The best configuration for every weight whose file has at most `budget` bytes, or the smallest of a `quality`.

    Parameters are those of `problem` and of `Problem.solve`. The model's digest goes into the plan, so all of the model
    is read once.

    >>> import tempfile, pathlib
    >>> from quantlab import grid, open_checkpoint, sweep
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.npz"
    >>> np.savez(path, **{f"{i}.weight": np.random.default_rng(i).standard_normal((64, 64)) for i in range(3)})
    >>> with open_checkpoint(path) as model:
    ...     found = plan(sweep(model, grid(["int4", "int8"], granularities=["g32"])), model, budget="12kB")
    >>> found.nbytes <= 12_000, found.proved
    (True, True)
    """
    made = problem(
        table, checkpoint, target=target, objective=objective, prior=prior, weights=weights, importance=importance,
        pins=pins, ties=ties, floors=floors, format=format,
    )  # fmt: skip
    return made.signed(made.solve(budget, quality))


@dataclass(frozen=True)
class Wishes:
    """What a user wants whatever is optimal."""

    pins: Sequence[Pin]
    ties: Sequence[Tie]
    floors: Sequence[Floor]


@dataclass
class _Builder:
    """Puts a problem together."""

    found: Measured
    checkpoint: Checkpoint
    target: Target
    format: str
    objective: Objective
    wishes: Wishes
    left: list[Left] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.specs = [self.checkpoint.spec(name) for name in self.found.names]
        self.configs = self.found.configs
        self.options = (*(config.slug for config in self.configs), COPY)
        self.place = {name: t for t, name in enumerate(self.found.names)}

    def built(self, weights: Mapping[str, float] | None, prior: bool, importance: bool) -> Problem:
        """The problem."""
        notes = [*self.found.notes, *self.target.notes(self.checkpoint)]
        if self.objective.largest and weights is not None:
            raise ConfigError(
                "the worst tensor is the worst whatever it weighs: leave out the weights, or choose the objective "
                "relative"
            )
        weighed = self._weighed(weights, prior, notes)
        notes += weighed.notes
        units = self.target.ties(self.checkpoint, self.found.names, [tie.pattern for tie in self.wishes.ties])
        check_patterns([tie.pattern for tie in self.wishes.ties], self.found.names, self.checkpoint)
        members = np.empty(len(self.specs), np.int64)
        for i, unit in enumerate(units):
            members[[self.place[name] for name in unit.members]] = i
        given = pinned(units, self.wishes.pins, self.wishes.floors, self.checkpoint, self._refuses, self._must)
        sizes = Sizes(self.checkpoint, self.format, self.found.names, self.configs)
        may = self._allowed()
        may[:, -1] &= sizes.copies
        may = self._of_units(may, members, len(units), np.logical_and)
        fixed = self._fix(may, units, given)
        errors = self._errors(importance, notes)
        damages = {name: self._damage(name, errors[name], weighed, members, may) for name in errors}
        nbytes = np.zeros(may.shape, np.int64)
        np.add.at(nbytes, members, sizes.nbytes)
        nbytes[~may] = 0
        self._tell(may, nbytes, damages[self.objective.name])
        return Problem(
            checkpoint=self.checkpoint,
            target=self.target,
            format=self.format,
            objective=self.objective,
            weighting=weighed.word,
            importance=importance,
            weights=np.bincount(members, weighed.values, len(units)),
            units=tuple(units),
            members=members,
            options=self.options,
            nbytes=nbytes,
            damages=damages,
            references=self._references(weighed, importance),
            pinned=fixed,
            left=tuple(self.left),
            notes=tuple(notes),
            missing=int((~self.found.there).sum()),
            sizes=sizes,
        )

    # -- weights and errors

    def _weighed(self, weights: Mapping[str, float] | None, prior: bool, notes: list[str]) -> Weighting:
        tied = [spec.name for spec in self.specs if spec.same_as] + [spec.same_as for spec in self.specs]
        return weighting(self.specs, weights=weights, prior=prior and not self.objective.largest, tied=tied)

    def _errors(self, importance: bool, notes: list[str]) -> dict[str, np.ndarray]:
        figures, served = self.found.figures, self.found.served
        if importance:
            known = np.isfinite(figures.weighted)
            if not known.any():
                raise ConfigError("the table has no weighted_sqnr_db: give the sweep an importance")
            if not self.objective.weighted:
                takers = " or ".join(name for name, each in OBJECTIVES.items() if each.weighted)
                notes.append(
                    f"the objective {self.objective.name} lets all inputs count alike: choose {takers} for importance"
                )
            elif without := int((served & ~known).any(1).sum()):
                notes.append(f"{counted(without, 'tensor')} have no importance, and their inputs count alike")
        found = {name: each.errors(figures, importance) for name, each in OBJECTIVES.items()}
        known = {name: errors for name, errors in found.items() if np.isfinite(errors[served]).all()}
        if self.objective.name not in known:
            raise ConfigError(
                f"the table lacks {self.objective.column} of some rows, which the objective {self.objective.name} "
                f"needs: sweep again with this version"
            )
        return known

    def _damage(
        self, name: str, errors: np.ndarray, weighed: Weighting, members: np.ndarray, may: np.ndarray
    ) -> np.ndarray:
        each = np.zeros((len(errors), len(self.options)))
        each[:, :-1] = np.where(np.isfinite(errors), errors, 0.0)
        found = np.zeros(may.shape)
        if OBJECTIVES[name].largest:
            np.maximum.at(found, members, each)
        else:
            np.add.at(found, members, each * weighed.values[:, None])
        return np.where(may, found, np.inf)

    def _references(self, weighed: Weighting, importance: bool) -> dict[str, float]:
        """What is at stake under each objective: the damage of tensors of which nothing is left."""
        figures = self.found.figures
        power = np.divide(
            figures.squared * figures.sizes, figures.relative, out=np.zeros_like(figures.squared),
            where=(figures.relative > 0) & np.isfinite(figures.squared),
        ).max(1, initial=0.0)  # fmt: skip
        return {
            "relative": float(weighed.values.sum()),
            "rows": float((weighed.values * figures.channels[:, 0]).sum()),
            "absolute": float((weighed.values * power).sum()),
            "worst": 1.0,
        }

    # -- what may be chosen

    def _refuses(self, spec: TensorSpec, config: QuantConfig) -> str:
        """Why the target cannot load a tensor so, or the format not hold it; "" where both can."""
        if self.format == self.target.format:
            return self.target.refuses(spec, config, self.checkpoint)
        layout = bound(self.checkpoint, self.format)
        stored = layout.stored(config, spec.dtype) if layout else config
        if why := self.target.never(spec, self.checkpoint) or FORMATS[self.format].why_not(spec.shape, config):
            return why
        return "" if stored == config else f"the file holds scales as {stored.scale_dtype}: measure {stored} instead"

    def _must(self, spec: TensorSpec) -> str:
        """Why the target cannot load a tensor as it is beside quantized ones; "" where it can."""
        return self.target.must(spec) if self.format == self.target.format else ""

    def _allowed(self) -> np.ndarray:
        """bool [T, K + 1]; what each tensor may have by itself. Options that none may have are told of."""
        may = np.zeros((len(self.specs), len(self.options)), bool)
        may[:, -1] = True
        for k, config in enumerate(self.configs):
            reasons = [self._why_not(t, k, config) for t in range(len(self.specs))]
            may[:, k] = [not reason for reason in reasons]
            if not may[:, k].any():
                self.left.append(Left(config.slug, reasons[0]))
        return may

    def _why_not(self, t: int, k: int, config: QuantConfig) -> str:
        if not self.found.there[t, k]:
            return "it is not measured yet"
        if why := self._refuses(self.specs[t], config):
            return why
        if not self.found.served[t, k]:
            return self.found.refused.get((self.specs[t].name, config.slug), "the sweep has no figures of it")
        decibels = -10 * np.log10(self.found.figures.relative[t, k]) if self.found.figures.relative[t, k] else np.inf
        for floor in self.wishes.floors:
            if matches(self.specs[t].name, floor.pattern) and not floor.allows(config, decibels):
                return f"it is below the floor {floor}"
        return ""

    @staticmethod
    def _of_units(each: np.ndarray, members: np.ndarray, units: int, ufunc: np.ufunc) -> np.ndarray:
        """Of all members of a unit: bool [N, K]."""
        found = np.ones((units, each.shape[1]), bool)
        ufunc.at(found, members, each)
        return found

    def _fix(self, may: np.ndarray, units: Sequence[Unit], given: Mapping[str, Pinned]) -> dict[int, str]:
        """Leave units without a choice the one that they have; returns why they have none."""
        found = {}
        at = {option: k for k, option in enumerate(self.options)}
        for i, unit in enumerate(units):
            specs = [self.checkpoint.spec(name) for name in unit.members]
            if pin := given.get(unit.name):
                self._check_pin(pin, unit, may[i], at)
                may[i] = np.arange(len(self.options)) == at[pin.choice]
                found[i] = pin.reason
            elif habit := next(filter(None, map(self.target.habit, specs)), ""):
                may[i, :-1] = False
                found[i] = habit
            elif not may[i, :-1].any():
                found[i] = self._why_copied(unit)
            elif why := next(filter(None, map(self._must, specs)), ""):
                may[i, -1] = False
                self.left.append(Left(f"{COPY} of {unit.name}", why))
            if not may[i].any():
                raise ConfigError(
                    f"{shown(unit.name)} can be nothing in a file of {self.format}: it cannot be held as it is, and "
                    f"quantized not either: {self._why_copied(unit)}"
                )
        kept: dict[str, list[int]] = {}
        for i, reason in found.items():
            if units[i].name not in given:
                kept.setdefault(reason, []).append(i)
        for reason, indices in kept.items():
            names = [name for i in indices for name in units[i].members]
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            self.left.append(Left(f"{names[0]}{more}", reason))
        return found

    def _check_pin(self, pin: Pinned, unit: Unit, may: np.ndarray, at: Mapping[str, int]) -> None:
        if pin.choice not in at:
            raise ConfigError(
                f"{shown(unit.name)} is {pin.reason}, and the table has no row of it: sweep {pin.choice} as well"
            )
        k = at[pin.choice]
        if not may[k]:
            t = next(self.place[name] for name in unit.members)
            why = next(filter(None, (self._why_not(self.place[n], k, self.configs[k]) for n in unit.members)), "")
            raise ConfigError(f"{shown(self.specs[t].name)} is {pin.reason}, and it cannot have that: {why}")

    def _why_copied(self, unit: Unit) -> str:
        """Why a unit has no option but a copy: the first reason of any of its members."""
        for k, config in enumerate(self.configs):
            for name in unit.members:
                if why := self._why_not(self.place[name], k, config):
                    return why
        return "nothing was measured of it"

    def _tell(self, may: np.ndarray, nbytes: np.ndarray, damage: np.ndarray) -> None:
        """Which options no unit would ever take."""
        known = {left.what for left in self.left}
        beaten = dominated(nbytes, damage) & may.any(0)
        for slug, never in zip(self.options[:-1], beaten[:-1].tolist(), strict=True):
            if never and slug not in known:
                self.left.append(Left(slug, "for every tensor another option is no larger and no worse"))
