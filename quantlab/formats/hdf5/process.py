"""The process in which libhdf5 reads the structure of a stranger's file: started, fed, watched and ended.

libhdf5 is a large program in C that trusts what it reads: of a few thousand files with one byte changed, and its
checksum repaired, some make it crash, go round for ever or take gigabytes. So it runs where that harms nobody, in
`libhdf5.child`, which has none of quantlab's files or variables and asks this side for every byte that it sees.
"""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from ...core import pool
from ...errors import CheckpointError, LimitError
from ...wording import size_text
from ..input.files import InputFile, reason
from .libhdf5 import frames
from .libhdf5.seal import MEMORY, SECONDS

MAX_READS = 500_000  # that libhdf5 may ask for; 15,000 objects take 45,000
SMALL = 64 << 20  # bytes that may be read of any file's structure
PATIENCE = 30.0  # seconds to wait for libhdf5 in all, where a system does not limit its computing or others take it all
TURN = 0.05  # seconds between two looks at Cancel

Result = TypeVar("Result")

_START = "import sys; sys.path += sys.argv[1:]; from libhdf5.child import main; main()"
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")  # without which Python may not start at all


class Section:
    """A part of a file whose structure is read. It counts: no structure is read without end."""

    def __init__(self, file: InputFile, start: int, size: int) -> None:
        self.file, self.start, self.size = file, start, size
        self._reads, self._bytes = MAX_READS, SMALL + 4 * size

    def read(self, offset: int, count: int) -> bytearray:
        """`count` bytes from `offset`. CheckpointError if the part ends before, LimitError if it was too much."""
        if offset + count > self.size:
            raise CheckpointError(f"{self.file} is a damaged HDF5 file: its structure reaches beyond its end")
        self._reads -= 1
        self._bytes -= count
        if self._reads < 0 or self._bytes < 0:
            raise LimitError(f"{self.file} has a structure of more than {MAX_READS} pieces: it may have no end")
        return self.file.read(self.start + offset, count)


def rows(section: Section) -> Generator[tuple[dict[str, Any], bytearray], None, None]:
    """What libhdf5 tells of every dataset, and of why it ends: an object of JSON, and data that go with it.

    Nothing of it is checked but its size. Close the iterator (`contextlib.closing`) to end the process.

    Raises
    ------
    CheckpointError : libhdf5 crashed, or did not end within the limits. LimitError : it read more than there can be.
    """
    with _Child(section.file) as child:
        child.send(frames.SIZE.pack(section.size))
        data = section.size + 8 * frames.MAX_CHUNKS * (frames.MAX_RANK + 3)  # what all rows may bring along
        while True:
            what, first, second = child.frame()
            if what == frames.READ:
                child.send(section.read(first, second))
            elif what in (frames.ROW, frames.FAULT) and first <= frames.MAX_ROW and second <= data:
                data -= second
                yield child.object(first), child.receive(second)
            elif what == frames.END:
                return
            else:
                raise child.failure("gave no sense")


class _Child:
    """The process, from its start to its end."""

    def __init__(self, file: InputFile) -> None:
        self.file, self.patience = file, PATIENCE
        try:
            self.socket, theirs = socket.socketpair()
            with theirs:
                self.process = _start(theirs)
        except OSError as error:
            raise CheckpointError(
                f"cannot open {file}: no process to read it can be started: {reason(error)}"
            ) from error
        self.socket.settimeout(TURN)

    def __enter__(self) -> Self:
        try:
            started = self.frame()[0] == frames.READY
        except CheckpointError:
            started = False
        except BaseException:
            self.close()
            raise
        if not started:
            self.close()
            raise CheckpointError(
                f"cannot open {self.file}: h5py, which reads HDF5 files, does not start on this machine: install it "
                f"again with pip install --force-reinstall -c constraints.txt h5py"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.socket.close()
        self.process.kill()
        self.process.wait()

    def frame(self) -> tuple[int, int, int]:
        """The next frame: what it is, and its two numbers."""
        return frames.FRAME.unpack(self.receive(frames.FRAME.size))

    def object(self, size: int) -> dict[str, Any]:
        """The next `size` bytes as an object of JSON."""
        try:
            found = json.loads(self.receive(size))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self.failure("gave no sense")
        return found

    def receive(self, count: int) -> bytearray:
        """The next `count` bytes; memory is taken as they come."""
        data = bytearray()
        while len(data) < count:
            part = self._waited(partial(self.socket.recv, min(count - len(data), 1 << 20)))
            if not part:
                raise self._death()
            data += part
        return data

    def send(self, data: bytes | bytearray) -> None:
        """Give the process what it waits for."""
        left = memoryview(data)
        while left:
            left = left[self._waited(partial(self.socket.send, left)) :]

    def _waited(self, step: Callable[[], Result]) -> Result:
        """What `step` gives when the other side is ready; Cancelled as the limits of the pool say."""
        while True:
            began = time.monotonic()
            try:
                return step()
            except TimeoutError:
                pool.check_cancel()
                if self.patience < 0:
                    raise self.failure(f"did not end within {PATIENCE:g} seconds") from None
            except OSError:  # it has ended
                raise self._death() from None
            finally:
                self.patience -= time.monotonic() - began

    def _death(self) -> CheckpointError:
        """Why the process has ended, in one sentence."""
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:  # it has closed the connection, and goes on
            return self.failure("gave no sense")
        if code == -getattr(signal, "SIGXCPU", 0):
            return self.failure(f"did not end within {SECONDS} seconds of computing")
        try:
            return self.failure(f"crashed on it ({signal.Signals(-code).name})")
        except ValueError:
            return self.failure("ended without an answer")

    def failure(self, what: str) -> CheckpointError:
        """The refusal of a file that libhdf5 cannot be trusted with."""
        return CheckpointError(f"{self.file} is a damaged HDF5 file: libhdf5, which reads its structure, {what}")


def out_of_memory(file: InputFile) -> CheckpointError:
    """The refusal of a file whose structure does not fit the memory that it may take."""
    return CheckpointError(f"{file} is a damaged HDF5 file: to read its structure takes more than {size_text(MEMORY)}")


def _start(link: socket.socket) -> subprocess.Popen[bytes]:
    """The process, which knows this side by `link` alone."""
    places = dict.fromkeys(_place(package) for package in ("numpy", "h5py"))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _START, str(Path(__file__).parent), *places],
        stdin=link.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # libhdf5 writes there of its own accord
        cwd=os.path.abspath(os.sep),
        env={"OPENBLAS_NUM_THREADS": "1"} | {name: os.environ[name] for name in _KEPT if name in os.environ},
        start_new_session=True,  # Ctrl-C is for the program that asked
    )


def _place(package: str) -> str:
    """The folder in which a package is installed; it is not imported here."""
    found = importlib.util.find_spec(package)
    return str(Path(found.origin).parent.parent) if found and found.origin else ""
