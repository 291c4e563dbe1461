"""quantlab sweep: error and size of many configurations, without writing any."""

import argparse
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from ..config import QuantConfig
from ..errors import ConfigError, check_integer
from ..formats import Checkpoint, open_checkpoint
from ..formats.files import shown
from ..recipe import select
from ..sweep import Progress, sweep
from ..tables import WRITERS, common_tensors, measured, total
from .grid import add_grid, chosen
from .options import OUT_HELP, UsageError, add_file, add_tensors, command, examples, one
from .output import checked_out, write_file, write_stdout
from .terminal import Bar, counted, figure, note, show_table

HEADERS = ["SQNR dB", "bits/wt", "ratio"]
MORE = ["max error", "clipped %"]  # where there is room for them
SHOWN_REASONS = 5

TEXT = f"""\
The options make a grid: every dtype with every mapping, granularity, calibration and scale dtype.
What does not go together is left out, and said so. Each tensor is read once, whatever the number
of configurations.

On the screen there is one line per configuration, over all tensors together, smallest first;
* marks those that no other configuration beats in both size and error:
  SQNR dB      power of the weights over power of the error; about 6 more per bit
  bits/wt      bits per weight of everything stored, scales and zero points included
  ratio        bytes of the source, in its own type, over bytes of the result
  worst dB     the lowest SQNR of any tensor, and which one

examples:
{
    examples(
        ("the usual suspects", "sweep model.safetensors"),
        (
            "4 bits: which groups, which range",
            "sweep model.safetensors --dtype int4 --granularity g32 g64 g128 --calibration minmax mse",
        ),
        ("two in particular, on one tensor", "sweep model.safetensors --config w4_g128 fp16 --tensors lm_head.weight"),
        ("every figure of every tensor, for a spreadsheet", "sweep model.safetensors --csv sweep.csv"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(commands, "sweep", run, "measure error and size of many configurations; nothing is written", TEXT)
    add_file(parser)
    add_tensors(parser)
    add_grid(parser)
    parser.add_argument("--each", action="store_true", help="on the screen, a line per tensor and configuration")
    parser.add_argument(
        "--workers", metavar="N", type=one(workers), help="threads to use at most; default: one per core"
    )
    out = parser.add_mutually_exclusive_group()
    for name in WRITERS:
        stdout = "" if name == "parquet" else "; - is stdout"
        out.add_argument(f"--{name}", metavar="OUT", help=f"write every row as {name}: {OUT_HELP}{stdout}")


def workers(text: str) -> int:
    """A number of threads."""
    return check_integer("the number of workers", int(text) if text.isdecimal() else text, 1, 1024)


def run(args: argparse.Namespace) -> None:
    """Sweep, and print or write the table."""
    configs, refusals = chosen(args)
    writer, out = next(((name, getattr(args, name)) for name in WRITERS if getattr(args, name)), (None, "-"))
    if writer == "parquet" and out == "-":
        raise UsageError("parquet cannot be written to stdout: name a file")
    path = None if out == "-" else checked_out(out)
    with open_checkpoint(args.file) as checkpoint:
        names = select(checkpoint, args.tensors)
        with Bar() as bar:
            sizes = [checkpoint.spec(name).size for name in names]
            frame = sweep(checkpoint, configs, names, workers=args.workers, on_progress=by_weights(bar, sizes))
        tell_scope(checkpoint, configs, refusals, frame)
    if writer is None:
        show(frame, args.each)
    elif path is None:
        write_stdout(WRITERS[writer](frame))
    else:
        write_file(path, WRITERS[writer](frame))
        note(f"wrote {counted(len(frame), 'row')} to {path}")


def by_weights(on_progress: Progress, sizes: Sequence[int]) -> Progress:
    """Progress in weights in place of rows: a row about a large tensor takes longer than one about a small one."""
    before = [0, *itertools.accumulate(sizes)]

    def report(done: int, total: int, label: str) -> None:
        tensor, share = divmod(done * len(sizes), total)  # the rows of a tensor follow each other
        within = share * sizes[tensor] // total if tensor < len(sizes) else 0
        on_progress(before[tensor] + within, before[-1], label)

    return report


def tell_scope(checkpoint: Checkpoint, configs: list[QuantConfig], refusals: list[str], frame: pd.DataFrame) -> None:
    """Say what was swept and what was not. ConfigError if nothing could be."""
    refused = frame.attrs["refused"]
    if len(refused) == len(frame):
        raise ConfigError(f"nothing could be measured: {shown(refused[0]['tensor'])}: {refused[0]['reason']}")
    tensors = frame["tensor"].nunique()
    others = len(checkpoint.names) - tensors
    left_out = f" ({others:,} left out; --tensors chooses)" if others else ""
    note(f"{counted(len(configs), 'configuration')} x {counted(tensors, 'tensor')}{left_out}")
    for sentence in refusals:
        note(f"left out of the grid: {sentence}")
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
