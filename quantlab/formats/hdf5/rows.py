"""A dataset as libhdf5's process tells it: every field is checked for what it can be in any file."""

import math
from dataclasses import dataclass
from typing import Any, Self

import ml_dtypes
import numpy as np

from ...errors import CheckpointError
from ..input.files import InputFile
from .libhdf5.frames import ABSENT, CHUNKED, COMPACT, CONTIGUOUS, MAX_RANK, NO_FILL, NOTHING

_KINDS = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
} | {name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")}
_LAYOUTS = (CONTIGUOUS, CHUNKED, COMPACT, ABSENT, NOTHING)
_CLASSES = (
    *("integer", "float", "string", "reference", "vlen", "compound", "array", "opaque", "enum", "bitfield", "time"),
    "unknown",
)
_MOST = 1 << 64


@dataclass(frozen=True, slots=True)
class Row:
    """A dataset.

    Attributes
    ----------
    path, shape : its name and the lengths of its dimensions.
    kind, dtype : NumPy's name of its type, and the type in the file's byte order; HDF5's name and None otherwise.
    itemsize : bytes of one value.
    layout : how the values are stored (a name of `libhdf5.frames`), and for
    address : one piece: where in the file it begins;
    chunk, filters : chunks: their shape, and of every filter its number, its first option and its name.
    fill : the bytes of what was never written; none for zero, None if they cannot be told.
    """

    path: str
    shape: tuple[int, ...]
    kind: str
    dtype: np.dtype | None
    itemsize: int
    layout: str
    address: int
    chunk: tuple[int, ...]
    filters: tuple[tuple[int, int, str], ...]
    fill: bytes | None

    @property
    def nbytes(self) -> int:
        """Bytes that the values take, uncompressed."""
        return self.itemsize * math.prod(self.shape)

    @classmethod
    def parsed(cls, path: str, row: dict[str, Any], file: InputFile) -> Self:
        """A row as it was sent. CheckpointError if it is none."""
        kind, order = text_of(row, "kind", file), text_of(row, "order", file)
        dtype = _dtype(kind, order, file)
        shape, chunk = _integers(row.get("shape"), file), _integers(row.get("chunk", []), file)
        itemsize, address = _integers([row.get("itemsize"), row.get("address", 0)], file)
        layout, filters = row.get("layout"), row.get("filters", [])
        if (
            layout not in _LAYOUTS
            or (dtype is not None and (itemsize != dtype.itemsize or (layout == NOTHING) != (math.prod(shape) == 0)))
            or (layout == CHUNKED and (len(chunk) != len(shape) or 0 in chunk))
            or not isinstance(filters, list)
            or len(filters) > MAX_RANK
        ):
            raise nonsense(file)
        return cls(
            path, shape, kind, dtype, itemsize, str(layout), address, chunk,
            tuple(_filter(filter, file) for filter in filters), _fill(row.get("fill", ""), itemsize, file),
        )  # fmt: skip


def nonsense(file: InputFile) -> CheckpointError:
    """The refusal of a row that cannot be."""
    return CheckpointError(f"{file} is a damaged HDF5 file: what libhdf5 says of its structure makes no sense")


def text_of(row: dict[str, Any], field: str, file: InputFile, longest: int = 80) -> str:
    """A text in a row."""
    text = row.get(field)
    if not isinstance(text, str) or len(text) > longest or not _is_unicode(text):
        raise nonsense(file)
    return text


def _is_unicode(text: str) -> bool:
    """Whether it can be written: JSON has a way for half a character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _integers(found: object, file: InputFile) -> tuple[int, ...]:
    if not isinstance(found, list) or len(found) > MAX_RANK:
        raise nonsense(file)
    if not all(type(number) is int and 0 <= number < _MOST for number in found):
        raise nonsense(file)
    return tuple(found)


def _dtype(kind: str, order: str, file: InputFile) -> np.dtype | None:
    if kind in _KINDS and order in ("<", ">"):
        dtype = _KINDS[kind]
        if dtype.isbuiltin == 1:
            return dtype.newbyteorder(order)
        if dtype.itemsize == 1 or order == "<":
            return dtype
    elif kind in _CLASSES and not order:
        return None
    raise nonsense(file)


def _filter(found: object, file: InputFile) -> tuple[int, int, str]:
    if not isinstance(found, list) or len(found) != 3:
        raise nonsense(file)
    return (*_integers(found[:2], file), text_of({"name": found[2]}, "name", file))  # type: ignore[return-value]


def _fill(found: object, itemsize: int, file: InputFile) -> bytes | None:
    """The bytes of a fill value; none for zero."""
    if found == NO_FILL:
        return None
    try:
        value = bytes.fromhex(found)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise nonsense(file) from None
    if value and len(value) != itemsize:
        raise nonsense(file)
    return value
