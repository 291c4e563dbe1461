"""Calibrations that take their range from the values: the plain formula, in groups of every length."""

from collections.abc import Iterator

import numpy as np
import pytest

import quantlab as ql
from quantlab.core.granularity import PIECE
from quantlab.core.ranging import Calibration
from tests.core import reference
from tests.tensors import kinds

CODEC = ql.QuantConfig().codec
LARGE = PIECE + 1001  # values of a group that is not sorted, but looked through for its order statistics
KINDS = list(kinds(8))
LARGE_KINDS = ["gaussian", "negative", "mostly zero", "constant", "every scale"]

# Groups of 100, the last of 50; of one value; and one that is larger than a piece.
CASES = [(kind, 350, 100) for kind in KINDS] + [("gaussian", 7, 1)] + [(kind, LARGE, LARGE) for kind in LARGE_KINDS]
each_case = pytest.mark.parametrize(("kind", "n", "size"), CASES)


def ranges(calibration: Calibration, x: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, float, float]]:
    """(its values, lo, hi) of every group of x, float32 [n]."""
    lo, hi = calibration.range(ql.PerGroup(size).to_groups(x), CODEC)
    yield from zip(reference.groups_of(x[None], size)[0], lo[0].tolist(), hi[0].tolist(), strict=True)


@each_case
def test_min_max_is_the_extremes(kind, n, size):
    for values, lo, hi in ranges(ql.MinMax(), kinds(max(n, 8))[kind][:n], size):
        assert (lo, hi) == (values.min(), values.max())


@each_case
@pytest.mark.parametrize(("lower", "upper"), [(0, 100), (0.1, 99.9), (20, 80)])
def test_percentiles_are_those_of_numpy(kind, n, size, lower, upper):
    for values, lo, hi in ranges(ql.Percentile(lower, upper), kinds(max(n, 8))[kind][:n], size):
        expected = np.percentile(values.astype(np.float64), [lower, upper])
        assert lo == expected[0]
        # Where both are one value of several, the range is widened by a hair.
        assert hi == expected[1] or (lo == expected[1] and hi - lo <= max(abs(lo) * 2.0**-39, 1e-36))


@each_case
@pytest.mark.parametrize("window", [1, 10, 10**7])
def test_moving_average_is_the_mean_of_either_tail(kind, n, size, window):
    for values, lo, hi in ranges(ql.MovingAverage(window), kinds(max(n, 8))[kind][:n], size):
        low, high = reference.tail_means(values, window)
        slack = len(values) * 2.0**-52 * np.abs(values.astype(np.float64)).max()  # sums of so many terms, in any order
        assert lo == pytest.approx(low, rel=0, abs=slack)
        assert hi == pytest.approx(high, rel=0, abs=slack + 1e-36)


@each_case
@pytest.mark.parametrize(("factor", "batches"), [(0.1, 16), (1, 3), (0.5, 1)])
def test_ema_follows_the_extremes_of_successive_batches(kind, n, size, factor, batches):
    for values, lo, hi in ranges(ql.EMA(factor, batches), kinds(max(n, 8))[kind][:n], size):
        extents = (ends.astype(np.float64) for ends in reference.extents(values, batches))
        parts = [(a, b) for a, b in zip(*extents, strict=True) if a <= b]  # a short group has empty batches
        low, high = parts[0]
        for smallest, largest in parts[1:]:
            low, high = low + factor * (smallest - low), high + factor * (largest - high)
        assert lo == pytest.approx(low, rel=1e-12, abs=1e-300)
        assert hi == pytest.approx(high, rel=1e-12, abs=1e-36)
