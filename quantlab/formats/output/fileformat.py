"""What the registry of file formats says about each of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...core.config import QuantConfig
from ..checkpoint import Checkpoint
from ..input.files import InputFile, OnBytes
from .layout import Layout
from .outgoing import Source, Tensors

Writer = Callable[[BinaryIO, Tensors, Source | None, OnBytes], None]
Verifier = Callable[[InputFile, Tensors, OnBytes], None]


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """One entry of the registry of file formats: everything that the program, the page and the tests know about it.

    Attributes
    ----------
    name, suffix, label : "npz", ".npz", and the words of a form.
    aliases : other suffixes that its files have.
    sniff : (first bytes, size) -> does a file that begins so belong to this format? The name is never asked. By
        default none does: what is written in the format opens as another one.
    accepts : of several formats that begin alike, does the file belong to this one? Looks further into it.
    open : reads it as a checkpoint; None if quantlab does not read the format.
    write : writes packed results; None if quantlab does not write the format.
    nbytes : how many bytes `write` would write; goes with it.
    verify : reads them back and raises ExportError unless they are the same; goes with `write`.
    snippet : (path, where the export lies now) -> Python source that reads an export at the path back.
    layout : how another program stores tensors as arrays; takes the place of `write` and `verify`.
    folder : whether an export is a folder, with a config.json beside the weights.
    """

    name: str
    suffix: str
    label: str
    aliases: tuple[str, ...] = ()
    sniff: Callable[[bytes, int], bool] = lambda head, size: False
    accepts: Callable[[InputFile], bool] = lambda file: True
    open: Callable[[InputFile], Checkpoint] | None = None
    write: Writer | None = None
    nbytes: Callable[[Tensors, Source | None], int] | None = None
    verify: Verifier | None = None
    snippet: Callable[[Path, Path], str] | None = None
    layout: Layout | None = None
    folder: bool = False

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Every suffix that files of the format have, if quantlab reads it."""
        return (self.suffix, *self.aliases) if self.open else ()

    @property
    def writable(self) -> bool:
        """Whether quantlab exports to the format."""
        return self.write is not None or self.layout is not None

    def why_not(self, shape: tuple[int, ...], config: QuantConfig) -> str | None:
        """Why a tensor of a shape, quantized so, cannot be held, in one sentence; None if it can."""
        return self.layout.refuses(shape, config) if self.layout else None
