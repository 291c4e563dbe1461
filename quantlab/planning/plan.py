"""A plan: what every weight of a model becomes, what that weighs and costs, and how good it is."""

from collections.abc import Mapping
from dataclasses import dataclass

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
class Plan:
    """What every weight becomes.

    Attributes
    ----------
    choices : weight -> slug or "copy", in the file's order. Other tensors are kept as they are.
    nbytes : of the export to be, of all its files, to the byte.
    damage, bound, gap : what is minimised, what no plan of this size can be below, and their difference: 0 if proved.
    target, format : of `TARGETS` and `FORMATS`.
    objective, weighting : what damage means ("relative"), and where weights come from ("role prior").
    weights : weight of every unit's error, by the unit's name.
    damages : the same plan's damage under every objective.
    budget : what was asked for, in words: "4.5bpw".
    units : every unit, in the file's order.
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
    units: tuple[PlannedUnit, ...]
    source: Mapping[str, str | int]
    versions: Mapping[str, str]
