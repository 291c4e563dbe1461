"""The front: every plan of it is the best of its size, and it runs from the smallest plan to the best."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab.errors import BudgetError, ConfigError, DTypeError, LimitError, NonFiniteError, QuantlabError, ShapeError
from quantlab.planning.solving.front import front
from quantlab.planning.solving.options import dominated

from .tables import Table, model, of, plans, tables


@given(tables())
@settings(deadline=None)
def test_every_plan_of_the_front_is_the_best_of_its_size(table: Table):
    found, every = front(table.nbytes, table.damage), plans(table)
    for i in range(len(found.nbytes)):
        nbytes, damage = of(table, found.chosen(i))
        best = min(plan.damage for plan in every if plan.nbytes <= nbytes)
        assert nbytes == found.nbytes[i]
        assert damage <= best + table.rounding
        assert abs(Fraction(float(found.damage[i])) - damage) <= table.rounding


@given(tables())
@settings(deadline=None)
def test_the_front_runs_from_the_smallest_plan_to_the_best_and_its_price_falls(table: Table):
    found, every = front(table.nbytes, table.damage), plans(table)
    smallest = min(plan.nbytes for plan in every)
    best = min(plan.damage for plan in every)
    assert found.nbytes[0] == smallest
    assert of(table, found.chosen(-1))[1] == best
    assert found.nbytes[-1] == min(plan.nbytes for plan in every if plan.damage == best)
    assert (np.diff(found.nbytes) > 0).all()
    assert (np.diff(found.damage) <= 0).all()
    assert found.price[0] == np.inf and (found.price[1:] >= 0).all()
    assert (np.diff(found.price[1:]) <= 0).all()


@given(tables(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_units_and_options_does_not_matter(table: Table, random):
    units, options = (random.sample(range(size), size) for size in table.nbytes.shape)
    found = front(table.nbytes, table.damage)
    turned = front(table.nbytes[units][:, options], table.damage[units][:, options])
    at = np.searchsorted(turned.nbytes, found.nbytes[[0, -1]])
    assert (turned.nbytes[at] == found.nbytes[[0, -1]]).all()
    # Steps of one price may come in any order: the curve through the plans stays.
    np.testing.assert_allclose(
        np.interp(found.nbytes, turned.nbytes, turned.damage), found.damage, rtol=0, atol=2 * float(table.rounding)
    )


def test_below_is_the_largest_plan_that_fits():
    found = front(np.array([[2, 4, 8]]), np.array([[9.0, 4.0, 0.0]]))
    assert [found.below(budget) for budget in (2, 3, 4, 7, 8, 10**18)] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(BudgetError, match=r"^1 bytes are not enough: the least possible is 2 bytes; raise the budget"):
        found.below(1)
    with pytest.raises(ConfigError, match=r"the budget is 4\.0"):
        found.below(4.0)  # type: ignore[arg-type]


def test_there_may_be_nothing_to_decide():
    for nbytes in (np.zeros((0, 3), np.int64), np.zeros((0, 0), np.int64)):
        found = front(nbytes, nbytes.astype(float))
        assert (found.nbytes.tolist(), found.damage.tolist()) == ([0], [0.0])
        assert found.chosen(0).shape == (0,)


def test_forbidden_options_may_have_any_bytes():
    nbytes = np.array([[3, -(1 << 62)], [1 << 62, 5]])
    found = front(nbytes, np.array([[1.0, np.inf], [np.inf, 2.0]]))
    assert found.nbytes.tolist() == [8] and found.damage.tolist() == [3.0]
    assert found.chosen(0).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("nbytes", "damage", "error", "says"),
    [
        (np.ones((2, 3), int), np.ones((3, 2)), ShapeError, "give both as"),
        (np.ones(3, int), np.ones(3), ShapeError, "give both as"),
        (np.ones((2, 3)), np.ones((2, 3)), DTypeError, "bytes are float64"),
        (np.ones((2, 3), int), np.ones((2, 3), complex), DTypeError, "damage is complex128"),
        (np.ones((2, 2), int), np.array([[1, 2], [3, np.nan]]), NonFiniteError, "option 1 for unit 1 is nan"),
        (np.ones((2, 2), int), np.array([[-np.inf, 2], [3, 4]]), NonFiniteError, "option 0 for unit 0 is -inf"),
        (np.ones((2, 2), int), np.array([[1, 2], [np.inf, np.inf]]), BudgetError, "unit 1 can have none of its 2"),
        (np.ones((2, 0), int), np.ones((2, 0)), BudgetError, "unit 0 can have none of its 0"),
        (np.array([[1, -1]]), np.ones((1, 2)), ConfigError, "less than 0 bytes"),
        (np.full((4, 1), 1 << 62), np.ones((4, 1)), LimitError, "add up to 1.84e\\+19 bytes"),
        (np.full((4, 1), (1 << 64) - 1, np.uint64), np.ones((4, 1)), LimitError, "bytes: at most 9.01e\\+15"),
        (np.ones((4, 2), int), np.full((4, 2), 1.7e308), LimitError, "damage of all units adds up to more than"),
        (np.ones((1, 2), int), np.array([[-1.7e308, 1.7e308]]), LimitError, "damage of all units adds up to more than"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(nbytes, damage, error, says):
    with pytest.raises(error, match=says) as caught:
        front(nbytes, damage)
    assert isinstance(caught.value, QuantlabError) and "\n" not in str(caught.value)


def test_a_table_in_blocks_has_the_front_that_it_has_in_one(monkeypatch: pytest.MonkeyPatch):
    table = model(40, 30, 3)
    whole = front(table.nbytes, table.damage)
    monkeypatch.setattr("quantlab.planning.solving.options.AT_ONCE", 64)
    parts = front(table.nbytes, table.damage)
    assert (whole.nbytes == parts.nbytes).all() and (whole.damage == parts.damage).all()
    assert whole.grain == parts.grain == int(np.gcd.reduce((table.nbytes - table.nbytes[:, :1]).ravel()))
    assert (whole.chosen(100) == parts.chosen(100)).all()


@given(tables())
@settings(deadline=None)
def test_dominated_options_are_those_that_another_replaces_in_every_unit(table: Table):
    gone = dominated(table.nbytes, table.damage)
    assert not gone.all()
    kept = np.flatnonzero(~gone)
    for row, hurt in zip(table.nbytes, table.damage, strict=True):
        for option in np.flatnonzero(gone & np.isfinite(hurt)):
            assert ((row[kept] <= row[option]) & (hurt[kept] <= hurt[option])).any()
    for option in kept:  # and none of the others could go
        others = np.arange(len(gone)) != option
        better = [
            (
                (row <= row[option]) & (hurt <= hurt[option]) & others & ((row < row[option]) | (hurt < hurt[option]))
            ).any()
            for row, hurt in zip(table.nbytes, table.damage, strict=True)
        ]
        assert not all(better)
