"""The process: it starts, gives up what it does not need, reads the structure, and ends."""

import json
import os

from . import walk
from .frames import END, FAULT, FRAME, READ, READY, ROW, SIZE
from .seal import seal

BLOCK = 1 << 14  # bytes asked for at a time, at least: the structure is read in pieces of a few hundred
BLOCKS = 1024  # kept
LINK = 0  # the descriptor that leads to the process that asked, both ways


def main() -> None:
    """Tell of every dataset in the file whose bytes the other side has."""
    seal()
    _send(FRAME.pack(READY, 0, 0))
    try:
        walk.walk(File(SIZE.unpack(_receive(SIZE.size))[0]), tell)
        _send(FRAME.pack(END, 0, 0))
    except walk.Fault as fault:
        tell(fault.args[0])
    # libhdf5's own words, which h5py puts into errors of many kinds.
    except Exception as error:
        said = str(error.args[0] if error.args else error).partition("\n")[0]
        tell({"fault": "memory" if isinstance(error, MemoryError) else "said", "said": said[:400]})
    os._exit(0)  # to take everything down is to let libhdf5 at it once more


def tell(row: dict, data: bytes = b"") -> None:
    """Send a row, or a fault."""
    text = json.dumps(row).encode()
    _send(FRAME.pack(FAULT if "fault" in row else ROW, len(text), len(data)) + text + data)


class File:
    """The file, as the object that h5py reads from: its bytes are asked for, and the last of them kept."""

    def __init__(self, size: int) -> None:
        self.size, self._at = size, 0
        self._blocks: dict[int, bytes] = {}

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, counted from the beginning (0), from here (1) or from the end (2)."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def readinto(self, out: memoryview) -> int:
        """Fill `out` as far as the file goes."""
        count = max(0, min(len(out), self.size - self._at))
        if count:
            memoryview(out)[:count] = self._bytes(self._at, count)
        self._at += count
        return count

    def read(self, count: int = -1) -> bytes:
        """h5py looks for this method, and calls `readinto`."""
        raise NotImplementedError

    def _bytes(self, at: int, count: int) -> bytes:
        if count > BLOCK:
            return self._asked(at, count)
        number, start = divmod(at, BLOCK)
        if start + count <= BLOCK:
            return self._block(number)[start : start + count]
        return self._block(number)[start:] + self._block(number + 1)[: start + count - BLOCK]

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            if len(self._blocks) == BLOCKS:
                self._blocks.clear()
            self._blocks[number] = self._asked(number * BLOCK, min(BLOCK, self.size - number * BLOCK))
        return self._blocks[number]

    def _asked(self, at: int, count: int) -> bytes:
        _send(FRAME.pack(READ, at, count))
        return _receive(count)


def _send(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(LINK, left) :]


def _receive(count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = os.read(LINK, min(count - len(data), 1 << 20))
        if not part:  # nobody is waiting for an answer any more
            os._exit(1)
        data += part
    return bytes(data)
