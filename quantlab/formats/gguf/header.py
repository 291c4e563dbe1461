"""The header of a GGUF file: metadata by key, and where its tensors are.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Parsed here, as the reference reader hangs on an
array that claims 2^40 entries, takes seconds for a vocabulary, and accepts tensors that overlap.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...errors import CheckpointError, LimitError
from ...wording import shown, size_text
from ..checkpoint import shape_fault
from ..input.files import MAX_NAME, MAX_TENSORS, InputFile
from ..input.window import Window

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 10_000
MAX_STRINGS = 2_000_000  # in all arrays: about a second; the largest published vocabularies have 800,000 with merges
MAX_TEXT = 1 << 20  # bytes of one string that is kept; chat templates have 50,000
SHORT = 64  # elements of an array that is kept
MAX_TENSOR_NAME = 63  # bytes; ggml's limit
MAX_DIMENSIONS = 4  # ggml's limit
ALIGNMENT = "general.alignment"
DEFAULT_ALIGNMENT = 32
WINDOW = 1 << 16  # bytes

# Number of a type of metadata -> (name, struct's letter). Strings, arrays and bools are read by hand.
_SCALARS = {
    0: ("uint8", "B"),
    1: ("int8", "b"),
    2: ("uint16", "H"),
    3: ("int16", "h"),
    4: ("uint32", "I"),
    5: ("int32", "i"),
    6: ("float32", "f"),
    7: ("bool", "B"),
    10: ("uint64", "Q"),
    11: ("int64", "q"),
    12: ("float64", "d"),
}
_UINT32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
_LENGTH = struct.Struct("<Q")


class Kind(NamedTuple):
    """A type of tensor: ggml's name, values and bytes of a block, NumPy's name of plain values ("" for blocks)."""

    name: str
    block: int
    nbytes: int
    dtype: str = ""


# Number of a type -> what it is. Numbers that are missing were given up by ggml.
KINDS = {
    0: Kind("F32", 1, 4, "float32"),
    1: Kind("F16", 1, 2, "float16"),
    2: Kind("Q4_0", 32, 18),
    3: Kind("Q4_1", 32, 20),
    6: Kind("Q5_0", 32, 22),
    7: Kind("Q5_1", 32, 24),
    8: Kind("Q8_0", 32, 34),
    9: Kind("Q8_1", 32, 40),
    10: Kind("Q2_K", 256, 84),
    11: Kind("Q3_K", 256, 110),
    12: Kind("Q4_K", 256, 144),
    13: Kind("Q5_K", 256, 176),
    14: Kind("Q6_K", 256, 210),
    15: Kind("Q8_K", 256, 292),
    16: Kind("IQ2_XXS", 256, 66),
    17: Kind("IQ2_XS", 256, 74),
    18: Kind("IQ3_XXS", 256, 98),
    19: Kind("IQ1_S", 256, 50),
    20: Kind("IQ4_NL", 32, 18),
    21: Kind("IQ3_S", 256, 110),
    22: Kind("IQ2_S", 256, 82),
    23: Kind("IQ4_XS", 256, 136),
    24: Kind("I8", 1, 1, "int8"),
    25: Kind("I16", 1, 2, "int16"),
    26: Kind("I32", 1, 4, "int32"),
    27: Kind("I64", 1, 8, "int64"),
    28: Kind("F64", 1, 8, "float64"),
    29: Kind("IQ1_M", 256, 56),
    30: Kind("BF16", 1, 2, "bfloat16"),
    34: Kind("TQ1_0", 256, 54),
    35: Kind("TQ2_0", 256, 66),
    39: Kind("MXFP4", 32, 17),
    40: Kind("NVFP4", 64, 36),
    41: Kind("Q1_0", 128, 18),
}


@dataclass(frozen=True, slots=True)
class Long:
    """Metadata that is left in the file, such as a vocabulary: `count` values of a type ("string", "float32" ...)."""

    dtype: str
    count: int


Value = str | int | float | bool | list | Long


class Info(NamedTuple):
    """One tensor as the header describes it; `shape` is in NumPy's order, the fastest dimension last."""

    kind: Kind
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return math.prod(self.shape) // self.kind.block * self.kind.nbytes


