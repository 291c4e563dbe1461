"""The plan whose worst unit is the best possible."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab.errors import BudgetError, ShapeError
from quantlab.planning.solving.worst import solve_worst

from .tables import Table, of, plans, tables


@given(tables(), st.data())
@settings(deadline=None)
def test_no_plan_has_a_better_worst_unit_and_of_those_none_a_better_sum(table: Table, data: st.DataObject):
    every = plans(table)
    budget = data.draw(st.sampled_from(every)).nbytes
    solution = solve_worst(table.nbytes, table.damage, budget)
    worst = min(plan.worst for plan in every if plan.nbytes <= budget)
    best = min(plan.damage for plan in every if plan.nbytes <= budget and plan.worst == worst)
    assert solution.nbytes <= budget
    assert table.damage[np.arange(len(table.damage)), solution.chosen].max() == worst
    assert of(table, solution.chosen)[1] <= best + table.rounding
    assert Fraction(solution.bound) <= best + table.rounding


def test_what_is_summed_can_be_another_table():
    nbytes = np.array([[1, 1, 4], [1, 1, 4]])
    worst = np.array([[5.0, 4.0, 0.0], [3.0, 4.0, 0.0]])
    summed = np.array([[1.0, 9.0, 0.0], [7.0, 6.0, 0.0]])
    solution = solve_worst(nbytes, worst, 2, summed)
    assert solution.chosen.tolist() == [1, 1]  # 4 at worst; of those 9 + 6
    assert (solution.damage, solution.gap) == (15.0, 0.0)
    with pytest.raises(ShapeError, match="what is summed has the shape"):
        solve_worst(nbytes, worst, 2, summed[:1])


def test_a_budget_below_the_least_is_refused():
    with pytest.raises(BudgetError, match="the least possible is 2 bytes"):
        solve_worst(np.array([[2, 3]]), np.array([[1.0, 0.0]]), 1)


def test_nothing_to_decide_is_solved():
    assert solve_worst(np.zeros((0, 2), int), np.zeros((0, 2)), 0).proved
