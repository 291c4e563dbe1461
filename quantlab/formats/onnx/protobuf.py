"""Protocol buffers' wire format, read without a schema and without copying what nobody asked for.

A message is a row of fields: a key (number << 3 | kind), then a value of that kind. Nothing is recursive here: a nested
message is a range of bytes, which the caller walks if it wants to. https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ...errors import CheckpointError, LimitError
from ..input.files import InputFile, Stream
from ..input.window import Window

NUMBER, WIDE, BYTES, NARROW = 0, 1, 2, 5  # kinds: a varint, 8 bytes, a length and as many bytes, 4 bytes
MAX_FIELDS = 1_000_000  # walked per file, in half a second; a graph of 20,000 nodes has a third of them
WINDOW = 1 << 14  # bytes: what lies between two tensors is short
LONGEST = 10  # bytes of a number of 64 bits, 7 per byte
BLOCK = 1 << 16  # bytes of varints decoded at a time


class Wire:
    """A file read as protocol buffers; ranges of bytes are (first, end) everywhere."""

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self._window = Window(file, WINDOW)
        self._left = MAX_FIELDS

    def fields(self, first: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (key, a, b) of every field in a range: a is the value of a number, [a, b) the bytes of all others.

        Raises CheckpointError where the bytes are no message, LimitError beyond `MAX_FIELDS` fields in a file.
        """
        at, window = first, self._window
        while at < end:
            i = at - window.start
            if not 0 <= i < window.usable:
                window.move(at)
                i = 0
            self._left -= 1
            key, i = self._number(window.data, i)
            kind = key & 7
            if kind == BYTES:
                size, i = self._number(window.data, i)
                a = window.start + i
                at = a + size
            elif kind == NUMBER:
                a, i = self._number(window.data, i)
                at = window.start + i
            else:
                a = window.start + i
                at = a + self._fixed(key)
            if at > end or self._left < 0:
                raise self._refusal(at, end)
            yield key, a, at

    def read(self, first: int, end: int, limit: int, what: str) -> bytes:
        """The bytes of a range; LimitError if there are more than `limit`."""
        if end - first > limit:
            raise LimitError(f"{self.file} has {what} of {end - first} bytes, and quantlab reads up to {limit}")
        return self._window.read(first, end - first)

    def numbers(self, key: int, a: int, b: int, limit: int) -> list[int]:
        """The whole numbers of one field of a repeated number, packed or one by one; at most `limit` of them."""
        if key & 7 == NUMBER:
            return [a]
        data = self.read(a, b, LONGEST * limit, "a list of numbers") + b"\0"
        found: list[int] = []
        i = 0
        while i < len(data) - 1 and len(found) < limit:
            value, i = self._number(data, i)
            found.append(value)
        if i != len(data) - 1:
            raise CheckpointError(f"{self.file} has a list of numbers that does not end with a number, or is too long")
        return found

    def _number(self, data: bytes, i: int) -> tuple[int, int]:
        """The varint at `i`, and where it ends."""
        value = data[i]
        if value < 128:
            return value, i + 1
        value &= 127
        for shift in range(7, 7 * LONGEST, 7):
            i += 1
            byte = data[i]
            value |= (byte & 127) << shift
            if byte < 128:
                return value & 0xFFFF_FFFF_FFFF_FFFF, i + 1
        raise CheckpointError(f"{self.file} has a number that does not end: it is damaged")

    def _fixed(self, key: int) -> int:
        size = {WIDE: 8, NARROW: 4}.get(key & 7)
        if size is None:
            raise CheckpointError(f"{self.file} has a field of the unknown kind {key & 7}: it is damaged")
        return size

    def _refusal(self, at: int, end: int) -> Exception:
        if self._left < 0:
            return LimitError(f"{self.file} has more than {MAX_FIELDS} fields: quantlab does not read such a graph")
        place = "the file" if end == self.file.size else "what it belongs to"
        return CheckpointError(f"{self.file} has a field up to byte {at}, and {place} ends at {end}: it is cut short")


