"""Tables of results: totals over tensors, and files that other programs read.

A table has the columns of `sweep.sweep`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..core.metrics import Metric
from ..late import pandas as pd
from .refusals import told
from .sweep import ERROR, WEIGHTED

TOTAL = "all tensors"  # the name of the total in place of a tensor's
# How a column of `total` comes of those of its tensors: means weighted by numbers of values, and the worst of any.
MEANS = ("mse", "mae", "cosine", "clipped_fraction", "zeroed_fraction")
WORST: dict[str, Callable[..., np.ndarray]] = {"max_abs_error": np.max, "worst_channel_sqnr_db": np.min}
# SQNRs whose relative errors are averaged, weighted by numbers of values; of the last over the tensors that have it.
DECIBELS = ("sqnr_db", "channels_sqnr_db", WEIGHTED)
NEEDED = ("nbytes", "compression_ratio")
# Figures that only all tensors together have.
WHOLE: dict[str, Metric] = {
    "worst_sqnr_db": Metric("worst_sqnr_db", "Worst tensor", "dB", True, "The lowest SQNR of any tensor."),
    "p5_sqnr_db": Metric(
        "p5_sqnr_db", "5th percentile", "dB", True, "The SQNR that 95 % of the tensors reach, each counting once."
    ),
    "median_sqnr_db": Metric(
        "median_sqnr_db", "Median tensor", "dB", True, "The SQNR that half of the tensors reach, each counting once."
    ),
}
OVER_TENSORS = ("worst_sqnr_db", "worst_tensor", "p5_sqnr_db", "median_sqnr_db")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that have figures: those of refused combinations have none."""
    return frame[frame["nbytes"].notna()]


def sizes(frame: pd.DataFrame) -> pd.Series:
    """Number of weights of every row's tensor; NaN where nothing was measured."""
    return (8 * frame["nbytes"] / frame["bits_per_weight"]).round()


@dataclass(frozen=True)
class Scope:
    """Which rows of a table make up its totals: only over the same tensors are configurations comparable.

    Attributes
    ----------
    tensors : those that any configuration measured, in order; one that all refuse is in no total.
    configs : those that measured all of them.
    refusing : the other configurations, and how many of the tensors each refuses. They have no total: the alternative
        is to take the tensors that they refuse out of everybody else's.
    """

    tensors: list[str]
    configs: list[str]
    refusing: dict[str, int]


def scope(frame: pd.DataFrame) -> Scope:
    """The rows that make up the totals of a table."""
    rows = measured(frame)
    tensors = rows["tensor"].unique().tolist()
    counts = rows.groupby("config", sort=False)["tensor"].nunique()
    missing = {slug: len(tensors) - int(counts.get(slug, 0)) for slug in frame["config"].unique()}
    whole = [slug for slug, count in missing.items() if tensors and not count]
    return Scope(tensors, whole, {slug: count for slug, count in missing.items() if count})


def why_no_total(frame: pd.DataFrame) -> list[str]:
    """Which configurations have no total, how many tensors each refuses, and the reason it gives for the first.

    Those that agree in both share a sentence.
    """
    found = scope(frame)
    first: dict[str, str] = {}
    for entry in frame.attrs.get("refused", ()):
        first.setdefault(entry["config"], entry["reason"])
    refused = ((slug, count, first.get(slug, "it is not measured yet")) for slug, count in found.refusing.items())
    return told(refused, len(found.tensors))


