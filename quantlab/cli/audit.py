"""quantlab audit: a quantized checkpoint beside its source, and what it could have been."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from typing import Any

from ..core.config import QuantConfig
from ..errors import CheckpointError
from ..formats import open_checkpoint
from ..late import pandas as pd
from ..planning.audit import Audit, audit, told
from ..planning.auditing import DOMINATED, IDENTICAL, VERDICTS
from ..planning.budget import quality_of
from ..sweeping.tables import WRITERS, json_text, whole_bytes
from ..wording import counted, shown
from .importance import HELP, importance_for
from .options import OUT_HELP, UsageError, add_file, command, examples, flattened, one, several
from .output import checked_out, write_file, write_stdout
from .terminal import Bar, figure, note, show_table

SHOWN_FAILING = 5

TEXT = f"""\
Compares every tensor of FILE with that of its source, by name; GGUF with Hugging Face by the names
that llama.cpp's converter gives, its order of q's and k's rows tried and named. Says of each what it
is stored as, what it lost, and whether the program that loads the file would have loaded something
no larger and better: a configuration that was measured on the source, here and now. Two versions
of one model, and two quantizations of it, are compared the same way.

Nothing is said against codes that a method chose by what a layer computes (GPTQ, AWQ, AutoRound,
an importance matrix): their weights are worse on purpose.

examples:
{
    examples(
        ("what a download is made of, and what it lost", "audit model-q4.gguf --source model/"),
        ("a gate: exit code 1 if a tensor lost more", "audit out/ --source model/ --min-sqnr 18"),
        ("against what you would have chosen", "audit out/ --source model/ --configs int4-sym-g32-mse-sbf16"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(commands, "audit", run, "say what a quantized file lost, and what it could have been", TEXT)
    add_file(parser, "a quantized checkpoint: a file, or a folder")
    parser.add_argument("--source", metavar="MODEL", required=True, help="the checkpoint that it was made of")
    parser.add_argument(
        "--configs", metavar="SLUG", nargs="+", action="extend", type=several(QuantConfig.parse), default=[],
        help="configurations to compare with (default: those worth measuring for the program that the file is for)",
    )  # fmt: skip
    parser.add_argument("--compare-only", action="store_true", help="compare with the source and with nothing else")
    parser.add_argument("--importance", metavar="IMATRIX", help=f"weight errors by inputs, and judge by that: {HELP}")
    parser.add_argument(
        "--min-sqnr", metavar="DB", type=one(quality_of), help="exit code 1 if a matrix has less, or it is not known"
    )
    parser.add_argument("--csv", metavar="OUT", help=f"write a row per tensor as csv: {OUT_HELP}; - is stdout")
    parser.add_argument("--json", action="store_true", help="print JSON; null stands for what does not exist")


def run(args: argparse.Namespace) -> None:
    """Audit, print or write, and fail at a tensor below the limit."""
    if args.csv == "-" and args.json:
        raise UsageError("--csv - and --json both write to stdout: name a file for one of them")
    if args.compare_only and args.configs:
        raise UsageError("--compare-only compares with no configuration: leave out --configs")
    path = checked_out(args.csv) if args.csv not in (None, "-") else None
    against = () if args.compare_only else flattened(args.configs) or None
    with open_checkpoint(args.source) as source, Bar() as bar:
        importance = importance_for(args.importance, source) if args.importance else None
        found = audit(args.file, source, importance=importance, against=against, on_progress=bar)
    if args.csv:
        data = WRITERS["csv"](found.frame)
        write_stdout(data) if path is None else write_file(path, data)
    if args.json:
        print(json_text(content(found, args)))
    elif args.csv != "-":
        show(found.frame)
        print()
        print("\n".join(told(found)))
    if args.min_sqnr is not None:
        gate(found, args.min_sqnr.decibels)


def content(found: Audit, args: argparse.Namespace) -> dict[str, Any]:
    """All that was found, for a program."""
    whole = asdict(found.whole) if found.whole else None
    matching = {"alone": found.matching.alone, "missing": found.matching.missing, "tied": found.matching.tied}
    return {
        "file": args.file,
        "source": args.source,
        "target": found.target,
        "tensors": whole_bytes(found.frame).to_dict("records"),
        **matching,
        "whole": whole,
        "verdicts": {verdict: found.count(verdict) for verdict in VERDICTS},
        "told": told(found),
    }


def show(frame: pd.DataFrame) -> None:
    """Print a line per tensor that is not the source's, the worst first."""
    changed = frame[frame["verdict"] != IDENTICAL].sort_values("sqnr_db", kind="stable", na_position="first")
    rows = [
        [
            row["tensor"], row["layout"] or "-", figure(row["sqnr_db"], ".2f"), figure(row["bits_per_weight"], ".3f"),
            figure(row["nbytes"], ",.0f"), row["verdict"], better(row),
        ]
        for row in changed.to_dict("records")
    ]  # fmt: skip
    if rows:
        show_table(["tensor", "layout", "SQNR dB", "bits/wt", "bytes", "verdict", ""], rows, "<<>>><<")
    for words, names in notes_of(changed).items():
        note(f"{counted(len(names), 'tensor')} ({names[0]}{', ...' if len(names) > 1 else ''}): {words}")


def better(row: Any) -> str:
    """What dominates a tensor, in a cell."""
    if row["verdict"] != DOMINATED:
        return ""
    return f"{row['better']}: {row['better_sqnr_db']:.2f} dB in {row['better_nbytes']:,.0f} bytes"


def notes_of(frame: pd.DataFrame) -> dict[str, list[str]]:
    """What is said of tensors: sentence -> names."""
    found: dict[str, list[str]] = {}
    for row in frame.to_dict("records"):
        if row["note"]:
            found.setdefault(row["note"], []).append(row["tensor"])
    return found


def gate(found: Audit, least_db: float) -> None:
    """CheckpointError, which names the first, if tensors lost more than they may."""
    failing = found.failing(least_db).sort_values("sqnr_db", na_position="first")
    if not len(failing):
        return
    names = [f"{shown(row['tensor'])} ({_why(row)})" for row in failing.head(SHOWN_FAILING).to_dict("records")]
    more = f" and {len(failing) - SHOWN_FAILING:,} more" if len(failing) > SHOWN_FAILING else ""
    raise CheckpointError(
        f"{counted(len(failing), 'tensor')} of {shown(found.title)} below {least_db:g} dB: {', '.join(names)}{more}"
    )


def _why(row: Any) -> str:
    return row["verdict"] if math.isnan(row["sqnr_db"]) else f"{row['sqnr_db']:.2f} dB"
