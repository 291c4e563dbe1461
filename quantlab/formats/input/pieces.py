"""Bytes that do not lie in a file as they are wanted, made piece by piece."""

from collections.abc import Iterator

from .files import InputFile, Stream


class Pieces(Stream):
    """A stream of `size` bytes over pieces that are made when the one before them is used up; `file` is where from.

    To make the largest of them takes `aside` bytes of memory.
    """

    def __init__(self, file: InputFile, size: int, pieces: Iterator[memoryview], aside: int) -> None:
        super().__init__(file, 0, size)
        self.aside = aside
        self._pieces, self._piece = pieces, memoryview(b"")

    def read_into(self, out: memoryview) -> None:
        """Fill `out` (bytes) with the next bytes."""
        self._checked(len(out))
        done = 0
        while done < len(out):
            if not len(self._piece):
                self._piece = next(self._pieces)
            part = self._piece[: len(out) - done]
            out[done : done + len(part)] = part
            self._piece = self._piece[len(part) :]
            done += len(part)
        self.left -= len(out)
