"""The optimum under a budget: against every plan of small tables, and against HiGHS on larger ones."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.solver import by_highs
from quantlab.errors import BudgetError, ConfigError
from quantlab.planning.solving import core
from quantlab.planning.solving import solve as module
from quantlab.planning.solving.front import front
from quantlab.planning.solving.solve import Solution, smallest, solve

from .tables import Plan, Table, model, of, plans, tables


def budgets(data: st.DataObject, every: list[Plan]) -> int:
    """One at which something can change: the size of a plan, or a byte beside it."""
    sizes = sorted({plan.nbytes for plan in every})
    return max(sizes[0], data.draw(st.sampled_from(sizes)) + data.draw(st.sampled_from([-1, 0, 1])))


def check(table: Table, solution: Solution, budget: int, every: list[Plan]) -> Fraction:
    """What holds for every solution, proved or not; the damage of the best plan."""
    nbytes, damage = of(table, solution.chosen)
    best = min(plan.damage for plan in every if plan.nbytes <= budget)
    assert (solution.nbytes, solution.damage, solution.budget) == (nbytes, float(damage), budget)
    assert nbytes <= budget
    assert Fraction(solution.bound) <= best + table.rounding
    assert solution.price >= 0
    if solution.gap == 0:
        assert solution.bound == solution.damage
    else:
        assert solution.gap > 0 and solution.bound < solution.damage and not solution.proved
        assert damage - Fraction(solution.gap) <= best + table.rounding
    return best


@given(tables(), st.data())
@settings(deadline=None, max_examples=300)
def test_no_plan_is_better_and_that_is_proved(table: Table, data: st.DataObject):
    every = plans(table)
    budget = budgets(data, every)
    solution = solve(table.nbytes, table.damage, budget)
    best = check(table, solution, budget, every)
    assert solution.proved or front(table.nbytes, table.damage).options.lost
    assert of(table, solution.chosen)[1] <= best + table.rounding


@given(tables(), st.data())
@settings(deadline=None)
def test_a_known_front_changes_nothing(table: Table, data: st.DataObject):
    budget = budgets(data, plans(table))
    alone = solve(table.nbytes, table.damage, budget)
    known = solve(table.nbytes, table.damage, budget, front(table.nbytes, table.damage))
    assert (alone.chosen == known.chosen).all() and alone.bound == known.bound


@given(tables(), st.data(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_units_and_options_does_not_matter(table: Table, data: st.DataObject, random):
    units, options = (random.sample(range(size), size) for size in table.nbytes.shape)
    budget = budgets(data, plans(table))
    solution = solve(table.nbytes, table.damage, budget)
    turned = solve(table.nbytes[units][:, options], table.damage[units][:, options], budget)
    assert abs(Fraction(turned.damage) - Fraction(solution.damage)) <= table.rounding


@given(tables(), st.data())
@settings(deadline=None, max_examples=300)
def test_no_plan_as_good_is_smaller(table: Table, data: st.DataObject):
    every = plans(table)
    most = float(data.draw(st.sampled_from(every)).damage)
    least = min(plan.nbytes for plan in every if float(plan.damage) <= most)
    solution = smallest(table.nbytes, table.damage, most)
    check(table, solution, solution.budget, every)
    assert solution.damage <= most
    assert solution.lightest <= least <= solution.nbytes
    if solution.proved:
        assert solution.nbytes == least


@given(tables(), st.data())
@settings(deadline=None)
def test_the_smallest_plan_is_found_and_proved_where_sums_are_exact(table: Table, data: st.DataObject):
    table = Table(table.nbytes, np.where(np.isfinite(table.damage), np.round(np.minimum(table.damage, 64)), np.inf))
    every = plans(table)
    most = float(data.draw(st.sampled_from(every)).damage)
    solution = smallest(table.nbytes, table.damage, most)
    assert solution.proved
    assert solution.nbytes == min(plan.nbytes for plan in every if plan.damage <= most)
    assert solution.damage == min(plan.damage for plan in every if plan.nbytes <= solution.nbytes)


@given(tables(), st.data())
@settings(deadline=None)
def test_a_search_that_is_cut_off_says_how_far_the_optimum_may_be(table: Table, data: st.DataObject):
    every = plans(table)
    budget = budgets(data, every)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "WIDEST", 1)
        check(table, solve(table.nbytes, table.damage, budget), budget, every)
        smaller = smallest(table.nbytes, table.damage, float(every[0].damage))
        assert smaller.damage <= float(every[0].damage)
        assert smaller.lightest <= min(plan.nbytes for plan in every if float(plan.damage) <= float(every[0].damage))


@given(tables(), st.data())
@settings(deadline=None)
def test_many_units_are_solved_to_a_tolerance(table: Table, data: st.DataObject):
    every = plans(table)
    budget = budgets(data, every)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EXACT_UNITS", 0)
        patch.setattr(module, "TOLERANCE", 0.05)
        solution = solve(table.nbytes, table.damage, budget)
        best = check(table, solution, budget, every)
        assert of(table, solution.chosen)[1] - best <= Fraction(solution.gap) + table.rounding


def test_a_gap_that_the_damage_cannot_show_is_told(monkeypatch: pytest.MonkeyPatch):
    """1e300 that nothing can change, beside a choice about 1e-3: no digit of the damage knows of it."""
    nbytes = np.array([[5, 5], [2, 4], [3, 4]])
    damage = np.array([[1e300, 1e300], [3e-3, 0.0], [1e-3, 0.0]])
    proved = solve(nbytes, damage, 12)
    assert proved.proved and proved.chosen[1:].tolist() == [1, 0]
    monkeypatch.setattr(module, "search", lambda moves, price, room, tolerance: core.Found(moves.at[:0], 1e200, 0.0))
    left = solve(nbytes, damage, 11)
    assert left.gap > 0 and left.damage == 1e300 and left.bound < left.damage and not left.proved


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e300])
def test_damage_of_any_size_is_solved_alike(size: float):
    table = model(20, 20, 1)
    budget = int(np.median(table.nbytes, axis=1).sum())
    usual, scaled = (solve(table.nbytes, table.damage * by, budget) for by in (1.0, size))
    assert scaled.proved and scaled.damage == pytest.approx(usual.damage * size, rel=1e-12)


def test_damage_from_1e_minus_300_to_1e300_in_one_table_is_not_called_proved_beyond_what_is_known():
    nbytes, damage = np.array([[1, 2], [1, 2]]), np.array([[1e300, 0.0], [1e-300, 0.0]])
    solution = solve(nbytes, damage, 3)
    assert solution.chosen.tolist() == [1, 0]
    assert not solution.proved and 0 < solution.gap <= 1e-300


def test_budgets_at_the_ends():
    table = model(12, 20, 0)
    least, most = int(table.nbytes.min(axis=1).sum()), int(table.nbytes[:, -1].sum())
    assert solve(table.nbytes, table.damage, least).nbytes == least
    assert solve(table.nbytes, table.damage, most).damage == 0.0
    assert solve(table.nbytes, table.damage, (1 << 63) - 1).price == 0.0
    with pytest.raises(BudgetError, match=f"the least possible is {least:,} bytes") as caught:
        solve(table.nbytes, table.damage, least - 1)
    assert caught.value.possible == least
    for budget in (-5, 0):
        with pytest.raises(BudgetError):
            solve(table.nbytes, table.damage, budget)
    for wrong in (4.5e9, True, None, 1 << 63):
        with pytest.raises(ConfigError, match="the budget"):
            solve(table.nbytes, table.damage, wrong)  # type: ignore[arg-type]


def test_a_quality_beyond_reach_is_refused_with_the_best():
    with pytest.raises(
        BudgetError, match=r"no plan has a damage of 2 or less: the least possible is 3; allow"
    ) as caught:
        smallest(np.array([[1, 2]]), np.array([[4.0, 3.0]]), 2)
    assert caught.value.possible == 3
    with pytest.raises(ConfigError, match="the most damage is nan"):
        smallest(np.array([[1]]), np.array([[1.0]]), float("nan"))


def test_no_damage_anywhere_takes_the_fewest_bytes():
    nbytes = np.array([[5, 3, 4], [2, 2, 9]])
    solution = solve(nbytes, np.zeros((2, 3)), 100)
    assert (solution.nbytes, solution.damage, solution.gap, solution.price) == (5, 0.0, 0.0, 0.0)
    assert solution.chosen.tolist() == [1, 0]  # of equal ones the first


def test_nothing_to_decide_is_solved():
    nothing = np.zeros((0, 4), np.int64)
    assert solve(nothing, nothing.astype(float), 0).proved
    assert smallest(nothing, nothing.astype(float), 0.0).nbytes == 0


@pytest.mark.parametrize("seed", range(6))
def test_highs_finds_nothing_better(seed: int):
    """Sizes are small enough that its tolerances cannot cheat: 40 x 1e-6 x 1,000 bytes are less than one."""
    random = np.random.default_rng(seed)
    units, options = 40, 12
    nbytes = np.sort(random.integers(1, 1000, (units, options)), axis=1)
    damage = np.sort(random.random((units, options)), axis=1)[:, ::-1] * random.lognormal(size=(units, 1))
    budget = int(nbytes.mean(axis=1).sum() * random.uniform(0.3, 1.2))
    theirs = by_highs(nbytes, damage, budget)
    assert theirs.nbytes <= budget
    ours = solve(nbytes, damage, budget)
    assert ours.proved
    assert ours.damage == pytest.approx(theirs.damage, rel=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_on_tables_of_models_highs_finds_nothing_better_that_fits(seed: int):
    table = model(40, 50, seed)
    budget = int(np.random.default_rng(seed).uniform(0.2, 0.5) * table.nbytes[:, -1].sum())
    ours, theirs = solve(table.nbytes, table.damage, budget), by_highs(table.nbytes, table.damage, budget)
    assert ours.proved
    # Its tolerance for a whole number is 1e-6 of an option: of one that weighs 2^27 bytes, some hundred.
    if theirs.nbytes <= budget:
        assert ours.damage <= theirs.damage * (1 + 1e-12)
    assert theirs.bound <= ours.damage * (1 + 1e-6)


@pytest.mark.parametrize("units", [226, 562])
def test_tables_of_models_are_proved(units: int):
    table = model(units, 50, units)
    found = front(table.nbytes, table.damage)
    for share in (0.15, 0.2, 0.28, 0.4, 0.6):
        budget = int(share * table.nbytes[:, -1].sum())
        solution = solve(table.nbytes, table.damage, budget, found)
        assert solution.proved and solution.nbytes <= budget
        assert solution.damage <= found.damage[found.below(budget)] * (1 + 1e-12)
        smaller = smallest(table.nbytes, table.damage, solution.damage, found)
        assert smaller.proved and smaller.nbytes <= solution.nbytes and smaller.damage <= solution.damage


def test_many_units_come_within_a_millionth():
    table = model(5_000, 20, 9)
    solution = solve(table.nbytes, table.damage, int(0.28 * table.nbytes[:, -1].sum()))
    assert 0 <= solution.gap <= 1e-6 * solution.damage