class Joined(Stream):
    """Several sections of a file, one after the other."""

    def __init__(self, file: InputFile, sections: Sequence[tuple[int, int]]) -> None:
        super().__init__(file, 0, sum(end - first for first, end in sections))
        self._sections = iter(sections)
        self._at, self._end = 0, 0

    def read_into(self, out: memoryview) -> None:
        """Fill `out` (bytes) with the next bytes."""
        self._checked(len(out))
        done = 0
        while done < len(out):
            if self._at == self._end:
                self._at, self._end = next(self._sections)
                continue
            part = out[done : done + self._end - self._at]
            self.file.read_into(self._at, part)
            self._at += len(part)
            done += len(part)
        self.left -= len(out)


class Varints(Stream):
    """Whole numbers that the file holds as varints, given as the bytes of an array of `dtype`.

    Parameters
    ----------
    count : how many there must be; they are counted first, so that nothing is allocated for numbers that are not there.
    wide : they are 64-bit numbers; else only their low 32 bits count, as the reference readers have it.
    """

    def __init__(
        self, file: InputFile, sections: Sequence[tuple[int, int]], dtype: np.dtype, count: int, wide: bool
    ) -> None:
        super().__init__(file, 0, count * dtype.itemsize)
        self._dtype, self._wide = dtype, wide
        found = _count(Joined(file, sections))
        if found != count:
            raise CheckpointError(f"{file} has {found} numbers for a tensor of {count}")
        self._source = Joined(file, sections)
        self._rest = b""
        self._ready = np.empty(0, dtype)

    def read_into(self, out: memoryview) -> None:
        """Fill `out` (whole elements) with the next numbers."""
        self._checked(len(out))
        values, done = np.frombuffer(out, self._dtype), 0
        while done < values.size:
            if not self._ready.size:
                self._ready = self._next()
            part = self._ready[: values.size - done]
            values[done : done + part.size] = part
            self._ready = self._ready[part.size :]
            done += part.size
        self.left -= len(out)

    def _next(self) -> np.ndarray:
        """The numbers that end in the next block."""
        data = self._rest + self._source.read(min(BLOCK, self._source.left))
        codes = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(codes < 128)
        used = int(ends[-1]) + 1 if ends.size else 0
        self._rest = data[used:]
        if len(self._rest) >= LONGEST:
            raise CheckpointError(f"{self.file} has a number that does not end: it is damaged")
        return self._narrowed(_decode(codes, ends, self.file))

    def _narrowed(self, values: np.ndarray) -> np.ndarray:
        """uint64 [n] as `dtype`; CheckpointError for a number that neither its signed nor its unsigned form holds."""
        if self._dtype.kind == "u" and self._dtype.itemsize == 8:
            return values
        signed = values.view(np.int64) if self._wide else values.astype(np.uint32).view(np.int32).astype(np.int64)
        bits = 8 * self._dtype.itemsize
        if bits < 64 and signed.size and not -(1 << (bits - 1)) <= signed.min() <= signed.max() < 1 << bits:
            raise CheckpointError(f"{self.file} has a number that {self._dtype.name} cannot hold: it is damaged")
        return signed.astype(self._dtype)


def _count(stream: Stream) -> int:
    """How many varints there are: each has one byte below 128, its last."""
    found, last = 0, 0
    while stream.left:
        codes = np.frombuffer(stream.read(min(BLOCK, stream.left)), np.uint8)
        found, last = found + int(np.count_nonzero(codes < 128)), int(codes[-1])
    if last >= 128:
        raise CheckpointError(f"{stream.file} has a number that does not end: it is damaged")
    return found


def _decode(codes: np.ndarray, ends: np.ndarray, file: InputFile) -> np.ndarray:
    """The varints in `codes` (uint8) whose last bytes are at `ends`: uint64 [n]."""
    starts = np.concatenate(([0], ends[:-1] + 1))[: ends.size]
    lengths = ends - starts + 1
    if ends.size and lengths.max() > LONGEST:
        raise CheckpointError(f"{file} has a number that does not end: it is damaged")
    values = (codes[starts] & 127).astype(np.uint64)
    for k in range(1, int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > k)
        values[longer] |= (codes[starts[longer] + k] & 127).astype(np.uint64) << np.uint64(7 * k)
    return values
