"""A zip archive's directory, read strictly, and its members as bounded streams.

Python's zipfile forgives what an archive of numbers never has and an attack does: data before and behind the archive,
members that share bytes, names that come twice, sizes that lie. Layout: PKWARE APPNOTE 6.3.10.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from ...errors import CheckpointError, LimitError
from ...wording import shown, size_text
from .files import MAX_NAME, InputFile, Stream

MAGIC = b"PK\x03\x04"
EMPTY_MAGIC = b"PK\x05\x06"  # an archive without members is nothing but its end record
MAX_MEMBERS = 10_000
MAX_DIRECTORY = 64 << 20  # bytes
MAX_RATIO = 200  # real weights deflate to about 0.9, deflate's best is 1/1032
SMALL = 1 << 20  # bytes that any ratio may inflate to
MAX_INFLATED = 4 << 30  # bytes per member

_END = struct.Struct("<4sHHHHIIH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_RECORD = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_UTF8, _SIZES_FOLLOW, _ENCRYPTED = 0x0800, 0x0008, 0x2041  # general purpose flags
_STORED, _DEFLATED = 0, 8
_FULL = 0xFFFFFFFF  # "see the zip64 field"


class _Record(NamedTuple):
    """A record of the directory, as it stands there."""

    name: str
    raw: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive, checked against the archive: `packed` bytes at `start` that inflate to `size`."""

    file: InputFile
    name: str
    deflated: bool
    crc: int
    packed: int
    size: int
    start: int

    def __str__(self) -> str:
        return f"member {shown(self.name)} of {self.file}"

    def open(self) -> Stream:
        """Its bytes from the first on; CheckpointError where they do not add up."""
        return Inflater(self) if self.deflated else Stored(self)


class Stored(Stream):
    """A member that is not compressed; its checksum is compared after the last byte."""

    def __init__(self, member: Member) -> None:
        super().__init__(member.file, member.start, member.size)
        self.member, self.crc = member, 0

    def read_into(self, out: memoryview) -> None:
        """Fill `out` (bytes) with the next bytes."""
        super().read_into(out)
        self.crc = zlib.crc32(out, self.crc)

    def finish(self) -> None:
        """CheckpointError if bytes are left or the checksum differs."""
        super().finish()
        if self.crc != self.member.crc:
            raise CheckpointError(f"{self.member} is damaged: its checksum differs")


class Inflater(Stored):
    """A deflated member, inflated no further than it is read, and never past the size it declares."""

    def __init__(self, member: Member) -> None:
        super().__init__(member)
        self._source = Stream(member.file, member.start, member.packed)
        self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)

    def read_into(self, out: memoryview) -> None:
        """Fill `out` (bytes) with the next inflated bytes."""
        self._checked(len(out))
        done = 0
        while done < len(out):
            part = self._inflate(len(out) - done)
            if not part:
                raise CheckpointError(f"{self.member} ends before the {self.member.size} bytes it declares")
            out[done : done + len(part)] = part
            done += len(part)
        self.crc = zlib.crc32(out, self.crc)
        self.left -= len(out)

    def finish(self) -> None:
        """CheckpointError if there is more than declared, or the checksum differs."""
        super().finish()
        if self._inflate(1) or self._source.left or self._zlib.unused_data:
            raise CheckpointError(f"{self.member} holds more than the {self.member.size} bytes it declares")

    def _inflate(self, most: int) -> bytes:
        """At most `most` further bytes; none at the end."""
        while not self._zlib.eof:  # behind its end, zlib takes bytes for ever and gives none
            packed = self._zlib.unconsumed_tail or self._source.read(min(1 << 16, self._source.left))
            try:
                part = self._zlib.decompress(packed, most)
            except zlib.error as error:
                raise CheckpointError(f"{self.member} is damaged: {error}") from error
            if part or not packed:
                return part
        return b""


def sniff(head: bytes, size: int) -> bool:
    """Every zip archive that nothing was put in front of begins with one of these."""
    return head.startswith((MAGIC, EMPTY_MAGIC))


