"""What the Sweep page does with a table of results: total it over tensors, filter it, write it to a file."""

import io
import json
import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

TOTAL = "all tensors"  # the name of the total in place of a tensor's
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


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


def of_tensor(frame: pd.DataFrame, tensor: str) -> pd.DataFrame:
    """The measured rows of one tensor, or the total of all."""
    return total(frame) if tensor == TOTAL else measured(frame[frame["tensor"] == tensor])


def filtered(frame: pd.DataFrame, **wanted: Iterable[str]) -> pd.DataFrame:
    """The rows whose column is one of the values wanted of it; a column of which none are wanted is not looked at."""
    for column, values in wanted.items():
        if values := list(values):
            frame = frame[frame[column].isin(values)]
    return frame


def without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy with an apostrophe before text that a spreadsheet would run as a formula; numbers stay numbers."""
    safe = frame.copy()
    for column in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[column]):
            safe[column] = [f"'{cell}" if str(cell).startswith(FORMULA_STARTS) else cell for cell in safe[column]]
    return safe


def to_csv(frame: pd.DataFrame) -> bytes:
    """CSV, UTF-8, safe to open in a spreadsheet."""
    return without_formulas(frame).to_csv(index=False).encode()


def to_json(frame: pd.DataFrame) -> bytes:
    """A JSON array of one object per row; NaN and infinity, which JSON does not have, are null."""
    rows = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in frame.to_dict(orient="records")
    ]
    return json.dumps(rows, allow_nan=False, indent=1).encode()


def to_parquet(frame: pd.DataFrame) -> bytes:
    """Parquet, every figure as it is."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


DOWNLOADS = {  # label -> (suffix, MIME type, writer)
    "CSV": ("csv", "text/csv", to_csv),
    "Parquet": ("parquet", "application/vnd.apache.parquet", to_parquet),
    "JSON": ("json", "application/json", to_json),
}
