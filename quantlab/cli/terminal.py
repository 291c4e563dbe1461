"""What is written to the terminal: tables, notes, and a progress bar where somebody watches."""

import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

NAME_WIDTH = 16  # characters that the name of a tensor keeps, however narrow the terminal
REDRAWN_EVERY = 0.1  # seconds
BAR = "{percentage:3.0f}% {bar:24} {elapsed}<{remaining} {desc}"


def prepare_streams() -> None:
    """Let any text be written to any terminal: what its encoding lacks is written as an escape.

    A stream that the caller has closed leads nowhere.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # a stream that something else has put in place
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def discard_stdout() -> None:
    """Let what is still to be written to stdout go nowhere: Python would fail at it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(sentence: str) -> None:
    """Say on stderr, in one line, why nothing came of it."""
    print(f"quantlab: {printable(sentence)}", file=sys.stderr)


def note(sentence: str) -> None:
    """Say something beside the result, on stderr."""
    print(printable(sentence), file=sys.stderr)


def printable(text: str) -> str:
    r"""Text of one line that moves no cursor: names in a file are strangers' text.

    >>> printable("a\x1b[2J\nb")
    'a\\x1b[2J\\nb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show_table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str, name: int = 0) -> None:
    """Print columns, each aligned to the left or to the right: `align` has one letter, `<` or `>`, for each.

    On a terminal that is too narrow, what stands in column `name` loses its middle.
    """
    lines = [list(headers), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sys.stdout.isatty():
        excess = sum(widths) + 2 * (len(widths) - 1) - shutil.get_terminal_size().columns
        widths[name] = max(min(widths[name], NAME_WIDTH), widths[name] - max(excess, 0))
    for line in lines:
        line[name] = shortened(line[name], widths[name])
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(line, align, widths, strict=True))
        print("  ".join(cells).rstrip())


def shortened(text: str, width: int) -> str:
    """A long name with its middle left out: both ends say something.

    >>> shortened("encoder.layer.0.attention.weight", 20)
    'encoder.l...n.weight'
    """
    keep = width - 3
    return text if len(text) <= width else f"{text[: keep - keep // 2]}...{text[len(text) - keep // 2 :]}"


def figure(value: float, spec: str) -> str:
    """A number in a format; `-` for none.

    >>> figure(20.123, ".2f"), figure(math.nan, ".2f"), figure(math.inf, ".2f")
    ('20.12', '-', 'inf')
    """
    return "-" if math.isnan(value) else format(value, spec)


class Bar:
    """A progress bar on stderr, on a terminal only: call it with (done, total, what is being done)."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._drawn = 0.0
        if sys.stderr.isatty():
            from tqdm import tqdm  # here, since most commands show none

            self._bar = tqdm(total=1, leave=False, file=sys.stderr, bar_format=BAR, dynamic_ncols=True)

    def __call__(self, done: int, total: int, label: str) -> None:
        """Move the bar."""
        now = time.monotonic()
        # Not tqdm's update(): it would leave the old words standing until the count has moved by enough.
        if self._bar is not None and now - self._drawn >= REDRAWN_EVERY:
            self._bar.total, self._bar.n, self._drawn = max(total, 1), done, now
            self._bar.set_description_str(printable(label))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
