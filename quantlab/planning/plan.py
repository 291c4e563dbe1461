"""A plan: what every weight of a model becomes, what that weighs and costs, and how good it is."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ConfigError
from ..formats.output.atomic import write_whole
from ..shipping.recipe import Rule
from .damage import OBJECTIVES
from .globs import rules_for
from .planjson import text_of
from .units import Unit


@dataclass(frozen=True)
class Step:
    """The next option of a unit along the front: what it would be, and what changes by taking it."""

    choice: str
    nbytes: int
    damage: float


@dataclass(frozen=True)
class PlannedUnit:
    """One unit of a plan.

    Attributes
    ----------
    choice : a slug, or "copy".
    nbytes : bytes of all its members in the file.
    damage : its share of the plan's damage, its weight included.
    weight : how much its error counts.
    low, high : the budgets (bytes of the file) between which its choice stays the same along the front; None: no end.
    up, down : the next step to more bytes and to fewer; None where there is none.
    pinned : why its choice is not free, in a sentence; "" where it is.
    """

    unit: Unit
    choice: str
    nbytes: int
    damage: float
    weight: float
    low: int | None = None
    high: int | None = None
    up: Step | None = None
    down: Step | None = None
    pinned: str = ""


@dataclass(frozen=True)
class Uniform:
    """One configuration for every tensor that may have it; the others are copied, `copied` of them.

    nbytes, damage, damages : as of a plan.
    """

    config: str
    nbytes: int
    damage: float
    copied: int
    damages: Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """What every weight becomes.

    Attributes
    ----------
    choices : weight -> slug or "copy", in the file's order. Other tensors are kept as they are.
    nbytes : of the export to be, of all its files, to the byte.
    damage, bound, gap : what is minimised, what no plan of this size can be below, and their difference: 0 if proved.
    target, format : of `TARGETS` and `FORMATS`.
    objective, weighting : what damage means ("relative"), and where weights come from ("role prior").
    importance : whether relative errors were those of weighted inputs.
    weights : weight of every unit's error, by the unit's name.
    damages : the same plan's damage under every objective.
    budget, limit : what was asked for, in words ("4.5bpw") and in bytes of the file.
    bits_per_weight : of what is planned, headers and scales included.
    units : every unit, in the file's order.
    kept : names of all other tensors.
    uniform, above : beside the plan, the uniform configuration of least damage within `limit`, and the next one above.
    source : name, sha256 and tensors of the model; versions : of quantlab and of its engine.
    """

    choices: Mapping[str, str]
    nbytes: int
    damage: float
    bound: float
    gap: float
    target: str
    format: str
    objective: str
    weighting: str
    weights: Mapping[str, float]
    damages: Mapping[str, float]
    budget: str
    limit: int
    bits_per_weight: float
    units: tuple[PlannedUnit, ...]
    kept: tuple[str, ...]
    source: Mapping[str, str | int]
    versions: Mapping[str, str]
    uniform: Uniform | None = None
    above: Uniform | None = None
    importance: bool = False

    @property
    def meaning(self) -> str:
        """What is minimised, in words: "relative error, weights: role prior"."""
        objective = OBJECTIVES[self.objective]
        by = "" if objective.largest else f", weights: {self.weighting}"
        inputs = ", inputs weighted by importance" if self.importance and objective.weighted else ""
        return f"{objective.label.lower()}{by}{inputs}"

    @property
    def proved(self) -> bool:
        """Whether no plan of this size has less damage."""
        return self.gap == 0.0

    @property
    def relative_gap(self) -> float:
        """How far the damage can be above the least possible, relative to it."""
        return self.gap / self.damage if self.damage else 0.0

    @property
    def counts(self) -> Mapping[str, int]:
        """How many tensors have each choice, the most frequent first."""
        return dict(Counter(self.choices.values()).most_common())

    @property
    def not_better_under(self) -> tuple[str, ...]:
        """Objectives under which the plan is not better than the best uniform configuration of its size."""
        if self.uniform is None:
            return ()
        return tuple(name for name, damage in self.uniform.damages.items() if not self.damages[name] < damage)

    def rules(self) -> list[Rule]:
        """The plan as rules of a recipe, in few globs: together they give exactly `choices`, and copy all else."""
        return rules_for(self.choices, self.kept)

    @property
    def text(self) -> str:
        """The plan as a file has it, JSON. ConfigError without the digest of its model."""
        if not self.source["sha256"]:
            raise ConfigError(
                "the plan does not say of which bytes it is: Problem.signed(plan) reads the model for that"
            )
        content: dict[str, Any] = {
            "source": self.source, "versions": self.versions, "target": self.target, "file_format": self.format,
            "budget": self.budget, "limit": self.limit, "nbytes": self.nbytes,
            "bits_per_weight": self.bits_per_weight, "objective": self.objective, "weighting": self.weighting,
            "importance": self.importance,
            "damage": self.damage, "bound": self.bound, "gap": self.gap, "damages": self.damages,
            "choices": self.choices,
            "units": [_unit(unit) for unit in self.units],
            "kept": self.kept,
            "uniform": self.uniform and asdict(self.uniform),
            "above": self.above and asdict(self.above),
        }  # fmt: skip
        return text_of(content)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the plan as JSON, whole or not at all; `load_plan` reads it. ExportError if it cannot be written."""
        data = self.text.encode("ascii")

        def write(target: BinaryIO) -> None:
            target.write(data)

        write_whole(path, write, lambda written: None)
        return Path(path)


def _unit(planned: PlannedUnit) -> dict[str, Any]:
    found = asdict(planned)
    return {**found.pop("unit"), **found}
