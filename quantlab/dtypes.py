"""Number formats as data: how values in a range are written as codes, and read back.

`DTYPES` names the formats, `MAPPINGS` how integer codes are laid over a range, `SCALE_DTYPES` what scales are stored
in. A `Codec` is one combination of the three, and the only thing that the layers above need: `fit` a range, `encode`,
`decode`, and the fused `error_sums` of both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from . import kernels
from .kernels import Fitted, Grid, Storage

SUMS = 5  # sum e^2, sum |e|, sum x*e, max |e|, clipped values


@dataclass(frozen=True)
class ScaleType:
    """A float type that scales and offsets are stored in."""

    name: str
    dtype: np.dtype

    @property
    def storage(self) -> Storage:
        """The type as the numbers that kernels round with."""
        info = ml_dtypes.finfo(self.dtype)
        return Storage(info.nmant + 1, float(info.smallest_subnormal), float(info.smallest_normal), float(info.max))


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
        lo, hi = (np.ascontiguousarray(a) for a in self.mapping.widen(lo, hi))
        fitted = Fitted(*(np.empty(lo.shape, np.float32) for _ in Fitted._fields))
        kernels.fit_groups(lo, hi, self.grid, self.scale_type.storage, *fitted)
        return fitted

    def fit(self, groups: Any, lo: np.ndarray, hi: np.ndarray) -> Fitted:
        """`fit_range`; with `pow2_scale`, the power of two near the plain scale that has the least squared error."""
        if not self.pow2_scale:
            return self.fit_range(lo, hi)
        return Fitted(*groups.solve(lambda part, at: self._fit_power_of_two(part, lo[at], hi[at])))

    def _fit_power_of_two(self, groups: GroupsLike, lo: np.ndarray, hi: np.ndarray) -> Fitted:
        plain, grid, storage = self.fit_range(lo, hi), self.grid, self.scale_type.storage
        exponent = np.frexp(plain.scale)[1] - 1
        lowest, highest = np.frexp(storage.smallest)[1] - 1, np.frexp(storage.largest)[1] - 1
        tried = []
        for step in (-1, 0, 1, 2):
            scale = np.ldexp(1.0, np.clip(exponent + step, lowest, highest))
            zero_point = grid.has_zero_point * np.clip(np.rint(-self.mapping.widen(lo, hi)[0] / scale), 0, grid.steps)
            tried.append(Fitted(scale.astype(np.float32), zero_point.astype(np.float32), plain.offset))
        errors = np.stack([self.squared_errors(groups, fitted) for fitted in tried])
        best = errors.argmin(axis=0)[None]
        return Fitted(*(np.take_along_axis(np.stack(values), best, 0)[0] for values in zip(*tried, strict=True)))

    def squared_errors(self, groups: Any, fitted: Fitted) -> np.ndarray:
        """Squared error of every group: float64 [rows, groups]."""
        out = np.zeros((*fitted.scale.shape, SUMS))
        groups.combine(lambda x, size, at: self.error_sums(x, size, cut(fitted, at)), np.add, out)
        return out[..., 0]

    def encode(self, x: np.ndarray, size: int, fitted: Fitted, codes: np.ndarray) -> None:
        """Write the codes of x (float32 [rows, cols]) into `codes` (same shape, `code_dtype`)."""
        kernels.encode(x, size, fitted, self.grid, codes)

    def decode(self, codes: np.ndarray, size: int, fitted: Fitted, x: np.ndarray) -> None:
        """Write the values of `codes` into x (float32)."""
        kernels.decode(codes, size, fitted, x)

    def error_sums(self, x: np.ndarray, size: int, fitted: Fitted) -> np.ndarray:
        """Error sums of every group: float64 [rows, groups, SUMS], as `kernels.error_sums` defines them."""
        sums = np.empty((*fitted.scale.shape, SUMS))
        kernels.error_sums(x, size, fitted, self.grid, sums)
        return sums


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

    def encode(self, x: np.ndarray, size: int, fitted: Fitted, codes: np.ndarray) -> None:
        """Write the bit patterns of x into `codes` (uint16)."""
        codes.view(self.dtype)[...] = np.clip(x, -self.limit, self.limit)

    def decode(self, codes: np.ndarray, size: int, fitted: Fitted, x: np.ndarray) -> None:
        """Write the values of the bit patterns into x (float32)."""
        x[...] = codes.view(self.dtype)

    def error_sums(self, x: np.ndarray, size: int, fitted: Fitted) -> np.ndarray:
        """As `IntegerCodec.error_sums`, for x as one group per row: float64 [rows, 1, SUMS]."""
        decoded = np.clip(x, -self.limit, self.limit).astype(self.dtype).astype(np.float32)
        sums = np.zeros((x.shape[0], 1, SUMS))
        for r in range(x.shape[0]):
            kernels.difference_sums(x[r], decoded[r], sums[r, 0])
            sums[r, 0, 4] = np.count_nonzero(np.abs(x[r]) >= self.overflow)
        return sums


Codec = IntegerCodec | CastCodec


@dataclass(frozen=True)
class IntegerFormat:
    """Integers of a number of bits."""

    name: str
    bits: int
    has_scale = True

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

    def codec(self, mapping: Mapping, scale_type: ScaleType, pow2_scale: bool) -> CastCodec:
        """The cast; mapping and scale do not apply."""
        return CastCodec(self.dtype)


DTYPES: dict[str, IntegerFormat | CastFormat] = {
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
}


def cut(fitted: Fitted, at: tuple[slice, slice]) -> Fitted:
    """The parameters of some rows and groups."""
    return Fitted(*(values[at] for values in fitted))
