"""Figures of a plan draw its numbers, keep what a screen can tell apart, and carry what a click needs."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab.plots import plan as plots
from quantlab.plots.plan import Cell, front_figure, thinned, unit_map, with_plan

NBYTES, DAMAGE = np.array([100.0, 150.0, 220.0, 400.0]), np.array([8.0, 2.0, 0.5, 0.0])
UNIFORM = pd.DataFrame({
    "config": ["int2-sym-g32-minmax", "int4-sym-g32-minmax", "<b>"], "nbytes": [120, 230, 240], "damage": [9, 1, np.inf]
})  # fmt: skip


def trace(fig, name):
    return next(trace for trace in fig.data if trace.name == name)


def test_the_curve_has_every_plan_of_a_short_front_at_its_damage():
    curve = trace(front_figure(NBYTES, DAMAGE, UNIFORM), "the best plans")
    assert list(curve.x) == list(NBYTES)
    assert np.allclose(curve.y[:3], np.log10(DAMAGE[:3]))
    assert curve.y[3] < np.log10(0.5)  # no damage has no logarithm: below everything else


def test_uniform_configurations_are_dots_with_their_name_and_size_on_hover():
    dots = trace(front_figure(NBYTES, DAMAGE, UNIFORM, bits=lambda nbytes: nbytes / 50), plots.UNIFORM)
    assert list(dots.x) == [120, 230]  # what some tensor refuses is none
    assert np.allclose(dots.y, np.log10([9, 1]))
    assert "int2-sym-g32-minmax" in dots.text[0] and "120 B (2.4 bits per weight)" in dots.text[0]


def test_the_plan_is_a_point_and_the_budget_a_line():
    front = front_figure(NBYTES, DAMAGE, UNIFORM)
    fig = with_plan(front, 149, 2.5, 151)
    point = trace(fig, "this plan")
    assert (point.x[0], point.y[0]) == (149, pytest.approx(math.log10(2.5)))
    assert [shape.x0 for shape in fig.layout.shapes] == [151]
    assert fig.layout.annotations == front.layout.annotations  # names stay where they are
    assert len(front.data) == 2 and not front.layout.shapes
    lossless = trace(with_plan(front, 400, 0.0, 400), "this plan")
    assert lossless.y[0] == trace(front, "the best plans").y[-1]


def test_what_is_larger_than_what_is_shown_is_left_out():
    fig = front_figure(NBYTES, DAMAGE, UNIFORM, most=225)
    assert list(trace(fig, "the best plans").x) == [100, 150, 220] and list(trace(fig, plots.UNIFORM).x) == [120]


def test_a_front_of_one_plan_without_damage_is_drawn():
    fig = front_figure([10], [0.0], UNIFORM[:0])
    assert np.isfinite(trace(fig, "the best plans").y).all()


def test_a_front_without_any_configuration_for_all_is_drawn():
    fig = front_figure(NBYTES, DAMAGE, pd.DataFrame([], columns=list(UNIFORM)), most=400)
    assert len(trace(fig, "the best plans").x) == 4 and len(trace(fig, plots.UNIFORM).x) == 0


fronts = st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1e3)), min_size=1, max_size=400)


@given(fronts)
def test_thinning_keeps_the_ends_and_moves_nothing_by_more_than_a_pixel(points):
    nbytes = np.sort(np.array([size for size, _ in points], float))
    damage = np.sort(np.array([damage for _, damage in points]))[::-1]
    kept = thinned(nbytes, damage)
    assert kept[0] == 0 and kept[-1] == nbytes.size - 1 and (np.diff(kept) > 0).all()
    # Whatever is left out lies in the pixel of the one that is drawn before it.
    before = kept[np.searchsorted(kept, np.arange(nbytes.size), side="right") - 1]
    assert (np.abs(nbytes - nbytes[before]) <= np.ptp(nbytes) / plots.ACROSS + 1e-6).all()


def test_a_large_front_is_sent_as_no_more_than_a_screen_shows():
    nbytes = np.linspace(1e9, 14e9, 300_000)
    damage = 2.0 ** -(nbytes / 1e9)
    assert thinned(nbytes, damage).size <= plots.ACROSS + plots.UP + 2


CELLS = [
    Cell("embed", "embedding", None, 16.0, "embed"),
    *(Cell(f"{i}.{role}", role, i, 4.0 + i, f"{i}.{role}", i == 1) for i in range(3) for role in ("q", "down")),
    Cell("0.expert.1", "expert", 0, 2.0, "one"),
    Cell("0.expert.2", "expert", 0, 4.0, "two"),
]


def test_the_map_has_roles_as_rows_depth_as_columns_and_bits_as_colours():
    fig = unit_map(CELLS)
    colours = fig.data[0].z
    assert list(fig.layout.yaxis.ticktext) == ["embedding", "q", "down", "expert"]
    assert list(fig.layout.xaxis.ticktext) == ["–", "0", "1", "2"]
    assert np.allclose(2 ** colours[1, 1:], [4, 5, 6]) and np.isnan(colours[1, 0]) and 2 ** colours[0, 0] == 16
    assert 2 ** colours[3, 1] == pytest.approx(3)  # units of one cell: their mean


def test_cells_of_the_map_carry_their_unit_and_say_what_is_in_them():
    fig = unit_map(CELLS)
    targets = next(trace for trace in fig.data if trace.customdata is not None)
    found = dict(
        zip(zip(targets.x, targets.y, strict=True), zip(targets.customdata, targets.text, strict=True), strict=True)
    )
    assert found[(2, 1)] == ("1.q", "1.q")
    assert found[(1, 3)] == ("0.expert.1", "one<br>two")


def test_pinned_units_are_marked_in_their_cells():
    marks = unit_map(CELLS).data[-1]
    assert {(round(x), round(y)) for x, y in zip(marks.x, marks.y, strict=True)} == {(2, 1), (2, 2)}


def test_a_large_map_writes_no_numbers_into_its_cells():
    many = [Cell(f"{i}.{role}", role, i, 4.0, "") for i in range(40) for role in "abcdef"]
    assert len(unit_map(CELLS).data[1].x) == 8 and len(unit_map(many).data[1].x) == 0


def test_names_from_a_file_are_shown_as_text():
    fig = unit_map([Cell("x", "<b>bold</b>", None, 4.0, "x")])
    assert list(fig.layout.yaxis.ticktext) == ["&lt;b&gt;bold&lt;/b&gt;"]
