"""Tables of results: totals over tensors, and files that other programs read.

A table has the columns of `sweep.sweep`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ..late import pandas as pd

TOTAL = "all tensors"  # the name of the total in place of a tensor's
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that have figures: those of refused combinations have none."""
    return frame[frame["nbytes"].notna()]


def sizes(frame: pd.DataFrame) -> pd.Series:
    """Number of weights of every row's tensor; NaN where nothing was measured."""
    return (8 * frame["nbytes"] / frame["bits_per_weight"]).round()


def common_tensors(frame: pd.DataFrame) -> list[str]:
    """The tensors that every configuration accepts, in order; configurations that accept none do not count."""
    done = measured(frame)
    counts = done.groupby("tensor", sort=False)["config"].nunique()
    return counts.index[counts == done["config"].nunique()].tolist()


def total(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration, in the columns of a sweep, over the tensors that every configuration accepts.

    Squared errors, signal powers, bytes and clipped values are added up before ratios are taken, so `sqnr_db` is that
    of all weights as one vector, and large tensors weigh more. MAE and cosine are means weighted by size; the largest
    error is the largest of all. Only over the same tensors are configurations comparable, hence the restriction.
    """
    rows = measured(frame)
    rows = rows[rows["tensor"].isin(common_tensors(frame))]
    n, squared = sizes(rows), rows["mse"] * sizes(rows)
    sums = pd.DataFrame(
        {
            "n": n,
            "squared": squared,
            "power": _powers(rows, squared),
            "absolute": rows["mae"] * n,
            "cosine": rows["cosine"] * n,
            "clipped": rows["clipped_fraction"] * n,
            "nbytes": rows["nbytes"],
            "source": rows["compression_ratio"] * rows["nbytes"],
        }
    )
    by_config = rows["config"]
    added = sums.groupby(by_config, sort=False).sum()
    said = rows.drop_duplicates("config").set_index("config")
    out = pd.DataFrame(index=added.index)
    out["tensor"], out["shape"] = TOTAL, [f"{count:,.0f} weights" for count in added["n"]]
    out = out.join(said[["dtype", "mapping", "granularity", "calibration"]])
    with np.errstate(divide="ignore"):  # no error at all is +inf dB
        out["sqnr_db"] = np.where(
            added["squared"] > 0, 10 * (np.log10(added["power"]) - np.log10(added["squared"])), math.inf
        )
    out["mse"] = added["squared"] / added["n"]
    out["rmse"] = np.sqrt(out["mse"])
    out["mae"], out["cosine"] = added["absolute"] / added["n"], added["cosine"] / added["n"]
    out["max_abs_error"] = rows.groupby(by_config, sort=False)["max_abs_error"].max()
    out["clipped_fraction"] = added["clipped"] / added["n"]
    out["nbytes"], out["bits_per_weight"] = added["nbytes"], 8 * added["nbytes"] / added["n"]
    out["compression_ratio"] = added["source"] / added["nbytes"]
    return out.reset_index()[[column for column in frame.columns if column in out or column == "config"]]


def _powers(rows: pd.DataFrame, squared: pd.Series) -> pd.Series:
    """Sum of x^2 of every row's tensor, from its SQNR.

    A lossless row (SQNR infinite) does not tell; another configuration of the same tensor does. If all are lossless,
    the tensor adds nothing, to no configuration: NaN, which sums leave out.
    """
    told = (squared * 10 ** (rows["sqnr_db"] / 10)).where(np.isfinite(rows["sqnr_db"]) | (rows["sqnr_db"] == -math.inf))
    return told.groupby(rows["tensor"], sort=False).transform("median")


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
