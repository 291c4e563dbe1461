"""Builders of files that lie, and the one way of opening them: nothing runs, nothing grows, one sentence comes back."""

import contextlib
import io
import json
import os
import struct
import time
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from quantlab.errors import CheckpointError, LimitError, QuantlabError
from quantlab.formats import PackedCheckpoint, open_checkpoint

PACKED = ["npz", "safetensors"]  # the formats that load_packed reads

# Python's own objects for one open file and its message; the rule is about memory that grows with what a file claims.
FIXED_MEMORY = 1 << 20
SECONDS = 1.0


# -- safetensors


def safetensors(header: dict | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of this header and data; `length` lies about the header's."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype: str, shape: list, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


# -- npy


def npy(
    descr: object = "<f4",
    shape: object = (1,),
    data: bytes = b"",
    version: tuple[int, int] = (1, 0),
    fortran: bool = False,
    header: bytes | None = None,
) -> bytes:
    """A .npy file that says `descr` and `shape`, whatever `data` is; or with a `header` of any bytes."""
    if header is None:
        header = (repr({"descr": descr, "fortran_order": fortran, "shape": shape}) + "\n").encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


ONE = npy(data=b"\0" * 4)  # a correct file of one float32


# -- zip


def archive(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as target:
        warnings.simplefilter("ignore")  # of duplicate names, which are the point
        for name, data in members:
            target.writestr(name, data)
    return buffer.getvalue()


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush()


def listed(records: int, packed: bytes, declared: bytes, names: bool = False) -> bytes:
    """An archive of one deflated member, listed `records` times under one name or as many, said to hold `declared`."""
    sizes = (zlib.crc32(declared), len(packed), len(declared), 5, 0)
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 8, 0, 0, *sizes) + b"a.npy" + packed
    directory = b"".join(
        struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 8, 0, 0, *sizes, 0, 0, 0, 0, 0)
        + (b"%c.npy" % (97 + i % 26) if names else b"a.npy")
        for i in range(records)
    )
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, records, records, len(directory), len(local), 0)
    return local + directory + end


def bomb_of_shared_bytes(records: int, names: bool = False) -> bytes:
    """Four megabytes of zeros, once in the file and `records` times in its directory."""
    body = npy("<f4", (1_000_000,), b"\0" * 4_000_000)
    return listed(records, deflated(body), body, names)


def patched(data: bytes, *changes: tuple[int, bytes]) -> bytes:
    """`data` with other bytes at some places; a negative place counts from the end."""
    out = bytearray(data)
    for place, new in changes:
        start = place % len(out)
        out[start : start + len(new)] = new
    return bytes(out)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with bits flipped, bytes and whole numbers replaced, fields swapped, cut short, and with a tail."""
    out = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        place, kind = draw(st.integers(0, len(out) - 1)), draw(st.sampled_from(["bit", "byte", "number", "swap"]))
        if kind == "bit":
            out[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            out[place] = draw(st.integers(0, 255))
        elif kind == "number":
            number = draw(st.sampled_from(NUMBERS))[: len(out) - place]
            out[place : place + len(number)] = number
        else:
            out = _swapped(out, place, draw(st.integers(0, len(out) - 1)), draw(st.sampled_from([1, 2, 4, 8, 30])))
    end = draw(st.just(len(out)) | st.integers(0, len(out)))
    return bytes(out[:end]) + draw(st.just(b"") | st.binary(max_size=8))


NUMBERS = [b"\xff" * 8, bytes(8), b"\0\0\0\x80", b"\xff" * 4, bytes(4), b"\x80", bytes(7) + b"\x80", b"\x7f"]


def _swapped(data: bytearray, first: int, second: int, size: int) -> bytearray:
    """Two fields in each other's place; where they overlap, one after the other."""
    (a, b), size = sorted((first, second)), min(size, len(data) - max(first, second))
    if b < a + size:
        return data
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


# -- pickles


class Canary:
    """Unpickling it makes a folder: nothing of the kind may ever appear."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


# -- opening


def open_and_read_all(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.names:
            checkpoint.raw(name)
            if isinstance(checkpoint, PackedCheckpoint):
                checkpoint.quantized(name)


def refusal(path: Path) -> QuantlabError | None:
    """What opening the file and reading all of it raises; anything but a QuantlabError passes through.

    Asserts what holds for every file of strangers: it takes less than a second, and at most twice its size of memory.
    """
    started = time.process_time()  # other processes' work does not count
    error = _attempt(path)
    assert time.process_time() - started < SECONDS
    if error is not None:
        assert str(error)
        assert "\n" not in str(error)
        size = path.stat().st_size if path.is_file() else 0
        assert _memory_of(path) < 2 * size + FIXED_MEMORY
    return error


def refused_in_one_sentence(path: Path, content: bytes, word: str) -> bool:
    """Whether a file of this content is refused by a sentence that names it and has the word in it."""
    path.write_bytes(content)
    error = refusal(path)
    assert isinstance(error, (CheckpointError, LimitError))
    assert word in str(error)
    assert repr(path.name) in str(error)
    return True


def _attempt(path: Path) -> QuantlabError | None:
    try:
        open_and_read_all(path)
    except QuantlabError as error:
        return error
    return None


def _memory_of(path: Path) -> int:
    tracemalloc.start()
    try:
        with contextlib.suppress(QuantlabError):
            open_and_read_all(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same type, shape and bits."""
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()
