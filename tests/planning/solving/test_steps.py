"""What lies around a plan, against fronts and plans made anew."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab.errors import ConfigError
from quantlab.planning.solving.front import front
from quantlab.planning.solving.solve import solve
from quantlab.planning.solving.steps import pin_costs, steps

from .tables import Table, model, plans, tables


@given(tables(), st.data())
@settings(deadline=None)
def test_intervals_are_those_of_the_budgets_at_which_the_front_has_the_option(table: Table, data: st.DataObject):
    found = front(table.nbytes, table.damage)
    budget = data.draw(st.integers(int(found.nbytes[0]), int(found.nbytes[-1]) + 1))
    solution = solve(table.nbytes, table.damage, budget, found)
    around = steps(table.nbytes, table.damage, solution)
    every = [found.chosen(i) for i in range(len(found.nbytes))]
    for unit, option in enumerate(solution.chosen):
        having = [i for i, chosen in enumerate(every) if chosen[unit] == option]
        if not having:  # only to fill the budget
            assert around.low[unit] == around.high[unit] == solution.nbytes
            continue
        low = -1 if having[0] == 0 else min(found.nbytes[having[0]], solution.nbytes)
        last = having[-1] + 1
        high = -1 if last == len(every) else max(found.nbytes[last] - 1, solution.nbytes)
        assert (around.low[unit], around.high[unit]) == (low, high)


@given(tables(), st.data())
@settings(deadline=None)
def test_steps_are_the_next_options_that_a_front_has(table: Table, data: st.DataObject):
    found = front(table.nbytes, table.damage)
    budget = data.draw(st.integers(int(found.nbytes[0]), int(found.nbytes[-1]) + 1))
    solution = solve(table.nbytes, table.damage, budget, found)
    around = steps(table.nbytes, table.damage, solution, found)
    every = [found.chosen(i) for i in range(len(found.nbytes))]
    for unit, option in enumerate(solution.chosen):
        size = table.nbytes[unit, option]
        on_front = sorted({(int(table.nbytes[unit, plan[unit]]), int(plan[unit])) for plan in every})
        up = [step for step in on_front if step[0] > size][:1]
        down = [step for step in on_front if step[0] < size][-1:]
        for expected, to, nbytes, damage in (
            (up, around.up[unit], around.up_bytes[unit], around.up_damage[unit]),
            (down, around.down[unit], around.down_bytes[unit], around.down_damage[unit]),
        ):
            if not expected:
                assert to == -1 and nbytes == 0 and math.isnan(damage)
                continue
            assert (to, nbytes) == (expected[0][1], expected[0][0] - size)
            assert damage == table.damage[unit, to] - table.damage[unit, option]


@given(tables(), st.data())
@settings(deadline=None)
def test_a_pin_costs_what_the_best_plan_with_it_has_more(table: Table, data: st.DataObject):
    every = plans(table)
    budget = data.draw(st.sampled_from(every)).nbytes
    unit = data.draw(st.integers(0, len(table.nbytes) - 1))
    solution = solve(table.nbytes, table.damage, budget)
    costs = pin_costs(table.nbytes, table.damage, solution, unit)
    for option, cost in enumerate(costs):
        pinned = [plan.damage for plan in every if plan.nbytes <= budget and plan.chosen[unit] == option]
        if not pinned:
            assert cost == math.inf
        elif option == solution.chosen[unit]:
            assert cost == 0.0
        else:
            assert abs(Fraction(cost) - (min(pinned) - Fraction(solution.damage))) <= 3 * table.rounding


def test_a_pin_of_a_model_costs_what_solving_with_it_says():
    table = model(60, 30, 2)
    solution = solve(table.nbytes, table.damage, int(0.3 * table.nbytes[:, -1].sum()))
    costs = pin_costs(table.nbytes, table.damage, solution, 7)
    for option in (0, 5, 29):
        pinned = table.damage.copy()
        pinned[7] = np.inf
        pinned[7, option] = table.damage[7, option]
        again = solve(table.nbytes, pinned, solution.budget)
        assert costs[option] == pytest.approx(again.damage - solution.damage, abs=1e-12 * solution.damage)
    assert (costs >= 0).all()
    nearly = pin_costs(table.nbytes, table.damage, solution, 7, tolerance=1e-3)
    assert (nearly >= costs - 1e-12 * solution.damage).all()
    assert (nearly <= costs + 1e-3 * (solution.damage + costs)).all()


@pytest.mark.parametrize("unit", [-1, 2, 1.0])
def test_a_unit_that_is_none_is_refused(unit):
    nbytes, damage = np.array([[1, 2], [1, 2]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ConfigError, match="the unit is"):
        pin_costs(nbytes, damage, solve(nbytes, damage, 3), unit)


def test_nothing_to_decide_has_nothing_around_it():
    nothing = np.zeros((0, 2), int)
    around = steps(nothing, nothing.astype(float), solve(nothing, nothing.astype(float), 0))
    assert around.low.shape == around.up_damage.shape == (0,)
