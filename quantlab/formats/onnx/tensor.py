"""ONNX's TensorProto: what it says about a tensor, and the bytes it points at. No value is read before it is asked for.

Layout: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, message TensorProto.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from ...core.arrays import MAX_DIMENSIONS
from ...core.packing import packed_size, unpack
from ...errors import CheckpointError, LimitError
from ...wording import shown
from ..checkpoint import Entry, TensorSpec, shape_fault
from ..input.files import MAX_NAME, Stream
from .companions import Companions
from .protobuf import BYTES, LONGEST, NUMBER, Joined, Varints, Wire

MAX_PLACES = 16  # external data has a location, an offset, a length and a checksum
MAX_SECTIONS = 1000  # pieces in which a tensor's numbers may come; writers use one
UNPACKED = 1 << 18  # values unpacked at a time; a multiple of 8, so that every part begins on a byte

_FLOAT, _INT32, _TEXT, _INT64, _DOUBLE, _UINT64 = 4, 5, 6, 7, 10, 11  # numbers of the fields that hold typed data
_PACKED = (_FLOAT, _INT32, _INT64, _DOUBLE, _UINT64)
_DIMS, _CODE, _SEGMENT, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 3, 8, 9, 13, 14
_PAIR = (1 << 3 | BYTES, 2 << 3 | BYTES)  # a key and its value

Range = tuple[int, int]


class Kind(NamedTuple):
    """A type of ONNX: NumPy's name, bits per element, and the field that holds its values unless they are raw."""

    dtype: str
    bits: int
    field: int


KINDS = {
    1: Kind("float32", 32, _FLOAT),
    2: Kind("uint8", 8, _INT32),
    3: Kind("int8", 8, _INT32),
    4: Kind("uint16", 16, _INT32),
    5: Kind("int16", 16, _INT32),
    6: Kind("int32", 32, _INT32),
    7: Kind("int64", 64, _INT64),
    8: Kind("str", 8, _TEXT),
    9: Kind("bool", 8, _INT32),
    10: Kind("float16", 16, _INT32),
    11: Kind("float64", 64, _DOUBLE),
    12: Kind("uint32", 32, _UINT64),
    13: Kind("uint64", 64, _UINT64),
    14: Kind("complex64", 64, _FLOAT),
    15: Kind("complex128", 128, _DOUBLE),
    16: Kind("bfloat16", 16, _INT32),
    17: Kind("float8_e4m3fn", 8, _INT32),
    18: Kind("float8_e4m3fnuz", 8, _INT32),
    19: Kind("float8_e5m2", 8, _INT32),
    20: Kind("float8_e5m2fnuz", 8, _INT32),
    21: Kind("uint4", 4, _INT32),
    22: Kind("int4", 4, _INT32),
    23: Kind("float4_e2m1fn", 4, _INT32),
    24: Kind("float8_e8m0fnu", 8, _INT32),
    25: Kind("uint2", 2, _INT32),
    26: Kind("int2", 2, _INT32),
    27: Kind("float6_e2m3fn", 6, _INT32),
    28: Kind("float6_e3m2fn", 6, _INT32),
}


@dataclass(slots=True)
class Proto:
    """A TensorProto, unchecked: its name, shape and type, and where its data are."""

    name: bytes = b""
    shape: tuple[int, ...] = ()
    code: int = 0
    raw: Range | None = None
    typed: dict[int, list[Range]] = field(default_factory=dict)  # by number of the field
    strings: int = 0
    string_bytes: int = 0
    external: bool = False
    places: list[Range] = field(default_factory=list)  # what is said of external data


def read(wire: Wire, first: int, end: int) -> Proto:
    """The TensorProto in a range. A field that says something twice is refused: readers would differ on it."""
    proto, seen = Proto(), set()
    for key, a, b in wire.fields(first, end):
        number, kind = key >> 3, key & 7
        if number in (_CODE, _NAME, _RAW, _LOCATION):
            if number in seen:
                raise CheckpointError(f"{wire.file} has a tensor that gives field {number} of its description twice")
            seen.add(number)
        if number == _DIMS:
            proto.shape += tuple(map(_signed, wire.numbers(key, a, b, MAX_DIMENSIONS + 1)))
            if len(proto.shape) > MAX_DIMENSIONS:
                raise CheckpointError(f"{wire.file} has a tensor of more than {MAX_DIMENSIONS} dimensions")
        elif kind == NUMBER and number == _CODE:
            proto.code = a
        elif kind == NUMBER and number == _LOCATION:
            proto.external = a != 0
        elif number in _PACKED or number == _SEGMENT:
            _add_section(proto, number, kind, (a, b), wire)
        elif kind == BYTES:
            _take(proto, number, a, b, wire)
    return proto


