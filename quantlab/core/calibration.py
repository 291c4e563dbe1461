"""Calibration: which range do the codes cover?

Each calibration is a frozen dataclass whose `range(groups, codec)` returns (lo, hi), float64 [rows, groups]: the range
that the codes are then spread over. None of them needs to know what shares a scale, or how codes are written. Those
that search for it are in `search`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigError, check_integer, check_known, check_number
from . import kernels
from .dtypes import Codec, IntegerCodec
from .granularity import Groups, Piece
from .ranging import SEARCHED, Calibration, Range
from .search import MSE, Exact, Octav
from .selection import order_statistics, tail_means


@dataclass(frozen=True)
class MinMax(Calibration):
    """The smallest and the largest value: nothing is clipped."""

    token = "minmax"
    needs_codec = False
    summary = "the full range; nothing is clipped"

    def range(self, groups: Groups, codec: IntegerCodec) -> Range:
        """The extremes of each group."""
        return groups.extents


@dataclass(frozen=True)
class Percentile(Calibration):
    """Two percentiles in [0, 100], exact, with linear interpolation as `numpy.percentile`."""

    token = "percentile"
    needs_codec = False
    summary = "exact percentiles; the rarest values are clipped"
    lower: float = 0.1
    upper: float = 99.9

    def __post_init__(self) -> None:
        object.__setattr__(self, "lower", check_number("the lower percentile", self.lower, 0, 100))
        object.__setattr__(self, "upper", check_number("the upper percentile", self.upper, 0, 100))
        if not self.lower < 50 < self.upper:
            raise ConfigError(
                f"percentiles {self.lower:g} and {self.upper:g} leave no range: give a lower one below 50 and an upper "
                "one above 50"
            )

    def range(self, groups: Groups, codec: IntegerCodec) -> Range:
        """The two percentiles of each group, widened by a hair where they coincide but the group is not constant."""
        values = order_statistics(groups, self._ranks)
        fractions = np.stack([self._fractions(int(n)) for n in groups.lengths])
        lo = interpolate(values[..., 0], values[..., 1], fractions[:, 0])
        hi = interpolate(values[..., 2], values[..., 3], fractions[:, 1])
        return without_empty(lo, hi, groups)

    def _positions(self, n: int) -> np.ndarray:
        return (n - 1) * (np.array([self.lower, self.upper]) / 100)

    def _ranks(self, n: int) -> np.ndarray:
        below = np.floor(self._positions(n)).astype(np.int64)
        return np.stack([below, np.minimum(below + 1, n - 1)], axis=1).reshape(-1)

    def _fractions(self, n: int) -> np.ndarray:
        positions = self._positions(n)
        return positions - np.floor(positions)


def interpolate(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """a + (b - a) * t, from the nearer end, as numpy.percentile does: so equal to the last bit."""
    return np.where(t < 0.5, a + (b - a) * t, b - (b - a) * (1 - t))


def without_empty(lo: np.ndarray, hi: np.ndarray, groups: Groups) -> Range:
    """A range of no width for a group that is not constant, made just wide enough to clip instead of to vanish."""
    smallest, largest = groups.extents
    empty = (hi <= lo) & (smallest < largest)
    return lo, np.where(empty, lo + np.maximum(np.abs(lo) * 2.0**-40, 1e-36), hi)


@dataclass(frozen=True)
class Entropy(Calibration):
    """The range of least KL divergence between the histogram and its quantized form, after TensorRT.

    For activations at 8 bits. For weights below that, MSE is the better choice: the divergence ignores how far a
    clipped value lies outside. With fewer than 32 values per bin a narrower range must win by more than the counting
    noise of the histogram. Symmetric codes: every threshold is tried, as in TensorRT; others: both ends are searched in
    turns, coarse to fine.

    The zeros of a ReLU or of pruned weights are one spike, beside which the divergence sees nothing else. So the bin of
    0 counts as much as the one next to it, as in NVIDIA's calibrator (`bins[0] = bins[1]` of `_compute_amax_entropy` in
    pytorch-quantization 2.2, calib/histogram.py); between two neighbours, their mean. Still the divergence may be least
    where hardly anything is left, as between two humps: a group keeps the full range, that of MinMax, where the one
    found would have more than `WORST` times its squared error, 10 dB.
    """

    token = "entropy"
    summary = "least KL divergence of the histograms (TensorRT), never 10 dB worse than minmax; meant for 8 bits"
    bins: int = 2048

    shares_statistics = True
    FLOOR: ClassVar[int] = 512  # values per group below which a histogram says nothing
    WORST: ClassVar[float] = 10.0  # squared error of a range over that of the full one, up to which it is taken

    def __post_init__(self) -> None:
        object.__setattr__(self, "bins", check_integer("bins", self.bins, 16, 1 << 16))

    def check(self, codec: Codec) -> None:
        """At most 8 bits, and at least 4 bins per level: fewer leave too few candidates to choose from."""
        if isinstance(codec, IntegerCodec) and (codec.bits > 8 or self.bins < 4 * self._levels(codec)):
            raise ConfigError(
                f"entropy calibration with {self.bins} bins cannot serve {codec.bits}-bit codes: it needs at most 8 "
                "bits and at least 4 bins per level; use mse, or more bins"
            )

    def check_groups(self, shortest: int) -> None:
        """At least `FLOOR` values per group."""
        if shortest < self.FLOOR:
            raise ConfigError(
                f"entropy calibration needs at least {self.FLOOR} values per group, and a group here has "
                f"{shortest}: use mse or percentile, or larger groups"
            )

    def range(self, groups: Groups, codec: IntegerCodec) -> Range:
        """The best window of each group's histogram: of |x| for symmetric codes, of x for the others."""
        return self.ranges(groups, [codec])[0]

    def ranges(self, groups: Groups, codecs: Sequence[IntegerCodec]) -> list[Range]:
        """`range` for several codecs: those of one kind share their histograms."""
        self.check_groups(int(groups.lengths.min()))
        found: dict[int, Range] = {}
        for signed in (True, False):
            alike = [i for i, codec in enumerate(codecs) if codec.mapping.signed == signed]
            if alike:
                windows = self._windows(groups, signed, [codecs[i] for i in alike])
                found.update(zip(alike, windows, strict=True))
        return [found[i] for i in range(len(codecs))]

    def _windows(self, groups: Groups, signed: bool, codecs: list[IntegerCodec]) -> list[Range]:
        """The best windows for each codec, from one histogram per group."""
        lo, hi = groups.extents
        if signed:
            lo, hi = np.zeros_like(lo), np.maximum(np.abs(lo), np.abs(hi))

        def windows(part: Groups, piece: Piece) -> list[np.ndarray]:
            counts, low, high = np.zeros((*part.shape, self.bins), np.int64), lo[piece.at], hi[piece.at]
            part.combine(lambda x, size, at: counts_of(x, size, low[at], high[at]), np.add, counts)
            kernels.histograms.level_zero(np.ascontiguousarray(low), np.ascontiguousarray(high), counts)
            return [end for codec in codecs for end in self._window(part, codec, counts, (low, high))]

        def counts_of(x: np.ndarray, size: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
            counts = np.empty((*low.shape, self.bins), np.int64)
            kernels.histograms.histogram(
                x, size, np.ascontiguousarray(low), np.ascontiguousarray(high), int(signed), counts
            )
            return counts

        ends = iter(groups.solve(windows, SEARCHED))
        return list(zip(ends, ends, strict=True))

    def _window(self, groups: Groups, codec: IntegerCodec, counts: np.ndarray, full: Range) -> Range:
        """The best window of each histogram over the full ranges, or the full range."""
        (low, high), levels = full, self._levels(codec)
        left, right = np.empty(low.shape, np.int64), np.empty(low.shape, np.int64)
        kernels.entropy.best_windows(counts, levels, not codec.mapping.signed, left, right)
        width = (high - low) / self.bins
        lo, hi = low + left * width, np.where(right == self.bins, high, low + right * width)
        doubtful, origins = np.empty(low.shape, np.bool_), np.full(low.shape, np.inf)
        if not codec.mapping.has_offset:
            np.divide(-low, width, where=width > 0, out=origins)
        kernels.entropy.doubtful_windows(counts, left, right, origins, levels, doubtful)
        if not doubtful.any():
            return lo, hi
        found, plain = (codec.squared_errors(groups, codec.fit(groups, *ends)) for ends in ((lo, hi), full))
        kept = doubtful & (found > self.WORST * plain)
        return np.where(kept, low, lo), np.where(kept, high, hi)

    def _levels(self, codec: IntegerCodec) -> int:
        """Levels that the histogram is merged into: the non-negative half for symmetric codes."""
        return 2 ** (codec.bits - 1) if codec.mapping.signed else 2**codec.bits


@dataclass(frozen=True)
class MovingAverage(Calibration):
    """The mean of the `window` smallest values, and of the `window` largest (at most half of the group each)."""

    token = "movavg"
    needs_codec = False
    summary = "means of the smallest and of the largest values"
    window: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", check_integer("window", self.window, 1, 1 << 31))

    def range(self, groups: Groups, codec: IntegerCodec) -> Range:
        """The two means of each group."""
        return without_empty(*tail_means(groups, self.window), groups)


@dataclass(frozen=True)
class EMA(Calibration):
    """Exponential moving average of the ranges of successive batches: m <- m + factor * (new - m).

    The first batch initialises. On one tensor the batches are `batches` consecutive equal pieces of each group.
    """

    token = "ema"
    needs_codec = False
    summary = "exponential moving average of the ranges of successive batches"
    factor: float = 0.1
    batches: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", check_number("the factor", self.factor, 0, 1))
        object.__setattr__(self, "batches", check_integer("batches", self.batches, 1, 4096))
        if self.factor == 0:
            raise ConfigError("the factor is 0, which would never move: give a number above 0, up to 1")

    def range(self, groups: Groups, codec: IntegerCodec) -> Range:
        """The average after the last batch of each group; a group with fewer values than batches has fewer batches."""
        lo, hi = groups.batch_extents(self.batches)
        average: Range | None = None
        for b in range(self.batches):
            average = self.step(average, lo[..., b], hi[..., b])
        assert average is not None
        return without_empty(*average, groups)

    def step(self, average: Range | None, lo: np.ndarray, hi: np.ndarray) -> Range:
        """The average after one more batch; a batch with lo > hi is empty, and an infinite average not yet begun."""
        if average is None:
            return lo, hi
        return self._track(average[0], lo, lo > hi), self._track(average[1], hi, lo > hi)

    def _track(self, old: np.ndarray, new: np.ndarray, empty: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            moved = np.where(np.isinf(old), new, old + self.factor * (new - old))
        return np.where(empty, old, moved)


CALIBRATIONS: dict[str, type[Calibration]] = {
    "minmax": MinMax,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": MSE,
    "octav": Octav,
    "exact": Exact,
    "movavg": MovingAverage,
    "ema": EMA,
}


def parse_calibration(token: str) -> Calibration:
    """The calibration of a slug: `minmax`, `percentile0.1_99.9`, `entropy512`, `ema0.2_16`."""
    match = re.fullmatch(r"([a-z]+)((?:\d{1,400}(?:\.\d{1,400})?_?)*)", token)
    name = match[1] if match else token
    check_known("calibration", name, CALIBRATIONS)
    assert match is not None
    kind: Any = CALIBRATIONS[name]
    parameters = match[2].split("_") if match[2] else []
    converters: list[Callable] = [type(field.default) for field in fields(kind)]
    if len(parameters) not in (0, len(converters)):
        raise ConfigError(
            f"calibration {token!r} has {len(parameters)} parameters: {name} takes {len(converters)}, or none for the "
            "defaults"
        )
    try:
        return kind(*(convert(text) for convert, text in zip(converters, parameters, strict=False)))
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"calibration {token!r} has a parameter that is not a number of the right kind") from None