def read_directory(file: InputFile) -> list[Member]:
    """The members of an archive, in the directory's order.

    Raises
    ------
    CheckpointError : the directory is cut, members overlap or come twice, are encrypted or otherwise compressed.
    LimitError : more than `MAX_MEMBERS`, or members that would inflate beyond the budgets above.
    """
    start, records = _read_records(file)
    members = [_place(record, file) for record in records]
    _check_layout(records, members, start, file)
    _check_budgets(members, file)
    return members


def member_names(file: InputFile) -> list[str]:
    """The members' names alone, to tell apart the formats that are zip archives. Raises like `read_directory`."""
    return [record.name for record in _read_records(file)[1]]


def _read_records(file: InputFile) -> tuple[int, list[_Record]]:
    """Where the directory begins, and its records."""
    start, size, count = _find_directory(file)
    if count > MAX_MEMBERS or size > MAX_DIRECTORY:
        raise LimitError(
            f"{file} is an archive of {count} members, and quantlab reads up to {MAX_MEMBERS}: split it into several"
        )
    records = list(islice(_records(file.read(start, size), file), count + 1))
    if len(records) != count:
        raise CheckpointError(f"{file} says it has {count} members, and lists {len(records)}")
    if len({record.name for record in records}) != count:
        twice = next(name for name, times in Counter(record.name for record in records).items() if times > 1)
        raise CheckpointError(f"{file} has two members called {shown(twice)}")
    return start, records


def _find_directory(file: InputFile) -> tuple[int, int, int]:
    """Where the directory begins, its bytes, and its number of records. It must end where its end record begins."""
    end = file.size - _END.size
    if end < 0:
        raise CheckpointError(f"{file} is a zip archive that is cut short")
    magic, disk, first_disk, here, count, size, start, comment = _END.unpack(file.read(end, _END.size))
    if magic != b"PK\x05\x06" or comment:
        raise CheckpointError(f"{file} is a zip archive without a directory at its end: it is cut, or data follow it")
    # Some writers add the 64-bit records though everything would fit without.
    has_locator = end >= _END64_LOCATOR.size and file.read(end - _END64_LOCATOR.size, 4) == b"PK\x06\x07"
    if has_locator or 0xFFFF in (here, count) or _FULL in (size, start):
        end, here, count, size, start = _find_directory64(file, end)
    if disk or first_disk or here != count or start + size != end:
        raise CheckpointError(f"{file} is a zip archive whose directory is not where it says")
    return start, size, count


def _find_directory64(file: InputFile, end: int) -> tuple[int, int, int, int, int]:
    """The same from the 64-bit end record, whose own place is the first value."""
    place = end - _END64_LOCATOR.size - _END64.size
    if place < 0:
        raise CheckpointError(f"{file} is a zip archive without its 64-bit directory")
    magic, _, _, _, disk, first_disk, here, count, size, start = _END64.unpack(file.read(place, _END64.size))
    locator = _END64_LOCATOR.unpack(file.read(place + _END64.size, _END64_LOCATOR.size))
    if magic != b"PK\x06\x06" or locator != (b"PK\x06\x07", 0, place, 1) or disk or first_disk:
        raise CheckpointError(f"{file} is a zip archive without its 64-bit directory")
    return place, here, count, size, start


def _records(directory: bytearray, file: InputFile) -> Iterator[_Record]:
    at = 0
    while at < len(directory):
        fixed = directory[at : at + _RECORD.size].ljust(_RECORD.size, b"\0")
        magic, _, _, flags, method, _, _, crc, packed, size, *lengths, _, _, _, offset = _RECORD.unpack(fixed)
        at += _RECORD.size
        if magic != b"PK\x01\x02" or at + sum(lengths) > len(directory):
            raise CheckpointError(f"{file} is a zip archive with a damaged directory")
        raw = bytes(directory[at : at + lengths[0]])
        extra = directory[at + lengths[0] : at + lengths[0] + lengths[1]]
        at += sum(lengths)
        size, packed, offset = _widened(extra, size, packed, offset)
        record = _Record(_name(raw, flags, file), raw, flags, method, crc, packed, size, offset)
        _check_record(record, file)
        yield record


