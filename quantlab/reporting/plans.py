"""A report's part on a plan: what every tensor becomes, what that weighs, and how good it is said to be."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..core.config import QuantConfig
from ..core.dtypes import DTYPES
from ..errors import ConfigError
from ..formats import Checkpoint
from ..late import pandas as pd
from ..planning.damage import OBJECTIVES
from ..planning.plan import Plan
from ..planning.problem import Problem
from ..planning.roles import KINDS, role_of
from ..planning.targets import TARGETS
from ..planning.units import COPY
from ..wording import counted, size_text
from .page import Section, folded, paragraph
from .svg import Series, cells, chart, linear, logarithmic
from .sweeps import decibels
from .tables import Table

SHOWN = 2000  # tensors in the table: a browser opens as many at once
ROOM = 1.08  # of the largest size that is named: to the right the line only falls to a copy of everything
SAME = 1e-9  # of damage: how near a problem comes to a plan that is its own


@dataclass(frozen=True)
class Measured:
    """What the chosen configuration of each tensor was measured to do: dB and bytes, by tensor, as far as known."""

    sqnr: Mapping[str, float]
    nbytes: Mapping[str, float]


def measured_of(plan: Plan, frame: pd.DataFrame | None) -> Measured:
    """The rows of a table that are of a plan."""
    if frame is None:
        return Measured({}, {})
    mine = frame[[plan.choices.get(t) == c for t, c in zip(frame["tensor"], frame["config"], strict=True)]]
    return Measured(dict(zip(mine["tensor"], mine["sqnr_db"], strict=True)),
                    dict(zip(mine["tensor"], mine["nbytes"], strict=True)))  # fmt: skip


def sections(plan: Plan, checkpoint: Checkpoint, frame: pd.DataFrame | None, problem: Problem | None) -> list[Section]:
    """The plan, its place among all plans, and its tensors."""
    found = measured_of(plan, frame)
    body = [paragraph(sentence) for sentence in sentences(plan)]
    body += [choice_table(plan, checkpoint, found).html(), objective_table(plan).html()]
    parts = [Section("The plan", "\n".join(body))]
    if problem is not None and is_of(problem, plan):
        parts.append(Section("What every size buys", front(problem, plan)))
    parts.append(Section("What every tensor becomes", tensors(plan, checkpoint, found)))
    return parts


def is_of(problem: Problem, plan: Plan) -> bool:
    """Whether a plan is one of a problem, by its figures: its front would be another one's elsewhere."""
    try:
        chosen = problem.chosen_of(plan)
    except ConfigError:
        return False
    same = problem.objective.name == plan.objective and problem.target.name == plan.target
    return same and math.isclose(problem.damage_of(chosen), plan.damage, rel_tol=SAME)


# -- in words


def target_of(plan: Plan) -> str:
    """The program that the plan is for, as people call it."""
    return TARGETS[plan.target].label if plan.target in TARGETS else plan.target


def meaning(plan: Plan) -> str:
    """What is minimised: "relative error, weighted by role prior"."""
    return plan.meaning if plan.objective in OBJECTIVES else f"{plan.objective}, weights: {plan.weighting}"


def sentences(plan: Plan) -> list[str]:
    """What a reader has to know of a plan, what it does not say included."""
    made = [
        f"Target: {target_of(plan)}. Budget: {plan.budget}. Size: {plan.nbytes:,} bytes, {plan.bits_per_weight:.3f} "
        f"bits per weight. {proof(plan)}",
        "Damage is predicted from weights and their errors; no model was run. It orders plans, and is no measure of a "
        "model's quality.",
    ]
    if plan.uniform is not None:
        made.append(f"{beside(plan)}")
    if plan.above is not None:
        made.append(
            f"The next size at which all tensors could have one configuration is that of {plan.above.config}: "
            f"{size_text(plan.above.nbytes)}, damage {plan.above.damage:.4g}."
        )
    if worse := plan.not_better_under:
        labels = ", ".join(OBJECTIVES[name].label.lower() for name in worse if name in OBJECTIVES)
        made.append(f"Judged otherwise it is not better than that one configuration: {labels}.")
    return made


def proof(plan: Plan) -> str:
    """What is minimised, and how far from the best possible it is."""
    if plan.proved:
        return f"No plan of this size has less damage ({meaning(plan)}): that is proved."
    return (
        f"The least damage ({meaning(plan)}) of any plan of this size is at most {100 * plan.relative_gap:.2g} % less."
    )


def beside(plan: Plan) -> str:
    """The plan against one configuration for all tensors."""
    assert plan.uniform is not None
    one = plan.uniform
    copied = f" ({counted(one.copied, 'tensor')} copied)" if one.copied else ""
    where = f"{one.config} for all tensors{copied}, {size_text(one.nbytes)}"
    if one.damage <= 0 or plan.damage >= one.damage:
        return f"Damage is {plan.damage:.4g}; that of {where}, is {one.damage:.4g}: the plan is no better."
    share = 100 * (1 - plan.damage / one.damage)
    return f"Damage is {plan.damage:.4g}, {share:.0f} % less than {one.damage:.4g} of {where}."


# -- in figures


