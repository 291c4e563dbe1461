"""What may be quantized: the one place where a caller's array is checked."""

from collections.abc import Callable

import ml_dtypes
import numpy as np

from ..errors import DTypeError, EmptyTensorError, LimitError, NonFiniteError, ShapeError
from ..wording import counted
from . import kernels, memory

# Types whose every finite value fits float32. float64 is taken too, and checked for values that do not.
NARROW_FLOATS = frozenset(
    np.dtype(t)
    for t in (
        np.float32,
        np.float16,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2fnuz,
    )
)

FLOATS = frozenset(dtype.name for dtype in NARROW_FLOATS) | {"float64"}  # all that can be quantized, by NumPy's name


def _from_table(dtype: np.dtype) -> Callable[[np.ndarray, np.ndarray], object]:
    """What widens the bit patterns (uint8) of an 8-bit float into float32."""
    table = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
    return lambda bits, out: np.take(table, bits, out=out, mode="clip")


def _narrow(bits: np.ndarray, out: np.ndarray) -> None:
    """Round the bit patterns (uint64) of float64 to float32; what is beyond its range becomes infinite."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # invalid: a signalling NaN
        out[...] = bits.view(np.float64)


def _by_kernel(name: str) -> Callable[[np.ndarray, np.ndarray], object]:
    return lambda bits, out: getattr(kernels.widen, name)(bits, out)  # looked up late: it takes Numba


# Types that are converted part by part, in cache. NumPy widens float16 at a tenth of the speed; ml_dtypes holds the GIL
WIDENED: dict[np.dtype, Callable[[np.ndarray, np.ndarray], object]] = {
    np.dtype(np.float16): _by_kernel("widen_float16"),
    np.dtype(ml_dtypes.bfloat16): _by_kernel("widen_bfloat16"),
    **{dtype: _from_table(dtype) for dtype in NARROW_FLOATS if dtype.itemsize == 1},
    np.dtype(np.float64): _narrow,
}
MAX_DIMENSIONS = 64
BROADCAST_BYTES = 1 << 26  # a broadcast view is only written out up to this size
STEP = 1 << 20


def check_array(x: object, what: str = "the tensor") -> np.ndarray:
    """`x` itself, if it is a non-empty array of floats.

    Raises
    ------
    DTypeError : not an array, or not of a float type. EmptyTensorError : no elements.
    LimitError : a broadcast view (one value repeated) that would take more than 64 MiB once written out.
    """
    if isinstance(x, np.floating):
        x = np.asarray(x)
    if not isinstance(x, np.ndarray):
        raise DTypeError(
            f"{what} is a {type(x).__name__}: give a NumPy array of floats, such as np.asarray(x, np.float32)"
        )
    if isinstance(x, np.ma.MaskedArray):
        raise DTypeError(f"{what} is a masked array: quantized tensors have no mask, so give its .filled(0) or .data")
    if x.dtype.name not in FLOATS:
        raise DTypeError(
            f"{what} has dtype {x.dtype}: float32, float16, bfloat16, float64 and float8 can be quantized; "
            "convert it with .astype(np.float32) if its values are weights"
        )
    if x.size == 0:
        raise EmptyTensorError(f"{what} has shape {x.shape} and no elements: nothing can be quantized")
    if x.ndim > MAX_DIMENSIONS:
        raise ShapeError(f"{what} has {x.ndim} dimensions: at most {MAX_DIMENSIONS} are supported")
    if is_huge_broadcast(x):
        raise LimitError(
            f"{what} is a broadcast view that would take {x.nbytes:,} bytes once written out: the limit is "
            f"{BROADCAST_BYTES:,}; pass x.copy() if that is what you want"
        )
    return x


def is_huge_broadcast(x: np.ndarray) -> bool:
    """Whether it is a view that repeats values, and would take more than `BROADCAST_BYTES` once written out."""
    repeats = any(stride == 0 and length > 1 for stride, length in zip(x.strides, x.shape, strict=True))
    return repeats and x.nbytes > BROADCAST_BYTES


def as_float32(x: object, what: str = "the tensor") -> np.ndarray:
    """`x` as a float32 array in C order and native byte order; itself (no copy) if it is one already.

    Raises what `check_array` raises, and NonFiniteError for float64 values beyond the range of float32.
    """
    x = check_array(x, what)
    is_one = x.dtype == np.float32 and x.flags.c_contiguous and x.flags.aligned
    with (
        memory.asked(0 if is_one else 4 * x.size, f"{what} as float32"),
        np.errstate(over="ignore", under="ignore", invalid="ignore"),  # as above
    ):
        # order="C" keeps 0-d arrays 0-d, which np.ascontiguousarray does not.
        single = x.astype(np.float32, order="C", copy=False)
        if not single.flags.aligned:
            single = single.copy(order="C")
    if x.dtype.itemsize == 8:
        _raise_overflow(np.ravel(x), x.shape, what)
    return single


def as_values(x: object, what: str = "the tensor") -> np.ndarray:
    """`x` as an array in C order that `widened` can convert part by part: float8 to float64.

    Nothing is converted as a whole, which would take up to four times its memory again. Raises what `check_array`
    raises; values beyond the range of float32 are found where those that are not finite are, by `raise_non_finite`.
    """
    x = check_array(x, what)
    if x.dtype in WIDENED and x.flags.c_contiguous and x.flags.aligned:
        return x
    return as_float32(x, what)


def widened(matrix: np.ndarray) -> np.ndarray:
    """A matrix as float32 in C order; itself if it is that already. Codes keep their type."""
    if not matrix.flags.c_contiguous:
        matrix = transposed(matrix.T) if matrix.T.strides[-1] == matrix.itemsize else np.ascontiguousarray(matrix)
    widen = WIDENED.get(matrix.dtype)
    if widen is None:
        return matrix
    out = np.empty(matrix.shape, np.float32)
    widen(matrix.view(f"u{matrix.itemsize}"), out)
    return out


def transposed(matrix: np.ndarray) -> np.ndarray:
    """The transpose of a matrix of up to 64 bits per item, written out; several times as fast as NumPy's copy."""
    out = np.empty(matrix.shape[::-1], matrix.dtype)
    bits = np.dtype(f"u{matrix.itemsize}")
    kernels.widen.transpose(matrix.view(bits), out.view(bits))
    return out


