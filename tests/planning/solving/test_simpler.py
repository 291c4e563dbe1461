"""Nearly as good with fewer options."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab.errors import BudgetError, ConfigError
from quantlab.planning.solving.simpler import simpler
from quantlab.planning.solving.solve import solve

from .tables import Table, model, plans, tables


@given(tables(), st.data(), st.sampled_from([0.0, 0.01, 0.5, 100.0]))
@settings(deadline=None)
def test_it_fits_is_as_good_as_asked_and_never_has_more_options(table: Table, data: st.DataObject, within: float):
    every = plans(table)
    budget = data.draw(st.sampled_from(every)).nbytes
    best = solve(table.nbytes, table.damage, budget)
    found = simpler(table.nbytes, table.damage, budget, within)
    assert found.nbytes <= budget
    assert found.damage <= best.damage + within * abs(best.damage)
    assert len(set(found.chosen)) <= len(set(best.chosen))
    least = min(plan.damage for plan in every if plan.nbytes <= budget)
    assert Fraction(found.bound) <= least + table.rounding
    assert found.proved == (found.gap == 0.0)


def test_a_model_gets_fewer_options_for_a_hundredth():
    table = model(60, 50, 4)
    budget = int(0.3 * table.nbytes[:, -1].sum())
    best, found = solve(table.nbytes, table.damage, budget), simpler(table.nbytes, table.damage, budget)
    assert len(set(found.chosen)) < len(set(best.chosen))
    assert best.damage < found.damage <= 1.01 * best.damage
    assert found.gap >= found.damage - best.damage > 0


def test_one_option_is_found_where_it_is_good_enough():
    nbytes = np.array([[4, 3, 5], [4, 3, 5]])
    damage = np.array([[1.0, 1.004, 0.0], [1.0, 2.0, 0.999]])
    assert len(set(simpler(nbytes, damage, 8, within=5.0).chosen)) == 1


def test_what_cannot_be_is_refused():
    with pytest.raises(BudgetError):
        simpler(np.array([[2]]), np.array([[1.0]]), 1)
    with pytest.raises(ConfigError, match="how far the damage may be above the optimum is -1"):
        simpler(np.array([[2]]), np.array([[1.0]]), 3, within=-1)
