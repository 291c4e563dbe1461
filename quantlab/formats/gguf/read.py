"""GGUF: the model files of llama.cpp (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Blocks of quantized values open as their decoded values: the reference package decodes them, a bounded number at a time.
"""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from ...errors import CheckpointError
from ...wording import shown
from ..checkpoint import Entry, StoredCheckpoint, TensorSpec
from ..input.files import InputFile, Stream
from .header import MAGIC, Header, Info, Kind

BATCH = 1 << 16  # values decoded at a time: what the decoders put aside meanwhile is several times as large
UNDECODED = frozenset({"Q8_1", "Q8_K", "Q1_0"})  # of intermediate results, or too new for the decoders


class GGUFCheckpoint(StoredCheckpoint):
    """An open GGUF file.

    Attributes
    ----------
    version : of the format, 2 or 3.
    metadata : key -> number, string, bool, list of up to `SHORT` of them, or `Long` for what stays in the file.
    records : key -> (place, bytes) of its whole record in the file, key, type and value: what a copy of it is.
    alignment : of the data of tensors, in bytes.
    """

    def __init__(self, file: InputFile, header: Header, entries: Mapping[str, Entry]) -> None:
        super().__init__(file.path, "gguf", entries, [file])
        self.version = header.version
        self.metadata = header.metadata
        self.records = header.records
        self.alignment = header.alignment
        self._infos, self._start = header.infos, header.start

    def kind(self, name: str) -> Kind:
        """The ggml type of a tensor."""
        self.spec(name)
        return self._infos[name].kind

    def stored(self, name: str) -> Stream:
        """The bytes of a tensor as they lie in the file: what a copy of it is."""
        self.spec(name)
        info = self._infos[name]
        return Stream(self.files[0], self._start + info.offset, info.nbytes)

    def record(self, key: str) -> Stream:
        """The bytes of one record of the metadata. CheckpointError if there is none of that key."""
        if key not in self.records:
            raise CheckpointError(f"{self} has no metadata {shown(key)}")
        return Stream(self.files[0], *self.records[key])


def sniff(head: bytes, size: int) -> bool:
    """Every GGUF file begins with these four bytes."""
    return head.startswith(MAGIC)


def open_file(file: InputFile) -> GGUFCheckpoint:
    """Read the header and check it against the file's size. CheckpointError or LimitError if it does not hold."""
    header = Header(file)
    entries = {name: _entry(name, info, file, header.start) for name, info in header.infos.items()}
    return GGUFCheckpoint(file, header, entries)


class Blocks(Stream):
    """Values of one of ggml's block formats, as the bytes of float32; read in whole blocks."""

    def __init__(self, file: InputFile, offset: int, kind: Kind, count: int) -> None:
        super().__init__(file, offset, 4 * count)
        self._kind = kind
        self._source = Stream(file, offset, count // kind.block * kind.nbytes)

    def read_into(self, out: memoryview) -> None:
        """Fill `out` with the next values, decoded a batch at a time."""
        self._checked(len(out))
        values = np.frombuffer(out, np.float32)
        for start in range(0, values.size, BATCH):
            part = values[start : start + BATCH]
            data = self._source.read(part.size // self._kind.block * self._kind.nbytes)
            part[:] = _decode(np.frombuffer(data, np.uint8), self._kind.name)
        self.left -= len(out)


def _decode(data: np.ndarray, kind: str) -> np.ndarray:
    """Whole blocks (uint8 [n]) as float32 [values]; a scale that is NaN or infinite gives such values."""
    # Imported late: it takes as long to import as NumPy, and most files are not GGUF.
    from gguf import GGMLQuantizationType, quants

    with np.errstate(all="ignore"):
        return quants.dequantize(data, GGMLQuantizationType[kind])


def _entry(name: str, info: Info, file: InputFile, start: int) -> Entry:
    kind, count, place = info.kind, math.prod(info.shape), start + info.offset
    if kind.dtype:
        spec = TensorSpec(name, info.shape, kind.dtype, info.nbytes)
        return Entry(spec, np.dtype(kind.dtype).newbyteorder("<"), partial(Stream, file, place, info.nbytes))
    stream = partial(Blocks, file, place, kind, count)
    if kind.name in UNDECODED:
        spec = TensorSpec(name, info.shape, kind.name.lower(), info.nbytes, "gguf-py has no decoder for its type")
        return Entry(spec, None, stream)
    spec = TensorSpec(name, info.shape, "float32", info.nbytes, f"decoded from {kind.name}")
    return Entry(spec, np.dtype(np.float32), stream)
