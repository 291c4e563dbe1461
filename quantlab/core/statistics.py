"""What a tensor looks like before it is quantized.

Moments are float64 and taken in two passes (first the mean, then powers of the distance from it), so that an offset of
1000 or a range of 1e38 costs no digits. Everything is read in pieces and spread over the process's thread pool; no
copy of the tensor is made.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ..errors import EmptyTensorError, ShapeError
from . import pool

OUTLIER_SIGMAS = 6.0  # a Gaussian has two such values in a billion
DEAD = 2.0**-24  # of the tensor's largest magnitude: what a float32 next to it would round away
HALF_STEPS = 254  # of symmetric int8, from 0 to the largest magnitude
MOST_BINS = 256
_PIECE = 1 << 17  # values per piece: float64 copies of it stay in the cache


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts over equal bins. `edges`: float64 [bins + 1]; `counts`: int64 [bins]."""

    edges: np.ndarray
    counts: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        """Middles of the bins, float64 [bins]."""
        return (self.edges[:-1] + self.edges[1:]) / 2


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Figures of one tensor.

    Attributes
    ----------
    shape, size : as of the array.
    minimum, maximum, mean, std : in the tensor's own unit; std is the population's.
    kurtosis : excess kurtosis, 0 for a Gaussian, at most size - 2; NaN for a constant tensor.
    zeros : share of values that are exactly 0, from 0 to 1.
    outliers : share of values more than `OUTLIER_SIGMAS` standard deviations from the mean, from 0 to 1.
    vanishing : share of values other than 0 that int8 with one scale for the tensor rounds to 0, from 0 to 1.
    histogram : of all values, from minimum to maximum.
    """

    shape: tuple[int, ...]
    minimum: float
    maximum: float
    mean: float
    std: float
    kurtosis: float
    zeros: float
    outliers: float
    vanishing: float
    histogram: Histogram

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def amax(self) -> float:
        """The largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))


