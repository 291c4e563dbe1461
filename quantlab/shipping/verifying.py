"""Any export read back, whatever program it is for: is it whole, and what is it off from what it was made of?

A file of quantlab's own says how every tensor was quantized; the others say how to decode it, which is as good for
measuring. What is stored in neither way counts as a copy if it is the source's, bit for bit, and is measured otherwise.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

import numpy as np

from ..core import pool
from ..core.arrays import FLOATS
from ..core.dtypes import DTYPES
from ..core.metrics import measure
from ..errors import CheckpointError
from ..formats import FORMATS, Checkpoint, PackedCheckpoint, open_checkpoint
from ..formats.gguf.read import GGUFCheckpoint
from ..formats.gguf.write import TYPES
from ..formats.output.described import Described
from ..formats.output.layout import Layout
from ..formats.output.packed import same_bits
from ..late import pandas as pd
from ..sweeping.sweep import COLUMNS, shape_text
from ..wording import counted, shown
from .shipping import Cancel, OnProgress, Stages, remeasure

_KINDS = {kind: slug for slug, kind in TYPES.items()}


@dataclass(frozen=True, eq=False)
class Verified:
    """What an export holds.

    Attributes
    ----------
    frame : a row per tensor that is not as it was, in the columns of a sweep; errors are NaN without a source.
    kind : what the export is, in words.
    same : tensors that are the source's, bit for bit. absent : tensors of the source that the export has not.
    note : how the values that were measured come about, where it is another program that decodes them.
    """

    frame: pd.DataFrame
    kind: str
    same: int
    absent: int
    note: str


def verify(
    path: str | os.PathLike[str],
    source: Checkpoint | None = None,
    *,
    on_progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> Verified:
    """Read all of an export and check it; with a `source`, compare every tensor with the original.

    Raises
    ------
    CheckpointError : it is damaged, contradicts itself, or has tensors other than the source's; without a source also
        a file of plain tensors, of which nothing can be said.
    """
    with open_checkpoint(path) as export, pool.limits(cancel=cancel):
        if isinstance(export, PackedCheckpoint):
            frame = remeasure(path, source, on_progress=on_progress, cancel=cancel)
            rest = [name for name in export.names if name not in export.packed_names]
            check = Check(export, source, {}, None)
            rows = check.rows(rest, Stages(len(rest), None))
            frame = pd.concat([frame, pd.DataFrame(rows, columns=COLUMNS)]) if rows else frame
            return check.result(frame, "an export of quantlab, whole and consistent with its manifest")
        return _other(export, source, on_progress)


def _other(export: Checkpoint, source: Checkpoint | None, on_progress: OnProgress | None) -> Verified:
    """What an export in another program's layout holds."""
    format, described = described_by(export)
    if format is None and source is None and not isinstance(export, GGUFCheckpoint):
        raise CheckpointError(
            f"{export} is a plain {export.format} file, not one that quantlab has written: to compare its values with "
            "those that they were made of, give --source"
        )
    layout = FORMATS[format].layout if format else None
    check = Check(export, source, described, layout and layout.bound(layout, export))
    names = [*described, *check.plain()]
    frame = pd.DataFrame(check.rows(names, Stages(len(names), on_progress, count=1)), columns=COLUMNS)
    label = FORMATS[format].label if format else FORMATS[export.format].label if export.format in FORMATS else "a file"
    return check.result(frame, label)


def described_by(export: Checkpoint) -> tuple[str | None, dict[str, Described]]:
    """The format whose layout an export is in, and its quantized tensors; (None, {}) for plain tensors."""
    for name, known in FORMATS.items():
        if known.layout and (found := known.layout.described(export)):
            return name, found
    return None, {}


