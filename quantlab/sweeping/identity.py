"""What is the same: the same values, the same file, the same arithmetic. A store of results is keyed by these."""

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..core import pool
from ..core.arrays import is_huge_broadcast
from ..core.inputs import Weighting

HOUSE = Path(__file__).parents[1]
LIBRARIES = ("numpy", "ml_dtypes", "numba", "llvmlite")  # they round and compile
STEP = 16 << 20  # bytes hashed between two looks at Cancel


def fingerprint(raw: Any, channel_axis: int = 0, weighting: Weighting | None = None) -> bytes | None:
    """SHA-256 over dtype, shape and bytes (C order, little-endian) of an array, and the axis of its output channels.

    Weights of its inputs, which figures depend on, belong to it.

    None for what cannot be quantized anyway: what is no array of numbers, and views that repeat a value gigabytes of
    times. Raises Cancelled, between two pieces, as the limits of the pool say.

    >>> fingerprint(np.float32([1, 2])) == fingerprint(np.float32([1, 2])) != fingerprint(np.float32([[1, 2]]))
    True
    """
    if isinstance(raw, np.generic):
        raw = np.asarray(raw)
    if not isinstance(raw, np.ndarray) or raw.dtype.hasobject or is_huge_broadcast(raw):
        return None
    channels = f" channels along {channel_axis}" if channel_axis else ""
    digest = hashlib.sha256(f"{raw.dtype.newbyteorder('=').name} {raw.shape}{channels}".encode())
    for part in _parts(raw):
        pool.check_cancel()
        little = part.astype(part.dtype.newbyteorder("<"), order="C", copy=False)
        digest.update(little.reshape(-1).view(np.uint8).data)
    if weighting is not None:
        digest.update(weighting.digest())
    return digest.digest()


def _parts(x: np.ndarray) -> Iterable[np.ndarray]:
    """An array in pieces that follow each other in C order, so that no copy is larger than a piece."""
    if x.flags.c_contiguous:
        flat, step = x.reshape(-1), max(1, STEP // max(x.itemsize, 1))
        return (flat[start : start + step] for start in range(0, x.size, step))
    if x.nbytes <= STEP:
        return (x,)
    if x.ndim > 1 and x.nbytes // len(x) > STEP:
        return (part for row in x for part in _parts(row))
    step = max(1, STEP // (x.nbytes // len(x)))
    return (x[start : start + step] for start in range(0, len(x), step))


def files_stamp(source: Any) -> str | None:
    """What tells the files behind an open checkpoint from those of another time: paths, sizes and times of all of them.

    The reader's own code belongs to it: another version may read other values. None for arrays in memory.
    """
    files = getattr(source, "files", ())
    if not files or any(file.stamp is None for file in files):
        return None
    # The index of a folder says which file a tensor is in.
    indexes = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(source.path.glob("*.json"))]
    stamps = [(str(file.path), *file.stamp) for file in files]
    return hashlib.sha256(repr((reader_version(), stamps, indexes)).encode()).hexdigest()


@cache
def engine_version() -> str:
    """A digest of all that decides a figure: the code of `core`, and the versions of the libraries it rests on."""
    return _digest(HOUSE / "core")


@cache
def reader_version() -> str:
    """A digest of all that decides which values are read from a file."""
    return _digest(HOUSE / "formats")


def _digest(room: Path) -> str:
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in LIBRARIES).encode())
    for path in sorted(room.rglob("*.py")):
        digest.update(path.relative_to(room).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