def total(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration that refuses no tensor (see `scope`), over all tensors: which one serves the model?

    Columns are those of the table and, behind `sqnr_db`, those of `WHOLE` and `worst_tensor`. No single tensor can hide
    the others, whatever its values:

    sqnr_db : -10 log10 of the mean, weighted by numbers of values, of each tensor's relative squared error,
        sum e^2 / sum x^2. channels_sqnr_db : the same of the means of each tensor's channels.
        weighted_sqnr_db : the same of weighted errors, over the tensors that have them.
    worst_sqnr_db, worst_tensor : the lowest SQNR of any tensor, and the first tensor that has it.
    p5_sqnr_db, median_sqnr_db : percentiles of SQNR over tensors, each counting once. Without interpolation (the lower
        of two), so that each is the SQNR of some tensor.
    mse, mae, cosine, clipped_fraction, zeroed_fraction : means weighted by numbers of values; rmse is the root of mse.
    max_abs_error, worst_channel_sqnr_db : the worst of any tensor.
    sqnr_se_db : of a sample, the standard error of sqnr_db in dB.
    nbytes : the sum. bits_per_weight, compression_ratio : of all tensors together.
    """
    found = scope(frame)
    rows = measured(frame)
    rows = rows[rows["config"].isin(found.configs)]
    at = [pd.Categorical(rows["config"], found.configs).codes, pd.Categorical(rows["tensor"], found.tensors).codes]

    def grid(values: pd.Series) -> np.ndarray:
        """float64 [configurations, tensors]"""
        cells = np.empty((len(found.configs), len(found.tensors)))
        cells[*at] = values
        return cells

    n = grid(sizes(rows))
    columns = {column: grid(rows[column]) for column in (*MEANS, *WORST, *DECIBELS, *NEEDED, ERROR) if column in rows}
    said = rows.drop_duplicates("config").set_index("config")[["dtype", "mapping", "granularity", "calibration"]]
    out = said.reindex(found.configs).assign(tensor=TOTAL, shape=[f"{count:,.0f} weights" for count in n.sum(axis=1)])
    out = out.assign(**_together(columns, n), **_over_tensors(columns["sqnr_db"], found.tensors))
    order = [more for name in frame.columns for more in ([name, *OVER_TENSORS] if name == "sqnr_db" else [name])]
    return out.reset_index(names="config")[[name for name in order if name in out or name == "config"]]


def _together(columns: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of all tensors: from those of each, [configurations, tensors], and their numbers of values."""
    values = n.sum(axis=1)
    found = {name: (columns[name] * n).sum(axis=1) / values for name in MEANS if name in columns}
    found |= {name: worst(columns[name], axis=1) for name, worst in WORST.items() if name in columns and n.size}
    lost = {name: 10 ** (-columns[name] / 10) * n for name in DECIBELS if name in columns}
    with np.errstate(divide="ignore"):  # no error at all is +inf dB
        found |= {name: -10 * np.log10(each.sum(axis=1) / values) for name, each in lost.items() if name != WEIGHTED}
        if WEIGHTED in lost:
            there = ~np.isnan(lost[WEIGHTED])
            counted = (n * there).sum(axis=1)
            part = np.nansum(lost[WEIGHTED], axis=1) / np.where(counted > 0, counted, np.nan)
            found[WEIGHTED] = -10 * np.log10(part)
    nbytes = columns["nbytes"].sum(axis=1)
    source = (columns["compression_ratio"] * columns["nbytes"]).sum(axis=1)
    if ERROR in columns:  # of a sample: the errors of the tensors are independent
        whole = lost["sqnr_db"].sum(axis=1)
        found[ERROR] = np.sqrt(((lost["sqnr_db"] * columns[ERROR]) ** 2).sum(axis=1)) / np.where(whole > 0, whole, 1.0)
    return found | {
        "rmse": np.sqrt(found["mse"]),
        "nbytes": nbytes,
        "bits_per_weight": 8 * nbytes / values,
        "compression_ratio": source / nbytes,
    }


def _over_tensors(sqnr: np.ndarray, tensors: list[str]) -> dict[str, Any]:
    """What the tensors' SQNR, [configurations, tensors], is like at its low end and in the middle."""
    ordered = np.sort(sqnr, axis=1)
    last = max(len(tensors) - 1, 0)
    return {
        "worst_sqnr_db": ordered[:, 0] if tensors else [],
        "worst_tensor": [tensors[at] for at in sqnr.argmin(axis=1)] if tensors else [],
        "p5_sqnr_db": ordered[:, last * 5 // 100] if tensors else [],
        "median_sqnr_db": ordered[:, last // 2] if tensors else [],
    }


def to_csv(frame: pd.DataFrame) -> bytes:
    """CSV, UTF-8. Text that a spreadsheet would run as a formula gets an apostrophe in front; numbers stay numbers."""
    safe = without_formulas(whole_bytes(frame))
    # A bare carriage return in a name would begin a line of its own, and a formula with it, unless it is in quotes.
    broken = any("\r" in cell for column in safe for cell in safe[column] if isinstance(cell, str))
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if broken else csv.QUOTE_MINIMAL
    return safe.to_csv(index=False, lineterminator="\n", quoting=quoting).encode(errors="backslashreplace")


def without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy that a spreadsheet shows and does not run; numbers stay numbers."""
    safe = frame.copy()
    for column in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[column]):
            safe[column] = [without_formula(cell) for cell in safe[column]]
    return safe


def without_formula(cell: Any) -> Any:
    """A cell that a spreadsheet shows and does not run. A lone sign, as for what does not apply, is no formula.

    >>> without_formula("=HYPERLINK(1)"), without_formula("-"), without_formula("conv.weight")
    ("'=HYPERLINK(1)", '-', 'conv.weight')
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) and len(cell) > 1 else cell


def to_json(frame: pd.DataFrame) -> bytes:
    """A JSON array of one object per row; NaN and infinity, which JSON does not have, are null."""
    return json_text(whole_bytes(frame).to_dict(orient="records")).encode()


def whole_bytes(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy whose sizes are whole numbers, also where a refused row has none (NaN makes floats of a column)."""
    return frame.astype({"nbytes": "Int64"} if "nbytes" in frame else {})


def json_text(value: Any) -> str:
    """JSON in ASCII, for any terminal, of plain values; what JSON does not have (NaN, infinity) is null."""
    return json.dumps(_plain(value), allow_nan=False, indent=1)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value


def to_parquet(frame: pd.DataFrame) -> bytes:
    """Parquet, every figure as it is."""
    buffer = io.BytesIO()
    whole_bytes(frame).to_parquet(buffer, index=False)
    return buffer.getvalue()


WRITERS: dict[str, Callable[[pd.DataFrame], bytes]] = {"csv": to_csv, "json": to_json, "parquet": to_parquet}
