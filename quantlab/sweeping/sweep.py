"""sweep(): configurations x tensors -> a DataFrame of errors and sizes.

`stream` is the same tensor by tensor: the bytes of the next one are read while this one is worked on, so that a sweep
takes the memory of two tensors, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..core import memory, pool
from ..core.arrays import as_values
from ..core.config import QuantConfig, check_config, listed
from ..core.dtypes import DTYPES
from ..core.granularity import Granularity
from ..core.inputs import Weighting
from ..core.metrics import ErrorReport, evaluate_each
from ..errors import Cancelled, ConfigError, LimitError, QuantlabError, check_integer, check_known
from ..late import pandas as pd
from ..wording import counted, shown
from .readahead import ReadAhead
from .sources import Source, TensorSource, as_source, checked_names

COLUMNS = [
    "tensor",
    "shape",
    "config",
    "dtype",
    "mapping",
    "granularity",
    "calibration",
    "sqnr_db",
    "worst_channel_sqnr_db",
    "channels_sqnr_db",
    "mse",
    "rmse",
    "mae",
    "max_abs_error",
    "cosine",
    "clipped_fraction",
    "zeroed_fraction",
    "nbytes",
    "bits_per_weight",
    "compression_ratio",
]

# One read costs 3 % of evaluating so many configurations; more at once would only make progress coarser.
TOGETHER = 16

# What a sweep may amount to, unless somebody raises it: a table that fits memory (1.5 kB a row), and some five hours
# of two fast cores.
MAX_ROWS = 250_000
MAX_EVALUATIONS = 10**14

FIGURES = COLUMNS[COLUMNS.index("sqnr_db") :]

WEIGHTED = "weighted_sqnr_db"  # beside them where inputs have weights; NaN for tensors whose inputs have none
ERROR = "sqnr_se_db"  # beside them in rows of a sample: the standard error of sqnr_db

Row = dict[str, Any]
Progress = Callable[[int, int, str], object]
OnRows = Callable[[str, list[Row]], object]
# (name, the tensor; None where its bytes are elsewhere) -> the configurations that it is to be evaluated under.
Wanted = Callable[[str, Any], Sequence[QuantConfig]]


@dataclass(frozen=True, eq=False)
class SweepRequest:
    """What a runner is asked to measure.

    Attributes
    ----------
    names : the tensors, each once; those of `source`.
    workers, on_progress, cancel : as of `sweep`.
    wanted : asked which of `configs` to evaluate; the others count as done. Default: all of them.
    importance : weights of the inputs of some of the tensors (`checked_importance`).
    """

    source: TensorSource
    configs: Sequence[QuantConfig]
    names: Sequence[str]
    workers: int | None = None
    on_progress: Progress | None = None
    cancel: Callable[[], bool] | None = None
    wanted: Wanted | None = None
    importance: Mapping[str, Weighting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_integer("workers", self.workers, 1, 1024)

    @property
    def rows(self) -> int:
        """Rows that there will be."""
        return len(self.names) * len(self.configs)

    def tell(self, done: int, label: str) -> None:
        """Report `done` rows, and what is being done, if anybody listens."""
        if self.on_progress is not None:
            self.on_progress(done, self.rows, label)


Streamed = Generator[tuple[str, list[Row]], None, None]
# What measures tensors, `stream` or something that has other computers do it: (name, rows) of each, in any order.
# `wanted(name, None)` may be asked before a tensor is read; rows from elsewhere may bring the "fingerprint" of what was
# read (`identity.fingerprint`), and those of a tensor that cannot be read are `fault_rows`.
Runner = Callable[[SweepRequest], Streamed]


def sweep(
    source: Source,
    configs: Iterable[QuantConfig],
    tensors: Iterable[str] | None = None,
    workers: int | None = None,
    on_progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
    *,
    on_rows: OnRows | None = None,
    runner: Runner | None = None,
    importance: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Error and size of every configuration on every tensor.

    Parameters
    ----------
    source : an array, a mapping of names to arrays, or a Checkpoint.
    configs : configurations; duplicates count once.
    tensors : names to take, in this order. Default: of a checkpoint its weights (`weights.left_alone` says what is none
        of them: biases, norms, embeddings ...), of arrays all; `checkpoint.names` takes everything.
    workers : threads to compute with at most; default one per core.
    on_progress : called as on_progress(done, total, label), with a count of finished rows and what is being done.
    cancel : asked several times a second; once it returns True the sweep raises Cancelled.
    runner : what measures. Default: `stream`. `sampled.sampled` measures one row in 16, drawn at random: a first answer
        for a large model, whose last column, `sqnr_se_db`, is the standard error of `sqnr_db`. Sizes are exact.
    on_rows : called as on_rows(name, rows) as each tensor ends; a row is a dict of `COLUMNS`, and has a "reason" where
        the configuration cannot serve the tensor.
    importance : by tensor, how much the error of each of its input columns counts: float32 [inputs], or
        [experts, inputs] of a stack; mean squares of the inputs, as `planning.importance` reads them. The table then
        has a column `weighted_sqnr_db`, -10 log10(sum w e^2 / sum w x^2); NaN for tensors that are not in it. Inputs
        lie along the axis that is not of output channels. ShapeError or NonFiniteError for what is of another tensor.

    Returns
    -------
    DataFrame : one row per tensor and configuration, tensors outermost, in the order given; columns `COLUMNS`. Each
        tensor is read once. Where a configuration cannot serve a tensor (an axis that it lacks, too few values for
        entropy, NaN) the figures are NaN and `df.attrs["refused"]` lists {"tensor", "config", "reason"}.

    >>> sweep(np.float32([[1, 2], [3, 4]]), [QuantConfig(dtype="int8")])[["tensor", "config", "nbytes"]].values.tolist()
    [['tensor', 'int8-sym-tensor-minmax', 8]]
    """
    wanted = checked_configs(configs)
    opened = as_source(source)
    names = checked_names(opened, tensors)
    found: dict[str, list[Row]] = {}
    weightings = checked_importance(opened, importance)
    request = SweepRequest(opened, wanted, names, workers, on_progress, cancel, importance=weightings)
    with closing((runner or stream)(request)) as streamed:
        for name, rows in streamed:
            found[name] = rows
            if on_rows is not None:
                on_rows(name, rows)
    request.tell(request.rows, "done")
    return table(found, names, importance is not None)