def _raise_overflow(flat: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    """Raise NonFiniteError if a finite float64 is infinite in float32."""
    count, first = 0, -1
    for start in range(0, flat.size, STEP):
        part = flat[start : start + STEP]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # as above
            overflowed = np.isinf(part.astype(np.float32)) & np.isfinite(part)
        if overflowed.any():
            first = start + int(overflowed.argmax()) if first < 0 else first
            count += int(np.count_nonzero(overflowed))
    if count:
        where = index_text(np.unravel_index(first, shape))
        raise NonFiniteError(
            f"{what} holds {counted(count, 'value')} beyond the range of float32, the first at index {where}: "
            f"{flat[first]:g}; scale the tensor down first"
        )


def raise_non_finite(x: np.ndarray, what: str = "the tensor") -> None:
    """Raise NonFiniteError with the count and the first index of the NaN and infinite values of `x`.

    Of float64 also for finite values that are infinite in float32, as `as_float32` does.
    """
    flat = x.reshape(-1)
    if x.dtype == np.float64:
        _raise_overflow(flat, x.shape, what)
    nans = infinities = 0
    first = -1
    for start in range(0, flat.size, STEP):
        part = flat[start : start + STEP]
        with np.errstate(invalid="ignore"):  # a signalling NaN of a type that NumPy widens to look at
            bad, missing = ~np.isfinite(part), np.isnan(part)
        if bad.any():
            first = start + int(bad.argmax()) if first < 0 else first
            nans += int(missing.sum())
            infinities += int((bad & ~missing).sum())
    where = index_text(np.unravel_index(first, x.shape))
    raise NonFiniteError(
        f"{what} holds {nans:,} NaN and {infinities:,} infinite values of {x.size:,}, the first at index {where}: "
        "replace or remove them first"
    )


def index_text(index: tuple) -> str:
    """An index as users write it: `(3, 0)`, or `()` for a scalar."""
    return str(tuple(int(i) for i in index))