class Check:
    """Compares an export's tensors with the source's, one at a time."""

    def __init__(
        self, export: Checkpoint, source: Checkpoint | None, described: dict[str, Described], layout: Layout | None
    ) -> None:
        self.export, self.source, self.described, self.layout = export, source, described, layout
        self._known = frozenset(source.names) if source else frozenset()
        self._there = frozenset(export.names)
        self._same = 0

    def plain(self) -> list[str]:
        """Tensors that the export holds as they are: the source's; without a source all of a GGUF file."""
        if self.source is None:
            return self.export.names if isinstance(self.export, GGUFCheckpoint) else []
        return [name for name in self.source.names if name not in self.described and self._place(name) in self._there]

    def rows(self, names: list[str], stages: Stages) -> list[dict[str, object]]:
        """A row for every tensor that is not the source's, bit for bit."""
        found = []
        for done, name in enumerate(names):
            stages.at(done, f"reading {name}")
            row = self._quantized(name) if name in self.described else self._plain(name)
            found += [row] if row else []
        stages.at(len(names), "done")
        return found

    def result(self, frame: pd.DataFrame, kind: str) -> Verified:
        """What was found."""
        absent = sum(name not in self.described and self._place(name) not in self._there for name in self._known)
        rounds = self.layout and any(
            self.layout.rounds(each.config, self._dtype(name)) for name, each in self.described.items()
        )
        return Verified(frame, kind, self._same, absent, self.layout.note if self.layout and rounds else "")

    def _place(self, name: str) -> str:
        """Where a copy of a tensor lies: an ONNX file of tensors alone has it as the input of an Identity."""
        other = f"{name}_value"
        return other if self.export.format == "onnx" and name not in self._there and other in self._there else name

    def _dtype(self, name: str) -> str:
        return self.source.spec(name).dtype if self.source else "float32"

    def _quantized(self, name: str) -> dict[str, object]:
        about, layout = self.described[name], self.layout
        assert layout is not None
        tensor = about.outgoing(name, self._dtype(name))
        if self.source is None:
            layout.read(self.export, tensor)  # refuses scales that are not finite
            return self._row(name, about.shape, about.label, about.nbytes, {})
        x = self.source.raw(name)
        if x.shape != about.shape:
            raise CheckpointError(f"tensor {shown(name)} of {self.export} has another shape than in {self.source}")
        return self._row(name, about.shape, about.label, about.nbytes, asdict(layout.measured(self.export, tensor, x)))

    def _plain(self, name: str) -> dict[str, object] | None:
        place = self._place(name)
        spec = self.export.spec(place)
        if self.source is None or name not in self._known:
            return self._blocks(name)
        if self._is_copy(name, place):
            self._same += 1
            return None
        if spec.dtype not in FLOATS or self._dtype(name) not in FLOATS:
            raise CheckpointError(f"tensor {shown(name)} of {self.export} is not that of {self.source}")
        errors = asdict(measure(self.source.load(name), self.export.load(place)))
        return self._row(name, spec.shape, self._kind(place), spec.nbytes, errors)

    def _blocks(self, name: str) -> dict[str, object] | None:
        """A tensor of GGUF's without anything to compare it with: read, which decodes it."""
        spec = self.export.spec(name)
        values = self.export.raw(name)
        del values
        kind = self._kind(name)
        return self._row(name, spec.shape, kind, spec.nbytes, {}) if kind in DTYPES and spec.size else None

    def _kind(self, name: str) -> str:
        """How a tensor is stored, in a word."""
        if isinstance(self.export, GGUFCheckpoint):
            kind = self.export.kind(name).name
            return _KINDS.get(kind, kind.lower())
        return self.export.spec(name).dtype

    def _is_copy(self, name: str, place: str) -> bool:
        assert self.source is not None
        if isinstance(self.export, GGUFCheckpoint) and isinstance(self.source, GGUFCheckpoint):
            return self.export.kind(name) == self.source.kind(name) and _equal(self.export, self.source, name)
        ours, theirs = self.export.spec(place), self.source.spec(name)
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            return False
        return same_bits(np.ascontiguousarray(self.export.raw(place)), np.ascontiguousarray(self.source.raw(name)))

    def _row(
        self, name: str, shape: tuple[int, ...], label: str, nbytes: int, errors: dict[str, object]
    ) -> dict[str, object]:
        about, size = self.described.get(name), int(np.prod(shape, dtype=object))
        applies = about is not None and DTYPES[about.config.dtype].configurable
        config = about.config if about and applies else None
        return {
            "tensor": name,
            "shape": shape_text(shape),
            "config": label,
            "dtype": about.config.dtype if about else label,
            "mapping": config.mapping if config else "-",
            "granularity": config.granularity.slug if config else "-",
            "calibration": "-",
            **errors,
            "nbytes": nbytes,
            "bits_per_weight": 8 * nbytes / size,
            "compression_ratio": self.source.spec(name).nbytes / nbytes if self.source else np.nan,
        }


def _equal(a: GGUFCheckpoint, b: GGUFCheckpoint, name: str) -> bool:
    """Whether two GGUF files store a tensor in the same bytes."""
    ours, theirs = a.stored(name), b.stored(name)
    step = 1 << 20
    return ours.left == theirs.left and all(
        ours.read(n) == theirs.read(n) for n in iter(lambda: min(step, ours.left), 0)
    )


def told(found: Verified) -> str:
    """The rest of what was found, in a sentence."""
    parts = [f"{counted(len(found.frame), 'tensor')}, {int(found.frame['nbytes'].sum()):,} bytes"]
    parts += [f"{counted(found.same, 'tensor')} as in the source, bit for bit"] if found.same else []
    parts += [f"{counted(found.absent, 'tensor')} of the source not in the file"] if found.absent else []
    return "; ".join(parts)