@dataclass(frozen=True, eq=False)
class ChannelRanges:
    """How far every channel along one axis reaches.

    Attributes
    ----------
    axis : which axis the channels lie along, not negative.
    minimum, maximum : of the values of each channel, float64 [channels].
    """

    axis: int
    minimum: np.ndarray
    maximum: np.ndarray

    @cached_property
    def amax(self) -> np.ndarray:
        """Largest magnitude per channel, float64 [channels]."""
        return np.maximum(-self.minimum, self.maximum)

    @property
    def one_sided(self) -> np.ndarray:
        """Indices of channels that reach somewhere, to one side of 0 alone."""
        return np.flatnonzero(((self.minimum >= 0) | (self.maximum <= 0)) & (self.amax > 0))

    @property
    def count(self) -> int:
        """Number of channels."""
        return self.amax.size

    @property
    def dead(self) -> np.ndarray:
        """Indices of channels without a value above `DEAD` of the tensor's largest magnitude."""
        return np.flatnonzero(self.amax <= DEAD * self.amax.max(initial=0.0))

    @property
    def relative_range(self) -> np.ndarray:
        """Largest magnitude of each channel / that of the median channel, float64 [channels]; NaN if that is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.amax / np.median(self.amax)
        return np.where(np.isfinite(ratio), ratio, np.nan)

    @property
    def gain_db(self) -> float:
        """How much less rounding error a scale per channel makes than one for all, in dB, by the ranges alone.

        A step is proportional to its range, so this is max(amax)^2 / mean(amax^2); 0 where nothing reaches anywhere.
        """
        shares = (self.amax / (self.amax.max(initial=0.0) or 1.0)) ** 2
        return -10 * math.log10(shares.mean()) if shares.any() else 0.0


@dataclass(frozen=True, eq=False)
class ChannelStatistics(ChannelRanges):
    """Figures of every channel along one axis, each a float64 array [channels].

    Attributes
    ----------
    p1, p99, std : of the values of each channel; p1 and p99 are its 1st and 99th percentile.
    crest : largest magnitude / root mean square of each channel: 1 for +-c, about 4 for Gaussian weights, and the
        larger, the fewer codes the bulk of the channel gets. NaN for a channel of zeros.
    """

    p1: np.ndarray
    p99: np.ndarray
    std: np.ndarray
    crest: np.ndarray

    def worst(self, count: int = 10, by: Literal["range", "crest"] = "crest") -> np.ndarray:
        """Indices of the channels with the largest magnitudes, or crest factors; the worst first, and no dead ones."""
        figures = {"range": self.amax, "crest": np.nan_to_num(self.crest, nan=-1.0)}[by]
        order = np.argsort(-figures, kind="stable")
        return order[~np.isin(order, self.dead)][:count]


def describe(x: np.ndarray, bins: int | None = None) -> TensorStatistics:
    """Figures of a tensor.

    Parameters
    ----------
    x : float32, C order, finite, any shape.
    bins : of its histogram; by default as many as suit the number of values.

    Raises
    ------
    EmptyTensorError : there are no values.

    >>> figures = describe(np.float32([1, 2, 3, 4]))
    >>> figures.mean, round(figures.std, 3), round(figures.kurtosis, 2)
    (2.5, 1.118, -1.36)
    """
    pieces = _pieces(x)
    n = x.size
    extremes = pool.run(_extremes, pieces)
    low, high = min(e[0] for e in extremes), max(e[1] for e in extremes)
    # Equal extremes mean one value: its sum would be off by a rounding, and a std of 1e-17 with it.
    mean = low if low == high else min(max(math.fsum(e[2] for e in extremes) / n, low), high)
    powers = pool.run(lambda piece: _powers(piece, mean), pieces)
    m2, m4 = (math.fsum(p[i] for p in powers) / n for i in (0, 1))
    std = math.sqrt(m2)
    far = pool.run(lambda piece: _count_beyond(piece, mean, OUTLIER_SIGMAS * std), pieces)
    zeros = sum(e[3] for e in extremes)
    small = pool.run(lambda piece: _count_within(piece, max(-low, high) / HALF_STEPS), pieces)
    return TensorStatistics(
        shape=x.shape,
        minimum=low,
        maximum=high,
        mean=mean,
        std=std,
        kurtosis=m4 / m2**2 - 3 if std else math.nan,
        zeros=zeros / n,
        outliers=sum(far) / n,
        vanishing=(sum(small) - zeros) / n,
        histogram=histogram(x, low, high, bins),
    )


def histogram(x: np.ndarray, low: float, high: float, bins: int | None = None) -> Histogram:
    """Counts of the values of `x` in [low, high], as `numpy.histogram` counts them; a range of one value is widened.

    Raises EmptyTensorError if `x` has no values, ShapeError for a range that is not a range.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ShapeError(f"a histogram from {low} to {high} has no range: give two finite numbers, the smaller first")
    if low == high:
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, high + margin
    bins = bins or suited_bins(x.size)
    counts = pool.run(lambda piece: _counts(piece, low, high, bins), _pieces(x))
    return Histogram(np.linspace(low, high, bins + 1), np.sum(counts, axis=0))


def suited_bins(count: int) -> int:
    """How many bins show the shape of `count` values: twice the square root, from 16 to 256."""
    return min(max(2 * math.isqrt(count), 16), MOST_BINS)