def stream(request: SweepRequest) -> Streamed:
    """(name, rows) of one tensor after another, the next one being read on a thread of its own meanwhile.

    Errors as of `sweep`; a tensor that cannot be read has rows with the reason. `wanted(name, raw)` is asked on the
    reader's thread.
    """
    count = len(request.configs)
    with pool.limits(request.workers, request.cancel):  # the reader takes them along: some formats decode on the pool
        reader = ReadAhead(lambda name: _load(request, name), request.names)
    with reader:
        for index, name in enumerate(request.names):

            def report(done: int, label: str, before: int = index * count) -> None:
                request.tell(before + done, label)

            report(0, f"{name}: reading")
            # Not around the `yield`: limits would hold for the one who asks for the next tensor.
            with pool.limits(request.workers, request.cancel):
                rows = _taken_rows(reader, request, name, report)
            yield name, rows


def table(rows_by_tensor: Mapping[str, list[Row]], names: Iterable[str], weighted: bool = False) -> pd.DataFrame:
    """Rows as `sweep` returns them: in the order of `names`, with the reasons in `attrs["refused"]`.

    weighted : whether there is a column of weighted errors, though no row may have any.
    """
    rows = [row for name in names for row in rows_by_tensor.get(name, ())]
    more = [column for column in (WEIGHTED, ERROR) if any(column in row for row in rows)]
    more = [WEIGHTED, *more] if weighted and WEIGHTED not in more else more
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *more])
    frame.attrs["refused"] = [
        {"tensor": row["tensor"], "config": row["config"], "reason": row["reason"]} for row in rows if "reason" in row
    ]
    return frame


