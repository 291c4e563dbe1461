"""Number formats as data: how values in a range are written as codes, and read back.

`DTYPES` names the formats, `MAPPINGS` how integer codes are laid over a range, `SCALE_DTYPES` what scales are stored
in. A `Codec` is one combination of the three, and the only thing that the layers above need: `fit` a range, `encode`,
`decode`, and the error of both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from ..errors import ConfigError, ShapeError
from . import kernels
from .kernels.records import Fitted, Grid, Place, Storage

SUMS = 7  # sum e^2, sum |e|, sum decoded^2, max |e|, clipped values, sum x * decoded, values that became 0


@dataclass(frozen=True)
class ScaleType:
    """A float type that scales and offsets are stored in."""

    name: str
    dtype: np.dtype

    @cached_property
    def storage(self) -> Storage:
        """The type as the numbers that kernels round with."""
        info = ml_dtypes.finfo(self.dtype)
        return Storage(float(info.eps), float(info.smallest_subnormal), float(info.max))


SCALE_DTYPES = {
    "fp32": ScaleType("fp32", np.dtype(np.float32)),
    "fp16": ScaleType("fp16", np.dtype(np.float16)),
    "bf16": ScaleType("bf16", np.dtype(ml_dtypes.bfloat16)),
}


@dataclass(frozen=True)
class Mapping:
    """How integer codes are laid over a range of values."""

    name: str
    token: str  # in slugs
    signed: bool
    has_zero_point: bool
    has_offset: bool
    formula: str  # how a value is read back

    def grid(self, bits: int) -> Grid:
        """The codes of `bits` bits under this mapping."""
        half, full = float(2 ** (bits - 1)), float(2**bits)
        keep_zero = 0.0 if self.has_zero_point else np.inf
        if self.signed:
            return Grid(2 * (half - 1), -half, half - 1, keep_zero, 0.0, 0.0)
        return Grid(full - 1, 0.0, full - 1, keep_zero, float(self.has_zero_point), float(self.has_offset))

    def widen(self, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The range (float64, any shape) that the codes really cover when asked for [lo, hi]."""
        if self.signed:
            amax = np.maximum(np.abs(lo), np.abs(hi))
            return -amax, amax
        return (np.minimum(lo, 0.0), np.maximum(hi, 0.0)) if self.has_zero_point else (lo, hi)


MAPPINGS = {
    "symmetric": Mapping("symmetric", "sym", True, False, False, "q * scale"),
    "affine": Mapping("affine", "aff", False, True, False, "(q - zero_point) * scale"),
    "uniform": Mapping("uniform", "uni", False, False, True, "offset + q * scale"),
}


class GroupsLike(Protocol):
    """What a codec needs of `granularity.Groups` (which lies in a layer above)."""

    def solve(self, solver: Callable) -> tuple[np.ndarray, ...]:
        """Solve parts of whole groups."""

    def combine(self, partial: Callable, reduce: np.ufunc, out: np.ndarray) -> np.ndarray:
        """Fold parts of groups."""