def _name(raw: bytes, flags: int, file: InputFile) -> str:
    """A member's name. It is never used as a path, and one that could do harm where it is unpacked is refused."""
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} has a member whose name is not UTF-8: {shown(raw)}") from error
    unsafe = name.startswith("/") or "\\" in name or ".." in name.split("/") or any(c < " " for c in name)
    if unsafe or not name or len(name) > MAX_NAME:
        raise CheckpointError(f"{file} has a member with the unsafe name {shown(name)}")
    return name


def _check_record(record: _Record, file: InputFile) -> None:
    where = f"member {shown(record.name)} of {file}"
    if record.flags & _ENCRYPTED:
        raise CheckpointError(f"{where} is encrypted: save it without a password")
    if record.method not in (_STORED, _DEFLATED):
        raise CheckpointError(f"{where} is compressed by method {record.method}: stored and deflated can be read")
    if record.method == _STORED and record.size != record.packed:
        raise CheckpointError(f"{where} is stored, and declares {record.packed} bytes that become {record.size}")


def _widened(extra: bytearray, *values: int) -> list[int]:
    """The values with those that do not fit 32 bits taken from the zip64 field (id 1) of a record's extra bytes."""
    at, wide = 0, iter(())
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        field = extra[at + 4 : at + 4 + length]
        if kind == 1:
            wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
        at += 4 + length
    return [next(wide, value) if value == _FULL else value for value in values]


def _place(record: _Record, file: InputFile) -> Member:
    """The member behind a record: its own header must say the same."""
    local = file.read(record.offset, _LOCAL.size + len(record.raw))
    magic, _, flags, method, _, _, _, packed, size, *lengths = _LOCAL.unpack(local[: _LOCAL.size])
    sizes_differ = not flags & _SIZES_FOLLOW and packed != _FULL and (packed, size) != (record.packed, record.size)
    same = (flags, method, bytes(local[_LOCAL.size :])) == (record.flags, record.method, record.raw)
    if magic != MAGIC or lengths[0] != len(record.raw) or not same or sizes_differ:
        raise CheckpointError(f"member {shown(record.name)} of {file} is not what the directory says it is")
    start = record.offset + _LOCAL.size + sum(lengths)
    deflated = record.method == _DEFLATED
    return Member(file, record.name, deflated, record.crc, record.packed, record.size, start)


def _check_layout(records: list[_Record], members: list[Member], end: int, file: InputFile) -> None:
    """The first member begins the file, none reaches into the next, the last not into the directory."""
    ends = [0]
    for record, member in sorted(zip(records, members, strict=True), key=lambda pair: pair[0].offset):
        if record.offset < ends[-1]:
            raise CheckpointError(f"{member} overlaps another one")
        ends.append(member.start + member.packed)
    if records and min(record.offset for record in records) != 0:
        raise CheckpointError(f"{file} has data before the archive")
    if ends[-1] > end:
        raise CheckpointError(f"{file} has a member that reaches into the directory")


def _check_budgets(members: list[Member], file: InputFile) -> None:
    way_out = "; if it is what you want, save it uncompressed"
    for member in members:
        if member.deflated and member.size > min(MAX_INFLATED, max(SMALL, MAX_RATIO * member.packed)):
            raise LimitError(
                f"{member} would inflate from {size_text(member.packed)} to {size_text(member.size)}, and quantlab "
                f"inflates up to {MAX_RATIO} times and {size_text(MAX_INFLATED)}{way_out}"
            )
    total = sum(member.size for member in members)
    if total > max(16 * SMALL, MAX_RATIO * file.size):
        raise LimitError(f"{file} would inflate from {size_text(file.size)} to {size_text(total)}{way_out}")
