"""Calibrations that search: for the range, or the very scale, of least squared error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from ..errors import ConfigError, check_integer
from . import kernels, pool
from .dtypes import Codec, IntegerCodec
from .granularity import PIECE, Groups, Piece
from .kernels import records
from .kernels.records import FLOAT32_MAX, Fitted, Sides, Work
from .ranging import Calibration, Range


@dataclass(frozen=True)
class MSE(Calibration):
    """The range of least squared error. Never worse than MinMax, nor than 200 ranges from it down to nothing.

    Small groups of very few codes: the best scale there is, as `Exact`, but above 0. Others: a search over ranges down
    to a thousandth of the full one, 200 of them evenly spaced less those that cannot be the best, then finer around the
    best, all with the very scale and zero point that the codes will use. Groups too large for that are searched as a
    histogram, and what comes of it is compared on the values themselves. Trials see errors to about float32; the last
    word, against the full range, has the error of encoding and decoding.
    """

    token = "mse"
    summary = "least squared error; searches how much to clip"

    # By bits, the values of a group up to which following every code is worth it: beyond, a search finds about as much.
    SWEPT: ClassVar[Mapping[int, int]] = MappingProxyType({2: 512, 3: 512, 4: 31})

    def range(self, groups: Groups, codec: IntegerCodec) -> Range:
        """The best range found for each group."""
        if self._sweeps(groups, codec):
            return covered(self.fit(groups, codec), codec)
        if groups.size > PIECE:
            return search_large(groups, codec)
        lo, hi = groups.solve(lambda part, _: self._search(part, codec))
        return lo, hi

    def fit(self, groups: Groups, codec: IntegerCodec) -> Fitted:
        """Scale, zero point and offset for the best range of each group."""
        if self._sweeps(groups, codec):
            return swept(groups, codec, exact=False)
        return super().fit(groups, codec)

    def _sweeps(self, groups: Groups, codec: IntegerCodec) -> bool:
        return groups.size <= self.SWEPT.get(codec.bits, 0) and not codec.mapping.has_offset

    def _search(self, groups: Groups, codec: IntegerCodec) -> Range:
        full = codec.mapping.widen(*groups.extents)
        lo, hi = (np.array(end) for end in full)
        plan, grid, storage = plan_for(codec), codec.grid, codec.scale_type.storage
        kernels.ranges.search_ranges(
            groups.matrix, groups.size, plan.numbers, plan.walked(codec), grid, storage, lo, hi
        )
        return not_worse(groups, codec, (lo, hi), full)


def not_worse(groups: Groups, codec: IntegerCodec, found: Range, full: Range) -> Range:
    """The range found, or the full one where powers of two make that better: the search compared plain scales."""
    if not codec.pow2_scale:
        return found
    errors, plain = (codec.squared_errors(groups, codec.fit(groups, *ends)) for ends in (found, full))
    return np.where(errors < plain, found[0], full[0]), np.where(errors < plain, found[1], full[1])


def covered(fitted: Fitted, codec: IntegerCodec) -> Range:
    """The range from which `codec` fits these scales and zero points."""
    scale, steps = np.abs(fitted.scale.astype(np.float64)), codec.grid.steps
    lo = -scale * (steps / 2 if codec.mapping.signed else fitted.zero_point.astype(np.float64))
    return lo, lo + steps * scale


BOTH, BELOW, ABOVE, TO_ZERO = (0.5, 0.5, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
SHIFT = (0.5, -0.5, 0.0)
EVENLY = np.arange(1, 200) / 200  # shares to cut off
DECADES = 1 - 0.93 ** np.arange(1, 96)
TAIL = DECADES[EVENLY[-1] < DECADES]  # from a 200th down to a thousandth


Rounds = Sequence[Sequence[tuple[tuple[float, float, float], np.ndarray]]]


@dataclass(frozen=True, eq=False)
class Plan:
    """Rounds of a search.

    `rounds` : for each round the directions to go, each with the shares to try, from none to the most.
    `quick` : those after the first two, where a trial also knows the best scale for the codes it gives: fewer do.
    """

    rounds: Rounds
    quick: Rounds = ()

    @cached_property
    def numbers(self) -> records.Plan:
        """All directions, one after the other."""
        return numbered(self.rounds)

    def walked(self, codec: IntegerCodec) -> records.Plan:
        """The same for groups that are walked through: the even ranges come first, and need no coarse ones."""
        moved = records.moves_scales(codec.grid, codec.scale_type.storage) and codec.bits <= QUICK_BITS
        return self._quickly if moved and self.quick else self._fully

    @cached_property
    def _quickly(self) -> records.Plan:
        return numbered([self._walk, *self.quick])

    @cached_property
    def _fully(self) -> records.Plan:
        return numbered([self._walk, *self.rounds[2:]])

    @property
    def _walk(self) -> Sequence:
        (_, *others), ((way, shares),) = self.rounds[:2]
        return [(way, np.r_[0, shares]), *others]

    def of_round(self, number: int) -> np.ndarray:
        """All cuts of one round, as `narrowed` takes them: [n, 3]. Negative numbers count from the last."""
        return np.concatenate([shares[:, None] * np.array(way) for way, shares in self.rounds[number]])


def numbered(rounds: Rounds) -> records.Plan:
    """The directions of all rounds."""
    sizes = [(number, len(shares)) for number, ways in enumerate(rounds) for _, shares in ways]
    ends = np.cumsum([size for _, size in sizes])
    slices = [(number, end - size, end) for (number, size), end in zip(sizes, ends, strict=True)]
    ways = [(way, shares) for ways in rounds for way, shares in ways]
    return records.Plan(
        np.array([way for way, _ in ways]), np.concatenate([shares for _, shares in ways]), np.array(slices)
    )


def around(directions: Sequence[tuple[float, float, float]], *shares: float) -> list:
    """A round of narrower, then of wider ranges along each direction."""
    return [(tuple(sign * share for share in way), np.array(shares)) for way in directions for sign in (1, -1)]


def coarse_and_even(way: tuple[float, float, float]) -> list:
    """Rounds that first find about where the best range is, so that most of the 200 are soon seen to be worse."""
    return [[(way, DECADES[::3])], [(way, np.r_[EVENLY, TAIL])]]


APART = [(way, DECADES[::2]) for way in (ABOVE, BELOW)]  # each end for itself; twice, because one moves the other
ENDS, ALL = (BELOW, ABOVE), (BOTH, SHIFT, BELOW, ABOVE)
COARSE = np.r_[0.0025:0.025:10j, 0.03, 0.035, 0.04, 0.045, 0.05, 0.06]
FINE = np.r_[0.0003:0.0024:8j]
SYMMETRIC = Plan(
    [*coarse_and_even(BOTH), around((BOTH,), *COARSE), around((BOTH,), *FINE)],
    [around((BOTH,), *np.arange(1, 13) * 0.005)],
)
FEW_SYMMETRIC = Plan(SYMMETRIC.rounds, [around((BOTH,), 0.005, 0.01, 0.02, 0.03, 0.045)])
AFFINE = Plan(
    [
        *coarse_and_even(TO_ZERO),
        APART,
        APART,
        around(ENDS, 0.06, 0.12) + around((SHIFT,), 0.06, 0.12) + around((BOTH,), 0.06),
        around((BOTH,), *COARSE[::2]) + around(ENDS, 0.015, 0.045) + around((SHIFT,), 0.025),
        around((BOTH,), *FINE) + around(ENDS, 0.003, 0.008) + around((SHIFT,), 0.005),
        around(ENDS, 0.001, 0.002) + around((SHIFT,), 0.0015),
    ],
    [
        APART,
        around((BOTH,), *np.arange(1, 9) * 0.0065),
        around(ENDS, 0.006, 0.012, 0.02, 0.03, 0.045) + around((SHIFT,), 0.006, 0.012, 0.02),
    ],
)
UNIFORM = Plan(
    [
        *coarse_and_even(BOTH),
        APART,
        APART,
        around(ALL, 0.005, 0.01, 0.025, 0.05),
        around(ALL, 0.0015, 0.003, 0.006, 0.01),
        around(ALL, 0.0003, 0.0006, 0.001, 0.002),
    ]
)
# Few codes have local minima far from each other, where one end is cut and the other is not: one may cost twice the
# best. So from the full range either end is cut alone, and in ways between; then once more farther around.
FAN = [((1 - t, t, 0.0), DECADES[1:48:3]) for t in (0, 0.05, 0.1, 0.2, 0.35, 0.65, 0.8, 0.9, 0.95, 1)]
FEW_BITS, QUICK_BITS = 4, 8


def fanned(plan: Plan) -> Plan:
    """The plan of two ends for few codes."""
    rounds, far = list(plan.rounds), around(ALL, 0.05, 0.1, 0.15, 0.2)
    return Plan([[*rounds[0], *FAN], *rounds[1:4], far, *rounds[4:]], [APART, far])


FEW_AFFINE, FEW_UNIFORM = fanned(AFFINE), fanned(UNIFORM)


def plan_for(codec: IntegerCodec) -> Plan:
    """The search for a codec."""
    if codec.mapping.signed:
        return FEW_SYMMETRIC if codec.bits <= FEW_BITS else SYMMETRIC
    if codec.bits <= FEW_BITS:
        return FEW_UNIFORM if codec.mapping.has_offset else FEW_AFFINE
    return UNIFORM if codec.mapping.has_offset else AFFINE


BINS = 24 * 512  # of a histogram on either side of its center: 24 powers of two
NEAR = 1.006  # ranges whose errors look this close to the least are compared on the values
MOST = 16


def search_large(groups: Groups, codec: IntegerCodec) -> Range:
    """The best ranges of groups that are searched one after the other, each spread over the pool."""
    (rows, per_row), size = groups.shape, groups.size
    if (rows, per_row) == (1, 1):
        return search_histogram(groups, codec)
    lo, hi = np.empty(groups.shape), np.empty(groups.shape)
    for r, j in np.ndindex(rows, per_row):
        group = Groups(groups.matrix[r : r + 1, j * size : (j + 1) * size], size, groups.tensor)
        group.extents = groups.extents[0][r : r + 1, j : j + 1], groups.extents[1][r : r + 1, j : j + 1]
        found = search_histogram(group, codec) if group.size > PIECE else MSE().range(group, codec)
        lo[r, j], hi[r, j] = (end.item() for end in found)
    return lo, hi


def search_histogram(groups: Groups, codec: IntegerCodec) -> Range:
    """The best range of one large group: searched as a histogram, decided on the values; [1, 1] each."""
    full = codec.mapping.widen(*groups.extents)
    widest = full[0].item(), full[1].item()
    plan = plan_for(codec)
    binned = Binned.of(groups, codec)
    grid_lo, grid_hi = narrowed(*widest, np.concatenate([np.zeros((1, 3)), plan.of_round(0), plan.of_round(1)]))
    on_grid = binned.errors(grid_lo, grid_hi, codec)
    best, (lo, hi) = on_grid.min(), (grid_lo[on_grid.argmin()], grid_hi[on_grid.argmin()])
    for number in [*range(2, len(plan.rounds))] * 4:  # bins are few: going round again costs nothing
        los, his = narrowed(lo, hi, plan.of_round(number))
        errors = binned.errors(los, his, codec)
        if errors.min() < best:
            best, lo, hi = errors.min(), los[errors.argmin()], his[errors.argmin()]
    near = np.argsort(on_grid)[:MOST]
    near = near[on_grid[near] <= NEAR * best]
    finer_lo, finer_hi = narrowed(lo, hi, plan.of_round(-1))
    los, his = np.r_[lo, finer_lo, grid_lo[near]], np.r_[hi, finer_hi, grid_hi[near]]
    least = errors_of(groups, los, his, codec, about=True).argmin()
    los, his = np.r_[widest[0], los[least]], np.r_[widest[1], his[least]]
    errors = errors_of(groups, los, his, codec, about=False)
    # A difference in the last digits is summation order, not a better range.
    chosen = errors.argmin() if errors.min() < errors[0] * (1 - 1e-9) else 0
    return not_worse(groups, codec, (los[chosen].reshape(1, 1), his[chosen].reshape(1, 1)), full)


def narrowed(lo: float, hi: float, cuts: np.ndarray) -> Range:
    """A range without shares of its width below and above and, the third, of either end's way to 0, for cuts [n, 3]."""
    center, width = min(max(lo, 0.0), hi), hi - lo
    below, above, to_zero = cuts.T
    return lo + below * width + to_zero * (center - lo), hi - above * width - to_zero * (hi - center)