def choice_table(plan: Plan, checkpoint: Checkpoint, found: Measured) -> Table:
    """How many tensors get what, what of the file that is, and the worst of them."""
    names = defaultdict(list)
    for name, word in plan.choices.items():
        names[word].append(name)
    nbytes: dict[str, int] = defaultdict(int)
    for unit in plan.units:
        nbytes[unit.choice] += unit.nbytes
    rows = [
        [
            "as it is" if word == COPY else word, f"{len(mine):,}",
            f"{sum(checkpoint.spec(name).size for name in mine):,}", f"{nbytes[word]:,}",
            decibels(min((found.sqnr[name] for name in mine if name in found.sqnr), default=math.nan)),
        ]
        for word, mine in sorted(names.items(), key=lambda pair: -len(pair[1]))
    ]  # fmt: skip
    return Table(["configuration", "tensors", "weights", "bytes", "worst SQNR dB"], rows, frozenset({1, 2, 3, 4}),
                 frozenset({0}))  # fmt: skip


def objective_table(plan: Plan) -> Table:
    """Damage under every objective, beside that of one configuration for all."""
    rows = []
    for name in sorted(plan.damages, key=list(OBJECTIVES).index):
        damage = plan.damages[name]
        other = plan.uniform.damages.get(name) if plan.uniform else None
        label = OBJECTIVES[name].label if name in OBJECTIVES else name
        rows.append([f"{label}, minimised" if name == plan.objective else label, f"{damage:.6g}",
                     "" if other is None else f"{other:.6g}"])  # fmt: skip
    one = plan.uniform.config if plan.uniform else "one configuration"
    return Table(["damage, predicted", "this plan", one], rows, frozenset({1, 2}))


def front(problem: Problem, plan: Plan) -> str:
    """Damage against bytes: the best plan of every size, one configuration for all, and this plan."""
    uniform = [one for one in problem.uniform if math.isfinite(one.damage)]
    most = ROOM * max([plan.nbytes, *(one.nbytes for one in uniform)])
    shown = problem.front.nbytes <= most
    sizes, damages = problem.front.nbytes[shown].tolist(), problem.front.damage[shown].tolist()
    dots = [float(one.nbytes) for one in uniform], [float(one.damage) for one in uniform]
    told = [f"{one.config} for all tensors: {one.nbytes:,} bytes, damage {one.damage:.6g}" for one in uniform]
    best = np.minimum.accumulate([*dots[1], math.inf])
    named = [one.config if one.damage <= best[i] else "" for i, one in enumerate(uniform)]
    own = [float(plan.nbytes)], [float(plan.damage)]
    series = [
        Series("the best plan of each size", "line", sizes, damages),
        Series("one configuration for all tensors", "dot", *dots, told, named),
        Series("this plan", "plan", *own, [f"this plan: {plan.nbytes:,} bytes, damage {plan.damage:.6g}"]),
    ]
    x = linear("size of the file", [*sizes, *dots[0], *own[0]], lambda value: size_text(max(0, round(value))))
    y = logarithmic("predicted damage", [*damages, *dots[1], *own[1]])
    note = "No plan lies below the line. Bytes along it are those of files but for a few that depend on all choices."
    if {unit.unit.name for unit in plan.units if unit.pinned} != {problem.units[i].name for i in problem.pinned}:
        note += " The line is that of plans without this one's pins."
    rows = [[one.config, f"{one.nbytes:,}", f"{one.damage:.6g}", f"{one.copied:,}"] for one in uniform]
    table = Table(["configuration", "bytes", "damage", "copied"], rows, frozenset({1, 2, 3}), frozenset({0}))
    return "\n".join([
        chart(series, x, y, "predicted damage against the size of the file"), paragraph(note, "soft"),
        folded("The dots in figures", table.html()),
    ])  # fmt: skip


def tensors(plan: Plan, checkpoint: Checkpoint, found: Measured) -> str:
    """A map of them, and all in a table."""
    rows = [
        [
            name, "x".join(map(str, checkpoint.spec(name).shape)), "as it is" if word == COPY else word,
            f"{int(found.nbytes[name]):,}" if name in found.nbytes else "", decibels(found.sqnr.get(name, math.nan)),
        ]
        for name, word in list(plan.choices.items())[:SHOWN]
    ]  # fmt: skip
    table = Table(["tensor", "shape", "becomes", "bytes", "SQNR dB"], rows, frozenset({3, 4}), frozenset({0, 2}))
    count = len(plan.choices)
    more = paragraph(f"The first {SHOWN:,} of {count:,}; the plan's own file has all.") if count > SHOWN else ""
    return map_of(plan) + folded(f"All {counted(count, 'tensor')}" if not more else "Tensors", table.html() + more)


def map_of(plan: Plan) -> str:
    """Bits by role and depth; "" where no name tells its role."""
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name in plan.choices:
        role = role_of(name)
        if role.kind and role.block is not None:
            found[role.kind, role.block].append(name)
    if not found:
        return ""
    kinds = [kind for kind in KINDS if any(kind == row for row, _ in found)]
    blocks = sorted({block for _, block in found})
    at = {block: j for j, block in enumerate(blocks)}
    bits = {
        (kinds.index(kind), at[block]): (mean_bits(plan, names), told(plan, names))
        for (kind, block), names in found.items()
    }
    body = cells(kinds, [str(block) for block in blocks], bits)
    return body + paragraph("Bits of a weight's code, by role and depth; what stays as it is counts as 16.", "soft")


def mean_bits(plan: Plan, names: list[str]) -> float:
    """Bits of codes, of several tensors their mean."""
    words = [plan.choices[name] for name in names]
    return float(np.mean([16 if word == COPY else DTYPES[QuantConfig.parse(word).dtype].bits for word in words]))


def told(plan: Plan, names: list[str]) -> str:
    """What a cell says where a pointer rests on it."""
    more = f" and {len(names) - 1:,} more" if names[1:] else ""
    return f"{names[0]}{more}: {'as it is' if plan.choices[names[0]] == COPY else plan.choices[names[0]]}"
