"""Writing GGUF: ggml's own block types, F16 and BF16; what is copied from a GGUF file keeps its type and bytes.

The types' rules are those of `dtypes`, so the bytes are ggml's (reference implementation, without an importance
matrix, on x86-64). From a GGUF source all metadata is kept, record by record.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...core.config import QuantConfig
from ...core.slices import VALUES, slices
from ...core.tensor import QuantizedTensor, dtype_named
from ...errors import ExportError
from ...wording import shown
from ..checkpoint import Checkpoint
from ..input.files import CHUNK, InputFile, OnBytes, Stream
from ..output.atomic import little_endian_bytes, write_bytes
from ..output.outgoing import Outgoing
from ..output.packed import same_bits
from . import filetype
from .header import DEFAULT_ALIGNMENT, KINDS, MAGIC, MAX_DIMENSIONS, MAX_TENSOR_NAME
from .read import GGUFCheckpoint, open_file

VERSION = 3
NUMBERS = {kind.name: number for number, kind in KINDS.items()}
PLAIN = {kind.dtype: kind.name for kind in KINDS.values() if kind.dtype}
AT_ONCE = 1 << 15  # blocks that are laid out in one go
TYPES = {"q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1", "fp16": "F16", "bf16": "BF16"}


def refuses(shape: tuple[int, ...], config: QuantConfig) -> str | None:
    """Why the format cannot hold a tensor; None if it can."""
    if config.dtype not in TYPES:
        return f"it holds ggml's own types, {', '.join(TYPES)}, not {config}"
    if not 1 <= len(shape) <= MAX_DIMENSIONS:
        return f"its tensors have 1 to {MAX_DIMENSIONS} dimensions, and this has shape {shape}"
    return None


def block_bytes(q: QuantizedTensor) -> np.ndarray:
    """The tensor in ggml's layout: uint8 [blocks, bytes].

    A block is the scale (float16), the smallest value (q4_1, q5_1), the fifth bits (q5_0, q5_1: bit j of a
    little-endian uint32 is that of value j), then the low four bits: byte j holds values j and j + 16.
    """
    if q.scale is None:
        return q.packed.reshape(-1, 2)
    codes, bits = q.codes.reshape(-1, 32), q.config.codec.bits
    head = [part.reshape(-1, 1).view(np.uint8) for part in (q.scale, q.offset) if part is not None]
    blocks = np.empty((len(codes), 4 * bits + sum(part.shape[1] for part in head)), np.uint8)
    for start in range(0, len(codes), AT_ONCE):  # copies of a few blocks do not matter
        at = slice(start, start + AT_ONCE)
        blocks[at] = _some_blocks(codes[at], [part[at] for part in head], bits, q.offset is None)
    return blocks


def _some_blocks(codes: np.ndarray, head: list[np.ndarray], bits: int, signed: bool) -> np.ndarray:
    """`block_bytes` of codes [blocks, 32]; head: the bytes [blocks, 2] that come before them."""
    if bits == 8:
        return np.concatenate([*head, codes.view(np.uint8)], axis=1)
    # ggml counts from 0: signed codes are moved up by half of their range.
    unsigned = (codes + np.int8(2 ** (bits - 1))).view(np.uint8) if signed else codes.view(np.uint8)
    if bits == 5:
        head = [*head, np.packbits(unsigned >> 4, axis=1, bitorder="little")]
    return np.concatenate([*head, (unsigned[:, :16] & 15) | ((unsigned[:, 16:] & 15) << 4)], axis=1)


class Target:
    """One tensor's place in the file to be: its type, bytes and offset."""

    def __init__(self, tensor: Outgoing, source: Checkpoint | None, offset: int) -> None:
        self.tensor, self.source, self.offset = tensor, source, offset
        self.kind = self._kind()

    def _kind(self) -> str:
        tensor = self.tensor
        if tensor.config is not None:
            return TYPES[tensor.config.dtype]
        if isinstance(self.source, GGUFCheckpoint):
            return self.source.kind(tensor.name).name
        if tensor.source_dtype not in PLAIN:
            raise ExportError(
                f"tensor {shown(tensor.name)} is {tensor.source_dtype}, which GGUF does not hold: leave it out"
            )
        return PLAIN[tensor.source_dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        kind = KINDS[NUMBERS[self.kind]]
        return math.prod(self.tensor.shape) // kind.block * kind.nbytes

    def header(self) -> bytes:
        """Name, dimensions from the fastest to the slowest, type and offset."""
        name, shape = self.tensor.name.encode(), self.tensor.shape[::-1]
        numbers = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, NUMBERS[self.kind], self.offset)
        return struct.pack("<Q", len(name)) + name + numbers

    def write(self, target: BinaryIO, on_bytes: OnBytes) -> None:
        """Write the data; a copy from a GGUF file goes over in pieces."""
        if self.tensor.config is not None:
            for _, part in slices(self.tensor.quantized()):
                write_bytes(target, little_endian_bytes(block_bytes(part)), on_bytes)
        elif isinstance(self.source, GGUFCheckpoint):
            stream = self.source.stored(self.tensor.name)
            while stream.left:
                write_bytes(target, memoryview(stream.read(min(CHUNK, stream.left))), on_bytes)
        else:
            write_bytes(target, little_endian_bytes(self.tensor.copied()), on_bytes)


