"""A table of results for people and for programs: what `sweep` and `sweeps show` share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from ..late import pandas as pd
from ..sweeping.tables import WRITERS, common_tensors, measured, total
from ..wording import counted
from .options import OUT_HELP, UsageError
from .output import checked_out, write_file, write_stdout
from .terminal import figure, note, show_table

HEADERS = ["SQNR dB", "bits/wt", "ratio"]
MORE = ["max error", "clipped %"]  # where there is room for them
SHOWN_REASONS = 5
COLUMNS_HELP = """\
On the screen there is one line per configuration, over all tensors together, smallest first;
* marks those that no other configuration beats in both size and error:
  SQNR dB      power of the weights over power of the error; about 6 more per bit
  bits/wt      bits per weight of everything stored, scales and zero points included
  ratio        bytes of the source, in its own type, over bytes of the result
  worst dB     the lowest SQNR of any tensor, and which one"""


def add_results(parser: argparse.ArgumentParser) -> None:
    """--each, and where the table goes if not to the screen."""
    parser.add_argument("--each", action="store_true", help="on the screen, a line per tensor and configuration")
    out = parser.add_mutually_exclusive_group()
    for name in WRITERS:
        stdout = "" if name == "parquet" else "; - is stdout"
        out.add_argument(f"--{name}", metavar="OUT", help=f"write every row as {name}: {OUT_HELP}{stdout}")


def destination(args: argparse.Namespace) -> tuple[str | None, Path | None]:
    """(the writer, the file; None for stdout): looked at before anything is computed for it."""
    writer, out = next(((name, getattr(args, name)) for name in WRITERS if getattr(args, name)), (None, "-"))
    if writer == "parquet" and out == "-":
        raise UsageError("parquet cannot be written to stdout: name a file")
    return writer, None if out == "-" else checked_out(out)


def deliver(frame: pd.DataFrame, writer: str | None, path: Path | None, each: bool) -> None:
    """Show or write the table."""
    if writer is None:
        show(frame, each)
    elif path is None:
        write_stdout(WRITERS[writer](frame))
    else:
        write_file(path, WRITERS[writer](frame))
        note(f"wrote {counted(len(frame), 'row')} to {path}")


def tell_refused(frame: pd.DataFrame) -> None:
    """Say which combinations have no figures, and why."""
    refused = frame.attrs["refused"]
    by_reason: dict[str, list[str]] = {}
    for row in refused:
        by_reason.setdefault(row["reason"], []).append(f"{row['tensor']} as {row['config']}")
    for reason, where in list(by_reason.items())[:SHOWN_REASONS]:
        more = f" and {len(where) - 1:,} more" if len(where) > 1 else ""
        note(f"no figures for {where[0]}{more}: {reason}")
    if len(by_reason) > SHOWN_REASONS:
        note(f"no figures for {len(refused):,} combinations in all")


def show(frame: pd.DataFrame, each: bool) -> None:
    """Print the table for a reader: totals over tensors, or every row."""
    if each or frame["tensor"].nunique() == 1:
        show_rows(measured(frame), ["tensor", "config"] if frame["tensor"].nunique() > 1 else ["config"])
    else:
        show_totals(frame)


def show_rows(rows: pd.DataFrame, lead: list[str]) -> None:
    """Print a line per row, beginning with the columns `lead`."""
    lines = [
        [
            *(row[column] for column in lead),
            *cells(row),
            figure(row["max_abs_error"], ".3g"),
            figure(100 * row["clipped_fraction"], ".3g"),
        ]
        for row in rows.to_dict("records")
    ]
    headers = HEADERS + MORE
    show_table([*lead, *headers], lines, "<" * len(lead) + ">" * len(headers))


def show_totals(frame: pd.DataFrame) -> None:
    """Print a line per configuration, over all tensors together."""
    shared = common_tensors(frame)
    if len(shared) < frame["tensor"].nunique():
        note(f"totals are over the {counted(len(shared), 'tensor')} that every configuration can serve")
    totals = total(frame).sort_values(["bits_per_weight", "sqnr_db"], ascending=[True, False], kind="stable")
    beaten = totals["sqnr_db"] <= totals["sqnr_db"].cummax().shift(fill_value=-math.inf)
    worst = worst_tensors(frame)
    lines = [
        [row["config"], "" if dominated else "*", *cells(row), *worst[row["config"]]]
        for row, dominated in zip(totals.to_dict("records"), beaten, strict=True)
    ]
    headers = ["config", "", *HEADERS, "worst dB", "tensor"]
    show_table(headers, lines, "<<" + ">" * len(HEADERS) + "><", name=len(headers) - 1)


def cells(row: Mapping[Hashable, Any]) -> list[str]:
    """The figures of one row, in the order of `HEADERS`."""
    return [
        figure(row["sqnr_db"], ".2f"),
        figure(row["bits_per_weight"], ".3f"),
        figure(row["compression_ratio"], ".2f"),
    ]


def worst_tensors(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """The lowest SQNR of any tensor under every configuration, and that tensor."""
    rows = measured(frame)
    lowest = rows.loc[rows.groupby("config", sort=False)["sqnr_db"].idxmin()]
    return {row["config"]: (f"{row['sqnr_db']:.2f}", row["tensor"]) for row in lowest.to_dict("records")}
