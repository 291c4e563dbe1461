"""Where the values of an HDF5 dataset lie: in one piece, in chunks, in its own header, or nowhere yet."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ...core.arrays import BROADCAST_BYTES
from ...errors import CheckpointError, LimitError
from ...wording import shown, size_text
from ..input.files import InputFile, Stream
from ..input.pieces import Pieces
from ..input.ziparchive import MAX_INFLATED, MAX_RATIO
from .chunks import COMPRESSORS, FILTERS, SHUFFLE, Chunks
from .libhdf5.frames import CHUNKED, COMPACT, CONTIGUOUS, MAX_CHUNKS, MAX_COMPACT
from .rows import Row, nonsense

SMALL = BROADCAST_BYTES  # bytes that a tensor may take whatever it has in the file: a fill value alone says nothing
FEW = 4 * SMALL  # bytes that all such tensors of any file may take together

Opener = Callable[[], Stream]


class Ledger:
    """Where the values of a file's datasets lie, each byte once, and how many chunks and bytes they may still have.

    A dataset is a row of libhdf5's process and the data that came with it; `where` names it in messages.
    """

    def __init__(self, file: InputFile, start: int, size: int) -> None:
        self.file, self.start, self.size = file, start, size
        self.chunks, self.grown = MAX_CHUNKS, max(FEW, MAX_RATIO * size)
        self.extents: list[tuple[np.ndarray, str]] = []  # uint64 [n, 2] of begin and size, and whose they are

    def opener(self, row: Row, data: bytearray, where: str) -> Opener:
        """What opens a dataset's values, checked against the file."""
        if row.layout == COMPACT:
            return self.pieces(row, partial(iter, [self.compact(row, data, where)]), 0)
        if row.layout == CONTIGUOUS:
            self.claim(np.array([[row.address, row.nbytes]], np.uint64), where)
            return partial(Stream, self.file, self.start + row.address, row.nbytes)
        chunks = self.chunked(row, data, where) if row.layout == CHUNKED else self.never_written(row, where)
        return self.pieces(row, self.checked(row, chunks).pieces, chunks.aside)

    def pieces(self, row: Row, pieces: Callable[[], Iterator[memoryview]], aside: int) -> Opener:
        """What opens values that are made piece by piece."""
        return lambda: Pieces(self.file, row.nbytes, pieces(), aside)

    def compact(self, row: Row, data: bytearray, where: str) -> memoryview:
        """The values of a dataset in its own header, which libhdf5 has read with it."""
        if row.nbytes > MAX_COMPACT:
            raise CheckpointError(f"{where} claims {row.nbytes} bytes in a header, which holds up to {MAX_COMPACT}")
        if len(data) != row.nbytes:
            raise nonsense(self.file)
        return memoryview(data)

    def never_written(self, row: Row, where: str) -> Chunks:
        """One chunk that is not there."""
        shape = row.shape or (1,)
        nothing = np.empty((0, len(shape) + 3), np.uint64)
        return Chunks(self.file, where, shape, shape, _dtype(row), (), nothing, _fill(row, where))

    def chunked(self, row: Row, data: bytearray, where: str) -> Chunks:
        """The chunks of a dataset, each at a place of its own in its shape and with bytes of its own in the file."""
        filters, grid = _filters(row, where), tuple(-(-n // step) for n, step in zip(row.shape, row.chunk, strict=True))
        self.chunks -= math.prod(grid)
        if self.chunks < 0:
            raise LimitError(f"{self.file} has tensors of more than {MAX_CHUNKS} chunks: save it with larger ones")
        index = self.index(row, data, grid, where)
        self.claim(index[:, -2:].copy(), where)
        index[:, -2] += np.uint64(self.start)
        fill = _fill(row, where) if len(index) < math.prod(grid) else np.zeros((), row.dtype)
        return Chunks(self.file, where, row.shape, row.chunk, _dtype(row), filters, index, fill)

    def index(self, row: Row, data: bytearray, grid: tuple[int, ...], where: str) -> np.ndarray:
        """uint64 [chunks, rank + 3], as in `Chunks`: every chunk at a place of its own in the grid."""
        rank = len(grid)
        if len(data) % (8 * (rank + 3)):
            raise nonsense(self.file)
        index = np.frombuffer(data, np.uint64).reshape(-1, rank + 3)  # a bytearray's, so it may be changed
        places, rests = np.divmod(index[:, :rank], np.array(row.chunk, np.uint64))
        if rests.any() or (places >= np.array(grid, np.uint64)).any():
            raise CheckpointError(f"{where} has chunks outside its shape")
        if np.unique(np.ravel_multi_index(tuple(places.T.astype(np.int64)), grid)).size != len(index):
            raise CheckpointError(f"{where} has two chunks at one place")
        return index

    def checked(self, row: Row, chunks: Chunks) -> Chunks:
        """The chunks, unless they would take far more memory than they have bytes in the file, as a bomb does."""
        stored = int(chunks.index[:, -1].sum())
        claimed = max(row.nbytes, chunks.size, chunks.size * len(chunks.index))
        if claimed <= stored:
            return chunks
        self.grown -= claimed
        if claimed > max(SMALL, min(MAX_RATIO * stored, MAX_INFLATED)) or self.grown < 0:
            raise LimitError(
                f"{chunks.where} has {size_text(stored)} in the file and would take {size_text(claimed)}, and above "
                f"{size_text(SMALL)} a tensor is inflated up to {MAX_RATIO} times and {size_text(MAX_INFLATED)}, and a "
                f"file up to {MAX_RATIO} times: if it is what you want, save it uncompressed"
            )
        return chunks

    def claim(self, extents: np.ndarray, where: str) -> None:
        """Note where a dataset's values lie: uint64 [n, 2] of begin and size. They must be in the file."""
        begins, sizes = extents[:, 0], extents[:, 1]
        left = np.uint64(self.size) - np.minimum(begins, np.uint64(self.size))
        if (sizes > left).any() or (begins > self.size).any():
            raise CheckpointError(f"{where} reaches beyond the end of the file")
        self.extents.append((extents, where))

    def check(self) -> None:
        """CheckpointError if two pieces overlap: a little data could look like a lot."""
        begins, sizes = np.concatenate([np.empty((0, 2), np.uint64), *(part for part, _ in self.extents)]).T
        order = np.argsort(begins, kind="stable")
        over = begins[order[1:]] < (begins + sizes)[order[:-1]]
        if over.any():
            owners = np.repeat(np.arange(len(self.extents)), [len(part) for part, _ in self.extents])
            raise CheckpointError(f"{self.extents[owners[order[1:][over.argmax()]]][1]} lies on bytes of another one")


def _dtype(row: Row) -> np.dtype:
    assert row.dtype is not None  # the ledger is asked for values that can be read alone
    return row.dtype


def _filters(row: Row, where: str) -> tuple[int, ...]:
    """The numbers of the filters, in the order in which they were applied, if all of them are known."""
    for code, option, name in row.filters:
        if code not in FILTERS:
            raise CheckpointError(
                f"{where} is compressed with the filter {shown(name or code)}, and {', '.join(FILTERS.values())} can "
                f"be read: save it with gzip, or uncompressed"
            )
        if code == SHUFFLE and option != row.itemsize:
            raise CheckpointError(f"{where} is shuffled by {option} bytes, and is {row.kind}")
    if sum(code in COMPRESSORS for code, _, _ in row.filters) > 1:
        raise CheckpointError(f"{where} is compressed more than once: save it with gzip, or uncompressed")
    return tuple(code for code, _, _ in row.filters)


def _fill(row: Row, where: str) -> np.ndarray:
    """The value of chunks that were never written."""
    if row.fill is None:
        raise CheckpointError(f"{where} has values that were never written: save it again, complete")
    return np.frombuffer(row.fill or bytes(row.itemsize), row.dtype)[0].reshape(())
