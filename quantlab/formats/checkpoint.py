"""What was opened: a tensor's spec, and the checkpoint of all of them."""

import difflib
import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ..core import memory
from ..core.arrays import FLOATS, MAX_DIMENSIONS, as_float32, raise_non_finite
from ..errors import CheckpointError, DTypeError, EmptyTensorError
from ..wording import as_text, called, shown
from .input.files import CHUNK, InputFile, OnBytes, Stream, as_bytes
from .prequantized import CODES, PARTS, QUANTIZED, scales_of

BLOCK = 1 << 18  # values checked at a time: a mask of a whole tensor would be a quarter of its size


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a file says about one tensor, checked against the file's size.

    Attributes
    ----------
    name : the tensor's name in the file.
    shape : lengths of its dimensions; () for a scalar.
    dtype : NumPy's name of its type: "float32", "bfloat16", "float8_e4m3fn", "int64" ...
    nbytes : bytes it takes in the file, uncompressed: what compression is measured against.
    note : what is special about it: where its values come from, who uses it; "" otherwise.
    channel_axis : along which its output channels lie, where the file tells; 0 elsewhere, as PyTorch has them. A matrix
        that ONNX multiplies by is [in, out], so its channels are columns: PerChannel(1).
    aside : what the file knows it to be that nobody means by "the weights", in words: "scales of quantized numbers";
        "" otherwise.
    multiplied : whether the file says that an operator multiplies by it, as ONNX does; False where it does not tell.
    same_as : the first tensor that is stored as the very same values, as PyTorch stores tied layers; "" where none is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    note: str = ""
    channel_axis: int = 0
    aside: str = ""
    multiplied: bool = False
    same_as: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Checkpoint(ABC):
    """An open file, or folder of files, of named tensors. Nothing is read before it is asked for.

    A file format has a subclass with a `raw` of its own, or uses `StoredCheckpoint`.

    >>> import tempfile, pathlib, numpy as np, quantlab as ql
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.npy"
    >>> np.save(path, np.float16([1, 2]))
    >>> with ql.open_checkpoint(path) as checkpoint:
    ...     checkpoint.names, checkpoint.spec("weights").dtype, checkpoint.load("weights")
    (['weights'], 'float16', array([1., 2.], dtype=float32))
    """

    def __init__(
        self, path: str | os.PathLike[str], format: str, specs: Mapping[str, TensorSpec], files: Iterable[InputFile]
    ) -> None:
        self.path = Path(path)
        self.location = os.path.abspath(path)  # where another process finds it; a URL if it was opened by one
        self.format = format
        self.files = tuple(files)
        self._specs = specs

    def __repr__(self) -> str:
        return f"<{self.format} checkpoint {self.title!r}, {len(self._specs)} tensors>"

    def __str__(self) -> str:
        return shown(self.title)

    @property
    def title(self) -> str:
        """What the checkpoint is called in messages and manifests: the file's name, or the folder's."""
        return self.files[0].name if len(self.files) == 1 else as_text("/".join(called(self.path)))

    @property
    def names(self) -> list[str]:
        """The tensors' names, in the file's order."""
        return list(self._specs)

    def spec(self, name: str) -> TensorSpec:
        """Shape, dtype and size of one tensor. CheckpointError if the file has no such tensor."""
        spec = self._specs.get(name)
        if spec is None:
            # Comparing with 100,000 names would take seconds.
            close = difflib.get_close_matches(str(name)[:100], self.names[:1000], n=1)
            hint = f": did you mean {shown(close[0])}?" if close else f" among its {len(self._specs)}"
            raise CheckpointError(f"{self} has no tensor {shown(name)}{hint}")
        return spec

    @abstractmethod
    def raw(self, name: str) -> np.ndarray:
        """One tensor in the file's own dtype (native byte order), read now into memory of its own.

        LimitError if there is not enough memory for it.
        """

    def reads_rows(self, name: str) -> bool:
        """Whether `raw_rows` reads the bytes of these rows only, rather than all of the tensor."""
        return False

    def raw_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of `raw(name)`, along its first axis."""
        return self.raw(name)[start:stop]

    def load(self, name: str) -> np.ndarray:
        """One tensor as float32 in C order, finite and not empty: ready to be quantized. Read now, into own memory.

        Raises
        ------
        LimitError : there is not enough memory for it.
        DTypeError : its values are not floats. `raw` reads integers and bools.
        EmptyTensorError : it has no elements.
        NonFiniteError : it holds NaN or infinity, or float64 values beyond float32.
        CheckpointError : there is no such tensor, or the file was changed meanwhile.
        """
        spec, where = self.spec(name), self._where(name)
        if spec.dtype not in FLOATS:
            raise DTypeError(
                f"{where} is {spec.dtype}, not a float: weights are float16, bfloat16, float32, float64 or float8; "
                f"if its numbers are weights all the same, pass raw(name).astype('float32') as an array"
            )
        if not spec.size:
            raise EmptyTensorError(f"{where} has shape {shown(list(spec.shape))} and no elements: leave it out")
        x = self._float32(name)
        if not all_finite(x):
            raise_non_finite(x, where)
        return x

    def _float32(self, name: str) -> np.ndarray:
        return as_float32(self.raw(name), self._where(name))

    def _where(self, name: str) -> str:
        return f"tensor {shown(name)} of {self}"

    def digests(self, on_bytes: OnBytes | None = None) -> dict[str, str]:
        """SHA-256 of every file's bytes, in hexadecimal, by file name; computed once."""
        return {file.name: file.sha256(on_bytes) for file in sorted(self.files, key=lambda file: file.name)}

    def sha256(self) -> str:
        """SHA-256 of the file's bytes, in hexadecimal; computed once.

        For several files it is that of the text `sha256sum FILE ...` prints for them, in the order of their names.
        """
        digests = self.digests()
        if len(digests) == 1:
            return next(iter(digests.values()))
        listing = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
        return hashlib.sha256(listing.encode()).hexdigest()

    def close(self) -> None:
        """Close the files; reading on raises CheckpointError."""
        for file in self.files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Entry:
    """A spec and how to get at its bytes: `open()` gives them in memory order, in `dtype` (None: cannot be read)."""

    spec: TensorSpec
    dtype: np.dtype | None
    open: Callable[[], Stream]
    fortran: bool = False

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape as the bytes lie: Fortran order is C order of the transpose."""
        return self.spec.shape[::-1] if self.fortran else self.spec.shape


class StoredCheckpoint(Checkpoint):
    """A checkpoint whose tensors lie in its files as plain arrays, described by an `Entry` each."""

    def __init__(
        self, path: str | os.PathLike[str], format: str, entries: Mapping[str, Entry], files: Iterable[InputFile]
    ) -> None:
        super().__init__(path, format, noted({name: entry.spec for name, entry in entries.items()}), files)
        self._entries = entries

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The entries by tensor."""
        return self._entries

    def raw(self, name: str) -> np.ndarray:
        """One tensor in the file's own dtype (native byte order), read now into memory of its own."""
        dtype = self._dtype(name)
        entry = self._entries[name]
        stream = entry.open()  # before the array: it may find that the bytes are not there
        nbytes = dtype.itemsize * entry.spec.size
        with memory.asked(nbytes * (1 if dtype.isnative else 2) + stream.aside, self._where(name)):
            out = np.empty(entry.stored_shape, dtype)
            fill(stream, out)
            out = out.astype(out.dtype.newbyteorder("="), copy=False)
        return out.T if entry.fortran else out

    def reads_rows(self, name: str) -> bool:
        """True for a tensor of one dimension or more whose bytes lie in the file as they are, in C order."""
        entry = self._entries[self.spec(name).name]
        return bool(entry.spec.shape and entry.dtype and not entry.fortran) and type(entry.open()) is Stream

    def raw_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of `raw(name)`, along its first axis."""
        if not self.reads_rows(name):
            return super().raw_rows(name, start, stop)
        dtype, entry = self._dtype(name), self._entries[name]
        shape = entry.spec.shape
        start, stop, _ = slice(start, stop).indices(shape[0])
        row, stream, count = dtype.itemsize * math.prod(shape[1:]), entry.open(), max(stop - start, 0)
        with memory.asked(count * row * (1 if dtype.isnative else 2), f"{count:,} rows of {self._where(name)}"):
            out = np.empty((count, *shape[1:]), dtype)
            fill(Stream(stream.file, stream.offset + start * row, out.nbytes), out)
            return out.astype(out.dtype.newbyteorder("="), copy=False)

    def load(self, name: str) -> np.ndarray:
        """As `Checkpoint.load`; what cannot be read at all is said to be so, rather than to be no weights."""
        self._dtype(name)
        return super().load(name)

    def stream(self, name: str) -> Stream:
        """The bytes of one tensor in its own dtype, little-endian, in memory order, to be read piece by piece."""
        self._dtype(name)
        return self._entries[name].open()

    def _float32(self, name: str) -> np.ndarray:
        dtype, entry = self._dtype(name), self._entries[name]
        if dtype.itemsize == 8:
            return super()._float32(name)
        stream = entry.open()
        with memory.asked(4 * entry.spec.size * (2 if entry.fortran else 1) + stream.aside, self._where(name)):
            out = np.empty(entry.stored_shape, np.float32)
            if dtype == np.float32 and dtype.isnative:
                fill(stream, out)
            else:
                widen(stream, dtype, out.reshape(-1))
            return out.T.copy(order="C") if entry.fortran else out

    def _dtype(self, name: str) -> np.dtype:
        spec = self.spec(name)
        dtype = self._entries[name].dtype
        if dtype is None:
            raise DTypeError(f"{self._where(name)} is {spec.dtype}, which quantlab can list and not read")
        return dtype


def shape_fault(shape: tuple[int, ...], bits: int) -> str | None:
    """Why no array of this shape and this many bits per element can exist; None if one can. Unbounded integers."""
    if len(shape) > MAX_DIMENSIONS:
        return f"has {len(shape)} dimensions, and {MAX_DIMENSIONS} are possible"
    if shape and min(shape) < 0:
        return f"has a negative length in its shape {list(shape)}"
    # NumPy multiplies the lengths that are not 0, in 64 bits, for an empty array too.
    if bits * math.prod(filter(None, shape)) >= 8 << 62:
        return f"has an impossible shape {shown(list(shape))}"
    if bits * math.prod(shape) % 8:
        return f"does not end on a whole byte (shape {list(shape)}, {bits} bits per element)"
    return None


def all_finite(x: np.ndarray) -> bool:
    """Whether an array (C order, any float type) holds neither NaN nor infinity."""
    flat = x.reshape(-1)
    with np.errstate(invalid="ignore"):  # a signalling NaN in a 16-bit float
        return all(np.isfinite(flat[start : start + BLOCK]).all() for start in range(0, flat.size, BLOCK))


def fill(stream: Stream, out: np.ndarray) -> None:
    """Fill a C-order array with all bytes of a stream."""
    stream.read_into(as_bytes(out))
    stream.finish()


def widen(stream: Stream, dtype: np.dtype, out: np.ndarray) -> None:
    """Fill float32 `out` (1-D) from a stream of narrower floats, in blocks: their own form is never held whole."""
    block = np.empty(CHUNK // dtype.itemsize, dtype)
    for start in range(0, out.size, block.size):
        part = block[: out.size - start]
        stream.read_into(as_bytes(part))
        with np.errstate(invalid="ignore"):  # a signalling NaN; `load` finds it
            out[start : start + part.size] = part
    stream.finish()


def noted(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The same specs; those of codes that have scales beside them say so, and so do the scales."""
    found = dict(specs)
    for name, spec in specs.items():
        if spec.dtype in CODES and not spec.note and (scales := scales_of(name, specs)):
            note = f"already quantized: codes, with their scales in {scales}"
            found[name] = replace(spec, note=note, aside=QUANTIZED)
            found[scales] = replace(specs[scales], aside=PARTS)
    return found
