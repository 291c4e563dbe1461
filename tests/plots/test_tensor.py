"""Figures of a tensor hold the numbers they are given."""

import numpy as np
import pytest

from quantlab.core.config import QuantConfig
from quantlab.core.statistics import describe, describe_channels
from quantlab.core.tensor import quantize
from quantlab.plots.levels import levels
from quantlab.plots.style import CONFIG
from quantlab.plots.tensor import DRAWN_CHANNELS, DRAWN_LEVELS, channel_band, clipped_ranges, thinned, value_histogram


@pytest.fixture
def x(rng) -> np.ndarray:
    return rng.standard_normal((8, 500), dtype=np.float32)


def traces(fig, name):
    return [trace for trace in fig.data if (trace.name or "").startswith(name)]


def test_histogram_shows_every_count_and_says_its_share(x):
    histogram = describe(x).histogram
    (bars,) = value_histogram(histogram).data
    np.testing.assert_array_equal(bars.y, histogram.counts)
    assert bars.customdata[:, 2].sum() == pytest.approx(100)


def test_logarithmic_counts_keep_a_single_value_visible(x):
    fig = value_histogram(describe(x).histogram, log=True)
    assert fig.layout.yaxis.type == "log"
    assert fig.layout.yaxis.range[0] < 0
    assert fig.layout.yaxis2.range == (0, 1)


@pytest.mark.parametrize("slug", ["int4-sym-tensor-minmax", "int8-uni-tensor-minmax", "int16-aff-tensor-minmax"])
def test_levels_are_lines_and_never_a_smear(x, slug):
    found, _ = levels(x, quantize(x, QuantConfig.parse(slug)))
    (lines,) = traces(value_histogram(describe(x).histogram, found), "")[1:]
    drawn = np.unique(np.asarray(lines.x))
    assert 8 <= drawn.size <= DRAWN_LEVELS
    assert np.isin(drawn, found.values).all()
    assert slug in lines.name
    assert ("every" in lines.name) == (found.values.size > DRAWN_LEVELS)


def test_a_constant_is_not_clipped():
    x = np.full((8, 8), 0.3, np.float32)
    grid = levels(x, quantize(x, QuantConfig()))[0]
    assert clipped_ranges(describe(x).histogram, grid) == []


def test_what_is_clipped_is_shaded(x):
    clipping = quantize(x, QuantConfig.parse("int4-sym-tensor-percentile5_95"))
    fig = value_histogram(describe(x).histogram, levels(x, clipping)[0])
    found = levels(x, clipping)[0]
    beyond = found.step / 2  # the nearest code of what lies closer is the last one
    assert [(shape.x0, shape.x1) for shape in fig.layout.shapes] == [
        (pytest.approx(x.min()), pytest.approx(found.values[0] - beyond)),
        (pytest.approx(found.values[-1] + beyond), pytest.approx(x.max())),
    ]


def test_a_grid_outside_the_view_draws_nothing():
    assert thinned(np.array([1.0, 2.0]), 5, 6)[0].size == 0


def test_thinning_counts_the_levels_in_view():
    drawn, every = thinned(np.arange(1000.0), 0, 99, most=20)
    assert (drawn.size, every) == (20, 5)


def test_band_covers_every_channel(x):
    channels = describe_channels(x)
    low, high, p1, p99, marks = channel_band(channels, channels.worst(3)).data
    for line, expected in ((low, "minimum"), (high, "maximum"), (p1, "p1"), (p99, "p99")):
        np.testing.assert_array_equal(line.y, getattr(channels, expected))
    assert set(np.abs(marks.y)) <= set(channels.amax)


def test_many_channels_become_an_envelope_that_hides_no_peak(rng):
    x = rng.standard_normal((5000, 4), dtype=np.float32)
    x[4321, 2] = 77
    fig = channel_band(describe_channels(x))
    assert len(fig.data[0].x) <= DRAWN_CHANNELS
    assert max(fig.data[1].y) == 77
    assert "envelope of 5" in fig.layout.xaxis.title.text


def test_no_figure_offers_to_upload_the_data():
    assert CONFIG["showSendToCloud"] is False