def _take(proto: Proto, number: int, a: int, b: int, wire: Wire) -> None:
    """A field of bytes."""
    if number == _NAME:
        proto.name = wire.read(a, b, MAX_NAME, "a name")
    elif number == _RAW:
        proto.raw = a, b
    elif number == _TEXT:
        proto.strings += 1
        proto.string_bytes += b - a
    elif number == _EXTERNAL:
        proto.places.append((a, b))
        if len(proto.places) > MAX_PLACES:
            raise CheckpointError(f"{wire.file} says more than {MAX_PLACES} things of the file that holds a tensor")


def _add_section(proto: Proto, number: int, kind: int, section: Range, wire: Wire) -> None:
    if number == _SEGMENT:
        raise CheckpointError(f"{wire.file} has a tensor in segments, which no reader supports: save it again")
    if kind != BYTES:
        raise CheckpointError(f"{wire.file} has a tensor whose numbers are not packed: save it again with raw_data")
    sections = proto.typed.setdefault(number, [])
    if len(sections) == MAX_SECTIONS:
        raise LimitError(f"{wire.file} has a tensor in more than {MAX_SECTIONS} pieces: save it again with raw_data")
    sections.append(section)


def entry(proto: Proto, spec: TensorSpec, wire: Wire, companions: Companions) -> Entry:
    """The checked entry of a tensor. Of `spec`, shape, type and size are filled in."""
    where = f"tensor {shown(spec.name)} of {wire.file}"
    kind = KINDS.get(proto.code)
    if kind is None:
        raise CheckpointError(f"{where} has the unknown type {proto.code}: known are 1 to {max(KINDS)}")
    # Several values to a byte are read as one each.
    if fault := shape_fault(proto.shape, max(kind.bits, 8)):
        raise CheckpointError(f"{where} {fault}")
    held_in = {*proto.typed, *([_TEXT] if proto.strings else [])}
    if len(held_in) + (proto.raw is not None) + proto.external > 1 or held_in - {kind.field}:
        raise CheckpointError(f"{where} has data in more than one place, or in a field for another type")
    size = math.prod(proto.shape)
    if kind.field == _TEXT:  # can be listed, and not read
        if proto.strings != size:
            raise CheckpointError(f"{where} has {proto.strings} strings, and its shape {shown(list(proto.shape))}")
        return Entry(_filled(spec, proto, kind, proto.string_bytes), None, partial(Stream, wire.file, 0, 0))
    nbytes = packed_size(size, kind.bits)
    source = _source(proto, kind, size, nbytes, where, wire, companions)
    if kind.bits < 8 and not (kind.bits == 6 and proto.typed):  # 6 bits come packed in raw data alone
        source = partial(_unpacked, source, kind.bits, size)
    return Entry(_filled(spec, proto, kind, nbytes), np.dtype(kind.dtype).newbyteorder("<"), source)


def external_data(proto: Proto, wire: Wire, companions: Companions) -> tuple[int, Callable[[], Stream]]:
    """How many bytes a tensor has in another file, and how to get at them as they are: what raw data would hold."""
    where, kind = f"tensor {shown(text(proto.name, wire))} of {wire.file}", KINDS[proto.code]
    nbytes = packed_size(math.prod(proto.shape), kind.bits)
    return nbytes, _external(_place(proto, wire), nbytes, where, companions)


def _filled(spec: TensorSpec, proto: Proto, kind: Kind, nbytes: int) -> TensorSpec:
    return replace(spec, shape=proto.shape, dtype=kind.dtype, nbytes=nbytes)


