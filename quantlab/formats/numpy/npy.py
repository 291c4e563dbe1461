"""NumPy's .npy: a magic, a version, a header that is a Python dictionary, raw data.

The header is read by a pattern of its own and never evaluated; pickled (object) arrays are refused by their type.
Layout: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import math
import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import PurePath

import numpy as np

from ...errors import CheckpointError, LimitError
from ...wording import shown, size_text
from ..checkpoint import Checkpoint, Entry, StoredCheckpoint, TensorSpec, shape_fault
from ..input.files import InputFile, Stream

MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes; NumPy's own limit for headers that are not trusted

_LENGTH = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}
_ITEM = re.compile(
    r"""\s*(['"])(?P<key>descr|fortran_order|shape)\1\s*:\s*"""
    r"""(?:(['"])(?P<descr>[^'"\\]*+)\3|(?P<fortran_order>True|False)"""
    r"""|\(\s*(?P<shape>(?:-?[0-9]{1,20}L?\s*(?:,\s*-?[0-9]{1,20}L?\s*)*+,?)?+)\s*\))\s*,?"""
)
_DESCR = re.compile(r"[<>|=]?[biufcSU][0-9]{1,9}")
_REFUSED = {
    "O": "Python objects, which are pickled: convert with astype('float32') and save again",
    "V": "raw bytes, which is also how NumPy writes bfloat16: save float32, or a safetensors file",
}


def sniff(head: bytes, size: int) -> bool:
    """Every .npy file begins with the magic; one that is cut inside it is meant to be one, too."""
    return head != b"" and head[: len(MAGIC)] == MAGIC[: len(head)]


def open_file(file: InputFile) -> Checkpoint:
    """One tensor, named like the file without its suffix. CheckpointError or LimitError if the header does not hold."""
    name = PurePath(file.name).stem
    entry = read_entry(name, partial(Stream, file, 0, file.size), str(file))
    return StoredCheckpoint(file.path, "npy", {name: entry}, [file])


def read_entry(name: str, open_stream: Callable[[], Stream], what: str) -> Entry:
    """The entry of .npy bytes that `open_stream()` gives from their first to their last; `what` names them."""
    stream = open_stream()
    total = stream.left
    dtype, fortran, shape = _read_header(stream, what)
    if fault := shape_fault(shape, 8 * dtype.itemsize):
        raise CheckpointError(f"{what} {fault}")
    nbytes = dtype.itemsize * math.prod(shape)
    if nbytes != stream.left:
        raise CheckpointError(
            f"{what} claims shape {shown(list(shape))} of {dtype.name}, which takes {size_text(nbytes)}, and "
            f"has {size_text(stream.left)}"
        )
    spec = TensorSpec(name, shape, dtype.name, nbytes)
    return Entry(spec, dtype, partial(_skip, open_stream, total - nbytes), fortran and len(shape) > 1)


def _skip(open_stream: Callable[[], Stream], count: int) -> Stream:
    """The stream after its first `count` bytes."""
    stream = open_stream()
    stream.read(count)
    return stream


def _read_header(stream: Stream, what: str) -> tuple[np.dtype, bool, tuple[int, ...]]:
    """Type, order and shape. The declared length is checked before the header is read."""
    if stream.left < 10 or stream.read(6) != MAGIC:
        raise CheckpointError(f"{what} is not .npy data: it must begin with \\x93NUMPY and a header")
    version = tuple(stream.read(2))
    if version not in _LENGTH:
        raise CheckpointError(f"{what} is of .npy version {version}, and 1.0, 2.0 and 3.0 are known")
    width = struct.calcsize(_LENGTH[version])
    if stream.left < width:
        raise CheckpointError(f"{what} ends inside its header")
    (length,) = struct.unpack(_LENGTH[version], stream.read(width))
    if length > MAX_HEADER:
        raise LimitError(f"{what} claims a header of {length} bytes, and quantlab reads up to {MAX_HEADER}")
    if length > stream.left:
        raise CheckpointError(f"{what} claims a header of {length} bytes, and {stream.left} follow: it is cut short")
    return _parse(stream.read(length).decode("latin-1"), what)


def _parse(header: str, what: str) -> tuple[np.dtype, bool, tuple[int, ...]]:
    text, at = header.strip(), 1
    fields: dict[str, str | None] = {}
    while text[:1] == "{" and (item := _ITEM.match(text, at)):
        if item["key"] in fields:
            raise CheckpointError(f"the header of {what} has {item['key']!r} twice")
        fields[item["key"]] = item[item["key"]]
        at = item.end()
    descr, order, lengths = (fields.get(key) for key in ("descr", "fortran_order", "shape"))
    if descr is None or order is None or lengths is None or text[at:].strip() != "}":
        raise CheckpointError(
            f"the header of {what} is not a plain dictionary of descr, fortran_order and shape: {shown(text)}"
        )
    shape = tuple(int(length.strip().rstrip("L")) for length in lengths.split(",") if length.strip())
    return _dtype(descr, what), order == "True", shape


def _dtype(descr: str, what: str) -> np.dtype:
    """The NumPy type of a descr: bool, integer, float, complex or text, of a size that is not 0."""
    refused = _REFUSED.get(descr.lstrip("<>|=")[:1])
    if refused:
        raise CheckpointError(f"{what} is of type {shown(descr)}: it holds {refused}")
    try:
        dtype = np.dtype(descr) if _DESCR.fullmatch(descr) else None
    except (TypeError, ValueError, OverflowError):
        dtype = None
    if dtype is None or not dtype.itemsize:
        raise CheckpointError(
            f"{what} is of the unknown type {shown(descr)}: save it as bool, integer, float or complex numbers"
        )
    return dtype
