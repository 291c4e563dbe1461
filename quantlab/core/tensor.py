"""quantize(), fake_quantize() and what they return: QuantizedTensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import ml_dtypes
import numpy as np

from ..errors import DTypeError, EmptyTensorError, NonFiniteError, PackingError, ShapeError
from . import memory, packing, pool
from .arrays import FLOATS, as_values, raise_non_finite
from .config import QuantConfig, check_config
from .dtypes import DTYPES, MAPPINGS, SCALE_DTYPES, BlockCodec, CastCodec, IntegerCodec, cut, fit_ranges
from .granularity import STREAM, Groups, Piece
from .kernels.records import Fitted


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A quantized tensor, held as the very bytes that an export writes.

    Attributes
    ----------
    config : how it was quantized.
    shape : of the original tensor.
    source_dtype : NumPy's name of the original's dtype, such as "float32" or "bfloat16".
    packed : uint8 [ceil(elements * bits / 8)]: the codes in C order, low-first (see `packing`); for fp16 and bf16 the
        values' little-endian bytes.
    scale : in the configuration's scale dtype, of shape (), (C,) or (rows, groups per row); None for fp16 and bf16.
    packed_zero_point : uint8: the zero points in C order, packed at the width of a code; None unless affine.
    offset : like `scale`; None unless uniform.

    Raises
    ------
    EmptyTensorError : the shape has no elements.
    ShapeError, PackingError : the parts do not fit the shape and the configuration, or a scale is 0 or less.
    NonFiniteError : a scale or an offset is NaN or infinite.
    """

    config: QuantConfig
    shape: tuple[int, ...]
    source_dtype: str
    packed: np.ndarray
    scale: np.ndarray | None = None
    packed_zero_point: np.ndarray | None = None
    offset: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_config(self.config)
        if self.source_dtype not in FLOATS:
            raise DTypeError(f"source_dtype is {self.source_dtype!r}: give one of {', '.join(sorted(FLOATS))}")
        if not isinstance(self.shape, tuple) or not all(type(length) is int for length in self.shape):
            raise ShapeError(f"shape is {self.shape!r}: give a tuple of whole numbers")
        if not all(length > 0 for length in self.shape):
            raise EmptyTensorError(f"a tensor of shape {self.shape} has no elements: nothing can be quantized")
        check_bytes("codes", self.packed, packing.packed_size(self.size, self.config.codec.bits))
        mapping = MAPPINGS[self.config.mapping]
        has_scale = self.config.codec.has_scale
        self._check_floats("scale", self.scale, has_scale)
        self._check_floats("offset", self.offset, has_scale and mapping.has_offset)
        if has_scale and mapping.has_zero_point:
            count = math.prod(self.scale_shape)
            check_bytes("zero points", self.packed_zero_point, packing.packed_size(count, self.config.codec.bits))
        elif self.packed_zero_point is not None:
            raise ShapeError(f"{self.config} has no zero points, but some were given")

    def _check_floats(self, name: str, values: np.ndarray | None, needed: bool) -> None:
        if not needed:
            if values is not None:
                raise ShapeError(f"{self.config} has no {name}, but one was given")
            return
        dtype = SCALE_DTYPES[self.config.scale_dtype].dtype
        arrays = np.ndarray, np.generic  # arithmetic makes a scalar of an array without dimensions
        if not isinstance(values, arrays) or values.dtype != dtype or values.shape != self.scale_shape:
            given = (
                f"{values.dtype} of shape {values.shape} was given" if isinstance(values, arrays) else "none was given"
            )
            raise ShapeError(
                f"{self.config} on shape {self.shape} has a {name} of {dtype} {self.scale_shape}, but {given}"
            )
        with np.errstate(invalid="ignore"):  # a signalling NaN in 16 bits
            finite = np.isfinite(values).all()
        if not finite:
            raise NonFiniteError(f"{self.config} on shape {self.shape} was given a {name} with NaN or infinite values")
        # ggml's rules make scales of either sign, and 0 for a block of zeros.
        if name == "scale" and DTYPES[self.config.dtype].configurable:
            self._check_signs(values)

    def _check_signs(self, scales: np.ndarray) -> None:
        """PackingError for a scale of 0, or below where neither calibration nor mapping makes such."""
        either = self.config.calibration.signed_scales and MAPPINGS[self.config.mapping].signed
        if not (scales != 0 if either else scales > 0).all():
            wrong = "is 0" if either else "is not above 0"
            raise PackingError(f"{self.config} on shape {self.shape} was given a scale that {wrong}")

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of scales, zero points and offsets."""
        return self.config.granularity.scale_shape(self.shape)

    @property
    def codes(self) -> np.ndarray:
        """The codes, unpacked, in the tensor's shape: int8 or uint8 up to 8 bits, else 16-bit integers.

        For fp16 and bf16: the values' bit patterns, uint16.
        """
        codec = self.config.codec
        signed = codec.code_dtype.kind == "i"
        with memory.asked(self.size * codec.code_dtype.itemsize, f"the codes of a tensor of shape {self.shape}"):
            return packing.unpack(self.packed, codec.bits, self.size, signed).reshape(self.shape)

    @property
    def zero_point(self) -> np.ndarray | None:
        """Zero points, unpacked, in the shape of `scale`: 0 for symmetric codes; None where there are none."""
        if self.scale is None or self.offset is not None:
            return None
        if self.packed_zero_point is None:
            return np.zeros(self.scale_shape, self.config.codec.code_dtype)
        count = math.prod(self.scale_shape)
        return packing.unpack(self.packed_zero_point, self.config.codec.bits, count, False).reshape(self.scale_shape)

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The arrays that exist and are exported, by name: packed, scale, zero_point (packed), offset."""
        named = {
            "packed": self.packed,
            "scale": self.scale,
            "zero_point": self.packed_zero_point,
            "offset": self.offset,
        }
        return {name: array for name, array in named.items() if array is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(array.nbytes for array in self.parts.values())

    @property
    def bits_per_weight(self) -> float:
        """8 * nbytes / elements."""
        return 8 * self.nbytes / self.size

    @property
    def compression_ratio(self) -> float:
        """Bytes of the source, in its own dtype, over nbytes."""
        return self.size * source_itemsize(self.source_dtype) / self.nbytes

    @cached_property
    def fitted(self) -> Fitted:
        """Parameters as the kernels take them: float32 [rows, groups]."""
        if self.scale is None:
            return Fitted(*(np.zeros((1, 1), np.float32),) * 3)
        shape = self.scale_shape if len(self.scale_shape) == 2 else (-1, 1)
        zeros = np.zeros(self.scale_shape, np.float32)
        arrays = (
            self.scale,
            zeros if self.zero_point is None else self.zero_point,
            # Adding -0.0 changes nothing; 0.0 would change the -0.0 that a scale below 0 makes of code 0.
            -zeros if self.offset is None else self.offset,
        )
        return Fitted(*(array.astype(np.float32).reshape(shape) for array in arrays))

    def dequantize(self, out: np.ndarray | None = None) -> np.ndarray:
        """The values that the codes stand for: float32, in the tensor's shape and C order.

        `out`, an array like that, is filled and returned. For a large tensor that is used again and again it takes
        a third of the time: new memory has to be cleared by the system before it is written.

        Raises ShapeError or DTypeError for an `out` of another kind.
        """
        codec, granularity = self.config.codec, self.config.granularity
        itemsize = codec.code_dtype.itemsize + (4 if out is None else 0)
        with memory.asked(self.size * itemsize, f"decoding a tensor of shape {self.shape}"):
            codes = granularity.to_groups(self.codes)
            values = np.empty(codes.matrix.shape, np.float32) if out is None else self._room(out, codes.matrix.shape)
            fitted = self.fitted
            codes.each(
                lambda part, size, p: codec.decode(part, size, cut(fitted, p.at), values[p.rows, p.cols]), STREAM
            )
            found = granularity.from_groups(values, self.shape)
        if out is None:
            return found
        if not np.may_share_memory(found, out):  # channels of another axis are laid out anew
            out[...] = found
        return out

    def _room(self, out: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """`out` as memory to decode into."""
        if not isinstance(out, np.ndarray) or out.dtype != np.float32:
            given = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
            raise DTypeError(f"out must be a float32 array, and {given} was given")
        if out.shape != self.shape or not out.flags.c_contiguous or not out.flags.writeable:
            raise ShapeError(f"out must be a writeable array in C order of shape {self.shape}; it has {out.shape}")
        return out.reshape(shape)

    def __repr__(self) -> str:
        size = f"{self.nbytes:,} bytes, {self.bits_per_weight:.3f} bits per weight"
        return f"QuantizedTensor({self.config}, shape={self.shape}, {size})"


def check_bytes(what: str, data: np.ndarray | None, expected: int) -> None:
    """Raise PackingError unless `data` is uint8 [expected]."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1 or data.size != expected:
        given = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else "nothing"
        raise PackingError(f"packed {what} must be uint8 ({expected},), but {given} was given")


def dtype_named(name: str) -> np.dtype:
    """The dtype of NumPy's or ml_dtypes' name."""
    return np.dtype(getattr(ml_dtypes, name, name))


def source_itemsize(name: str) -> int:
    """Bytes per element of a dtype by its name."""
    return dtype_named(name).itemsize


def fit(groups: Groups, config: QuantConfig) -> Fitted:
    """Scale, zero point and offset of every group (float32 [rows, groups]), as `config` calibrates them.

    Raises NonFiniteError for NaN or infinity, ConfigError if the calibration cannot serve these groups.
    """
    codec = config.codec
    if isinstance(codec, CastCodec) or not DTYPES[config.dtype].configurable:
        return codec.fit(groups, *groups.extents)

    def solver(part: Groups, piece: Piece) -> Fitted:
        part.extents  # refuses NaN and infinity before anything else is found wrong, as `evaluate` does  # noqa: B018
        return config.calibration.fit(part, codec)

    # Part by part: ranges are float64 and take more room than what comes of them.
    return Fitted(*groups.solve(solver, STREAM))


def shares_ranges(config: QuantConfig) -> bool:
    """Whether several configurations of this calibration are fitted at less than the cost of each."""
    codec, calibration = config.codec, config.calibration
    shared = calibration.shares_statistics or not calibration.needs_codec
    return isinstance(codec, IntegerCodec) and codec.is_plain and shared


def fit_together(groups: Groups, configs: Sequence[QuantConfig]) -> Fitted:
    """`fit` for one configuration, or for several that share their ranges: float32 [configs, rows, groups] each."""
    if not shares_ranges(configs[0]):
        (config,) = configs
        return Fitted(*(values[None] for values in fit(groups, config)))
    codecs = [config.codec for config in configs if isinstance(config.codec, IntegerCodec)]
    calibration = configs[0].calibration

    def solver(part: Groups, piece: Piece) -> Fitted:
        part.extents  # as above  # noqa: B018
        ranges = calibration.ranges(part, codecs)
        if not calibration.needs_codec:
            return fit_ranges(codecs, *ranges[0])
        each = [fit_ranges([codec], *found) for codec, found in zip(codecs, ranges, strict=True)]
        return Fitted(*map(np.concatenate, zip(*each, strict=True)))

    return Fitted(*groups.solve(solver))


def quantize(x: np.ndarray, config: QuantConfig) -> QuantizedTensor:
    """Quantize a tensor.

    Parameters
    ----------
    x : float16, bfloat16, float32, float64 or float8, any shape and layout, finite, not empty.

    Raises
    ------
    DTypeError, EmptyTensorError, NonFiniteError : x cannot be quantized.
    LimitError : there is not enough memory for the codes.
    ShapeError, ConfigError : the configuration does not fit x (an axis that it lacks, too few values per group).

    >>> q = quantize(np.float32([[-1, 0.5], [0.25, 1]]), QuantConfig(dtype="int4"))
    >>> q.codes.tolist(), q.nbytes
    ([[-7, 3], [2, 7]], 6)
    """
    check_config(config)
    values = as_values(x)
    groups = config.granularity.to_groups(values)
    nbytes = values.size * config.codec.code_dtype.itemsize + packed_nbytes(values.shape, config)
    with memory.asked(nbytes, f"quantizing a tensor of shape {values.shape}"):
        fitted, codes = fit_and_encode(groups, config)
        return packed_tensor(codes, fitted, config, values.shape, np.asarray(x).dtype.name)


def fit_and_encode(groups: Groups, config: QuantConfig) -> tuple[Fitted, np.ndarray]:
    """(parameters, codes like the matrix of `groups`). Values are read once, but for groups too large for a piece."""
    codes = np.empty(groups.matrix.shape, config.codec.code_dtype)

    def task(part: Groups, piece: Piece) -> Fitted:
        fitted = fit(part, config)
        encode_into(codes[piece.rows, piece.cols], part, fitted, config)
        return fitted

    return Fitted(*groups.solve(task, STREAM)), codes


def encode_into(codes: np.ndarray, groups: Groups, fitted: Fitted, config: QuantConfig) -> None:
    """Write the codes of values under parameters that were fitted before; `codes` is like the matrix of `groups`.

    Raises NonFiniteError.
    """

    def task(piece: Piece) -> None:
        part = codes[piece.rows, piece.cols]
        if not config.codec.encode(groups.block(piece), groups.size, cut(fitted, piece.at), part, check):
            raise_non_finite(groups.tensor)

    check = not groups.is_known_finite
    pool.run(task, groups.pieces(STREAM))


def encode(
    groups: Groups, fitted: Fitted, config: QuantConfig, shape: tuple[int, ...], source_dtype: str
) -> QuantizedTensor:
    """The quantized tensor of values (as groups) under parameters that were fitted before. Raises NonFiniteError."""
    codes = np.empty(groups.matrix.shape, config.codec.code_dtype)
    encode_into(codes, groups, fitted, config)
    return packed_tensor(codes, fitted, config, shape, source_dtype)


def packed_tensor(
    codes: np.ndarray, fitted: Fitted, config: QuantConfig, shape: tuple[int, ...], source_dtype: str
) -> QuantizedTensor:
    """The quantized tensor of codes, as a matrix of groups, and their parameters."""
    codec, granularity = config.codec, config.granularity
    packed = packing.pack_fitting(granularity.from_groups(codes, shape).reshape(-1), codec.bits)
    if not codec.has_scale:
        return QuantizedTensor(config, shape, source_dtype, packed)
    mapping, scales = MAPPINGS[config.mapping], SCALE_DTYPES[config.scale_dtype].dtype
    scale_shape = granularity.scale_shape(shape)
    return QuantizedTensor(
        config,
        shape,
        source_dtype,
        packed,
        fitted.scale.reshape(scale_shape).astype(scales),
        packing.pack(fitted.zero_point.astype(np.uint16), codec.bits) if mapping.has_zero_point else None,
        fitted.offset.reshape(scale_shape).astype(scales) if mapping.has_offset else None,
    )


def fake_quantize(x: np.ndarray, config: QuantConfig) -> np.ndarray:
    """`quantize(x, config).dequantize()`: float32, in the shape of x."""
    return quantize(x, config).dequantize()


@dataclass(frozen=True)
class PartSpec:
    """Shape and dtype of one of the arrays that a quantized tensor is held and exported as."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


def part_specs(shape: tuple[int, ...], config: QuantConfig) -> dict[str, PartSpec]:
    """`quantize(x, config).parts` of an x of `shape`, as specs: known before anything is quantized.

    Raises ShapeError if the configuration does not fit the shape.
    """
    codec, mapping = config.codec, MAPPINGS[config.mapping]
    if isinstance(codec, BlockCodec):
        codec.check_shape(shape)
    byte = np.dtype(np.uint8)
    specs = {"packed": PartSpec(byte, (packing.packed_size(math.prod(shape), codec.bits),))}
    if codec.has_scale:
        scale_shape = config.granularity.scale_shape(shape)
        scales = PartSpec(SCALE_DTYPES[config.scale_dtype].dtype, scale_shape)
        specs["scale"] = scales
        if mapping.has_zero_point:
            specs["zero_point"] = PartSpec(byte, (packing.packed_size(math.prod(scale_shape), codec.bits),))
        if mapping.has_offset:
            specs["offset"] = scales
    return specs


def check_shape(shape: tuple[int, ...], config: QuantConfig) -> None:
    """Raise what `quantize` raises for every x of `shape`, whatever its values: ShapeError or ConfigError."""
    part_specs(shape, config)
    config.calibration.check_groups(config.granularity.shortest_group(shape))


def packed_nbytes(shape: tuple[int, ...], config: QuantConfig) -> int:
    """`quantize(x, config).nbytes` for an x of `shape`, without quantizing."""
    return sum(spec.nbytes for spec in part_specs(shape, config).values())
