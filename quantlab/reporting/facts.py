"""Where figures come from: the model's files, the versions, and the machine."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..formats import Checkpoint
from ..formats.output.manifest import VERSION
from ..sweeping.identity import engine_version
from ..wording import counted, size_text
from .tables import Table


@dataclass(frozen=True)
class Facts:
    """A model and what measured it."""

    title: str
    format: str
    sha256: str
    tensors: int
    files: tuple[tuple[str, int, str], ...]  # name, bytes, SHA-256

    @property
    def nbytes(self) -> int:
        """Bytes of the files."""
        return sum(size for _, size, _ in self.files)

    def table(self) -> Table:
        """All of it, an entry a row."""
        rows = [
            ["model", self.title],
            ["format", f"{self.format}, {counted(self.tensors, 'tensor')}, {size_text(self.nbytes)}"],
            ["sha256", self.sha256],
            ["quantlab", VERSION],
            ["engine", engine_version()],
            *environment(),
        ]
        return Table(["", ""], rows, names=frozenset({1}))

    def file_table(self) -> Table:
        """The files."""
        rows = [[name, f"{size:,}", digest] for name, size, digest in self.files]
        return Table(["file", "bytes", "sha256"], rows, frozenset({1}), frozenset({0, 2}))


def facts_of(checkpoint: Checkpoint) -> Facts:
    """What there is to say of an open checkpoint. Reads all of its files, for their digests."""
    sizes, digests = {file.name: file.size for file in checkpoint.files}, checkpoint.digests()
    files = tuple((name, sizes[name], digest) for name, digest in digests.items())
    return Facts(checkpoint.title, checkpoint.format, checkpoint.sha256(), len(checkpoint.names), files)


def environment() -> list[list[str]]:
    """What this process runs on. Neither its user nor its host is named: a report is handed on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [
        ["Python", f"{platform.python_implementation()} {platform.python_version()}, NumPy {np.__version__}"],
        ["machine", f"{processor()}, {counted(cores, 'core')}, {platform.system()}"],
    ]


def processor() -> str:
    """What the processor is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
