"""Figures of a tensor against the formulas, written out in NumPy over float64."""

import math

import ml_dtypes
import numpy as np
import pytest

from quantlab.core import pool
from quantlab.core.statistics import (
    DEAD,
    central_range,
    channel_histograms,
    channel_ranges,
    describe,
    describe_channels,
    histogram,
    suited_bins,
)
from quantlab.errors import Cancelled, EmptyTensorError, ShapeError

RNG = np.random.default_rng(7)
TENSORS = {
    "gaussian": RNG.standard_normal((64, 300), dtype=np.float32),
    "several pieces": RNG.standard_normal(300_001, dtype=np.float32),
    "one outlier": np.append(RNG.standard_normal(4095, dtype=np.float32), np.float32(1e6)),
    "offset": (1000 + 1e-3 * RNG.standard_normal((8, 8, 8))).astype(np.float32),
    "huge": np.float32([-3e38, 3e38, 1e38, 0]),
    "denormal": np.float32([1e-45, -1e-45, 2e-44]),
    "half zeros": np.float32([0, 0, 1, -2]),
    "bfloat16 widened": RNG.standard_normal(1000).astype(ml_dtypes.bfloat16).astype(np.float32),
    "strided channels": RNG.standard_normal((6, 5, 4, 3)).astype(np.float32),
}
each_tensor = pytest.mark.parametrize("x", TENSORS.values(), ids=TENSORS)


def close(value: float, expected: float) -> bool:
    # float64 sums of n terms, in whatever order: far inside n * 2^-53 of the exact sum for the n here.
    return math.isclose(value, expected, rel_tol=1e-9, abs_tol=0.0)


@each_tensor
def test_figures_are_those_of_the_formulas(x):
    figures, wide = describe(x), x.astype(np.float64)
    distance = wide - wide.mean()
    std = math.sqrt(np.mean(distance**2))
    assert (figures.shape, figures.size) == (x.shape, x.size)
    assert (figures.minimum, figures.maximum) == (x.min(), x.max())
    assert abs(figures.mean - wide.mean()) <= 1e-12 * figures.amax
    assert close(figures.std, std)
    assert close(figures.kurtosis + 3, np.mean(distance**4) / std**4)
    assert figures.zeros == np.mean(x == 0)
    assert figures.outliers == np.mean(np.abs(distance) > 6 * std)
    assert figures.vanishing == np.mean((x != 0) & (np.abs(wide) <= np.abs(wide).max() / 254))


@each_tensor
def test_histogram_counts_as_numpy_does(x):
    ours = describe(x, bins=50).histogram
    counts, edges = np.histogram(x.astype(np.float64), 50)
    np.testing.assert_array_equal(ours.counts, counts)
    np.testing.assert_allclose(ours.edges, edges, rtol=1e-12, atol=float(np.ptp(edges)) * 1e-12)
    assert ours.counts.sum() == x.size
    assert np.all(np.diff(ours.centers) > 0)


@pytest.mark.parametrize("value", [0.3, 0.0, -1e38, 1e-45])
def test_a_constant_has_no_spread_whatever_its_sum_rounds_to(value):
    x = np.full((1000, 7), value, np.float32)
    figures = describe(x)
    assert figures.minimum == figures.maximum == figures.mean == x[0, 0]
    assert (figures.std, figures.outliers) == (0, 0)
    assert math.isnan(figures.kurtosis)
    assert figures.histogram.counts.sum() == x.size


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_one_element_is_enough(shape):
    figures = describe(np.full(shape, 3, np.float32))
    assert (figures.size, figures.mean, figures.std) == (1, 3, 0)


def test_a_sum_of_ones_does_not_stall_at_2_to_the_24():
    assert describe(np.ones(2**24 + 10, np.float32)).mean == 1


@pytest.mark.parametrize("shape", [(0,), (4, 0)])
def test_no_elements_no_statistics(shape):
    with pytest.raises(EmptyTensorError, match="no elements"):
        describe(np.empty(shape, np.float32))
    with pytest.raises(EmptyTensorError):
        describe_channels(np.empty((0, 4), np.float32))
    with pytest.raises(EmptyTensorError):
        central_range(np.empty(0, np.float32))


