"""Calibrations that search: for the range, or the very scale, of least squared error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from . import kernels
from .dtypes import Codec, IntegerCodec
from .errors import ConfigError, check_integer
from .granularity import Groups
from .kernels import FLOAT32_MAX, Fitted, Sides, Work
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


@dataclass(frozen=True)
class Exact(Calibration):
    """The scale, and zero point, of least squared error: no other is better, whatever chose it.

    Of all scales that the scale's type can store (of powers of two, with `pow2_scale`), in every group. For symmetric
    codes the scale may be negative, so that the one code more below 0 serves the side that needs it.
    """

    token = "exact"
    summary = "the least squared error that any scale gives, of either sign"
    signed_scales = True

    BITS: ClassVar[int] = 8
    LARGEST: ClassVar[int] = 1 << 18  # values that one thread follows without being able to stop
    WORK: ClassVar[int] = 1 << 26  # changes of codes that one group may take to follow, counted for every zero point
    ROOM: ClassVar[int] = 1 << 14  # changes listed at a time: they stay in the cache

    def check(self, codec: Codec) -> None:
        """Symmetric or affine codes of up to 8 bits."""
        if not isinstance(codec, IntegerCodec):
            return
        if codec.mapping.has_offset:
            raise ConfigError(
                "exact calibration finds a scale and an integer zero point, and the uniform mapping has a float "
                "offset: use another mapping, or mse"
            )
        if codec.bits > self.BITS:
            raise ConfigError(
                f"exact calibration follows every change of a code, up to {self.BITS} bits, not {codec.bits}: use mse "
                "or octav"
            )

    def range(self, groups: Groups, codec: IntegerCodec) -> Range:
        """The values of the outermost codes."""
        fitted, grid = self.fit(groups, codec), codec.grid
        scale, zero_point = fitted.scale.astype(np.float64), fitted.zero_point
        ends = scale * (grid.qmin - zero_point), scale * (grid.qmax - zero_point)
        return np.minimum(*ends), np.maximum(*ends)

    def fit(self, groups: Groups, codec: IntegerCodec) -> Fitted:
        """The best scale and zero point of every group. ConfigError if the groups are too large."""
        ways = len(sides_of(codec, False).up)
        limit = min(self.LARGEST, self.WORK // (ways << (codec.bits - 1)))
        if groups.size > limit:
            raise ConfigError(
                f"exact calibration of {codec.bits}-bit {codec.mapping.name} codes takes groups of up to {limit:,} "
                f"values, and a group here has {groups.size:,}: use octav or mse, or smaller groups"
            )
        return Fitted(*groups.solve(lambda part, at: self._search(part, codec)))

    def _search(self, groups: Groups, codec: IntegerCodec) -> Fitted:
        lo, hi = groups.extents
        fitted = codec.fit(groups, lo, hi)
        sides = sides_of(codec, max(hi.max(), -lo.min()) > FLOAT32_MAX / 2)
        work = work_for(max(self.ROOM, groups.size), groups.size, len(sides.up))
        kernels.exact_scales(
            groups.matrix, groups.size, sides, codec.grid, codec.scale_type.storage, float(codec.pow2_scale), work,
            fitted.scale, fitted.zero_point,
        )  # fmt: skip
        return fitted


def work_for(changes: int, values: int, ways: int) -> Work:
    """Room for so many changes at a time, of groups of so many values, under so many ways to lay codes."""
    return Work(
        times=np.empty(changes + 4),
        rises=np.empty(changes + 4),
        weights=np.empty(changes + 4),
        order=np.empty(changes, np.uint64),
        starts=np.empty(2 * changes, np.uint64),
        codes=np.empty(values),
        sums=np.empty((ways, 2)),
        ends=np.empty(ways),
    )


def sides_of(codec: IntegerCodec, huge: bool) -> Sides:
    """The ways to lay codes around 0: with either sign of the scale, or with every zero point.

    `huge` says whether values beyond half of the largest float32 occur: then an outermost code may stand for infinity,
    which is not used, and scales are also searched for that leave out the outermost codes.
    """
    grid = codec.grid
    if codec.mapping.signed:
        ways = [(-grid.qmin, grid.qmax, 1.0, 0.0), (grid.qmax, -grid.qmin, -1.0, 0.0)]
    else:
        ways = [(z, grid.qmax - z, 1.0, z) for z in np.arange(grid.qmax + 1)]
    if not huge:
        return laid_out([(*way, np.inf) for way in ways])
    found = []
    for most in range(1, int(max(max(way[:2]) for way in ways)) + 1):
        largest = kernels.round_down(FLOAT32_MAX / most, codec.scale_type.storage)
        if codec.pow2_scale:
            largest = np.exp2(np.frexp(largest)[1] - 1)
        found += [(min(down, most), min(up, most), sign, z, largest) for down, up, sign, z in ways]
    return laid_out(found)


def laid_out(ways: Sequence[tuple[float, ...]]) -> Sides:
    """Ways to lay codes, each (down, up, sign, zero point, most), as arrays."""
    down, up, sign, zero_point, most = np.array(ways).T.copy()
    return Sides(down, up, sign, zero_point, most, down.max(), up.max())