@dataclass(frozen=True)
class IntegerCodec:
    """Integer codes of `bits` bits with a scale, and a zero point or an offset, per group."""

    bits: int
    mapping: Mapping
    scale_type: ScaleType
    pow2_scale: bool = False

    has_scale = True

    @property
    def is_plain(self) -> bool:
        """Whether the range decides the scale."""
        return not self.pow2_scale

    @cached_property
    def grid(self) -> Grid:
        """The codes, as the numbers that kernels need."""
        return self.mapping.grid(self.bits)

    @property
    def code_dtype(self) -> np.dtype:
        """The narrowest NumPy integer that holds a code."""
        kind = "i" if self.mapping.signed else "u"
        return np.dtype(f"{kind}{1 if self.bits <= 8 else 2}")

    def fit_range(self, lo: np.ndarray, hi: np.ndarray) -> Fitted:
        """Parameters (float32 arrays [rows, groups]) that spread the codes over [lo, hi] (float64, same shape)."""
        return Fitted(*(values[0] for values in fit_ranges([self], lo, hi)))

    def fit(self, groups: Any, lo: np.ndarray, hi: np.ndarray) -> Fitted:
        """`fit_range`; with `pow2_scale`, the power of two near the plain scale that has the least squared error."""
        if not self.pow2_scale:
            return self.fit_range(lo, hi)
        return Fitted(*groups.solve(lambda part, piece: self._fit_power_of_two(part, lo[piece.at], hi[piece.at])))

    def _fit_power_of_two(self, groups: GroupsLike, lo: np.ndarray, hi: np.ndarray) -> Fitted:
        plain, grid, storage = self.fit_range(lo, hi), self.grid, self.scale_type.storage
        exponent = np.frexp(plain.scale)[1] - 1
        lowest, highest = np.frexp(storage.smallest)[1] - 1, np.frexp(storage.largest)[1] - 1
        tried = []
        for step in (0, -1, 1, 2):  # of equals the first: a constant keeps scale 1
            scale = np.ldexp(1.0, np.clip(exponent + step, lowest, highest))
            zero_point = grid.has_zero_point * np.clip(np.rint(-self.mapping.widen(lo, hi)[0] / scale), 0, grid.steps)
            tried.append(Fitted(scale.astype(np.float32), zero_point.astype(np.float32), plain.offset))
        errors = np.stack([self.squared_errors(groups, fitted) for fitted in tried])
        best = errors.argmin(axis=0)[None]
        return Fitted(*(np.take_along_axis(np.stack(values), best, 0)[0] for values in zip(*tried, strict=True)))

    def squared_errors(self, groups: Any, fitted: Fitted) -> np.ndarray:
        """Squared error of every group: float64 [rows, groups]."""
        out = np.zeros(fitted.scale.shape)
        return groups.combine(lambda x, size, at: self.group_errors(x, size, cut(fitted, at)), np.add, out)

    def encode(self, x: np.ndarray, size: int, fitted: Fitted, codes: np.ndarray, check: bool = False) -> bool:
        """Write the codes of x (float32 [rows, cols]) into `codes` (same shape, `code_dtype`).

        False if there was `check` for NaN and infinity, and x holds one: what was written then means nothing.
        """
        return kernels.codes.encode(x, size, fitted, self.grid, check, codes)

    def decode(self, codes: np.ndarray, size: int, fitted: Fitted, x: np.ndarray) -> None:
        """Write the values of `codes` into x (float32)."""
        kernels.codes.decode(codes, size, fitted, x)

    def group_errors(self, x: np.ndarray, size: int, fitted: Fitted) -> np.ndarray:
        """Squared error of every group of x (float32 [rows, cols]): float64 [rows, groups]."""
        errors = np.empty(fitted.scale.shape)
        kernels.errors.group_errors(x, size, fitted, self.grid, errors)
        return errors


@dataclass(frozen=True)
class CastCodec:
    """A cast to a narrower float, round half to even, saturating: no scale, so one group and nothing to fit."""

    dtype: np.dtype

    has_scale = False
    code_dtype = np.dtype(np.uint16)

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.dtype.itemsize * 8

    @property
    def limit(self) -> np.float32:
        """The largest value; beyond it a plain cast would give infinity."""
        return np.float32(ml_dtypes.finfo(self.dtype).max)

    @property
    def overflow(self) -> float:
        """The smallest magnitude that a plain cast rounds to infinity: half a step beyond the largest value."""
        info = ml_dtypes.finfo(self.dtype)
        return float(info.max) + 2.0 ** (info.maxexp - 2 - info.nmant)

    def fit(self, groups: Any, lo: np.ndarray, hi: np.ndarray) -> Fitted:
        """Nothing to fit: empty parameters of the right shape."""
        return Fitted(*(np.zeros(lo.shape, np.float32) for _ in Fitted._fields))

    def encode(self, x: np.ndarray, size: int, fitted: Fitted, codes: np.ndarray, check: bool = False) -> bool:
        """Write the bit patterns of x into `codes` (uint16). Returns what `IntegerCodec.encode` does."""
        with np.errstate(under="ignore"):  # a caller may have asked NumPy to raise where a value becomes 0
            codes.view(self.dtype)[...] = np.clip(x, -self.limit, self.limit)
        return not check or bool(np.isfinite(x).all())

    def decode(self, codes: np.ndarray, size: int, fitted: Fitted, x: np.ndarray) -> None:
        """Write the values of the bit patterns into x (float32)."""
        x[...] = codes.view(self.dtype)

    def decoded(self, x: np.ndarray, size: int, fitted: Fitted) -> tuple[np.ndarray, int]:
        """What x (float32) becomes, float32 of the same shape, and how many of its values are clipped."""
        with np.errstate(under="ignore"):
            decoded = np.clip(x, -self.limit, self.limit).astype(self.dtype).astype(np.float32)
        return decoded, int(np.count_nonzero(np.abs(x) >= self.overflow))

    def group_errors(self, x: np.ndarray, size: int, fitted: Fitted) -> np.ndarray:
        """As `IntegerCodec.group_errors`."""
        return distances(x, self.decoded(x, size, fitted)[0], size, fitted)