class Header:
    """The header of a GGUF file, read and checked against the file's size.

    Attributes
    ----------
    version : of the format, 2 or 3.
    metadata : key -> number, string, bool, list of up to `SHORT` of them, or `Long` for what stays in the file.
    records : key -> (place, bytes) of its whole record in the file: key, type and value.
    alignment : of the data of tensors, in bytes.
    infos : the tensors by name, in the file's order.
    start : where the data of tensors begin.

    Raises CheckpointError or LimitError if something does not hold.
    """

    def __init__(self, file: InputFile) -> None:
        self.file, self.at = file, len(MAGIC)
        self._window = Window(file, WINDOW)
        self._strings = 0
        self.version = self._version()
        # The least that one takes: a name's length and a byte of it, then types, an offset, a value.
        tensors, keys = self._count("tensors", 25, MAX_TENSORS), self._count("keys", 14, MAX_KEYS)
        self.metadata: dict[str, Value] = {}
        self.records: dict[str, tuple[int, int]] = {}
        self.alignment = DEFAULT_ALIGNMENT
        for _ in range(keys):
            self._read_key()
        self.infos: dict[str, Info] = {}
        for _ in range(tensors):
            self._read_info()
        self.start = -(-self.at // self.alignment) * self.alignment
        self._check_places()

    def fault(self, what: str) -> CheckpointError:
        """The error that says what is wrong with the file."""
        return CheckpointError(f"{self.file} is a GGUF file {what}")

    def _version(self) -> int:
        version = self._number("I")
        if version.to_bytes(4, "little") in (known.to_bytes(4, "big") for known in VERSIONS):
            raise self.fault("in big-endian byte order: convert it with gguf-py's gguf_convert_endian")
        if version not in VERSIONS:
            raise self.fault(f"of version {version}, and 2 and 3 are known: convert the model again")
        return version

    def _count(self, what: str, smallest: int, limit: int) -> int:
        """How many `what` there are: no more than the rest of the file has room for."""
        count = self._number("Q")
        if count * smallest > self.file.size - self.at:
            raise self.fault(f"that claims {count} {what}, and has {self.file.size} bytes in all: it is cut short")
        if count > limit:
            raise LimitError(f"{self.file} is a GGUF file of {count} {what}, and quantlab reads up to {limit}")
        return count

    def _read_key(self) -> None:
        start, key = self.at, self._text(MAX_NAME, "a key")
        if not key or key in self.metadata:
            raise self.fault(f"with the key {shown(key)} twice" if key else "with an empty key")
        kind = self._number("I")
        value = self._array(key) if kind == _ARRAY else self._value(kind, key)
        if key == ALIGNMENT:
            if kind != _UINT32 or not isinstance(value, int) or value.bit_count() != 1:
                raise self.fault(f"whose {ALIGNMENT} is {shown(value)}, and must be a power of two (uint32)")
            self.alignment = value
        self.metadata[key] = value
        self.records[key] = start, self.at - start

    def _value(self, kind: int, key: str) -> Value:
        """A string, number or bool."""
        if kind == _STRING:
            return self._long_text()
        value = self._number(self._scalar(kind, key)[1])
        if kind == _BOOL and value > 1:
            raise self.fault(f"whose {shown(key)} is {value}, and must be 0 or 1")
        return bool(value) if kind == _BOOL else value

    def _array(self, key: str) -> Value:
        """An array: read if it is short, else stepped over."""
        kind, count = self._number("I"), self._number("Q")
        if kind == _ARRAY:
            raise self.fault(f"whose {shown(key)} is an array of arrays, which no reader takes")
        name, letter = ("string", "Q") if kind == _STRING else self._scalar(kind, key)
        width = struct.calcsize(letter)
        if count * width > self.file.size - self.at:
            raise self.fault(f"whose {shown(key)} claims {count} values: it is cut short")
        if count <= SHORT:
            return [self._value(kind, key) for _ in range(count)]
        if kind == _STRING:
            self._skip_strings(count)
        else:
            self.at += count * width
        return Long(name, count)

    def _scalar(self, kind: int, key: str) -> tuple[str, str]:
        if kind not in _SCALARS:
            raise self.fault(f"whose {shown(key)} is of the unknown type {kind}")
        return _SCALARS[kind]

    def _read_info(self) -> None:
        name = self._text(MAX_TENSOR_NAME, "a tensor's name")
        if not name or name in self.infos:
            raise self.fault(f"with two tensors called {shown(name)}" if name else "with a tensor without a name")
        dimensions = self._number("I")
        if dimensions > MAX_DIMENSIONS:
            raise self.fault(
                f"whose tensor {shown(name)} has {dimensions} dimensions, and ggml allows {MAX_DIMENSIONS}"
            )
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        code, offset = self._number("I"), self._number("Q")
        if code not in KINDS:
            raise self.fault(f"whose tensor {shown(name)} is of the unknown type {code}")
        self.infos[name] = self._checked(name, Info(KINDS[code], shape, offset))

    def _checked(self, name: str, info: Info) -> Info:
        """`info` itself, if such a tensor can exist."""
        if fault := shape_fault(info.shape, 32):  # read as float32, or as numbers that their offsets bound
            raise self.fault(f"whose tensor {shown(name)} {fault}")
        if (info.shape[-1] if info.shape else 1) % info.kind.block:
            raise self.fault(
                f"whose tensor {shown(name)} is {info.kind.name} with rows of {info.shape[-1] if info.shape else 1} "
                f"values, and must have a multiple of {info.kind.block}"
            )
        if info.offset % self.alignment:
            raise self.fault(f"whose tensor {shown(name)} begins at {info.offset}, no multiple of {self.alignment}")
        return info

    def _skip_strings(self, count: int) -> None:
        """Step over strings. One call per string would be too slow for a vocabulary."""
        self._strings += count
        if self._strings > MAX_STRINGS:
            raise LimitError(f"{self.file} is a GGUF file of more than {MAX_STRINGS} strings: quantlab reads no more")
        at, window, unpack = self.at, self._window, _LENGTH.unpack_from
        for _ in range(count):
            i = at - window.start
            if not 0 <= i < window.usable:
                window.move(at)
                i = 0
            at += 8 + unpack(window.data, i)[0]
        if at > self.file.size:
            raise self.fault("that ends inside an array of strings: it is cut short")
        self.at = at

    def _long_text(self) -> str | Long:
        """A string of any length; a very long one stays in the file."""
        length = self._text_length()
        if length > MAX_TEXT:
            self.at += length
            return Long("string", 1)
        return self._take(length).decode(errors="replace")  # tokens are bytes, and need not be text

    def _text(self, limit: int, what: str) -> str:
        """A name: valid UTF-8 of at most `limit` bytes."""
        length = self._text_length()
        if length > limit:
            raise self.fault(f"with {what} of {length} bytes, and {limit} are allowed")
        data = self._take(length)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.fault(f"with {what} that is not valid UTF-8: {shown(data)}") from error

    def _text_length(self) -> int:
        length = self._number("Q")
        if length > self.file.size - self.at:
            raise self.fault(f"that claims a string of {length} bytes at its end: it is cut short")
        return length

    def _number(self, letter: str) -> Any:
        """The next number, of the type that `struct` calls `letter`."""
        return struct.unpack(f"<{letter}", self._take(struct.calcsize(letter)))[0]

    def _take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.file.size - self.at:
            raise self.fault(f"of {self.file.size} bytes that ends inside its header: it is cut short")
        data = self._window.read(self.at, count)
        self.at += count
        return data

    def _check_places(self) -> None:
        """Every tensor must lie within the file, and no two share a byte. Padding between them is normal."""
        position = 0
        for name, info in sorted(self.infos.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
            if info.offset < position:
                raise self.fault(f"whose tensor {shown(name)} begins at {info.offset}, inside the one before it")
            position = info.offset + info.nbytes
            if info.nbytes and self.start + position > self.file.size:
                end = shown(self.start + position)
                raise self.fault(f"of {size_text(self.file.size)} whose tensor {shown(name)} would end at byte {end}")
