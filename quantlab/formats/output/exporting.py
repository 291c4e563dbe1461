"""Exporting: check, write, read back, compare, and only then let the file appear."""

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from ...core.tensor import QuantizedTensor
from ...errors import Cancelled, ExportError
from ...wording import shown
from ..checkpoint import Checkpoint
from ..input.files import MAX_NAME, InputFile
from .atomic import write_whole
from .fileformat import FileFormat
from .manifest import is_text
from .outgoing import Source, Tensors

OnProgress = Callable[[int, int, str], None]


class Progress:
    """Counts bytes, tells `on_progress` of them, and raises Cancelled once `cancel()` is true."""

    def __init__(self, total: int, on_progress: OnProgress | None, cancel: Callable[[], bool] | None) -> None:
        self.done, self.total, self.label = 0, total, ""
        self._on_progress, self._cancel = on_progress, cancel

    def __call__(self, count: int) -> None:
        """`count` more bytes are done."""
        if self._cancel and self._cancel():
            raise Cancelled(f"stopped while {self.label}")
        self.done = min(self.done + count, self.total)
        if self._on_progress:
            self._on_progress(self.done, self.total, self.label)

    def phase(self, label: str) -> None:
        """What is done from here on."""
        self.label = label
        self(0)


def write_verified(
    path: Path,
    tensors: Tensors,
    chosen: FileFormat,
    source: Checkpoint | None,
    on_progress: OnProgress | None,
    cancel: Callable[[], bool] | None,
) -> None:
    """`formats.export` for a format of the registry that can write."""
    do_write, do_verify = chosen.write, chosen.verify
    if do_write is None or do_verify is None:
        raise ExportError(f"{chosen.label} cannot be written")
    check_any_quantized(tensors)
    check_not_source(path, source)
    payload, hashed = sum(tensor.nbytes for tensor in tensors), sum(file.size for file in source.files) if source else 0
    progress = Progress(hashed + 2 * payload, on_progress, cancel)
    origin = None
    if source:
        progress.phase(f"reading {source}")
        digests = source.digests(progress)
        origin = Source(source.title, source.sha256(), digests if len(digests) > 1 else {})

    def write(target: BinaryIO) -> None:
        progress.phase(f"writing {shown(path.name)}")
        do_write(target, tensors, origin, progress)

    def verify(temporary: Path) -> None:
        progress.phase(f"checking {shown(path.name)}")
        # Nobody is called after this: an error or a stop would come too late to keep the file from appearing.
        with closing(InputFile(temporary, path.name)) as file:
            do_verify(file, tensors, progress)

    write_whole(path, write, verify)


def check_tensors(tensors: Mapping[str, QuantizedTensor]) -> None:
    """ExportError unless every tensor is one and has a name that a file can hold."""
    if not isinstance(tensors, Mapping) or not all(isinstance(q, QuantizedTensor) for q in tensors.values()):
        raise ExportError("only a mapping of names to quantized tensors can be exported, such as {'fc1': q}")
    if not tensors:
        raise ExportError("there is nothing to export: give at least one quantized tensor")
    for name in tensors:
        if not isinstance(name, str) or not is_text(name) or len(name) > MAX_NAME:
            raise ExportError(f"a tensor is called {shown(name)}: a name is text of up to {MAX_NAME} characters")


def check_any_quantized(tensors: Tensors) -> None:
    """ExportError if there is nothing to quantize."""
    if not any(tensor.config for tensor in tensors):
        raise ExportError("there is nothing to export: give at least one quantized tensor")


def check_not_source(path: Path, source: Checkpoint | None) -> None:
    """ExportError for the path of the original: it is what a user cannot make again, and is never replaced."""
    for file in source.files if source else ():
        try:
            same = os.path.samefile(path, file.path)
        except (OSError, ValueError):
            continue
        if same:
            raise ExportError(f"{shown(path.name)} is the file that the tensors come from: write to another name")
