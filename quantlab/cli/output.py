"""Where results go: a file that appears whole or not at all, or stdout."""

import sys
from pathlib import Path
from typing import BinaryIO

from ..errors import ExportError
from ..formats.output import write_whole
from ..wording import shown


def checked_out(out: str) -> Path:
    """Where to write, before anything is computed for it. ExportError if there is no such folder."""
    path = Path(out)
    if not path.absolute().parent.is_dir():
        raise ExportError(f"cannot write {shown(out)}: there is no folder {shown(str(path.parent))}")
    return path


def write_file(path: Path, data: bytes) -> None:
    """Write a file in one step. ExportError for what the system refuses."""

    def write(target: BinaryIO) -> None:
        target.write(data)

    write_whole(path, write, lambda written: None)


def write_stdout(data: bytes) -> None:
    """Write a file's bytes to stdout, whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
