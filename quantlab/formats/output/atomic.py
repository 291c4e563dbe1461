"""Writing files so that nobody ever sees half of one.

The bytes go to a file of another, unpredictable name in the same folder; it is synced and verified, and only then
takes the final name, in one step. Whatever happens before leaves the final name as it was.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from ...errors import Cancelled, ExportError, LimitError, QuantlabError
from ...wording import shown
from ..input.files import CHUNK, as_bytes, reason
from .orphans import Claim, part_beside, sweep_parts

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "it would be too large"}
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def write_whole(
    path: str | os.PathLike[str], write: Callable[[BinaryIO], None], verify: Callable[[Path], None]
) -> None:
    """Let `write` fill a new file, `verify` look at it where it lies, and then move it to `path`.

    An error in either, or a stop, removes the new file and leaves `path` as it was. ExportError for what the system
    refuses: no such folder, no permission, no space; LimitError where memory is not enough.
    """
    with system_errors(path):
        final = final_place(Path(path))
        sweep_parts(final.parent)
        temporary, claim = part_beside(final), Claim()
        try:  # from here on: a stop can come between any two steps
            with os.fdopen(os.open(temporary, _FLAGS, 0o666), "wb") as target:
                claim.hold(target.fileno())
                write(target)
                target.flush()
                os.fsync(target.fileno())
            with reading_back(final):
                verify(temporary)
            if os.name == "nt":
                claim.release()  # Windows moves no file that is open
            os.replace(temporary, final)
        except BaseException:  # a stop from the keyboard as well
            claim.release()
            temporary.unlink(missing_ok=True)
            raise
        claim.release()
        sync_folder(final.parent)


def little_endian_bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array in C order, as files have them; a copy only where they do not lie so."""
    return as_bytes(array.astype(array.dtype.newbyteorder("<"), order="C", copy=False))


def write_bytes(target: IO[bytes], data: memoryview, on_bytes: Callable[[int], None]) -> None:
    """Write `data` in pieces, with a word to `on_bytes` (which may stop it) after each."""
    for start in range(0, len(data), CHUNK):
        piece = data[start : start + CHUNK]
        target.write(piece)
        on_bytes(len(piece))


def final_place(path: Path) -> Path:
    """The place behind all links. ExportError for a device, a pipe or a folder: only a regular file may be replaced."""
    try:
        final = path.resolve()
        mode = os.lstat(final).st_mode
    except FileNotFoundError:
        return final
    except (ValueError, RuntimeError) as error:  # a NUL in the name; links in a loop
        raise ExportError(f"cannot write {shown(path.name)}: {reason(error)}") from error
    if not stat.S_ISREG(mode):
        raise ExportError(f"cannot write {shown(path.name)}: something that is not a regular file has this name")
    return final


@contextlib.contextmanager
def system_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """ExportError, in one sentence, for what the system refuses while `path` is written; LimitError for memory."""
    try:
        yield
    except MemoryError as error:
        raise LimitError(
            f"cannot write {shown(Path(path).name)}: there is not enough memory for its largest tensor"
        ) from error
    except OSError as error:
        place, why = Path(path), _FULL.get(error.errno or 0, reason(error))
        raise ExportError(f"cannot write {shown(place.name)} in {shown(str(place.parent), 200)}: {why}") from error


@contextlib.contextmanager
def reading_back(path: Path) -> Iterator[None]:
    """ExportError for a file of ours that cannot be read."""
    try:
        yield
    except (ExportError, LimitError, Cancelled):
        raise
    except QuantlabError as error:
        raise ExportError(f"{shown(path.name)} was written, but cannot be read back: {error}") from error


def sync_folder(folder: Path) -> None:
    """Make the new name last through a crash. Some systems cannot sync a folder; the file itself is synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
