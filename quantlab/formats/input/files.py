"""Reading files of strangers: regular files only, and never more bytes than are really there.

Reads are copies into private memory. A memory map would be lazier still, but somebody who truncates the file
while a view of it is alive kills the process with SIGBUS.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...core import pool
from ...errors import CheckpointError
from ...wording import as_text, shown

CHUNK = 4 << 20  # bytes per read: large against the cost of a call, small against a cache and against a second
MAX_TENSORS = 100_000  # per file; whole published checkpoints have about as many, in hundreds of files
MAX_NAME = 4096  # characters
SAMPLE = 1 << 16  # bytes that an identity looks at, three times

OnBytes = Callable[[int], None]  # told of every piece of at most `CHUNK` bytes; may raise Cancelled

# O_NONBLOCK: opening a named pipe must not wait for a writer. Windows has neither flag.
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
}


class InputFile:
    """A regular file opened for reading; its size is fixed at the opening.

    Parameters
    ----------
    path : where it is; a symbolic link named by the caller is followed once, here.
    name : what the file is called in messages and manifests (default: the last part of `path`).
    alone : nothing else in its folder belongs to it, so nothing else may be read: it is an upload.

    Raises
    ------
    CheckpointError : there is no such file, it may not be read, or it is not a regular file.
    """

    _fd: int | None = None

    def __init__(self, path: str | os.PathLike[str], name: str | None = None, *, alone: bool = False) -> None:
        self.path = Path(path)
        self.alone = alone
        self.name = as_text(name or self.path.name or str(path))
        try:
            self._fd = os.open(self.path.resolve(strict=True), _FLAGS)
            found = os.fstat(self._fd)
        # ValueError: a NUL in the path; RuntimeError: a loop of symbolic links.
        except (OSError, ValueError, RuntimeError) as error:
            self.close()
            raise CheckpointError(f"cannot open {self}: {reason(error)}") from error
        if not stat.S_ISREG(found.st_mode):
            self.close()
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "not a regular file")
            raise CheckpointError(f"cannot open {self}: it is {kind}; give a regular file")
        self.size = found.st_size
        self._stamp: tuple[object, ...] = (found.st_size, found.st_mtime_ns)
        self._digest: str | None = None

    def __str__(self) -> str:
        return shown(self.name)

    @property
    def stamp(self) -> tuple[object, ...] | None:
        """Size and time of the last change, by which the file is known another day; None if nothing tells for sure."""
        return self._stamp

    def read(self, offset: int, count: int) -> bytearray:
        """`count` bytes from `offset`. CheckpointError if the file does not have them."""
        data = bytearray(self._checked(offset, count))
        self.read_into(offset, memoryview(data))
        return data

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out` (bytes) from `offset`; CheckpointError if the file has changed since it was opened.

        Cancelled, between two chunks, as the limits of the pool say.
        """
        self._checked(offset, len(out))
        done = 0
        while done < len(out):
            pool.check_cancel()
            got = self._pread(out[done : done + CHUNK], offset + done)
            if not got:
                raise self._changed()
            done += got
        found = os.fstat(self.fileno())
        if (found.st_size, found.st_mtime_ns) != self._stamp:
            raise self._changed()

    def sha256(self, on_bytes: Callable[[int], None] | None = None) -> str:
        """SHA-256 of the whole file as 64 hexadecimal digits; computed once, with a word to `on_bytes` per piece."""
        if self._digest is None:
            digest, buffer = hashlib.sha256(), memoryview(bytearray(min(CHUNK, self.size)))
            for offset in range(0, self.size, CHUNK):
                part = buffer[: min(CHUNK, self.size - offset)]
                self.read_into(offset, part)
                digest.update(part)
                if on_bytes:
                    on_bytes(len(part))
            self._digest = digest.hexdigest()
        return self._digest

    def identity(self) -> str:
        """What tells this file from other files, and from its copies of another time, without reading it all.

        Its size, and a digest of its first, middle and last `SAMPLE` bytes.
        """
        digest, count = hashlib.sha256(), min(SAMPLE, self.size)
        for offset in (0, (self.size - count) // 2, self.size - count):
            digest.update(self.read(offset, count))
        return f"{self.size} {digest.hexdigest()}"

    def fileno(self) -> int:
        """The open descriptor. CheckpointError once the file is closed."""
        if self._fd is None:
            raise CheckpointError(f"{self} is closed: open it again")
        return self._fd

    def close(self) -> None:
        """Give the descriptor back; further reads raise CheckpointError."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    __del__ = close

    def _checked(self, offset: int, count: int) -> int:
        if not 0 <= offset <= offset + count <= self.size:
            raise CheckpointError(f"{self} ends at byte {self.size}, before the {count} bytes at {offset}")
        return count

    def _pread(self, out: memoryview, offset: int) -> int:
        try:
            if hasattr(os, "preadv"):
                return os.preadv(self.fileno(), [out], offset)
            data = os.pread(self.fileno(), len(out), offset)  # macOS has no preadv
        except OSError as error:
            raise CheckpointError(f"cannot read {self}: {reason(error)}") from error
        out[: len(data)] = data
        return len(data)

    def _changed(self) -> CheckpointError:
        return CheckpointError(f"{self} was changed by another program while it was open: open it again")


def reason(error: BaseException) -> str:
    """Why the system refused, without the path that the message has already named."""
    if isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno == errno.ELOOP):
        return "its symbolic links form a loop"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)


class Stream:
    """The next bytes of a file's section, once and in order; the base of the readers that decompress.

    `aside` are the bytes of memory that reading takes beside what is read into.
    """

    aside = 0

    def __init__(self, file: InputFile, offset: int, size: int) -> None:
        self.file, self.offset, self.left = file, offset, size

    def read(self, count: int) -> bytearray:
        """The next `count` bytes. CheckpointError if the section ends before."""
        data = bytearray(self._checked(count))
        self.read_into(memoryview(data))
        return data

    def read_into(self, out: memoryview) -> None:
        """Fill `out` (bytes) with the next bytes."""
        self._checked(len(out))
        self.file.read_into(self.offset, out)
        self.offset += len(out)
        self.left -= len(out)

    def finish(self) -> None:
        """Called after the last byte: CheckpointError if something is left or does not add up."""
        if self.left:
            raise CheckpointError(f"{self.file} has {self.left} bytes more than it said")

    def _checked(self, count: int) -> int:
        if count > self.left:
            raise CheckpointError(f"{self.file} ends {count - self.left} bytes too early")
        return count


def as_bytes(x: np.ndarray) -> memoryview:
    """The bytes of a C-order array, without a copy."""
    return x.reshape(-1).view(np.uint8).data
