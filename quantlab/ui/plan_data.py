"""What the Plan page asks quantlab for, computed once and shared between sessions: problems, and plans of a budget.

Cached as in `cache`: by the file's key, and by the sweep with the number of tensors that it has measured.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from quantlab.errors import BudgetError
from quantlab.formats import Checkpoint
from quantlab.planning.budget import budget_of
from quantlab.planning.damage import BY_ROLE
from quantlab.planning.plan import Plan
from quantlab.planning.planner import problem as make
from quantlab.planning.problem import Problem
from quantlab.plots.plan import front_figure
from quantlab.ui import cache, state
from quantlab.ui.sweep_results import Results

# Bits per weight that are proposed at first, in this order: the first that the options reach.
UNIFORM = ["config", "nbytes", "damage"]
KEPT = 64  # plans of one problem
PROPOSED = ("4.5bpw", "5bpw", "6bpw", "8bpw")


@dataclass(frozen=True)
class Asked:
    """What a plan is to be, but for its size.

    Attributes
    ----------
    target, objective, weighting, importance : as of `planning.problem`; `weights` are those of a file.
    pins, floors, ties : as text.
    """

    target: str
    objective: str = "relative"
    weighting: str = BY_ROLE
    importance: bool = False
    pins: tuple[str, ...] = ()
    floors: tuple[str, ...] = ()
    ties: tuple[str, ...] = ()
    weights: tuple[tuple[str, float], ...] = ()


class Choice:
    """A problem, and what was asked of it: the plans of its budgets, and what the page draws of all of them."""

    def __init__(self, problem: Problem, importance: bool) -> None:
        self.problem, self.importance = problem, importance
        self._plans: dict[tuple[str, bool], Plan] = {}
        self._settled: set[str] = set()

    def plan(self, budget: str, simple: bool) -> Plan:
        """The plan of a budget; `simple`: one of fewer configurations within 1 %. QuantlabError where there is none.

        It may not be proved yet: `proved` takes tenths of a second where a plan's file has bytes that are no sum.
        """
        if len(self._plans) >= KEPT:
            self._plans, self._settled = {}, set()
        best = self._plans.get((budget, False)) or self.problem.solve(budget, prove=False)
        self._plans[budget, False] = best
        if simple and (budget, True) not in self._plans:
            self._plans[budget, True] = self.problem.simpler(best)
        return self._plans[budget, simple]

    def proved(self, budget: str) -> Plan:
        """The best plan of a budget, as far as it can be proved; once asked for, `plan` has it too."""
        if budget not in self._settled and not self.plan(budget, False).proved:
            self._plans[budget, False] = self.problem.solve(budget)
            self._plans.pop((budget, True), None)
        self._settled.add(budget)
        return self._plans[budget, False]

    def nbytes(self, budget: str) -> int:
        """The bytes of a budget in words; ConfigError for words that say none."""
        found = self.problem
        return budget_of(budget, fixed=found.fixed, values=found.values, source=found.source_nbytes).nbytes

    @cached_property
    def least(self) -> int:
        """The smallest budget, in bytes, that a plan is found for."""
        least = self.problem.file_nbytes(self.problem.front.chosen(0))
        try:
            return self.problem.solve(least).nbytes
        except BudgetError as error:
            return max(least, int(error.possible))

    @cached_property
    def most(self) -> int:
        """Bytes of the largest plan worth a place on the screen: a little more than any configuration takes for all.

        Beyond, tensors are copied, and nearly nothing is left to gain.
        """
        every = int(self.problem.front.nbytes[-1])
        uniform = [each.nbytes for each in self.problem.uniform]
        return max(self.least, min(every, round(1.03 * max(uniform))) if uniform else every)

    @cached_property
    def proposed(self) -> str:
        """A budget to begin with."""
        reached = [words for words in PROPOSED if self.least <= self.nbytes(words) <= self.most]
        return reached[0] if reached else f"{(self.least + self.most) // 2}B"

    @cached_property
    def figure(self) -> Any:
        """Predicted damage against bytes, of the front and of uniform configurations."""
        front, uniform = self.problem.front, self.problem.uniform
        rows = pd.DataFrame([(each.config, each.nbytes, each.damage) for each in uniform], columns=UNIFORM)
        meaning = "damage" if self.problem.objective.largest else "damage of all tensors"
        return front_figure(front.nbytes, front.damage, rows, most=self.most, bits=self.problem.bits, meaning=meaning)

    @cached_property
    def sizes(self) -> list[int]:
        """How many weights each unit has."""
        sizes = {spec.name: spec.size for spec in self.problem.sizes.choices.specs}
        return [sum(sizes[name] for name in unit.members) for unit in self.problem.units]

    def costs(self, plan: Plan, unit: int) -> list[float | None]:
        """By how much the damage changes at this size if a unit has each of the options; None: it cannot."""
        return [None if np.isinf(cost) else float(cost) for cost in self.problem.costs_of_pins(plan, unit)]


def choice(session: state.Session, results: Results, asked: Asked) -> Choice:
    """What plans of the open file are chosen from, as far as `results` go. QuantlabError for what cannot be asked."""
    return _choice(session.key, session.job, results.measured, asked, results, session.checkpoint)


@st.cache_resource(max_entries=8, show_spinner=False)
def _choice(
    key: cache.Key, job: str | None, measured: int, asked: Asked, _results: Results, _checkpoint: Checkpoint
) -> Choice:
    found = make(
        _results.frame, _checkpoint, target=asked.target, objective=asked.objective, prior=asked.weighting == BY_ROLE,
        weights=dict(asked.weights) or None, importance=asked.importance, pins=asked.pins, ties=asked.ties,
        floors=asked.floors, partial=True,
    )  # fmt: skip
    return Choice(found, asked.importance)