def errors_of(groups: Groups, lo: np.ndarray, hi: np.ndarray, codec: IntegerCodec, about: bool) -> np.ndarray:
    """Squared error of one group under each of several ranges: float64 [n]; `about`, times a power of two."""
    amax = max(abs(end.item()) for end in groups.extents)
    factor = np.exp2(1 - np.frexp(max(amax, 2.0**-149))[1])

    def of_part(x: np.ndarray, size: int, at: tuple) -> np.ndarray:
        errors, grid, storage = np.zeros(len(lo)), codec.grid, codec.scale_type.storage
        if about:
            kernels.trials.about_errors(x[0], lo, hi, factor, grid, storage, errors)
        else:
            kernels.ranges.range_errors(x[0], lo, hi, grid, storage, errors)
        return errors

    return groups.combine(of_part, np.add, np.zeros((1, 1, len(lo))))[0, 0]


@dataclass(frozen=True, eq=False)
class Binned:
    """A large group as bins of about the same value: counts, and means less `center`, float64 [n]."""

    counts: np.ndarray
    means: np.ndarray
    center: float

    @classmethod
    def of(cls, groups: Groups, codec: IntegerCodec) -> "Binned":
        """Bins that are the finer the nearer to 0 or, with an offset, to the mean; made once for each of the two."""
        key = cls, codec.mapping.has_offset
        if key not in groups.memo:
            groups.memo[key] = cls._made(groups, codec)
        return groups.memo[key]

    @classmethod
    def _made(cls, groups: Groups, codec: IntegerCodec) -> "Binned":
        lo, hi = (end.item() for end in groups.extents)
        center = 0.0
        if codec.mapping.has_offset:
            nothing = np.zeros(groups.shape)
            center = float(np.float32(outside(groups, nothing, nothing)[..., ::2].sum() / groups.size))
            center *= max(hi - center, center - lo) < FLOAT32_MAX  # or distances from it would not be finite
        farthest = np.float32(max(hi - center, center - lo))
        first = np.int32(int(farthest.view(np.int32) >> 14) - BINS + 1)

        def bins_of(x: np.ndarray, size: int, at: tuple) -> np.ndarray:
            bins = np.zeros((2, BINS, 2))
            kernels.histograms.log_histogram(x[0], np.float32(center), first, bins)
            return bins

        bins = groups.combine(bins_of, np.add, np.zeros((1, 1, 2, BINS, 2)))[0, 0].reshape(-1, 2)
        counts, sums = bins[bins[:, 0] > 0].T
        return cls(counts, sums / counts, center)

    def errors(self, lo: np.ndarray, hi: np.ndarray, codec: IntegerCodec) -> np.ndarray:
        """About the squared error under each of several ranges: float64 [n]."""
        errors = np.empty(len(lo))
        grid, storage = codec.grid, codec.scale_type.storage

        def fill(part: slice) -> None:
            kernels.ranges.binned_errors(
                self.counts, self.means, self.center, lo[part], hi[part], grid, storage, errors[part]
            )

        pool.run(fill, [slice(i, i + 16) for i in range(0, len(lo), 16)])
        return errors


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
        lo, hi = groups.solve(lambda part, _: self._iterate(part, codec))
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
        kernels.octav.octav_step(outside(groups, lo, hi), inside, 0.0, signed, smallest, largest, lo, hi)
        for _ in range(self.iterations):
            if not kernels.octav.octav_step(outside(groups, lo, hi), inside, share, signed, smallest, largest, lo, hi):
                break
        return lo, hi