def checked_importance(source: TensorSource, importance: Mapping[str, np.ndarray] | None) -> dict[str, Weighting]:
    """The weights of inputs by tensor, each held to its tensor's shape. Errors as of `sweep`."""
    found: dict[str, Weighting] = {}
    if importance is None:
        return found
    known = frozenset(source.names)
    for name, weights in importance.items():
        if name not in known:
            check_known("tensor of the importance", name, source.names)
        spec = source.spec(name)
        found[name] = Weighting.of(weights, tuple(spec.shape), channel_axis_of(spec), shown(name))
    return found


def check_grid(
    configs: int, sizes: Sequence[int], max_rows: int = MAX_ROWS, max_evaluations: int = MAX_EVALUATIONS
) -> None:
    """LimitError if so many configurations of tensors of these sizes are more rows, or more evaluations, than allowed.

    An evaluation is one value under one configuration.
    """
    what = f"{configs:,} configurations x {len(sizes):,} tensors"
    rows, evaluations = configs * len(sizes), configs * sum(sizes)
    if rows > max_rows:
        raise LimitError(
            f"{what} are {rows:,} rows, past the limit of {max_rows:,}: take fewer, or raise max_rows "
            "(--max-rows on the command line)"
        )
    if evaluations > max_evaluations:
        raise LimitError(
            f"{what} of {sum(sizes):,} values are {evaluations:,} evaluations, past the limit of "
            f"{max_evaluations:,}: take fewer, or raise max_evaluations (--max-evaluations on the command line)"
        )


def checked_configs(configs: Iterable[QuantConfig]) -> list[QuantConfig]:
    """The configurations, each once. ConfigError if there is none, or something else among them."""
    found = listed("configs", configs)
    for config in found:
        check_config(config)
    if not found:
        raise ConfigError("configs is empty: give one or more QuantConfig, such as grid()")
    return list(dict.fromkeys(found))


@dataclass
class _Loaded:
    """A tensor and the configurations to evaluate; or, in place of the tensor, why it could not be read."""

    raw: Any
    configs: Sequence[QuantConfig]
    fault: str = ""

    def release(self) -> Any:
        """The tensor, which is not kept here: where it has to be widened, the one who does it lets go of it."""
        raw, self.raw = self.raw, None
        return raw


def _load(request: SweepRequest, name: str) -> _Loaded:
    """Read a tensor. One that cannot be read does not stop the others."""
    source, wanted = request.source, request.wanted
    try:
        raw, fault = source.raw(name), ""
    except Cancelled:
        raise
    except QuantlabError as error:
        raw, fault = None, str(error)
    except (MemoryError, OSError) as error:
        nbytes = source.spec(name).nbytes
        why = "there is not enough memory" if isinstance(error, MemoryError) else f"the system refused ({error})"
        raw, fault = None, f"the {nbytes:,} bytes of the tensor could not be read: {why}"
    return _Loaded(raw, request.configs if wanted is None else wanted(name, raw), fault)


def _taken_rows(
    reader: ReadAhead[str, _Loaded], request: SweepRequest, name: str, on_progress: Callable[[int, str], None]
) -> list[Row]:
    """The rows of the next tensor of the reader. Its bytes are let go with this call."""
    loaded = reader.take()
    spec, skipped = request.source.spec(name), len(request.configs) - len(loaded.configs)
    if loaded.fault:
        return fault_rows(name, getattr(spec, "shape", ()), loaded.configs, loaded.fault)

    def tell(done: int, label: str) -> None:
        on_progress(skipped + done, label)

    weighting = request.importance.get(name)
    return tensor_rows(name, loaded.release(), spec.nbytes, loaded.configs, tell, channel_axis_of(spec), weighting)


def channel_axis_of(spec: Any) -> int:
    """Along which a tensor's output channels lie: 0 where its source does not tell."""
    return getattr(spec, "channel_axis", 0)


