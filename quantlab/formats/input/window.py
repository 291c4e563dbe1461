"""Headers that are scattered over a file, or as long as they like, read through a small copy of the bytes in view."""

from .files import InputFile

SLACK = 32  # zero bytes kept behind the copy: a number that begins in it can be read without asking where it ends


class Window:
    """A copy of the bytes from `start` on, moved on demand; memory stays at `size` however large the file is.

    Its fields are public because the parsers' inner loops read them: a call for every byte would cost seconds.

    Attributes
    ----------
    start : place in the file of `data[0]`.
    data : bytes from there, and `SLACK` zeros behind them.
    usable : how many of them may be the first of something that takes up to `SLACK` bytes.
    """

    def __init__(self, file: InputFile, size: int) -> None:
        self.file, self.size = file, size
        self.start, self.data, self.usable = 0, bytes(SLACK), 0

    def move(self, at: int) -> None:
        """Look at the bytes from `at` on. CheckpointError if the file ends before."""
        count = min(self.size, self.file.size - at)
        data = self.file.read(at, max(count, 0))
        # What begins in the last bytes of a full copy may end behind them: the next copy begins with it.
        self.usable = count if at + count == self.file.size else count - SLACK
        self.start, self.data = at, bytes(data) + bytes(SLACK)

    def read(self, at: int, count: int) -> bytes:
        """`count` bytes from `at`, wherever they are; CheckpointError if the file does not have them."""
        first = at - self.start
        if first >= 0 and first + count <= len(self.data) - SLACK:
            return self.data[first : first + count]
        if count > self.size:
            return bytes(self.file.read(at, count))
        self.move(at)
        return bytes(self.file.read(at, count)) if count > len(self.data) - SLACK else self.data[:count]
