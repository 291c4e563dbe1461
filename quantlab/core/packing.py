"""Codes <-> bytes at any bit width from 1 to 16.

``low-first`` is a little-endian bit stream, ONNX's layout for INT4 too: element i occupies bits [i*b, (i+1)*b),
element 0 in the low bits of byte 0. ``high-first`` starts at the high bits, each element's own highest bit first::

    4 bit, codes 1 2 3     low-first   0x21 0x03        high-first   0x12 0x30

Signed codes are two's complement. The last byte is padded with zeros.
"""

import math

import numpy as np

from ..errors import PackingError, check_integer, check_known
from . import kernels, pool

ORDERS = ("low-first", "high-first")
STEP = 1 << 19  # codes per task; a multiple of 8, so that every task starts on a byte


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return -(-count * bits // 8)


def pack(codes: np.ndarray, bits: int, order: str = "low-first") -> np.ndarray:
    """Pack integer codes (any shape, read in C order) into uint8 [ceil(n * bits / 8)].

    Codes may be signed (-2^(b-1) .. 2^(b-1)-1) or unsigned (0 .. 2^b-1). At 8 and 16 bits the result may be a view of
    them. Raises PackingError for a code that does not fit, or an array that is not of integers.

    >>> pack(np.array([1, 2, 3]), 4).tolist()
    [33, 3]
    """
    bits = check_integer("bits", bits, 1, 16)
    check_known("order", order, ORDERS)
    try:
        codes = np.asarray(codes)
    except ValueError:
        raise PackingError("codes are a list that makes no array: its parts differ in length") from None
    if codes.dtype.kind not in "iu":
        raise PackingError(f"codes have dtype {codes.dtype}: only integers can be packed")
    flat = codes.reshape(-1)
    check_fit(flat, bits)
    return pack_fitting(flat, bits, order)


def pack_fitting(codes: np.ndarray, bits: int, order: str = "low-first") -> np.ndarray:
    """`pack` for integers [n] that are known to fit. At 8 and 16 bits the result may be a view of them."""
    high_first, stored = order == "high-first", f"{codes.dtype.kind}{1 if bits <= 8 else 2}"
    if bits in (8, 16):
        return np.ascontiguousarray(codes, (">" if high_first else "<") + stored).view(np.uint8)
    packed = np.empty(packed_size(codes.size, bits), np.uint8)

    def task(start: int) -> None:
        part = pack_part(np.ascontiguousarray(codes[start : start + STEP], stored), bits, high_first)
        first = start * bits // 8
        packed[first : first + part.size] = part

    pool.run(task, range(0, codes.size, STEP))
    return packed


def pack_part(codes: np.ndarray, bits: int, high_first: bool) -> np.ndarray:
    """The bytes of integers of 1 byte below 8 bits, of 2 above.

    Eight codes fill whole bytes, so the last ones are padded. Kernels are low-first: high-first is the same stream
    from its other end.
    """
    count = codes.size
    codes = turned(padded(codes, 8), high_first)
    packed = np.empty(codes.size * bits // 8, np.uint8)
    if bits < 8:
        together = 8 // math.gcd(8, bits)  # so many codes fill whole bytes
        kernels.packing.pack_words(codes.view(f"u{together}"), bits, packed.reshape(-1, together * bits // 8))
    else:
        kernels.packing.pack_bits(codes.view(np.uint16), bits, packed)
    return turned(packed, high_first)[: packed_size(count, bits)]


def padded(array: np.ndarray, multiple: int) -> np.ndarray:
    """A 1-D array with zeros up to a multiple of a length; itself if it has one."""
    whole = -(-array.size // multiple) * multiple
    return array if array.size == whole else np.concatenate([array, np.zeros(whole - array.size, array.dtype)])


def turned(array: np.ndarray, backwards: bool) -> np.ndarray:
    """A 1-D array from its other end, contiguous, or itself."""
    return array[::-1].copy() if backwards else array


def unpack(data: np.ndarray | bytes, bits: int, count: int, signed: bool, order: str = "low-first") -> np.ndarray:
    r"""The `count` codes packed in `data`: int8/uint8 [count] up to 8 bits, int16/uint16 above.

    At 8 and 16 bits a view of `data`, where its layout allows one; read-only if that is.

    Raises PackingError if `data` is not exactly as long as `count` codes are.

    >>> unpack(b"\x2f\x03", 4, 3, signed=True).tolist()
    [-1, 2, 3]
    """
    bits = check_integer("bits", bits, 1, 16)
    count = check_integer("count", count, 0, 2**62)
    check_known("order", order, ORDERS)
    packed = as_bytes(data)
    if packed.size != packed_size(count, bits):
        raise PackingError(
            f"{count:,} codes of {bits} bits take {packed_size(count, bits):,} bytes, but {packed.size:,} were given"
        )
    dtype = np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")
    high_first = order == "high-first"
    if bits in (8, 16):
        return packed.view(dtype.newbyteorder(">" if high_first else "<")).astype(dtype, copy=False)
    codes = np.empty(count, dtype)

    def task(start: int) -> None:
        part = codes[start : start + STEP]
        first = start * bits // 8
        part[...] = unpack_part(packed[first : first + packed_size(part.size, bits)], bits, dtype, high_first)[
            : part.size
        ]

    pool.run(task, range(0, count, STEP))
    return codes


def unpack_part(packed: np.ndarray, bits: int, dtype: np.dtype, high_first: bool) -> np.ndarray:
    """Inverse of `pack_part`, the codes of the padding included."""
    packed = turned(padded(packed, bits), high_first)
    codes = np.empty(packed.size * 8 // bits, dtype)
    sign = 1 << (bits - 1) if dtype.kind == "i" else 0
    if bits < 8:
        together = 8 // math.gcd(8, bits)
        kernels.packing.unpack_words(packed.reshape(-1, together * bits // 8), bits, sign, codes.view(f"u{together}"))
    else:
        kernels.packing.unpack_bits(packed, bits, sign, codes)
    return turned(codes, high_first)


def as_bytes(data: np.ndarray | bytes) -> np.ndarray:
    """`data` as uint8 [n] in C order."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return np.frombuffer(data, np.uint8)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
        given = f"an array of {data.dtype}" if isinstance(data, np.ndarray) else f"a {type(data).__name__}"
        raise PackingError(f"packed data is {given}: give bytes, or an array of uint8")
    return np.ascontiguousarray(data).reshape(-1)


def check_fit(codes: np.ndarray, bits: int) -> None:
    """Raise PackingError unless all codes fit `bits` bits, as signed or as unsigned numbers."""
    if codes.size == 0:
        return
    if codes.dtype.itemsize * 8 <= bits:
        return
    lowest, highest = int(codes.min()), int(codes.max())
    limit = 1 << (bits - 1) if lowest < 0 else 1 << bits
    if lowest < -limit or highest >= limit:
        worst = lowest if lowest < -limit else highest
        raise PackingError(
            f"code {worst} does not fit {bits} bits: signed codes are {-(1 << (bits - 1))} to {(1 << (bits - 1)) - 1}, "
            f"unsigned ones 0 to {(1 << bits) - 1}"
        )
