"""The best plan of a file against every plan that there is, where the file is more than the sum of its options."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab.errors import BudgetError
from quantlab.planning.choices import UNKNOWN
from quantlab.planning.fitting import Rest, best_within, first_within
from quantlab.planning.solving.front import front
from quantlab.planning.solving.worst import solve_worst


class File:
    """Options, schemes that cost once, names that are told only where there are several, and some bytes of chance."""

    def __init__(self, rng, units, options, whole):
        self.nbytes = rng.integers(1, 60, (units, options)).astype(np.int64)
        damage = rng.integers(0, 20, (units, options)) if whole else rng.random((units, options))
        self.damage = damage.astype(np.float64)
        self.damage[rng.random((units, options)) < 0.2] = np.inf
        self.damage[np.arange(units), rng.integers(0, options, units)] = 1.0
        self.scheme = rng.integers(-1, 3, options)
        self.charges, self.lines = rng.integers(0, 40, 3), rng.integers(0, 10, units)
        self.chance = rng.integers(0, 8, 1000)
        self.schemes = np.broadcast_to(
            (self.scheme == np.arange(3)[:, None])[:, None, :], (3, units, options)
        ).copy()  # fmt: skip

    def exact(self, chosen):
        used = {int(s) for s in self.scheme[chosen]} - {-1}
        told = sum(int(self.charges[s]) for s in used) + (int(self.lines.sum()) if len(used) > 1 else 0)
        noise = int(self.chance[hash(tuple(chosen.tolist())) % 1000])
        return int(self.nbytes[np.arange(len(chosen)), chosen].sum()) + 100 + told + noise

    def least(self, allowed, case):
        told = int(self.lines.sum()) if case.several or len(case.used) > 1 else 0
        return 100 + sum(int(self.charges[s]) for s in case.used) + told

    @property
    def rest(self):
        return Rest(self.exact, self.least, self.schemes)

    def plans(self):
        for chosen in itertools.product(range(self.nbytes.shape[1]), repeat=len(self.nbytes)):
            chosen = np.array(chosen)
            damage = self.damage[np.arange(len(chosen)), chosen]
            if np.isfinite(damage).all():
                yield self.exact(chosen), damage


def cases(draw):
    return File(
        np.random.default_rng(draw(st.integers(0, 2**32))),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 5)),
        draw(st.booleans()),
    )


@settings(max_examples=150)
@given(st.data())
def test_no_plan_that_fits_is_below_the_bound_and_a_proved_one_is_the_best(data):
    file = cases(data.draw)
    every = list(file.plans())
    budget = data.draw(st.integers(min(size for size, _ in every), max(size for size, _ in every) + 5))
    best = min(math.fsum(damage) for size, damage in every if size <= budget)
    under = file.least(np.isfinite(file.damage), UNKNOWN)
    try:
        found = best_within(file.nbytes, file.damage, budget, file.rest, front(file.nbytes, file.damage), under)
    except BudgetError as error:
        # Of plans that hardly fit none may be found: the smallest sum need not be the smallest file.
        assert error.possible > budget
        return
    solution = found.solution
    assert found.file_nbytes == file.exact(solution.chosen) <= budget
    slack = 1e-12 * (1 + best)
    assert solution.bound <= best + slack
    assert solution.damage >= best - slack
    assert solution.gap == pytest.approx(solution.damage - solution.bound, abs=slack)
    if solution.gap == 0:
        assert solution.damage <= best + slack


def test_it_is_proved_where_schemes_alone_make_the_rest():
    """Bytes of chance leave some open; without them every plan is proved."""
    proved = 0
    for seed in range(60):
        file = File(np.random.default_rng(seed), 4, 4, False)
        file.chance[:] = 0
        sizes = [size for size, _ in file.plans()]
        budget = (min(sizes) + max(sizes)) // 2
        under = file.least(np.isfinite(file.damage), UNKNOWN)
        try:
            found = best_within(file.nbytes, file.damage, budget, file.rest, front(file.nbytes, file.damage), under)
        except BudgetError:
            continue
        best = min(math.fsum(damage) for size, damage in file.plans() if size <= budget)
        assert found.solution.gap == 0.0
        assert found.solution.damage == pytest.approx(best, rel=1e-12)
        proved += 1
    assert proved > 50


def test_the_worst_unit_is_the_least_of_all_plans_that_fit():
    for seed in range(40):
        file = File(np.random.default_rng(seed), 4, 4, False)
        file.chance[:], file.charges[:], file.lines[:] = 0, 0, 0
        sizes = [size for size, _ in file.plans()]
        budget = (min(sizes) + max(sizes)) // 2
        edge = front(file.nbytes, file.damage)
        relaxed, found = first_within(
            file.nbytes, file.damage, budget, file.rest, edge, 100, lambda n, d, b, f: solve_worst(n, d, b, None, f)
        )
        assert found.solution is relaxed
        chosen = found.solution.chosen
        worst = file.damage[np.arange(4), chosen].max()
        assert worst == min(damage.max() for size, damage in file.plans() if size <= budget)
