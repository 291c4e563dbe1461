"""Where the values of an HDF5 dataset lie: in one piece, in chunks, in its own header, or nowhere yet."""

import array
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from h5py import h5d, h5p, h5s

from ...core.arrays import BROADCAST_BYTES
from ...errors import CheckpointError, LimitError
from ...wording import shown, size_text
from ..input.files import InputFile, Stream, as_bytes
from ..input.pieces import Pieces
from .chunks import COMPRESSORS, FILTERS, SHUFFLE, Chunks

MAX_CHUNKS = 200_000  # of all datasets together, those included that were never written
MAX_RATIO = 1000  # times its bytes in the file that a tensor of more than 64 MiB may take; deflate's best is 1032
MAX_COMPACT = 1 << 16  # bytes of a dataset in its own header

Opener = Callable[[], Stream]


@dataclass(frozen=True, slots=True)
class Values:
    """A dataset of one value or more, as libhdf5 describes it; `where` names it in messages."""

    dataset: h5d.DatasetID
    properties: h5p.PropDCID
    shape: tuple[int, ...]
    dtype: np.dtype
    where: str

    @property
    def nbytes(self) -> int:
        """Bytes that the values take, uncompressed."""
        return self.dtype.itemsize * math.prod(self.shape)


class Ledger:
    """Where the values of a file's datasets lie, each byte once, and how many chunks they may still have."""

    def __init__(self, file: InputFile, start: int, size: int) -> None:
        self.file, self.start, self.size = file, start, size
        self.chunks = MAX_CHUNKS
        self.extents: list[tuple[np.ndarray, str]] = []  # uint64 [n, 2] of begin and size, and whose they are

    def opener(self, values: Values, shared: bool) -> Opener:
        """What opens a dataset's values; `shared` if it was seen under another name."""
        layout = values.properties.get_layout()
        if layout == h5d.COMPACT:
            return self.pieces(values, partial(iter, [_compact(values)]))
        if layout == h5d.CHUNKED:
            return self.pieces(values, self.chunked(values, shared).pieces)
        address = values.dataset.get_offset()
        if address is None:
            return self.pieces(values, self.never_written(values).pieces)
        self.claim(np.array([[address, values.nbytes]], np.uint64), values, shared)
        return partial(Stream, self.file, self.start + address, values.nbytes)

    def pieces(self, values: Values, pieces: Callable[[], Iterator[memoryview]]) -> Opener:
        """What opens values that are made piece by piece."""
        return lambda: Pieces(self.file, values.nbytes, pieces())

    def never_written(self, values: Values) -> Chunks:
        """One chunk that is not there."""
        shape = values.shape or (1,)
        nothing = np.empty((0, len(shape) + 3), np.uint64)
        return self.checked(
            values, Chunks(self.file, values.where, shape, shape, values.dtype, (), nothing, _fill(values))
        )

    def chunked(self, values: Values, shared: bool) -> Chunks:
        """The chunks of a dataset, checked against its shape and the file."""
        chunk, filters = values.properties.get_chunk(), _filters(values)
        grid = tuple(-(-length // step) for length, step in zip(values.shape, chunk, strict=True))
        self.chunks -= math.prod(grid)
        if self.chunks < 0:
            raise LimitError(f"{self.file} has tensors of more than {MAX_CHUNKS} chunks: save it with larger ones")
        index = _index(values, chunk, grid)
        self.claim(index[:, -2:].copy(), values, shared)
        index[:, -2] += np.uint64(self.start)
        fill = _fill(values) if len(index) < math.prod(grid) else np.zeros((), values.dtype)
        found = Chunks(self.file, values.where, values.shape, chunk, values.dtype, filters, index, fill)
        return self.checked(values, found)

    def checked(self, values: Values, chunks: Chunks) -> Chunks:
        """The chunks, unless they take far more memory than they have bytes in the file."""
        stored = int(chunks.index[:, -1].sum())
        claimed = max(values.nbytes, chunks.size, chunks.size * len(chunks.index))
        if claimed > max(BROADCAST_BYTES, MAX_RATIO * stored):
            raise LimitError(
                f"{values.where} has {size_text(stored)} in the file and would take {size_text(claimed)}, and above "
                f"{size_text(BROADCAST_BYTES)} up to {MAX_RATIO} times are read: save it uncompressed"
            )
        return chunks

    def claim(self, extents: np.ndarray, values: Values, shared: bool) -> None:
        """Note where a dataset's values lie: uint64 [n, 2] of begin and size. They must be in the file."""
        begins, sizes = extents[:, 0], extents[:, 1]
        left = np.uint64(self.size) - np.minimum(begins, np.uint64(self.size))
        if (sizes > left).any() or (begins > self.size).any():
            raise CheckpointError(f"{values.where} reaches beyond the end of the file")
        if not shared:
            self.extents.append((extents, values.where))

    def check(self) -> None:
        """CheckpointError if two pieces overlap: a little data could look like a lot."""
        begins, sizes = np.concatenate([np.empty((0, 2), np.uint64), *(part for part, _ in self.extents)]).T
        order = np.argsort(begins, kind="stable")
        over = begins[order[1:]] < (begins + sizes)[order[:-1]]
        if over.any():
            owners = np.repeat(np.arange(len(self.extents)), [len(part) for part, _ in self.extents])
            raise CheckpointError(f"{self.extents[owners[order[1:][over.argmax()]]][1]} lies on bytes of another one")


def _compact(values: Values) -> memoryview:
    """The values of a dataset in its own header, which libhdf5 has read with it."""
    if values.nbytes > MAX_COMPACT:
        raise CheckpointError(
            f"{values.where} claims {values.nbytes} bytes in a header, which holds up to {MAX_COMPACT}"
        )
    data = np.empty(values.shape, f"V{values.dtype.itemsize}")
    values.dataset.read(h5s.ALL, h5s.ALL, data, values.dataset.get_type())
    return as_bytes(data)


def _filters(values: Values) -> tuple[int, ...]:
    """The numbers of the filters, in the order in which they were applied, if all of them are known."""
    filters = []
    for place in range(values.properties.get_nfilters()):
        code, _, options, name = values.properties.get_filter(place)
        if code not in FILTERS:
            raise CheckpointError(
                f"{values.where} is compressed with the filter {shown(name.decode(errors='replace') or code)}, and "
                f"{', '.join(FILTERS.values())} can be read: save it with gzip, or uncompressed"
            )
        if code == SHUFFLE and options[:1] != (values.dtype.itemsize,):
            raise CheckpointError(f"{values.where} is shuffled by {options[:1]} bytes, and is {values.dtype.name}")
        filters.append(code)
    if sum(code in COMPRESSORS for code in filters) > 1:
        raise CheckpointError(f"{values.where} is compressed more than once: save it with gzip, or uncompressed")
    return tuple(filters)


def _index(values: Values, chunk: tuple[int, ...], grid: tuple[int, ...]) -> np.ndarray:
    """uint64 [chunks, rank + 3], as in `Chunks`: every chunk at a place of its own in the grid."""
    rank, cells, numbers = len(chunk), math.prod(grid), array.array("Q")

    def take(found: h5d.StoreInfo) -> bool | None:
        numbers.extend((*found.chunk_offset, found.filter_mask, found.byte_offset, found.size))
        return len(numbers) > (rank + 3) * cells or None  # whatever is not None ends the iteration

    values.dataset.chunk_iter(take)
    index = np.array(numbers, np.uint64).reshape(-1, rank + 3)
    places, rests = np.divmod(index[:, :rank], np.array(chunk, np.uint64))
    if rests.any() or (places >= np.array(grid, np.uint64)).any():
        raise CheckpointError(f"{values.where} has chunks outside its shape")
    if np.unique(np.ravel_multi_index(tuple(places.T.astype(np.int64)), grid)).size != len(index):
        raise CheckpointError(f"{values.where} has two chunks at one place")
    return index


def _fill(values: Values) -> np.ndarray:
    """The value of chunks that were never written."""
    value = np.zeros((), values.dtype)
    if values.properties.fill_value_defined() == h5d.FILL_VALUE_USER_DEFINED:
        if value.dtype.isbuiltin == 2:  # HDF5 could not convert it to a type of ml_dtypes
            raise CheckpointError(f"{values.where} has values that were never written: save it again, complete")
        values.properties.get_fill_value(value)
    return value
