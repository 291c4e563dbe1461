"""Calibrations that search: for the range, or the very scale, of least squared error."""

from dataclasses import dataclass

import numpy as np

from . import kernels
from .dtypes import IntegerCodec
from .errors import check_integer
from .granularity import Groups
from .ranging import SEARCHED, Calibration, Range


@dataclass(frozen=True)
class MSE(Calibration):
    """The range of least squared error. Never worse than MinMax.

    A coarse geometric search over ranges down to a thousandth of the full one, then refinements around the best, all
    with the very scale and zero point that the codes will use.
    """

    token = "mse"
    summary = "least squared error; searches how much to clip"

    def range(self, groups: Groups, codec: IntegerCodec) -> Range:
        """The best range found for each group."""
        lo, hi = groups.solve(lambda part, at: self._search(part, codec), SEARCHED)
        return lo, hi

    def _search(self, groups: Groups, codec: IntegerCodec) -> Range:
        full = lo, hi = codec.mapping.widen(*groups.extents)
        for cuts in SYMMETRIC_ROUNDS if codec.mapping.signed else TWO_SIDED_ROUNDS:
            lo, hi = best_candidate(groups, codec, lo, hi, cuts)
        if not codec.pow2_scale:
            return lo, hi
        # The search compared plain scales; what counts is the error with the power of two that is really used.
        found, plain = (codec.squared_errors(groups, codec.fit(groups, *r)) for r in ((lo, hi), full))
        return np.where(found < plain, lo, full[0]), np.where(found < plain, hi, full[1])


def geometric_cuts(ratio: float, smallest: float) -> np.ndarray:
    """Shares to cut off: none first, then leaving ratio, ratio^2, ... down to `smallest`."""
    return 1 - ratio ** np.arange(int(np.log(smallest) / np.log(ratio)) + 1)


def fine_cuts(width: float, steps: int) -> np.ndarray:
    """Shares to cut off or add: none first, then from -width to width."""
    return np.r_[0.0, np.linspace(-width, width, steps)]


def along(shares: np.ndarray, *directions: tuple[float, float, float]) -> np.ndarray:
    """Cuts (below, above, towards zero) of all `shares` along each direction: float64 [shares * directions, 3]."""
    return np.concatenate([shares[:, None] * np.array(direction) for direction in directions])


BOTH, BELOW, ABOVE, TO_ZERO = (0.5, 0.5, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
# Rounds of a search: coarse over three decades, then finer around the best. Two-sided ranges go over the decades
# twice, because each end may need a cut of its own.
SYMMETRIC_ROUNDS = [
    along(shares, BOTH)
    for shares in (geometric_cuts(0.93, 1e-3), fine_cuts(0.07, 14), fine_cuts(0.01, 12), fine_cuts(0.002, 8))
]
TWO_SIDED_ROUNDS = [along(geometric_cuts(0.86, 1e-3), BOTH, BELOW, ABOVE, TO_ZERO)] * 2 + [
    along(fine_cuts(width, 8), BOTH, BELOW, ABOVE, TO_ZERO) for width in (0.12, 0.035, 0.01, 0.003)
]


def best_candidate(groups: Groups, codec: IntegerCodec, lo: np.ndarray, hi: np.ndarray, cuts: np.ndarray) -> Range:
    """The candidate range of least squared error per group; candidate 0 (cutting nothing) wins ties."""
    whole = float(len(groups.pieces()) == 1)

    def errors_of(x: np.ndarray, size: int, at: tuple) -> np.ndarray:
        errors = np.empty((*lo[at].shape, len(cuts)))
        ends = np.ascontiguousarray(lo[at]), np.ascontiguousarray(hi[at])
        kernels.candidate_errors(x, size, *ends, cuts, whole, codec.grid, codec.scale_type.storage, errors)
        return errors

    errors = groups.combine(errors_of, np.add, np.zeros((*lo.shape, len(cuts))))
    best = errors.argmin(axis=-1)
    # A difference in the last digits is summation order, not a better range.
    gain = np.take_along_axis(errors, best[..., None], -1)[..., 0] < errors[..., 0] * (1 - 1e-9)
    new_lo, new_hi = np.empty_like(lo), np.empty_like(hi)
    kernels.narrow_groups(lo, hi, cuts, np.where(gain, best, 0), new_lo, new_hi)
    return new_lo, new_hi


@dataclass(frozen=True)
class Octav(Calibration):
    """The clipping range that balances rounding against clipping, by OCTAV's iteration (Sakr et al. 2022, eq. 12).

    A range of half-width s costs s^2 / (3 * 4^bits) for each value inside and (|x| - s)^2 for each outside. With the
    sets of both held, the best s is the sum of the magnitudes outside over (their count + count inside / (3 * 4^bits)).
    That is iterated from the mean magnitude, until nothing moves or `iterations` are done. Exact zeros cost nothing
    where 0 stays 0, and are not counted.

    Affine and uniform ranges have two ends: each is the best for the other held, with 12 in place of 3, the paper's
    form for one-sided data. An end that clips nothing is the extreme. The fixed point is near the least squared error,
    not at it, since the formula knows neither the codes nor which values they hit: `mse` measures.
    """

    token = "octav"
    summary = "rounding balanced against clipping, by OCTAV's Newton iteration"
    iterations: int = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "iterations", check_integer("iterations", self.iterations, 1, 1000))

    def range(self, groups: Groups, codec: IntegerCodec) -> Range:
        """The range after the last iteration."""
        lo, hi = groups.solve(lambda part, at: self._iterate(part, codec))
        return lo, hi

    def _iterate(self, groups: Groups, codec: IntegerCodec) -> Range:
        mapping = codec.mapping
        smallest, largest = (np.ascontiguousarray(end) for end in mapping.widen(*groups.extents))
        share = 4.0**-codec.bits / (3 if mapping.signed else 12)
        at_zero = outside(groups, *(np.zeros(groups.shape),) * 2)
        inside = np.broadcast_to(groups.lengths, groups.shape).astype(np.float64)
        center = np.zeros(groups.shape)
        if mapping.has_offset:
            center = (at_zero[..., 0] + at_zero[..., 2]) / inside
        else:
            inside = at_zero[..., 1] + at_zero[..., 3]
        lo, hi, signed = center.copy(), center.copy(), float(mapping.signed)
        kernels.octav_step(outside(groups, lo, hi), inside, 0.0, signed, smallest, largest, lo, hi)
        for _ in range(self.iterations):
            if not kernels.octav_step(outside(groups, lo, hi), inside, share, signed, smallest, largest, lo, hi):
                break
        return lo, hi


def outside(groups: Groups, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """(sum of x < lo, their count, sum of x > hi, their count) of every group: float64 [rows, groups, 4]."""

    def sums_of(x: np.ndarray, size: int, at: tuple) -> np.ndarray:
        sums = np.empty((*lo[at].shape, 4))
        kernels.group_tail_sums(x, size, lo[at], hi[at], sums)
        return sums

    return groups.combine(sums_of, np.add, np.zeros((*lo.shape, 4)))
