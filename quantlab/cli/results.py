"""A table of results for people and for programs: what `sweep` and `sweeps show` share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from ..late import pandas as pd
from ..sweeping.sweep import ERROR, WEIGHTED
from ..sweeping.tables import WRITERS, measured, scope, total, why_no_total
from ..wording import counted
from .options import OUT_HELP, UsageError
from .output import checked_out, write_file, write_stdout
from .terminal import figure, note, show_table

HEADERS = ["SQNR dB", "bits/wt", "ratio"]
MORE = ["worst ch. dB", "mean ch. dB", "max error", "clipped %", "zeroed %"]  # where there is room for them
MAYBE = {ERROR: "+- dB", WEIGHTED: "weighted dB"}
SHOWN_REASONS = 5
COLUMNS_HELP = """\
On the screen there is one line per configuration, over all tensors together, smallest first;
* marks those that no other configuration beats in both size and error:
  SQNR dB      1 over the mean of all tensors' relative squared errors, each weighted by its number
               of values: no tensor's large values hide the others. About 6 more per bit
  bits/wt      bits per weight of everything stored, scales and zero points included
  ratio        bytes of the source, in its own type, over bytes of the result
  p5, median   the SQNR that 95 % and that half of the tensors reach, each tensor counting once
  worst dB     the lowest SQNR of any tensor, and which one
--totals writes these lines, too, in place of every row."""


def add_results(parser: argparse.ArgumentParser) -> None:
    """--each, and where the table goes if not to the screen."""
    parser.add_argument("--each", action="store_true", help="on the screen, a line per tensor and configuration")
    parser.add_argument("--totals", action="store_true", help="write a line per configuration, over all tensors")
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


def deliver(frame: pd.DataFrame, writer: str | None, path: Path | None, each: bool, totals: bool) -> None:
    """Show or write the table."""
    if writer is None:
        show(frame, each)
        return
    if totals:
        tell_no_total(frame)
        frame = total(frame)
    if path is None:
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
            *more_cells(row),
            figure(row["worst_channel_sqnr_db"], ".2f"),
            figure(row["channels_sqnr_db"], ".2f"),
            figure(row["max_abs_error"], ".3g"),
            figure(100 * row["clipped_fraction"], ".3g"),
            figure(100 * row["zeroed_fraction"], ".3g"),
        ]
        for row in rows.to_dict("records")
    ]
    headers = HEADERS + [MAYBE[name] for name in MAYBE if name in rows] + MORE
    show_table([*lead, *headers], lines, "<" * len(lead) + ">" * len(headers))


def show_totals(frame: pd.DataFrame) -> None:
    """Print a line per configuration, over all tensors together."""
    tell_no_total(frame)
    if not scope(frame).configs:
        note("there are no totals, since every configuration refuses some tensor: --each shows every row")
        return
    totals = total(frame).sort_values(["bits_per_weight", "sqnr_db"], ascending=[True, False], kind="stable")
    beaten = totals["sqnr_db"] <= totals["sqnr_db"].cummax().shift(fill_value=-math.inf)
    lines = [
        [
            row["config"], "" if dominated else "*", *cells(row), *more_cells(row),
            *(figure(row[name], ".2f") for name in ("median_sqnr_db", "p5_sqnr_db", "worst_sqnr_db")),
            row["worst_tensor"],
        ]
        for row, dominated in zip(totals.to_dict("records"), beaten, strict=True)
    ]  # fmt: skip
    headers = [
        "config",
        "",
        *HEADERS,
        *[MAYBE[name] for name in MAYBE if name in totals],
        "median",
        "p5",
        "worst dB",
        "tensor",
    ]
    show_table(headers, lines, "<<" + ">" * (len(headers) - 3) + "<", name=len(headers) - 1)


def tell_no_total(frame: pd.DataFrame) -> None:
    """Say which configurations have no line of their own, and why."""
    for sentence in why_no_total(frame)[:SHOWN_REASONS]:
        note(f"not among the totals: {sentence}")


def more_cells(row: Mapping[Hashable, Any]) -> list[str]:
    """The standard error of a sample's SQNR, and the SQNR weighted by importance, where they are asked for."""
    return [figure(row[name], ".2f") for name in MAYBE if name in row]


def cells(row: Mapping[Hashable, Any]) -> list[str]:
    """The figures of one row, in the order of `HEADERS`."""
    return [
        figure(row["sqnr_db"], ".2f"),
        figure(row["bits_per_weight"], ".3f"),
        figure(row["compression_ratio"], ".2f"),
    ]
