"""sweep(): configurations x tensors -> a DataFrame of errors and sizes."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import pandas as pd

from . import pool
from .arrays import as_float32
from .config import QuantConfig
from .dtypes import DTYPES
from .errors import Cancelled, ConfigError, QuantlabError, check_integer, check_known
from .granularity import Granularity
from .metrics import evaluate_each

COLUMNS = [
    "tensor",
    "shape",
    "config",
    "dtype",
    "mapping",
    "granularity",
    "calibration",
    "sqnr_db",
    "mse",
    "rmse",
    "mae",
    "max_abs_error",
    "cosine",
    "clipped_fraction",
    "nbytes",
    "bits_per_weight",
    "compression_ratio",
]

# One read costs 3 % of evaluating so many configurations; more at once would only make progress coarser.
TOGETHER = 16

Progress = Callable[[int, int, str], object]


class TensorSource(Protocol):
    """What a sweep needs of a checkpoint."""

    @property
    def names(self) -> list[str]:
        """Names of the tensors, in order."""

    def raw(self, name: str) -> np.ndarray:
        """The tensor in its own dtype."""

    def spec(self, name: str) -> Any:
        """Its spec, of which `nbytes` counts: what the tensor takes where it comes from."""


Source = np.ndarray | Mapping[str, np.ndarray] | TensorSource


def sweep(
    source: Source,
    configs: Iterable[QuantConfig],
    tensors: Iterable[str] | None = None,
    workers: int | None = None,
    on_progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> pd.DataFrame:
    """Error and size of every configuration on every tensor.

    Parameters
    ----------
    source : an array, a mapping of names to arrays, or a Checkpoint.
    configs : configurations; duplicates count once.
    tensors : names to take, in this order; default all.
    workers : threads to use at most; default one per core.
    on_progress : called as on_progress(done, total, label), with a count of finished rows and what is being done.
    cancel : asked several times a second; once it returns True the sweep raises Cancelled.

    Returns
    -------
    DataFrame : one row per tensor and configuration, tensors outermost, in the order given; columns `COLUMNS`. Each
        tensor is read once. Where a configuration cannot serve a tensor (an axis that it lacks, too few values for
        entropy, NaN) the figures are NaN and `df.attrs["refused"]` lists {"tensor", "config", "reason"}.

    >>> sweep(np.float32([[1, 2], [3, 4]]), [QuantConfig(dtype="int8")])[["tensor", "config", "nbytes"]].values.tolist()
    [['tensor', 'int8-sym-tensor-minmax', 8]]
    """
    wanted = list(dict.fromkeys(configs))
    if not wanted or not all(isinstance(config, QuantConfig) for config in wanted):
        raise ConfigError("configs must be one or more QuantConfig: build them with grid(), or QuantConfig.parse(slug)")
    if workers is not None:
        check_integer("workers", workers, 1, 1024)
    names, load, nbytes = opened(source, tensors)
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    total = len(names) * len(wanted)
    with pool.limits(workers, cancel):
        for name in names:
            for row in tensor_rows(
                name, load, nbytes, wanted, lambda done, label: tell(on_progress, len(rows) + done, total, label)
            ):
                rows.append(row)
                if "reason" in row:
                    refused.append({"tensor": name, "config": row["config"], "reason": row.pop("reason")})
    tell(on_progress, total, total, "done")
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame.attrs["refused"] = refused
    return frame


def tell(on_progress: Progress | None, done: int, total: int, label: str) -> None:
    """Report progress if anybody listens."""
    if on_progress is not None:
        on_progress(done, total, label)


def opened(
    source: Source, tensors: Iterable[str] | None
) -> tuple[list[str], Callable[[str], np.ndarray], Callable[[str], int]]:
    """The names to sweep, what loads one, and what tells its bytes at the source.

    Those are not the array's: a Q4_0 tensor loads as float32, and has 4.5 bits per weight. Raises ConfigError for names
    that are not there.
    """
    if isinstance(source, np.ndarray) or not (isinstance(source, Mapping) or hasattr(source, "raw")):
        source = {"tensor": source}  # type: ignore[dict-item]
    names = list(source) if isinstance(source, Mapping) else list(source.names)
    wanted = names if tensors is None else list(tensors)
    for name in wanted:
        check_known("tensor", name, names)
    if isinstance(source, Mapping):
        return wanted, source.__getitem__, lambda name: source[name].nbytes
    return wanted, source.raw, lambda name: source.spec(name).nbytes


def tensor_rows(
    name: str,
    load: Callable[[str], np.ndarray],
    nbytes: Callable[[str], int],
    configs: list[QuantConfig],
    on_progress: Callable[[int, str], None],
) -> list[dict[str, Any]]:
    """The rows of one tensor, in the order of `configs`."""
    on_progress(0, f"{name}: reading")
    shape: tuple[int, ...] = ()
    try:
        raw = load(name)
        shape = getattr(raw, "shape", ())
        x = as_float32(raw)
    except Cancelled:
        raise
    except QuantlabError as error:
        return [{**labels(name, shape, config), "reason": str(error)} for config in configs]
    found: dict[QuantConfig, dict[str, Any]] = {}
    for granularity, together in by_granularity(configs):
        found.update(
            granularity_rows(
                x,
                granularity,
                together,
                nbytes(name),
                lambda label: on_progress(len(found), f"{name}: {label}"),
            )
        )
    return [{**labels(name, x.shape, config), **found[config]} for config in configs]


def by_granularity(configs: list[QuantConfig]) -> Iterator[tuple[Granularity, list[QuantConfig]]]:
    """Configurations that share one layout, so that they share one read: up to `TOGETHER`."""
    same_layout: dict[Granularity, list[QuantConfig]] = {}
    for config in configs:
        same_layout.setdefault(config.granularity, []).append(config)
    for granularity, found in same_layout.items():
        for start in range(0, len(found), TOGETHER):
            yield granularity, found[start : start + TOGETHER]


def granularity_rows(
    x: np.ndarray,
    granularity: Granularity,
    configs: list[QuantConfig],
    source_nbytes: int,
    on_progress: Callable[[str], None],
) -> dict[QuantConfig, dict[str, Any]]:
    """Figures, or a reason, for every configuration of one layout."""
    on_progress(f"evaluating {len(configs)} configurations ({granularity.slug})")
    try:
        outcomes = evaluate_each(x, granularity.to_groups(x), configs, source_nbytes)
    except Cancelled:
        raise
    except QuantlabError as error:
        return {config: {"reason": str(error)} for config in configs}
    return {
        config: {"reason": str(outcome)} if isinstance(outcome, QuantlabError) else asdict(outcome)
        for config, outcome in zip(configs, outcomes, strict=True)
    }


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
        "nbytes": math.nan,
    }


def shape_text(shape: tuple[int, ...]) -> str:
    """`64x128`; `scalar` for no dimensions."""
    return "x".join(map(str, shape)) or "scalar"
