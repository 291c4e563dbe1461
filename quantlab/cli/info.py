"""quantlab info: what is in a file."""

from __future__ import annotations

import argparse
import math
from typing import Any

from ..core import statistics
from ..errors import Cancelled, QuantlabError
from ..formats import Checkpoint, TensorSpec, open_checkpoint
from ..late import pandas as pd
from ..shipping.recipe import select
from ..shipping.rehearsal import limits
from ..sweeping import findings
from ..sweeping.sweep import shape_text
from ..sweeping.tables import json_text, to_csv
from ..wording import after_name, counted, size_text
from .options import add_file, add_tensors, command, examples
from .output import write_stdout
from .terminal import Bar, figure, note, show_table

FIGURES = ("minimum", "maximum", "mean", "std", "kurtosis", "zeros", "outliers")
HEADERS = ["tensor", "type", "shape", "elements", "bytes"]
NOTE_WIDTH = 120  # characters of a note in the table; --json and --csv have all of it

TEXT = f"""\
With --findings every tensor is read, and what is odd is listed with what helps: scales along the
axis that carries outliers, an affine mapping for values of one sign. Gains are measured by
quantizing with and without, in dB of SQNR; what gains less than 3 dB is left out.

With --stats every tensor is read:
  min max mean std  in the tensor's own unit
  kurtosis          how heavy the tails are: 0 for a Gaussian, hundreds where a few values dwarf all
  zeros             share of values that are exactly 0
  outliers          share of values more than {statistics.OUTLIER_SIGMAS:g} standard deviations from the mean

examples:
{
    examples(
        ("every tensor", "info model.safetensors"),
        ("what the attention weights look like", "info model.safetensors --tensors '*attn*weight' --stats"),
        ("what is odd, and what helps", "info model.safetensors --findings"),
        ("for another program", "info model.safetensors --stats --json > tensors.json"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(commands, "info", run, "show what is in a file: tensors, types, shapes, sizes, statistics", TEXT)
    add_file(parser)
    add_tensors(parser, "names or globs of the tensors to show, quoted; default: all")
    reads = parser.add_mutually_exclusive_group()
    reads.add_argument("--stats", action="store_true", help="read the values too, and show what they look like")
    reads.add_argument(
        "--findings", action="store_true", help="read the values too, and show what is odd and what helps"
    )
    machine = parser.add_mutually_exclusive_group()
    machine.add_argument("--json", action="store_true", help="print JSON; null stands for what does not exist")
    machine.add_argument("--csv", action="store_true", help="print CSV")


def run(args: argparse.Namespace) -> None:
    """Print the tensors of a file."""
    with open_checkpoint(args.file) as checkpoint:
        names = select(checkpoint, args.tensors or ["*"]) if checkpoint.names else []
        if args.findings:
            tell(args, checkpoint, names)
            return
        rows = described(checkpoint, names, args.stats)
        if args.json:
            print(json_text({**facts(checkpoint), "tensors": rows}))
        elif args.csv:
            write_stdout(to_csv(pd.DataFrame([{**row, "shape": shape_text(row["shape"])} for row in rows])))
        else:
            show(checkpoint, rows, args.stats)


def tell(args: argparse.Namespace, checkpoint: Checkpoint, names: list[str]) -> None:
    """Print what is odd."""
    with Bar() as bar:
        found = findings.findings(checkpoint, names, on_progress=bar)
    if args.json:
        # As objects: a column of axes with holes would be floats.
        rows = found.astype(object).where(found.notna(), None).to_dict("records")
        print(json_text({**facts(checkpoint), "tensors_read": len(names), "findings": rows}))
    elif args.csv:
        write_stdout(to_csv(found))
    else:
        lines = [
            [row["tensor"], row["odd"], row["remedy"], after_name(row["what"], row["tensor"])]
            for row in found.to_dict("records")
        ]
        if lines:
            show_table(["tensor", "odd", "what helps", "what is odd"], lines, "<<<<")
        read = counted(len(names), "tensor")
        within = f"{counted(len(lines), 'finding')} in {found['tensor'].nunique():,} of {read}"
        print(f"\n{within}" if lines else f"Nothing odd was found in {read}.")


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What there is to say about the file itself."""
    return {
        "file": checkpoint.title,
        "format": checkpoint.format,
        "file_nbytes": sum(file.size for file in checkpoint.files),
        "limits": limits(checkpoint),
    }


def described(checkpoint: Checkpoint, names: list[str], stats: bool) -> list[dict[str, Any]]:
    """One row per tensor; with `stats` the figures of its values, or a note of why there are none."""
    specs = [checkpoint.spec(name) for name in names]
    total, done, rows = sum(spec.size for spec in specs), 0, []
    with Bar() as bar:
        for spec in specs:
            row = {
                "tensor": spec.name, "dtype": spec.dtype, "shape": spec.shape, "elements": spec.size,
                "nbytes": spec.nbytes, "channel_axis": spec.channel_axis, "note": spec.note,
            }  # fmt: skip
            if stats:
                bar(done, total, spec.name)
                row |= figures(checkpoint, spec)
            done += spec.size
            rows.append(row)
    return rows


def figures(checkpoint: Checkpoint, spec: TensorSpec) -> dict[str, Any]:
    """What the values of a tensor look like; NaN and a note where nobody can say."""
    try:
        found = statistics.describe(checkpoint.load(spec.name))
    except Cancelled:
        raise
    except QuantlabError as error:
        return {**dict.fromkeys(FIGURES, math.nan), "note": f"{spec.note}; {error}" if spec.note else str(error)}
    return {key: getattr(found, key) for key in FIGURES}


def cut(note: str) -> str:
    """A note in the table: what is wrong stands at its beginning."""
    return note if len(note) <= NOTE_WIDTH else f"{note[: NOTE_WIDTH - 3]}..."


def show(checkpoint: Checkpoint, rows: list[dict[str, Any]], stats: bool) -> None:
    """Print the table, and a line about the whole."""
    noted = any(row["note"] for row in rows)
    lines = [
        [row["tensor"], row["dtype"], shape_text(row["shape"]), f"{row['elements']:,}", f"{row['nbytes']:,}"]
        + [figure(row[key], ".4g") for key in FIGURES if stats]
        + [cut(after_name(row["note"], row["tensor"]))] * noted
        for row in rows
    ]
    headers = HEADERS + ["min", "max", *FIGURES[2:]] * stats + ["note"] * noted
    show_table(headers, lines, "<<<>>" + ">" * len(FIGURES) * stats + "<" * noted)
    about = facts(checkpoint)
    print(
        f"\n{about['file']}: {about['format']}, {size_text(about['file_nbytes'])}, {counted(len(rows), 'tensor')} with "
        f"{counted(sum(row['elements'] for row in rows), 'value')} in {size_text(sum(row['nbytes'] for row in rows))}"
    )
    if about["limits"]:
        note(about["limits"])
