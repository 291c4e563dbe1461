"""The damage map shows every cell as what it is, the worst first, on a scale that infinity and NaN do not bend."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab.core.config import grid
from quantlab.core.metrics import METRICS
from quantlab.plots import damage
from quantlab.plots.damage import EXACT, REFUSED, SHADES, UNDEFINED, WAITING, Figures, damage_map, worst_first
from quantlab.plots.scales import figures
from quantlab.sweeping.sweep import COLUMNS, sweep

CONFIGS = grid(["int2", "int4", "int8", "fp16"], ["symmetric", "affine"], ["tensor", "ch1", "g16"], ["minmax"])
SLUGS = [config.slug for config in CONFIGS]
SHOWN = [name for name in METRICS if name in COLUMNS]


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(3)
    fine, heavy = rng.standard_normal((16, 32)).astype(np.float32), rng.standard_normal((16, 32)).astype(np.float32)
    heavy[0, 0] = 300
    return sweep({"fine": fine, "heavy": heavy, "zeros": np.zeros((4, 4), np.float32), "line": fine[0]}, CONFIGS)


@pytest.fixture(scope="module")
def found(frame):
    return Figures.of(frame, frame.attrs["refused"])


def drawn(found, metric="sqnr_db", tensors=None, rows=slice(None)):
    return damage_map(found, metric, tensors or found.names, SLUGS, rows)


def test_every_figure_is_that_of_the_table(frame, found):
    for row in frame.to_dict("records"):
        i, j = found.names.index(row["tensor"]), found.configs.index(row["config"])
        for metric in SHOWN:
            np.testing.assert_equal(found.of_metric(metric)[i, j], row[metric])


def test_tensor_by_tensor_gives_what_the_whole_table_gives(frame, found):
    filled = Figures(found.names, SLUGS)
    reasons = {(entry["tensor"], entry["config"]): entry["reason"] for entry in frame.attrs["refused"]}
    for name in reversed(found.names):
        rows = frame[frame["tensor"] == name].to_dict("records")
        filled.add(name, [row | {"reason": reasons.get((name, row["config"]))} for row in rows])
    assert filled.measured == len(found.names)
    for metric in SHOWN:
        assert drawn(filled, metric) == drawn(found, metric)


@pytest.mark.parametrize("metric", SHOWN)
def test_every_cell_says_its_figure_and_the_worst_are_the_strongest(frame, found, metric):
    shown = drawn(found, metric)
    values = frame.set_index(["tensor", "config"])[metric]
    shades = []
    for name, cells, texts in zip(shown.tensors, shown.cells, shown.texts, strict=True):
        for slug, cell, text in zip(shown.configs, cells, texts, strict=True):
            if isinstance(cell, int):
                assert 0 <= cell <= SHADES
                assert text == figures(metric, [values[name, slug]])[0]
                shades.append((cell, values[name, slug]))
    sign = -1 if METRICS[metric].higher_is_better else 1
    ordered = [cell for cell, _ in sorted(shades, key=lambda pair: (sign * pair[1], pair[0]))]
    assert ordered == sorted(ordered)


def test_what_has_no_shade_says_why(found):
    shown = drawn(found)
    by_name = {name: dict(zip(SLUGS, row, strict=True)) for name, row in zip(shown.tensors, shown.cells, strict=True)}
    assert set(by_name["zeros"].values()) == {EXACT}
    assert by_name["line"]["int4-sym-ch1-minmax"] == REFUSED
    reason = shown.texts[shown.tensors.index("line")][SLUGS.index("int4-sym-ch1-minmax")]
    assert "axis" in reason
    assert shown.states == {EXACT, REFUSED}
    assert EXACT not in drawn(found, "bits_per_weight").states  # nothing lost says nothing about size


def test_before_the_first_tensor_everything_waits():
    shown = drawn(Figures(["a", "b"], SLUGS))
    assert shown.states == {WAITING}
    assert worst_first(Figures(["a", "b"], SLUGS), "mse", ["b", "a"], SLUGS, damage.MEAN) == ["b", "a"]


def test_a_figure_that_is_not_defined_is_not_taken_for_a_good_one():
    found = Figures(["a"], ["int8-sym-tensor-minmax"])
    found.add("a", [{"config": "int8-sym-tensor-minmax", "mse": 1.0, "nbytes": 8, "sqnr_db": math.nan}])
    assert damage_map(found, "sqnr_db", ["a"], found.configs).cells == [[UNDEFINED]]


def test_the_most_damaged_tensor_is_on_top_under_the_mean_and_under_one_configuration(found):
    assert worst_first(found, "mse", found.names, SLUGS, damage.MEAN)[0] == "heavy"
    by = "int8-sym-tensor-minmax"
    order = worst_first(found, "sqnr_db", found.names, SLUGS, by)
    values = found.of_metric("sqnr_db")[[found.names.index(name) for name in order], SLUGS.index(by)]
    assert (np.diff(values) >= 0).all()
    assert worst_first(found, "sqnr_db", found.names, SLUGS, damage.AS_IN_FILE) == found.names


def test_what_is_not_measured_yet_comes_last(frame):
    filling = Figures(["first", "fine", "heavy"], SLUGS)
    filling.add("heavy", frame[frame["tensor"] == "heavy"].to_dict("records"))
    assert worst_first(filling, "mse", filling.names, SLUGS, damage.MEAN) == ["heavy", "first", "fine"]


def test_a_page_has_the_colours_of_the_whole(found):
    whole, page = drawn(found, "mse"), drawn(found, "mse", rows=slice(1, 3))
    assert page.tensors == whole.tensors[1:3]
    assert page.cells == whole.cells[1:3] and page.texts == whole.texts[1:3] and page.details == whole.details[1:3]
    assert page.ends == whole.ends


values = st.lists(
    st.one_of(st.floats(1e-12, 1e6), st.sampled_from([0.0, math.inf, math.nan])), min_size=1, max_size=20
).map(np.array)


@given(values, st.sampled_from(SHOWN))
def test_infinity_zero_and_nan_do_not_bend_the_scale(values, metric):
    low, high = damage.scale(metric, values)
    assert math.isfinite(low) and math.isfinite(high) and low < high
    shades = damage.damage(metric, values, low, high)
    assert (np.isnan(shades) == np.isnan(values)).all()
    known = ~np.isnan(values)
    assert ((shades[known] >= 0) & (shades[known] <= 1)).all()
    finite = values[np.isfinite(values)]
    if finite.size:
        assert damage.scale(metric, finite) == (low, high)
    worst = -1 if METRICS[metric].higher_is_better else 1
    order = np.argsort(worst * values[known], kind="stable")
    assert (np.diff(shades[known][order]) >= -1e-12).all()


def test_the_legend_says_where_colours_stop_before_the_values_do():
    found = Figures(["a", "b"], ["int8-sym-tensor-minmax"])
    for name, sqnr, mse in (("a", 12.0, 1e-1), ("b", 93.0, 1e-9)):
        found.add(name, [{"config": found.configs[0], "sqnr_db": sqnr, "mse": mse, "nbytes": 8}])
    assert damage_map(found, "sqnr_db", found.names, found.configs).ends == ("≥ 60", "10")
    assert damage_map(found, "mse", found.names, found.configs).ends == ("≤ 1e−06", "0.1")


def test_configurations_keep_their_places_while_a_sweep_runs():
    assert damage.in_order(reversed(SLUGS)) != damage.in_order(SLUGS)[::-1]
    bits = [int(slug.split("-")[0][3:]) for slug in damage.in_order(SLUGS) if slug.startswith("int")]
    assert bits == sorted(bits)
    assert sorted(damage.in_order(SLUGS)) == sorted(SLUGS)
