"""From a checkpoint to a packed file, and the proof that the file is what a sweep promised.

`ship` quantizes, writes, reads the file back and measures it again; `remeasure` does the last two for any packed file.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from . import pool
from .arrays import as_float32
from .errors import Cancelled, CheckpointError, QuantlabError
from .formats import FORMATS, Checkpoint, PackedCheckpoint, export, open_checkpoint
from .formats.files import shown
from .metrics import evaluate_many, measure
from .recipe import Assignment, Item
from .sweep import COLUMNS, labels
from .tensor import QuantizedTensor, encode, fit

OnProgress = Callable[[int, int, str], object]
Cancel = Callable[[], bool]
DECIBEL = 10 / math.log(10)  # a relative change of a power by 1e-9 is 1e-9 of these in dB


@dataclass(frozen=True, eq=False)
class Shipment:
    """A file that was written, and its figures twice, in the columns of a sweep with one row per tensor.

    expected : as the sweep measures them, before anything is written. found : of what was read back from the file.
    """

    path: Path
    format: str
    assignment: Assignment
    expected: pd.DataFrame
    found: pd.DataFrame

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
    source : what the tensors are read from, one at a time; the packed ones are held until the file is written.
    on_progress : called with (done, total, what is being done).
    cancel : asked several times a second; once it returns True, Cancelled is raised.

    Raises
    ------
    QuantlabError : a tensor cannot be quantized as asked (the message names it), the format cannot hold it, or the file
        cannot be written. Up to the moment when the verified file gets its name, `path` is left as it was.
    """
    stages = Stages(assignment.size, on_progress)
    tensors: dict[str, QuantizedTensor] = {}
    rows, done = [], 0
    for item in assignment.taken:
        stages.at(done, f"quantizing {item.spec.name}")
        tensors[item.spec.name], row = _quantized(source, item, cancel)
        rows.append(row)
        done += item.spec.size
    export(path, tensors, format, source=source, on_progress=stages.within(1), cancel=cancel)
    del tensors
    found = remeasure(path, source, on_progress=stages.within(2), cancel=cancel)
    return Shipment(path, format, assignment, pd.DataFrame(rows, columns=COLUMNS), found)


def refusal(item: Item, format: str) -> str | None:
    """Why a file format cannot hold a tensor that is to be quantized so, in a sentence; None if it can."""
    return FORMATS[format].why_not(item.spec.shape, item.config) if item.config else None


def remeasure(
    path: Path,
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
        stages = Stages(sum(packed.spec(name).size for name in packed.names), on_progress, count=1)
        rows, done = [], 0
        for name in packed.names:
            stages.at(done, f"measuring {name}")
            with pool.limits(cancel=cancel):
                rows.append(_figures(name, packed.quantized(name), source))
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
        self.size, self.total, self._on_progress = size, count * size, on_progress

    def at(self, done: int, label: str) -> None:
        """Report `done` of all stages together."""
        if self._on_progress:
            self._on_progress(done, self.total, label)

    def within(self, stage: int) -> Callable[[int, int, str], None]:
        """What a stage (counted from 0) reports its own progress to."""
        return lambda done, total, label: self.at(int(self.size * (stage + done / max(total, 1))), label)


def _quantized(source: Checkpoint, item: Item, cancel: Cancel | None) -> tuple[QuantizedTensor, dict[str, object]]:
    """A tensor quantized, and the row that `sweep` has for it: both from parameters that are fitted once."""
    name, config = item.spec.name, item.config
    assert config is not None
    try:
        raw = source.raw(name)
        x = as_float32(raw)
        with pool.limits(cancel=cancel):
            groups = config.granularity.to_groups(x)
            fitted = fit(groups, config)
            q = encode(groups, fitted, config, x.shape, raw.dtype.name)
            report = evaluate_many(x, groups, [(config, fitted)], item.spec.nbytes)[0]
    except Cancelled:
        raise
    except QuantlabError as error:
        raise type(error)(f"tensor {shown(name)} cannot be quantized as {config}: {error}") from error
    return q, {**labels(name, x.shape, config), **asdict(report)}


def _figures(name: str, q: QuantizedTensor, source: Checkpoint | None) -> dict[str, object]:
    ratio = source.spec(name).nbytes / q.nbytes if source else q.compression_ratio
    sizes = {"nbytes": q.nbytes, "bits_per_weight": q.bits_per_weight, "compression_ratio": ratio}
    errors = asdict(measure(source.raw(name), q.dequantize())) if source else {}
    return {**labels(name, q.shape, q.config), **errors, **sizes}