def central_range(x: np.ndarray) -> tuple[float, float]:
    """The smallest and largest of the 99 % of the values that remain when both tails are cut off equally.

    Taken from a sample of at most a million evenly spaced values: it is for looking, not for calibration.
    """
    flat = x.reshape(-1)
    if not flat.size:
        raise EmptyTensorError("a tensor without elements has no range")
    # An odd stride: rows are often a power of two long, and an even one would always hit the same columns.
    sample = flat[:: flat.size // 1_000_000 | 1]
    low, high = np.quantile(sample, [0.005, 0.995])
    return float(low), float(high)


def describe_channels(x: np.ndarray, axis: int = 0) -> ChannelStatistics:
    """Figures of every channel along `axis` of a float32 array of at least one dimension.

    Raises
    ------
    EmptyTensorError : there are no values.
    ShapeError : `x` has no such axis.
    """
    channels = _channels(x, axis)
    # Pieces of whole channels: about as many values at a time as elsewhere, and at least one channel.
    step = max(1, _PIECE // math.prod(channels.shape[1:]))
    starts = range(0, len(channels), step)
    parts = pool.run(lambda start: _channel_figures(channels[start : start + step]), starts)
    low, p1, p99, high, std, crest = np.concatenate(parts, axis=1)
    return ChannelStatistics(axis % x.ndim, low, high, p1, p99, std, crest)


def channel_ranges(x: np.ndarray) -> list[ChannelRanges]:
    """How far the channels reach along every axis that has several, each of several values.

    `x` is float32, in C order, with elements.
    """
    return [ChannelRanges(axis, *_reach(x, axis)) for axis, count in enumerate(x.shape) if 1 < count < x.size]


def channel_histograms(x: np.ndarray, axis: int, channels: Iterable[int], bins: int = 32) -> list[Histogram]:
    """Histograms of some channels along `axis`, each over its own range."""
    rows = (np.ascontiguousarray(_channels(x, axis)[channel]) for channel in channels)
    return [histogram(row, float(row.min()), float(row.max()), bins) for row in rows]


def _pieces(x: np.ndarray) -> list[np.ndarray]:
    if not x.size:
        raise EmptyTensorError(f"a tensor of shape {list(x.shape)} has no elements, so it has no statistics")
    flat = x.reshape(-1)
    return [flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE)]


def _extremes(piece: np.ndarray) -> tuple[float, float, float, int]:
    """Minimum, maximum, sum and number of zeros."""
    zeros = piece.size - int(np.count_nonzero(piece))
    return float(piece.min()), float(piece.max()), float(piece.sum(dtype=np.float64)), zeros


def _powers(piece: np.ndarray, mean: float) -> tuple[float, float]:
    """Sums of the second and the fourth power of the distance from the mean. 3e38 ** 4 still fits a float64."""
    square = piece.astype(np.float64)
    square -= mean
    square *= square
    second = float(square.sum())
    square *= square
    return second, float(square.sum())


def _count_beyond(piece: np.ndarray, mean: float, distance: float) -> int:
    # float64 bounds: a Python float would be rounded to float32, or overflow there.
    low, high = np.float64(mean - distance), np.float64(mean + distance)
    return int(np.count_nonzero((piece < low) | (piece > high)))


def _count_within(piece: np.ndarray, distance: float) -> int:
    bound = np.float64(distance)
    return int(np.count_nonzero((piece >= -bound) & (piece <= bound)))


def _counts(piece: np.ndarray, low: float, high: float, bins: int) -> np.ndarray:
    # float64, or the bin of a float32 next to an edge would depend on float32 rounding of the edges.
    return np.histogram(piece.astype(np.float64), bins, (low, high))[0]


def _channels(x: np.ndarray, axis: int) -> np.ndarray:
    """A view [channels, ...] of `x`."""
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"a tensor of shape {list(x.shape)} has no axis {axis}")
    if not x.size:
        raise EmptyTensorError(f"a tensor of shape {list(x.shape)} has no elements, so it has no channels")
    return np.moveaxis(x, axis, 0)


def _reach(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of every channel along `axis`, float64 [channels] each."""
    cube = x.reshape(math.prod(x.shape[:axis]), x.shape[axis], -1)
    outer, count, inner = cube.shape
    if outer < count:
        step = max(1, _PIECE // (outer * inner))
        blocks = [cube[:, start : start + step] for start in range(0, count, step)]
        low, high = (np.concatenate(part) for part in zip(*pool.run(_ends, blocks), strict=True))
    else:
        step = max(1, _PIECE // (count * inner))
        lows, highs = zip(*pool.run(_ends, [cube[at : at + step] for at in range(0, outer, step)]), strict=True)
        low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    return low.astype(np.float64), high.astype(np.float64)


def _ends(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value along the middle axis of a block [outer, channels, inner]."""
    return block.min(axis=(0, 2)), block.max(axis=(0, 2))


def _channel_figures(block: np.ndarray) -> np.ndarray:
    """float64 [6, channels]: minimum, p1, p99, maximum, std, crest of a block [channels, ...]."""
    rows = block.reshape(len(block), -1).astype(np.float64)
    rows.sort(axis=1)
    low, p1, p99, high = rows[:, 0], *(_quantile(rows, q) for q in (0.01, 0.99)), rows[:, -1]
    rms = np.sqrt(np.mean(rows * rows, axis=1))
    crest = np.full(len(rows), np.nan)
    np.divide(np.maximum(np.abs(low), np.abs(high)), rms, out=crest, where=rms > 0)
    return np.stack([low, p1, p99, high, rows.std(axis=1), crest])


def _quantile(rows: np.ndarray, q: float) -> np.ndarray:
    """Linear interpolation between the order statistics of sorted rows, as `numpy.quantile`."""
    place = q * (rows.shape[1] - 1)
    below = int(place)
    above = min(below + 1, rows.shape[1] - 1)
    return rows[:, below] + (rows[:, above] - rows[:, below]) * (place - below)