def outside(groups: Groups, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """(sum of x < lo, their count, sum of x > hi, their count) of every group: float64 [rows, groups, 4]."""

    def sums_of(x: np.ndarray, size: int, at: tuple) -> np.ndarray:
        sums = np.empty((*lo[at].shape, 4))
        kernels.order.group_tail_sums(x, size, lo[at], hi[at], sums)
        return sums

    return groups.combine(sums_of, np.add, np.zeros((*lo.shape, 4)))


@dataclass(frozen=True)
class Exact(Calibration):
    """The scale, and zero point, of least squared error: no other is better, whatever chose it.

    Of all scales that the scale's type can store (of powers of two, with `pow2_scale`), in every group. For symmetric
    codes the scale may be negative, so that the one code more below 0 serves the side that needs it.

    A code times a float32 scale is rounded once more, by chance better for one scale than for its neighbour. No scale
    up to three float32 steps away is better; one hundreds of steps away may be, in the last digits (1e-5 of the error
    at 8 bits and 16 Gaussian values). Narrower scales have no such rounding.
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
        ways = len(sides_of(codec, True, False).up)
        limit = min(self.LARGEST, self.WORK // (ways << (codec.bits - 1)))
        if groups.size > limit:
            raise ConfigError(
                f"exact calibration of {codec.bits}-bit {codec.mapping.name} codes takes groups of up to {limit:,} "
                f"values, and a group here has {groups.size:,}: use octav or mse, or smaller groups"
            )
        return swept(groups, codec, exact=True)


def swept(groups: Groups, codec: IntegerCodec, exact: bool) -> Fitted:
    """The best scale and zero point of every group, by following every change of a code.

    `exact` ones are of either sign, and settled among their neighbours in float32.
    """

    def search(part: Groups, piece: Piece) -> Fitted:
        lo, hi = part.extents
        fitted = codec.fit(part, lo, hi)
        sides = sides_of(codec, exact, max(hi.max(), -lo.min()) > FLOAT32_MAX / 2)
        work = work_for(max(Exact.ROOM, part.size), part.size, len(sides.up))
        grid, storage, pow2 = codec.grid, codec.scale_type.storage, float(codec.pow2_scale)
        kernels.exact.exact_scales(
            part.matrix, part.size, sides, grid, storage, pow2, exact, work, fitted.scale, fitted.zero_point
        )
        return fitted

    return Fitted(*groups.solve(search))


def work_for(changes: int, values: int, ways: int) -> Work:
    """Room for so many changes at a time, of groups of so many values, under so many ways to lay codes."""
    return Work(
        times=np.empty(changes + 4),
        rises=np.empty(changes + 4),
        weights=np.empty(changes + 4),
        order=np.empty(changes, np.uint64),
        starts=np.empty(2 * changes, np.uint64),
        codes=np.empty(values),
        sums_xq=np.empty(ways),
        sums_qq=np.empty(ways),
        ends=np.empty(ways),
    )


def sides_of(codec: IntegerCodec, either_sign: bool, huge: bool) -> Sides:
    """The ways to lay codes around 0: with one sign of the scale or either, or with every zero point.

    `huge` says whether values beyond half of the largest float32 occur: then an outermost code may stand for infinity,
    which is not used, and scales are also searched for that leave out the outermost codes.
    """
    grid = codec.grid
    if codec.mapping.signed:
        ways = [(-grid.qmin, grid.qmax, 1.0, 0.0), (grid.qmax, -grid.qmin, -1.0, 0.0)][: 1 + either_sign]
    else:
        ways = [(z, grid.qmax - z, 1.0, z) for z in np.arange(grid.qmax + 1)]
    if not huge:
        return laid_out([(*way, np.inf) for way in ways])
    found = []
    for most in range(1, int(max(max(way[:2]) for way in ways)) + 1):
        largest = kernels.fitting.round_down(FLOAT32_MAX / most, codec.scale_type.storage)
        if codec.pow2_scale:
            largest = np.exp2(np.frexp(largest)[1] - 1)
        found += [(min(down, most), min(up, most), sign, z, largest) for down, up, sign, z in ways]
    return laid_out(found)


def laid_out(ways: Sequence[tuple[float, ...]]) -> Sides:
    """Ways to lay codes, each (down, up, sign, zero point, most), as arrays."""
    down, up, sign, zero_point, most = np.array(ways).T.copy()
    return Sides(down, up, sign, zero_point, most, down.max(), up.max())