def targets(tensors: Sequence[Outgoing], source: Checkpoint | None) -> list[Target]:
    """Every tensor and its place; ExportError for names and types that GGUF does not hold."""
    alignment, placed, offset = alignment_of(source), [], 0
    for tensor in tensors:
        if not 0 < len(tensor.name.encode()) <= MAX_TENSOR_NAME:
            raise ExportError(
                f"tensor {shown(tensor.name)} has a name of {len(tensor.name.encode())} bytes, and GGUF allows 1 to "
                f"{MAX_TENSOR_NAME}: leave it out, or choose another format"
            )
        placed.append(Target(tensor, source, offset))
        offset += -(-placed[-1].nbytes // alignment) * alignment
    return placed


def alignment_of(source: Checkpoint | None) -> int:
    """Alignment of the data: the source's, as its metadata says it too."""
    return source.alignment if isinstance(source, GGUFCheckpoint) else DEFAULT_ALIGNMENT


def metadata(source: Checkpoint | None, placed: Sequence[Target]) -> list[bytes]:
    """The records of the metadata: all of a GGUF source, else the least that readers ask for.

    What the source says its tensors mostly are is brought up to date.
    """
    if isinstance(source, GGUFCheckpoint):
        records = {key: bytes(source.record(key).read(source.records[key][1])) for key in source.records}
        if filetype.KEY in records and placed:
            kind = filetype.most((place.kind, place.tensor.shape) for place in placed)
            records[filetype.KEY] = filetype.updated(records[filetype.KEY], kind)
        return list(records.values())
    text = struct.Struct("<Q")
    architecture, value = b"general.architecture", b"unknown"
    return [
        text.pack(len(architecture)) + architecture + struct.pack("<I", 8) + text.pack(len(value)) + value,
    ]


def write(target: BinaryIO, tensors: Sequence[Outgoing], source: Checkpoint | None, on_bytes: OnBytes) -> None:
    """Write a GGUF file, one tensor at a time."""
    placed, alignment = targets(tensors, source), alignment_of(source)
    records = metadata(source, placed)
    target.write(MAGIC + struct.pack("<IQQ", VERSION, len(placed), len(records)))
    for record in records:
        target.write(record)
    for place in placed:
        target.write(place.header())
    for place in placed:
        target.write(b"\0" * (-target.tell() % alignment))
        place.write(target, on_bytes)
    target.write(b"\0" * (-target.tell() % alignment))


def nbytes(tensors: Sequence[Outgoing], source: Checkpoint | None) -> int:
    """Bytes of the file that `write` would write."""
    placed, alignment = targets(tensors, source), alignment_of(source)
    head = 24 + sum(map(len, metadata(source, placed))) + sum(len(place.header()) for place in placed)
    return sum(-(-size // alignment) * alignment for size in (head, *(place.nbytes for place in placed)))


def verify(path: Path, tensors: Sequence[Outgoing], source: Checkpoint | None, on_bytes: OnBytes) -> None:
    """ExportError unless the file, read back, decodes to the values that were meant, and copies are bit for bit."""
    with open_file(InputFile(path)) as found:
        for tensor in tensors:
            if not _came_back(found, tensor, source):
                raise ExportError(f"tensor {shown(tensor.name)} was written, but came back different: check the disk")
            on_bytes(tensor.nbytes)


def _came_back(found: GGUFCheckpoint, tensor: Outgoing, source: Checkpoint | None) -> bool:
    """Whether the file holds what was meant, which is made once more for the comparison."""
    name = tensor.name
    if tensor.config is None:
        if isinstance(source, GGUFCheckpoint):
            return _same_bytes(found.stored(name), source.stored(name))
        return same_bits(found.raw(name), tensor.copied())
    q = tensor.quantized()
    parts = zip(values_of(found, tensor, [at for at, _ in slices(q)]), slices(q), strict=True)
    return all(np.array_equal(values, part.dequantize().reshape(-1)) for (_, values), (_, part) in parts)


def values_of(export: GGUFCheckpoint, tensor: Outgoing, at: Iterable[slice]) -> Iterator[tuple[slice, np.ndarray]]:
    """The decoded values of a tensor [n], float32, in consecutive slices: never more than one of them at a time."""
    stream, dtype = export.stream(tensor.name), dtype_named(export.spec(tensor.name).dtype).newbyteorder("<")
    for part in at:
        values = np.frombuffer(stream.read(dtype.itemsize * (part.stop - part.start)), dtype)
        yield part, values.astype(np.float32, copy=False)


def read_parts(export: Checkpoint, tensor: Outgoing) -> Iterator[tuple[slice, np.ndarray]]:
    """All values of a tensor, as `values_of` gives them."""
    assert isinstance(export, GGUFCheckpoint)
    size = math.prod(tensor.shape)
    return values_of(export, tensor, (slice(i, min(i + VALUES, size)) for i in range(0, size, VALUES)))


def _same_bytes(a: Stream, b: Stream) -> bool:
    return a.left == b.left and all(a.read(n) == b.read(n) for n in iter(lambda: min(CHUNK, a.left), 0))