@dataclass(frozen=True)
class BlockCodec(IntegerCodec):
    """Integer codes by ggml's own rules, which fix the block, the scale's type and how both are chosen.

    The scale is rounded to float16 after the codes were chosen with the unrounded one, as ggml does.
    """

    rule: str = "encode_extreme"  # of `kernels.ggml`
    block: int = 32

    is_plain = False

    def fit(self, groups: Any, lo: np.ndarray, hi: np.ndarray) -> Fitted:
        """The rounded scale and offset of every block. ShapeError, ConfigError: the tensor cannot be held."""
        self.check_shape(groups.tensor.shape)
        scale, offset = groups.solve(lambda part, _: self._choose(part.matrix, part.size)[1:])
        with np.errstate(over="ignore", under="ignore"):
            rounded = [values.astype(self.scale_type.dtype).astype(np.float32) for values in (scale, offset)]
        if not all(np.isfinite(values).all() for values in rounded):
            raise ConfigError(f"a block's scale is beyond {self.scale_type.storage.largest:g}, the largest float16")
        return Fitted(rounded[0], np.zeros_like(scale), rounded[1])

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ShapeError unless the rows of a tensor of `shape` are whole blocks."""
        if not shape or shape[-1] % self.block:
            raise ShapeError(
                f"a tensor of shape {shape} cannot be cut into blocks of {self.block}: its last dimension must be a "
                f"multiple of {self.block}"
            )

    def _choose(self, x: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(codes, unrounded scale, unrounded offset) of a part of whole blocks."""
        grid = self.grid
        codes = np.empty(x.shape, self.code_dtype)
        scale, offset = (np.empty((x.shape[0], -(-x.shape[1] // size)), np.float32) for _ in range(2))
        encode = getattr(kernels.ggml, self.rule)
        encode(x, size, np.float32(grid.qmin), np.float32(grid.qmax), codes, scale, offset)
        return codes, scale, offset

    def encode(self, x: np.ndarray, size: int, fitted: Fitted, codes: np.ndarray, check: bool = False) -> bool:
        """Write the codes of x into `codes`; they follow from x alone. Returns what `IntegerCodec.encode` does."""
        codes[...] = self._choose(x, size)[0]
        return not check or bool(np.isfinite(x).all())

    def decoded(self, x: np.ndarray, size: int, fitted: Fitted) -> tuple[np.ndarray, int]:
        """As `CastCodec.decoded`. Nothing is clipped: the rules use the whole range of codes."""
        decoded = np.empty_like(x)
        self.decode(self._choose(x, size)[0], size, fitted, decoded)
        return decoded, 0

    def group_errors(self, x: np.ndarray, size: int, fitted: Fitted) -> np.ndarray:
        """As `IntegerCodec.group_errors`."""
        return distances(x, self.decoded(x, size, fitted)[0], size, fitted)


def distances(x: np.ndarray, decoded: np.ndarray, size: int, fitted: Fitted) -> np.ndarray:
    """Squared distance of every group of two matrices (float32): float64 [rows, groups]."""
    errors = np.empty(fitted.scale.shape)
    kernels.errors.group_distances(x, decoded, size, errors)
    return errors


Codec = IntegerCodec | CastCodec


@dataclass(frozen=True)
class IntegerFormat:
    """Integers of a number of bits."""

    name: str
    bits: int

    has_scale = True
    configurable = True
    block: int | None = None

    def codec(self, mapping: Mapping, scale_type: ScaleType, pow2_scale: bool) -> IntegerCodec:
        """The format under a mapping, with its scales stored as `scale_type`."""
        return IntegerCodec(self.bits, mapping, scale_type, pow2_scale)


@dataclass(frozen=True)
class CastFormat:
    """A 16-bit float type."""

    name: str
    bits: int
    dtype: np.dtype

    has_scale = False
    configurable = False
    block: int | None = None

    def codec(self, mapping: Mapping, scale_type: ScaleType, pow2_scale: bool) -> CastCodec:
        """The cast; mapping and scale do not apply."""
        return CastCodec(self.dtype)


@dataclass(frozen=True)
class BlockFormat:
    """A block type of ggml: a scale per 32 values of a row, chosen by its own rule."""

    name: str
    bits: int
    mapping: str
    rule: str  # of `kernels.ggml`
    block: int = 32

    has_scale = True
    configurable = False
    scale_dtype = "fp16"

    def codec(self, mapping: Mapping, scale_type: ScaleType, pow2_scale: bool) -> BlockCodec:
        """The type's codec; mapping and scale are its own."""
        return BlockCodec(
            self.bits, MAPPINGS[self.mapping], SCALE_DTYPES[self.scale_dtype], False, self.rule, self.block
        )


NumberFormat = IntegerFormat | CastFormat | BlockFormat

# `configurable` says whether mapping, granularity, calibration and scale apply, or the format fixes them.
DTYPES: dict[str, NumberFormat] = {
    "int2": IntegerFormat("int2", 2),
    "int3": IntegerFormat("int3", 3),
    "int4": IntegerFormat("int4", 4),
    "int5": IntegerFormat("int5", 5),
    "int6": IntegerFormat("int6", 6),
    "int7": IntegerFormat("int7", 7),
    "int8": IntegerFormat("int8", 8),
    "int16": IntegerFormat("int16", 16),
    "fp16": CastFormat("fp16", 16, np.dtype(np.float16)),
    "bf16": CastFormat("bf16", 16, np.dtype(ml_dtypes.bfloat16)),
    "q8_0": BlockFormat("q8_0", 8, "symmetric", "encode_magnitude"),
    "q4_0": BlockFormat("q4_0", 4, "symmetric", "encode_extreme"),
    "q4_1": BlockFormat("q4_1", 4, "uniform", "encode_ranged"),
    "q5_0": BlockFormat("q5_0", 5, "symmetric", "encode_extreme"),
    "q5_1": BlockFormat("q5_1", 5, "uniform", "encode_ranged"),
}


@cache
def codec_of(dtype: str, mapping: str, scale_dtype: str, pow2_scale: bool) -> Codec:
    """The codec of a number format under the names of a configuration; one for all, as a sweep asks often."""
    return DTYPES[dtype].codec(MAPPINGS[mapping], SCALE_DTYPES[scale_dtype], pow2_scale)


def fit_ranges(codecs: Sequence[IntegerCodec], lo: np.ndarray, hi: np.ndarray) -> Fitted:
    """`fit_range` of every codec: float32 [codecs, rows, groups] each."""
    fitted = Fitted(*np.empty((len(Fitted._fields), len(codecs), *lo.shape), np.float32))
    grids, storages = np.array([c.grid for c in codecs]), np.array([c.scale_type.storage for c in codecs])
    kernels.fitting.fit_all(np.ascontiguousarray(lo), np.ascontiguousarray(hi), grids, storages, fitted)
    return fitted


def total_error_sums(
    codecs: Sequence[Codec], x: np.ndarray, size: int, fitted: Fitted, place: Place
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the error of x (float32 [rows, cols]) under every codec, of all groups together.

    Returns (float64 [codecs, SUMS], sum e^2 of its channels: float64 [codecs, place.slots]).

    fitted : float32 [codecs, rows, groups] each. place : of `channels.Channels.place`.
    """
    totals, channels = np.zeros((len(codecs), SUMS)), np.zeros((len(codecs), int(place.slots)))
    grids = plain_grids(codecs)
    if len(grids) == len(codecs):
        kernels.totals.all_error_sums(x, size, fitted, np.array(grids), place, totals, channels)
        return totals, channels
    for codec, total, sums, *one in zip(codecs, totals, channels, *fitted, strict=True):
        assert isinstance(codec, CastCodec | BlockCodec)  # whose ranges no others share
        decoded, total[4] = codec.decoded(x, size, Fitted(*one))
        kernels.totals.difference_sums(x.reshape(-1), decoded.reshape(-1), place, total, sums)
    return totals, channels


def weighted_error_sums(
    codecs: Sequence[Codec], x: np.ndarray, size: int, fitted: Fitted, weights: np.ndarray
) -> np.ndarray:
    """sum w e^2 of x (float32 [rows, cols]) under every codec: float64 [codecs].

    fitted : float32 [codecs, rows, groups] each. weights : of every value in C order, float32 [rows * cols].
    """
    found, grids = np.empty(len(codecs)), plain_grids(codecs)
    if len(grids) == len(codecs):
        kernels.weighting.all_weighted_errors(x, size, fitted, np.array(grids), weights, found)
        return found
    for k, (codec, *one) in enumerate(zip(codecs, *fitted, strict=True)):
        assert isinstance(codec, CastCodec | BlockCodec)  # whose ranges no others share
        decoded, _ = codec.decoded(x, size, Fitted(*one))
        found[k] = kernels.weighting.weighted_distance(x.reshape(-1), decoded.reshape(-1), weights)
    return found


def plain_grids(codecs: Sequence[Codec]) -> list[Grid]:
    """The grids of those codecs whose codes follow from a grid alone."""
    return [c.grid for c in codecs if isinstance(c, IntegerCodec) and not isinstance(c, BlockCodec)]


def cut(fitted: Fitted, at: tuple[slice, slice]) -> Fitted:
    """The parameters of some rows and groups, of [..., rows, groups]."""
    return Fitted(*(values[..., *at] for values in fitted))