def _place(proto: Proto, wire: Wire) -> dict[str, str]:
    """What is said of a tensor's data in another file: location, offset, length."""
    found: dict[str, str] = {}
    for first, end in proto.places:
        fields = wire.fields(first, end)
        pair = {key: text(wire.read(a, b, MAX_NAME, "a path"), wire) for key, a, b in fields if key in _PAIR}
        if pair.get(_PAIR[0], "") in found:
            raise CheckpointError(f"{wire.file} says twice where a tensor's data are")
        found[pair.get(_PAIR[0], "")] = pair.get(_PAIR[1], "")
    return found


def text(data: bytes, wire: Wire) -> str:
    """UTF-8 as a string; CheckpointError for anything else."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{wire.file} has a name that is not valid UTF-8: {shown(data)}") from error


class Unpacked(Stream):
    """Values of less than a byte, one per byte; read whole, or in parts of a multiple of 8."""

    def __init__(self, source: Stream, bits: int, count: int) -> None:
        super().__init__(source.file, 0, count)
        self._source, self._bits = source, bits

    def read_into(self, out: memoryview) -> None:
        """Fill `out` with the next values."""
        self._checked(len(out))
        for start in range(0, len(out), UNPACKED):
            part = out[start : start + UNPACKED]
            packed = np.frombuffer(self._source.read(packed_size(len(part), self._bits)), np.uint8)
            part[:] = unpack(packed, self._bits, len(part), False).data
        self.left -= len(out)


def _unpacked(source: Callable[[], Stream], bits: int, count: int) -> Stream:
    return Unpacked(source(), bits, count)


def _source(
    proto: Proto, kind: Kind, size: int, nbytes: int, where: str, wire: Wire, companions: Companions
) -> Callable[[], Stream]:
    """How to get at a tensor's bytes, once it is known that there are as many as it takes."""
    if proto.external:
        return _external(_place(proto, wire), nbytes, where, companions)
    if not proto.typed:
        first, end = proto.raw or (0, 0)
        _check_size(end - first, nbytes, proto, kind, where)
        return partial(Stream, wire.file, first, nbytes)
    (sections,) = proto.typed.values()
    held = sum(end - first for first, end in sections)
    if kind.field in (_FLOAT, _DOUBLE):
        _check_size(held, nbytes, proto, kind, where)
        return partial(Joined, wire.file, sections)
    count = nbytes if kind.bits < 6 else size
    if not count <= held <= LONGEST * count:
        raise CheckpointError(f"{where} has {held} bytes for its {count} numbers")
    wide = kind.field in (_INT64, _UINT64)
    return partial(Varints, wire.file, sections, _varint_dtype(kind), count, wide)


def _external(data: dict[str, str], nbytes: int, where: str, companions: Companions) -> Callable[[], Stream]:
    """Data in a file beside the model: the range that it says must be there, and be as long as the tensor."""
    numbers = {}
    for key, default in (("offset", "0"), ("length", str(nbytes))):
        digits = data.get(key, default)
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
            raise CheckpointError(f"{where} gives {shown(digits)} as the {key} of its data: give a whole number")
        numbers[key] = int(digits)
    file = companions.open(data.get("location", ""))
    offset, length = numbers["offset"], numbers["length"]
    if length != nbytes or offset + nbytes > file.size:
        raise CheckpointError(
            f"{where} takes {nbytes} bytes, and points at {length} from {offset} in {file}, which has {file.size}"
        )
    return partial(Stream, file, offset, nbytes)


def _check_size(held: int, nbytes: int, proto: Proto, kind: Kind, where: str) -> None:
    if held != nbytes:
        raise CheckpointError(
            f"{where} is {kind.dtype} of shape {shown(list(proto.shape))}, which takes {shown(nbytes)} bytes, "
            f"and has {held}"
        )


def _varint_dtype(kind: Kind) -> np.dtype:
    """The integers that a type's values are written as: their bits, where they are not integers themselves."""
    dtype = np.dtype(kind.dtype)
    return dtype.newbyteorder("<") if dtype.kind in "iu" else np.dtype(f"<u{max(kind.bits // 8, 1)}")


def _signed(value: int) -> int:
    """A 64-bit number as two's complement."""
    return value - (1 << 64) if value >> 63 else value
