"""HDF5's chunked storage: pieces of equal shape, each compressed by itself, decoded here and within bounds.

libhdf5 would decode them too, but it inflates whatever a chunk holds: a chunk of 1 MB that declares 4 kB took 1 GB and
four seconds. Formats: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html; the filter of h5py is LZF
(http://oldhome.schmorp.de/marc/liblzf.html).
"""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import CheckpointError
from ..input.files import InputFile, as_bytes

GZIP, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
FILTERS = {GZIP: "gzip", SHUFFLE: "shuffle", FLETCHER32: "fletcher32", LZF: "lzf"}
COMPRESSORS = {GZIP, LZF}
CHECKSUM = 4  # bytes that fletcher32 appends


@dataclass(frozen=True, slots=True)
class Chunks:
    """A tensor in chunks.

    Attributes
    ----------
    file, where : what they lie in, and what to call the tensor in messages.
    shape, chunk : of the tensor, and of every chunk; chunks may reach beyond the tensor's edge.
    dtype : of one value, in the file's byte order.
    filters : numbers of the filters, in the order in which they were applied.
    index : uint64 [chunks, rank + 3]: place of the first value, bits of skipped filters, address, bytes in the file.
    fill : one value (any shape), which chunks that were never written consist of.
    """

    file: InputFile
    where: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype
    filters: tuple[int, ...]
    index: np.ndarray
    fill: np.ndarray

    @property
    def size(self) -> int:
        """Bytes of a chunk, uncompressed."""
        return self.dtype.itemsize * math.prod(self.chunk)

    @property
    def aside(self) -> int:
        """Bytes of memory that a layer of chunks takes, and one chunk in the file's form, inflated and shuffled."""
        layer = self.dtype.itemsize * min(self.chunk[0], self.shape[0]) * math.prod(self.shape[1:])
        return layer + (3 * self.size if len(self.index) else 0)

    def pieces(self) -> Iterator[memoryview]:
        """The tensor's bytes in C order, one layer of chunks along the first axis after the other."""
        records = self.index[np.argsort(self.index[:, 0], kind="stable")]
        for row in range(0, self.shape[0], self.chunk[0]):
            out = np.empty((min(self.chunk[0], self.shape[0] - row), *self.shape[1:]), self.dtype)
            out[...] = self.fill
            first, last = np.searchsorted(records[:, 0], np.array([row, row + 1], np.uint64))
            for record in records[first:last].tolist():
                self._place(record, out)
            yield as_bytes(out)

    def _place(self, record: list[int], out: np.ndarray) -> None:
        """Put a chunk where it belongs in its layer."""
        rank = len(self.shape)
        start, (skipped, address, size) = record[:rank], record[rank:]
        values = np.frombuffer(self._decoded(self.file.read(address, size), skipped), self.dtype).reshape(self.chunk)
        start[0] = 0
        target = out[tuple(slice(first, first + length) for first, length in zip(start, self.chunk, strict=True))]
        target[...] = values[tuple(slice(length) for length in target.shape)]

    def _decoded(self, data: bytearray, skipped: int) -> bytes | bytearray:
        """A chunk's values from its bytes in the file."""
        applied = [filter for bit, filter in enumerate(self.filters) if not skipped >> bit & 1]
        for place in reversed(range(len(applied))):
            before = self.size + CHECKSUM * applied[:place].count(FLETCHER32)
            try:
                data = _DECODERS[applied[place]](data, before, self.dtype.itemsize)
            except (ValueError, IndexError, zlib.error) as error:
                raise CheckpointError(
                    f"{self.where} has a damaged chunk: its {FILTERS[applied[place]]} {error}"
                ) from None
        if len(data) != self.size:
            raise CheckpointError(f"{self.where} has a chunk of {len(data)} bytes, and its shape takes {self.size}")
        return data


def _inflate(data: bytearray, size: int, itemsize: int) -> bytes:
    inflater = zlib.decompressobj()
    out = inflater.decompress(data, size + 1)
    if len(out) != size or not inflater.eof:
        raise ValueError(f"does not give the {size} bytes that its shape takes")
    return out


def _unshuffle(data: bytearray, size: int, itemsize: int) -> bytes:
    """All first bytes of the values, then all second bytes ... -> the values. A rest shorter than a value stays."""
    whole = len(data) // itemsize * itemsize
    return np.frombuffer(data, np.uint8, whole).reshape(itemsize, -1).T.tobytes() + data[whole:]


def _check_fletcher32(data: bytearray, size: int, itemsize: int) -> bytearray:
    values, stored = data[:-CHECKSUM], data[-CHECKSUM:]
    swapped = stored[2:] + stored[:2]  # before 1.6.3 the bytes of both halves were
    if fletcher32(values) not in (int.from_bytes(stored, "little"), int.from_bytes(swapped, "big")):
        raise ValueError("checksum differs")
    return values


def fletcher32(data: bytes | bytearray) -> int:
    """The sum of big-endian 16-bit words modulo 65535, and above it the sum of those sums.

    >>> hex(fletcher32(b"abcdef"))
    '0x50562a2d'
    """
    words = np.frombuffer(bytes(data) + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    total = totals = 0
    for start in range(0, words.size, 1 << 16):
        part = words[start : start + (1 << 16)]
        totals += part.size * total + int((part * np.arange(part.size, 0, -1, dtype=np.uint64)).sum())
        total += int(part.sum())
    return _folded(totals) << 16 | _folded(total)


def _folded(number: int) -> int:
    """A number modulo 65535 as end-around carries leave it: a multiple of 65535 that is not 0 is 65535."""
    return (number - 1) % 65535 + 1 if number else 0


def _unpack_lzf(data: bytearray, size: int, itemsize: int) -> bytearray:
    """Runs of literals, and copies of what came before: a length of 3 to 264 bytes and a distance of 1 to 8192."""
    out, at = bytearray(), 0
    while at < len(data) and len(out) <= size:
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[at]
            at += 1
        start = len(out) - ((control & 31) << 8 | data[at]) - 1
        at += 1
        if start < 0:
            raise ValueError("copies from before its beginning")
        run = out[start : start + length + 2]
        out += (run * (length // len(run) + 3))[: length + 2] if len(run) < length + 2 else run
    if len(out) != size:
        raise ValueError(f"does not give the {size} bytes that its shape takes")
    return out


_DECODERS: dict[int, Callable] = {
    GZIP: _inflate,
    SHUFFLE: _unshuffle,
    FLETCHER32: _check_fletcher32,
    LZF: _unpack_lzf,
}