def test_cancel_is_asked_between_pieces():
    with pytest.raises(Cancelled), pool.limits(cancel=lambda: True):
        describe(TENSORS["several pieces"])


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_channels_are_those_of_numpy(axis):
    x = TENSORS["strided channels"]
    channels = describe_channels(x, axis)
    rows = np.moveaxis(x.astype(np.float64), axis, 0).reshape(x.shape[axis], -1)
    assert (channels.axis, channels.count) == (axis % x.ndim, len(rows))
    np.testing.assert_array_equal(channels.minimum, rows.min(axis=1))
    np.testing.assert_array_equal(channels.maximum, rows.max(axis=1))
    np.testing.assert_allclose(channels.p1, np.percentile(rows, 1, axis=1), rtol=1e-12)
    np.testing.assert_allclose(channels.p99, np.percentile(rows, 99, axis=1), rtol=1e-12)
    np.testing.assert_allclose(channels.std, rows.std(axis=1), rtol=1e-12)
    rms = np.sqrt(np.mean(rows**2, axis=1))
    np.testing.assert_allclose(channels.crest, np.abs(rows).max(axis=1) / rms, rtol=1e-12)


def test_channels_longer_than_a_piece():
    x = RNG.standard_normal((3, 200_000), dtype=np.float32)
    np.testing.assert_allclose(describe_channels(x).std, x.astype(np.float64).std(axis=1), rtol=1e-12)


@each_tensor
def test_channels_reach_along_every_axis_as_far_as_in_numpy(x):
    found = channel_ranges(x)
    assert [channels.axis for channels in found] == ([] if x.ndim == 1 else list(range(x.ndim)))
    for channels in found:
        others = tuple(axis for axis in range(x.ndim) if axis != channels.axis)
        np.testing.assert_array_equal(channels.amax, np.abs(x).max(axis=others))
        np.testing.assert_array_equal(channels.amax, describe_channels(x, channels.axis).amax)


@pytest.mark.parametrize("shape", [(3, 200_000), (200_000, 3), (1, 4, 1), (600, 500, 2)])
def test_the_reach_of_channels_of_any_shape(shape):
    x = RNG.standard_normal(shape, dtype=np.float32)
    for channels in channel_ranges(x):
        others = tuple(axis for axis in range(x.ndim) if axis != channels.axis)
        np.testing.assert_array_equal(channels.amax, np.abs(x).max(axis=others))


@pytest.mark.parametrize("axis", [2, -3, 99])
def test_an_axis_that_does_not_exist_is_named(axis):
    with pytest.raises(ShapeError, match=f"no axis {axis}"):
        describe_channels(np.ones((4, 8), np.float32), axis)


def test_a_scalar_has_no_channels():
    with pytest.raises(ShapeError):
        describe_channels(np.float32(3).reshape(()), 0)


def test_dead_channels_are_found_and_are_never_the_worst():
    x = RNG.standard_normal((8, 100)).astype(np.float32)
    x[7] *= 50
    x[2], x[5] = 0, DEAD / 2 * np.abs(x).max()
    x[6, 3] = 50
    channels = describe_channels(x)
    np.testing.assert_array_equal(channels.dead, [2, 5])
    assert channels.worst(1) == [6]
    assert channels.worst(1, "range") == [7]
    assert not {2, 5} & set(channels.worst(8))
    assert np.isnan(channels.crest[2])


def test_all_channels_dead():
    channels = describe_channels(np.zeros((4, 8), np.float32))
    assert channels.dead.size == 4
    assert channels.worst().size == 0
    assert np.isnan(channels.relative_range).all()


def test_channel_histograms_cover_each_channel_over_its_own_range():
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    first, second = channel_histograms(x, axis=0, channels=np.array([0, 3]), bins=6)
    assert first.counts.tolist() == second.counts.tolist() == [1] * 6
    assert (second.edges[0], second.edges[-1]) == (18, 23)


@pytest.mark.parametrize("count, bins", [(1, 16), (1000, 62), (10**9, 256)])
def test_bins_suit_the_number_of_values(count, bins):
    assert suited_bins(count) == bins


def test_histogram_of_a_part_of_the_range():
    x = np.float32([-10, 0, 1, 2, 10])
    assert histogram(x, 0, 2, bins=2).counts.tolist() == [1, 2]
    with pytest.raises(ShapeError):
        histogram(x, 2, 1)
    with pytest.raises(ShapeError):
        histogram(x, float("nan"), 1)


def test_central_range_leaves_the_tails_out():
    x = np.append(np.linspace(-1, 1, 9998), [-1e6, 1e6]).astype(np.float32)
    low, high = central_range(x)
    assert -1 < low < -0.98 and 0.98 < high < 1
