"""What of a sweep's table the Sweep page shows, and the files it offers."""

from collections.abc import Iterable

import pandas as pd

from quantlab.sweeping.tables import TOTAL, WRITERS, measured, total

DOWNLOADS = {  # label -> (suffix, MIME type, writer)
    "CSV": ("csv", "text/csv", WRITERS["csv"]),
    "Parquet": ("parquet", "application/vnd.apache.parquet", WRITERS["parquet"]),
    "JSON": ("json", "application/json", WRITERS["json"]),
}


def of_tensor(frame: pd.DataFrame, tensor: str) -> pd.DataFrame:
    """The measured rows of one tensor, or the total of all."""
    return total(frame) if tensor == TOTAL else measured(frame[frame["tensor"] == tensor])


def filtered(frame: pd.DataFrame, **wanted: Iterable[str]) -> pd.DataFrame:
    """The rows whose column is one of the values wanted of it; a column of which none are wanted is not looked at."""
    for column, values in wanted.items():
        if values := list(values):
            frame = frame[frame[column].isin(values)]
    return frame
