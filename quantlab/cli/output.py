"""Where results go: a file that appears whole or not at all, or stdout."""

import os
import sys
from pathlib import Path
from typing import BinaryIO

from ..errors import ExportError
from ..formats.output.atomic import final_place, system_errors, write_whole
from ..wording import shown


def checked_out(out: str, folder: bool = False) -> Path:
    """Where to write, before anything is computed for it: a file, or a new `folder`. ExportError if it cannot be."""
    path = Path(out)
    home = path.absolute().parent
    if not home.is_dir():
        raise ExportError(f"cannot write {shown(out)}: there is no folder {shown(str(path.parent))}")
    if not os.access(home, os.W_OK):
        raise ExportError(f"cannot write {shown(out)}: nothing may be written into {shown(str(path.parent))}")
    if not folder:
        with system_errors(path):
            final_place(path)
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