def tensor_rows(
    name: str,
    raw: np.ndarray,
    nbytes: int,
    configs: Sequence[QuantConfig],
    on_progress: Callable[[int, str], None] = lambda done, label: None,
    channel_axis: int = 0,
    weighting: Weighting | None = None,
) -> list[Row]:
    """The rows of one tensor, in the order of `configs`: the unit of work, wherever it is done.

    Parameters
    ----------
    raw : the tensor in its own dtype.
    nbytes : what it takes where it comes from, which compression is measured against. Not the array's: a Q4_0 tensor
        loads as float32, and has 4.5 bits per weight.
    on_progress : called with the number of rows that are done, and what is being done.
    channel_axis : along which its output channels lie.
    weighting : of its inputs; rows then have the column `WEIGHTED`.
    """
    try:
        with memory.asked(0, f"tensor {shown(name)}"):
            x = as_values(raw)
    except memory.NoMemory as error:
        return fault_rows(name, getattr(raw, "shape", ()), configs, str(error))
    except QuantlabError as error:
        return refused_rows(name, getattr(raw, "shape", ()), configs, str(error))
    del raw
    found: dict[QuantConfig, Row] = {}
    for granularity, together in by_granularity(configs):
        on_progress(len(found), f"{name}: evaluating {len(together)} configurations ({granularity.slug})")
        found.update(granularity_rows(x, together, nbytes, channel_axis, weighting))
    return [{**labels(name, x.shape, config), **found[config]} for config in configs]


def refused_rows(name: str, shape: tuple[int, ...], configs: Iterable[QuantConfig], reason: str) -> list[Row]:
    """Rows of a tensor that no configuration can serve."""
    return [{**labels(name, shape, config), **refusal(reason)} for config in configs]


def fault_rows(name: str, shape: tuple[int, ...], configs: Iterable[QuantConfig], reason: str) -> list[Row]:
    """Rows of a tensor that could not be read: the "fault" says that another time it may be."""
    return [{**row, "fault": True} for row in refused_rows(name, shape, configs, reason)]


def refusal(reason: str) -> Row:
    """The figures of a row that has none, and why."""
    return {**dict.fromkeys(FIGURES, math.nan), "reason": reason}


def by_granularity(configs: Iterable[QuantConfig]) -> Iterator[tuple[Granularity, list[QuantConfig]]]:
    """Configurations that share one layout, so that they share one read: up to `TOGETHER`."""
    same_layout: dict[Granularity, list[QuantConfig]] = {}
    for config in configs:
        same_layout.setdefault(config.granularity, []).append(config)
    for granularity, found in same_layout.items():
        for start in range(0, len(found), TOGETHER):
            yield granularity, found[start : start + TOGETHER]


def granularity_rows(
    x: np.ndarray,
    configs: list[QuantConfig],
    source_nbytes: int,
    channel_axis: int,
    weighting: Weighting | None = None,
) -> dict[QuantConfig, dict[str, Any]]:
    """Figures, or a reason, for every configuration of one granularity."""
    try:
        with memory.asked(0, f"evaluating {counted(len(configs), 'configuration')} ({configs[0].granularity.slug})"):
            outcomes = evaluate_each(x, configs, source_nbytes, channel_axis, weighting)
    except Cancelled:
        raise
    except memory.NoMemory as error:
        return {config: {**refusal(str(error)), "fault": True} for config in configs}
    except QuantlabError as error:
        return {config: refusal(str(error)) for config in configs}
    return {config: figures(outcome) for config, outcome in zip(configs, outcomes, strict=True)}


def figures(outcome: ErrorReport | QuantlabError) -> Row:
    """What came of one configuration, as columns."""
    if isinstance(outcome, QuantlabError):
        return refusal(str(outcome))
    report = asdict(outcome)
    more = [] if outcome.weighted_sqnr_db is None else [WEIGHTED]
    return {column: math.nan if report[column] is None else report[column] for column in [*FIGURES, *more]}


def labels(name: str, shape: tuple[int, ...], config: QuantConfig) -> dict[str, Any]:
    """The columns that say what a row is about; what the format fixes is `-`."""
    applies = DTYPES[config.dtype].configurable
    return {
        "tensor": name,
        "shape": shape_text(shape),
        "config": config.slug,
        "dtype": config.dtype,
        "mapping": config.mapping if applies else "-",
        "granularity": config.granularity.slug if applies else "-",
        "calibration": config.calibration.slug if applies else "-",
    }


def shape_text(shape: tuple[int, ...]) -> str:
    """`64x128`; `scalar` for no dimensions."""
    return "x".join(map(str, shape)) or "scalar"
