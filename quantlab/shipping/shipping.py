"""From a checkpoint to a packed file, and the proof that the file is what a sweep promised.

`ship` quantizes, writes, reads the file back and measures it again; `remeasure` does the last two for any packed file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..core import pool
from ..core.arrays import as_values
from ..core.config import QuantConfig
from ..core.granularity import Groups
from ..core.kernels.records import Fitted
from ..core.metrics import evaluate_fitted
from ..core.slices import measure_slices
from ..core.tensor import QuantizedTensor, encode, fit
from ..errors import Cancelled, CheckpointError, QuantlabError
from ..formats import Checkpoint, PackedCheckpoint, export_outgoing, open_checkpoint
from ..formats.output.layout import Layout
from ..formats.output.outgoing import Outgoing
from ..late import pandas as pd
from ..sweeping.sweep import COLUMNS, labels
from ..wording import shown
from .recipe import Assignment, Item
from .rehearsal import bound, in_order, unquantized

OnProgress = Callable[[int, int, str], object]
Cancel = Callable[[], bool]
REMEMBERED = 32_000_000  # bytes of scales and zero points kept between writing a tensor and comparing it
DECIBEL = 10 / math.log(10)  # a relative change of a power by 1e-9 is 1e-9 of these in dB


@dataclass(frozen=True, eq=False)
class Shipment:
    """A file that was written, and its figures twice, in the columns of a sweep with one row per tensor.

    expected : as the sweep measures them, before anything is written; where the format has a `note`, of the values that
        its readers compute. found : of what was read back from the file.
    note : how the format's own values differ from those of a sweep, in a sentence; "" where they do not.
    """

    path: Path
    format: str
    assignment: Assignment
    expected: pd.DataFrame
    found: pd.DataFrame
    note: str = ""

    @property
    def file_nbytes(self) -> int:
        """Bytes on disk: of the file, or of all files of a folder."""
        files = [self.path] if self.path.is_file() else self.path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    @property
    def equal(self) -> np.ndarray:
        """For every tensor, whether the two agree: bool [tensors]."""
        return same_figures(self.expected, self.found)


def ship(
    source: Checkpoint,
    assignment: Assignment,
    path: Path,
    format: str = "npz",
    *,
    on_progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> Shipment:
    """Quantize what `assignment` says, write it to `path`, read the file back and measure that.

    Parameters
    ----------
    source : what the tensors are read from, one at a time; each is written before the next is read.
    format : of `FORMATS`.
    on_progress : called with (done, total, what is being done).
    cancel : asked several times a second; once it returns True, Cancelled is raised.

    Raises
    ------
    QuantlabError : a tensor cannot be quantized as asked (the message names it), the format cannot hold it, or the file
        cannot be written. Up to the moment when the verified file gets its name, `path` is left as it was.
    """
    stages = Stages(assignment.size, on_progress, count=2)
    layout = bound(source, format)
    quantizer = Quantizer(source, layout)
    tensors = in_order(source, assignment, {item.spec.name: quantizer.outgoing(item) for item in assignment.taken})
    with pool.limits(cancel=cancel):
        export_outgoing(path, tensors, format, source=source, on_progress=stages.within(0), cancel=cancel)
    expected = pd.DataFrame([quantizer.rows[item.spec.name] for item in assignment.taken], columns=COLUMNS)
    if layout is None:
        found = remeasure(path, source, on_progress=stages.within(1), cancel=cancel)
    else:
        found = remeasure_as(layout, path, tensors, source, expected, stages.within(1), cancel)
    return Shipment(path, format, assignment, expected, found, note_of(layout, assignment))


def note_of(layout: Layout | None, assignment: Assignment) -> str:
    """How the values that a format's program computes differ from those of a sweep; "" where they do not."""
    rounds = layout and any(item.config and layout.rounds(item.config, item.spec.dtype) for item in assignment.taken)
    return layout.note if layout and rounds else ""


class Quantizer:
    """Makes the tensors of an export when they are asked for, and keeps their figures.

    Attributes
    ----------
    rows : name -> the row that a sweep has for the tensor; for the layout of another program with the errors of the
        values that it computes.
    """

    def __init__(self, source: Checkpoint, layout: Layout | None) -> None:
        self.source, self.layout = source, layout
        self.rows: dict[str, dict[str, object]] = {}
        # An export asks twice: to write, and to compare. Scales take a fraction of the codes, and spare a calibration.
        self._fitted: dict[str, Fitted] = {}
        self._room = REMEMBERED

    def outgoing(self, item: Item) -> Outgoing:
        """The tensor of an item, not yet quantized."""
        return unquantized(item, lambda: self.quantize(item))

    def quantize(self, item: Item) -> QuantizedTensor:
        """The quantized tensor; its figures are kept."""
        name, config = item.spec.name, item.config
        assert config is not None
        try:
            raw = self.source.raw(name)
            x, source_dtype = as_values(raw), raw.dtype.name
            del raw  # what had to be converted takes enough room by itself
            groups = config.granularity.to_groups(x)
            fitted = self._fit(name, groups, config)
            q = encode(groups, fitted, config, x.shape, source_dtype)
            if name not in self.rows:
                self.rows[name] = self._row(item, x, groups, fitted, q)
        except Cancelled:
            raise
        except QuantlabError as error:
            raise type(error)(f"tensor {shown(name)} cannot be quantized as {config}: {error}") from error
        return q

    def _fit(self, name: str, groups: Groups, config: QuantConfig) -> Fitted:
        if name in self._fitted:
            return self._fitted[name]
        fitted = fit(groups, config)
        size = sum(values.nbytes for values in fitted)
        if size <= self._room:
            self._fitted[name] = fitted
            self._room -= size
        return fitted

    def _row(self, item: Item, x: np.ndarray, groups: Groups, fitted: Fitted, q: QuantizedTensor) -> dict[str, object]:
        assert item.config is not None
        axis = item.spec.channel_axis
        report = asdict(evaluate_fitted(x, groups, item.config, fitted, item.source_nbytes, axis))
        if self.layout is not None:
            decoded = asdict(measure_slices(x, q, self.layout.decoded, channel_axis=axis))
            report.update({name: value for name, value in decoded.items() if value is not None})
        return {**labels(item.spec.name, x.shape, item.config), **report}


