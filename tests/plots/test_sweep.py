"""The figures of a sweep show the table's numbers, say what is best, and carry what a click needs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab.core.config import QuantConfig, grid
from quantlab.core.metrics import METRICS
from quantlab.plots import sweep as plots
from quantlab.plots.scales import LOGARITHMIC, best_first, figures, position, scheme, ticks, title
from quantlab.sweeping.sweep import COLUMNS, sweep

SHOWN = [name for name in METRICS if name in COLUMNS]
CONFIGS = grid(
    ["int4", "int8", "fp16"],
    ["symmetric", "affine"],
    ["tensor", "ch0", "ch-1", "g16"],
    ["minmax", "mse"],
    ["fp32", "fp16"],
)


@pytest.fixture(scope="module")
def frame():
    """Two tensors under every configuration, one of them lossless under all of them."""
    rng = np.random.default_rng(7)
    weights = rng.standard_normal((16, 48)).astype(np.float32)
    return sweep({"weights": weights, "<b>zeros</b>": np.zeros((4, 8), np.float32)}, CONFIGS)


@pytest.fixture(scope="module")
def rows(frame):
    return frame[frame["tensor"] == "weights"]


# Few different values, so that ties in one or both are common.
points = st.lists(
    st.tuples(st.sampled_from([1.0, 2.0, 3.5, 8.0]), st.sampled_from([0.0, 1.0, 5.0, math.inf, -math.inf, math.nan])),
    max_size=12,
)


@given(points, st.booleans())
def test_the_pareto_front_is_what_brute_force_finds(points, higher):
    def beats(a, b):
        value = a[1] >= b[1] if higher else a[1] <= b[1]
        return a[0] <= b[0] and value and a != b

    expected = [not math.isnan(p[1]) and not any(beats(q, p) for q in points) for p in points]
    cost, value = (np.array([p[i] for p in points]) for i in (0, 1))
    assert plots.pareto_front(cost, value, higher).tolist() == expected


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(-50, 50)), min_size=1, max_size=30))
def test_there_is_always_a_front_and_it_holds_the_smallest_and_the_best(points):
    cost, value = (np.array([p[i] for p in points]) for i in (0, 1))
    front = plots.pareto_front(cost, value, True)
    assert cost[front].min() == cost.min()
    assert value[front].max() == value.max()


@pytest.mark.parametrize("metric", SHOWN)
def test_every_cell_of_the_heatmap_shows_its_best_calibration(rows, metric):
    fig = plots.heatmap(rows, metric)
    cells, targets = fig.data
    pick = max if METRICS[metric].higher_is_better else min
    for row, name in enumerate(cells.y):
        for column, label in enumerate(cells.x):
            here = [
                value
                for slug, value in zip(rows["config"], rows[metric], strict=True)
                if scheme(QuantConfig.parse(slug)) == name and label_of(slug) == label
            ]
            expected = figures(metric, [pick(here)])[0] if here else ""
            assert cells.text[row][column] == expected
    assert len(targets.x) == sum(text != "" for row in cells.text for text in row)


def label_of(slug):
    config = QuantConfig.parse(slug)
    return (
        {"tensor": "tensor", "ch0": "channel 0", "ch-1": "channel −1", "g16": "group 16"}[config.granularity.slug]
        if config.dtype != "fp16"
        else plots.OWN
    )


def test_the_heatmap_runs_from_many_bits_to_few_and_from_coarse_to_fine(rows):
    cells = plots.heatmap(rows, "sqnr_db").data[0]
    assert [name.split()[0] for name in cells.y] == ["fp16"] + ["int8"] * 4 + ["int4"] * 4
    assert list(cells.x) == ["tensor", "channel 0", "channel −1", "group 16", plots.OWN]


@pytest.mark.parametrize("draw", [plots.heatmap, plots.error_against_size], ids=lambda f: f.__name__)
def test_a_click_names_configuration_and_tensor(rows, draw):
    fig = draw(rows, "mse")
    clickable = [trace for trace in fig.data if trace.customdata is not None]
    named = [(slug, tensor) for trace in clickable for slug, tensor in trace.customdata]
    assert {slug for slug, _ in named} <= set(rows["config"])
    assert {tensor for _, tensor in named} == {"weights"}
    for trace in clickable:
        assert len(trace.customdata) == len(trace.x) == len(trace.y)


def test_points_of_the_front_are_filled_and_dominated_ones_are_rings(rows):
    fig = plots.error_against_size(rows, "sqnr_db", "mapping")
    front = plots.pareto_front(rows["bits_per_weight"], rows["sqnr_db"], True)
    expected = dict(zip(rows["config"], front, strict=True))
    drawn = {
        slug: not symbol.endswith("-open")
        for trace in fig.data
        if trace.customdata is not None
        for (slug, _), symbol in zip(trace.customdata, trace.marker.symbol, strict=True)
    }
    assert drawn == expected
    line = next(trace for trace in fig.data if trace.name == "Pareto front")
    assert len(line.x) == front.sum()
    assert (np.diff(line.x) >= 0).all()


@pytest.mark.parametrize("metric", SHOWN)
@pytest.mark.parametrize("column", ["dtype", "mapping", "granularity", "calibration"])
def test_every_metric_and_colour_is_drawn_with_its_unit(rows, metric, column):
    fig = plots.error_against_size(rows, metric, column)
    assert title(metric) in fig.layout.yaxis.title.text
    drawn = [y for trace in fig.data if trace.customdata is not None for y in trace.y]
    assert len(drawn) == len(rows)
    assert np.isfinite(drawn).all()


def test_compression_is_measured_against_the_source_and_against_fp32(rows):
    halves = rows.assign(compression_ratio=rows["compression_ratio"] / 2)  # as if the source were bfloat16
    fig = plots.compression_bars(halves, "bfloat16")
    fp32, source = fig.data
    assert "bfloat16" in source.name and "fp32" in fp32.name
    np.testing.assert_allclose(np.array(fp32.x), 2 * np.array(source.x))
    order = dict(zip(halves["config"], halves["compression_ratio"], strict=True))
    assert [order[slug] for slug, _ in source.customdata] == list(source.x)
    assert (np.diff(source.x) >= 0).all()  # Plotly draws from the bottom


def test_configurations_that_differ_in_their_calibration_alone_share_a_bar_of_the_best_of_them(rows):
    shown = plots.by_bytes(rows)
    by_slug = rows.set_index("config")
    labels = [part for part in shown["label"] if part != "fp16"]
    assert len(labels) == len(rows[rows["dtype"] != "fp16"]) / 2 and not any("mse" in label for label in labels)
    for label, slug, sqnr in zip(shown["label"], shown["config"], shown["sqnr_db"], strict=True):
        dtype, *rest = label.split("-", 1)
        of = [other for other in by_slug.index if other in {label, *_calibrated(label)}]
        assert slug in of and sqnr == by_slug.loc[of, "sqnr_db"].max(), (dtype, rest)
        assert by_slug.loc[of, "nbytes"].nunique() == 1


def _calibrated(label):
    stored = "-sfp16" if label.endswith("-sfp16") else ""
    return [f"{label.removesuffix(stored)}-{calibration}{stored}" for calibration in ("minmax", "mse")]


def test_one_calibration_keeps_its_name(rows):
    one = rows[rows["calibration"].isin(["mse", "-"])]
    assert list(plots.by_bytes(one)["label"]) == list(plots.by_bytes(one)["config"])


def test_a_float32_source_needs_one_bar_only_and_the_smallest_are_drawn(rows, monkeypatch):
    monkeypatch.setattr(plots, "BARS", 7)
    fig = plots.compression_bars(rows, "float32")
    assert len(fig.data) == 1
    assert len(fig.data[0].y) == plots.BARS < len(rows)
    assert max(fig.data[0].x) == rows["compression_ratio"].max()


@pytest.mark.parametrize("metric", SHOWN)
def test_a_position_keeps_the_order_and_draws_what_is_lossless_at_the_edge(metric):
    values = np.array([0.5, 0.0, 2.0, np.inf, np.nan, 1.0])
    at = position(metric, values)
    known = ~np.isnan(values)
    assert np.isfinite(at[known]).all() and np.isnan(at[~known]).all()
    assert (np.argsort(at[known]) == np.argsort(values[known])).all()


@pytest.mark.parametrize("metric", sorted(LOGARITHMIC))
@pytest.mark.parametrize("values", [[1e-9, 1e-3], [2.0, 7.0], [5.0]])
def test_ticks_of_a_logarithmic_metric_are_written_as_its_values(metric, values):
    at = position(metric, np.array(values))
    found = ticks(metric, at)
    assert any(at.min() - 1 <= tick <= at.max() + 1 for tick in found["tickvals"])
    for place, words in zip(found["tickvals"], found["ticktext"], strict=True):
        assert float(words.replace("−", "-").replace(",", "")) == pytest.approx(10**place, rel=0.005)


def test_the_best_come_first_whatever_best_means(rows):
    assert best_first(rows, "sqnr_db")["sqnr_db"].is_monotonic_decreasing
    assert best_first(rows, "mse")["mse"].is_monotonic_increasing


def test_one_row_alone_is_drawn_too(rows):
    one = rows.head(1)
    for fig in (plots.heatmap(one, "mse"), plots.error_against_size(one, "mse")):
        assert fig.to_json()