def remeasure_as(
    layout: Layout,
    path: Path,
    tensors: list[Outgoing],
    source: Checkpoint,
    expected: pd.DataFrame,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
) -> pd.DataFrame:
    """Figures of an export in another program's layout, from the values that program computes, read from disk now.

    Sizes are those of the codes, scales and zero points, which the export was compared with bit for bit.
    """
    quantized = {tensor.name: tensor for tensor in tensors if tensor.config is not None}
    stages = Stages(sum(tensor.size for tensor in quantized.values()), on_progress, count=1)
    rows, done = [], 0
    with open_checkpoint(path) as export, pool.limits(cancel=cancel):
        for row in expected.to_dict("records"):
            tensor = quantized[row["tensor"]]
            stages.at(done, f"measuring {tensor.name}")
            axis = source.spec(tensor.name).channel_axis
            errors = asdict(layout.measured(export, tensor, source.raw(tensor.name), axis))
            row.update({name: value for name, value in errors.items() if value is not None})
            rows.append(row)
            done += tensor.size
    stages.at(done, "done")
    return pd.DataFrame(rows, columns=COLUMNS)


def remeasure(
    path: str | os.PathLike[str],
    source: Checkpoint | None = None,
    *,
    on_progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> pd.DataFrame:
    """Figures of a packed file, read from disk now: one row per tensor in the columns of a sweep.

    Without a `source` to compare with, the errors are NaN and the sizes are there all the same. The share of clipped
    values is always NaN: a file does not tell which values were.

    Raises CheckpointError for a file that is no export or has tensors that the source lacks, ShapeError for tensors of
    another shape.
    """
    with open_checkpoint(path) as packed:
        if not isinstance(packed, PackedCheckpoint):
            raise CheckpointError(f"{packed} is a plain {packed.format} file, not one that quantlab has written")
        stages = Stages(sum(packed.spec(name).size for name in packed.packed_names), on_progress, count=1)
        rows, done = [], 0
        for name in packed.packed_names:
            stages.at(done, f"measuring {name}")
            with pool.limits(cancel=cancel):
                nbytes = source.spec(name).nbytes if source else packed.source_nbytes(name)
                rows.append(_figures(name, packed.quantized(name), source, nbytes))
            done += packed.spec(name).size
        stages.at(done, "done")
    return pd.DataFrame(rows, columns=COLUMNS)


def same_figures(expected: pd.DataFrame, found: pd.DataFrame) -> np.ndarray:
    """Row by row, whether two tables of the same tensors agree: bool [rows].

    Sizes, names and the largest error must be equal. Sums of n errors may differ by their order: either is within
    n * 2^-53 of the exact one, relatively, since all terms have one sign.
    """
    if len(expected) != len(found):
        return np.zeros(len(expected), bool)
    same = np.ones(len(expected), bool)
    for column in ("tensor", "shape", "config", "max_abs_error", "nbytes", "bits_per_weight", "compression_ratio"):
        same &= expected[column].to_numpy() == found[column].to_numpy()
    count = (8 * found["nbytes"] / found["bits_per_weight"]).to_numpy()
    slack = np.maximum(count, 64) * 2.0**-52
    for column, scale in (("mse", None), ("rmse", None), ("mae", None), ("sqnr_db", DECIBEL)):
        a, b = expected[column].to_numpy(np.float64), found[column].to_numpy(np.float64)
        with np.errstate(invalid="ignore"):  # infinite decibels, where nothing was lost, are equal
            same &= (a == b) | (np.abs(a - b) <= slack * (np.abs(a) if scale is None else scale))
    return same


class Stages:
    """Progress of several stages of equal weight as one: (done, total, what is being done)."""

    def __init__(self, size: int, on_progress: OnProgress | None, count: int = 3) -> None:
        self.size, self.total, self._on_progress, self._done = size, count * size, on_progress, 0

    def at(self, done: int, label: str) -> None:
        """Report `done` of all stages together."""
        self._done = done
        self.again(label)

    def again(self, label: str) -> None:
        """Report something else at the same point."""
        if self._on_progress:
            self._on_progress(self._done, self.total, label)

    def within(self, stage: int) -> Callable[[int, int, str], None]:
        """What a stage (counted from 0) reports its own progress to."""
        return lambda done, total, label: self.at(int(self.size * (stage + done / max(total, 1))), label)


def _figures(name: str, q: QuantizedTensor, source: Checkpoint | None, source_nbytes: int) -> dict[str, object]:
    """The row of one tensor that was read back; the ratio is to the source's bytes."""
    ratio = source_nbytes / q.nbytes
    sizes = {"nbytes": q.nbytes, "bits_per_weight": q.bits_per_weight, "compression_ratio": ratio}
    errors = {}
    if source:
        errors = asdict(measure_slices(source.raw(name), q, channel_axis=source.spec(name).channel_axis))
    return {**labels(name, q.shape, q.config), **errors, **sizes}
