"""quantlab verify: read a packed file back, check it, and measure it."""

import argparse
import math
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, check_number
from ..formats import open_checkpoint
from ..formats.input.remote import is_url
from ..planning.budget import Budget, budget_of, quality_of
from ..shipping.verifying import Verified, told, verify
from ..sweeping.tables import json_text
from ..wording import counted, shown
from .options import UsageError, add_file, command, examples, one
from .report import records, show_figures
from .terminal import Bar, figure, note

TEXT = f"""\
Reads an export, all of it, and refuses one that contradicts itself: quantlab's own files (.npz,
.safetensors), and those of other programs (.gguf, .onnx, folders of compressed-tensors and MLX).
With --source, every tensor is compared with the original: copies bit for bit, all others as the
program that the export is for decodes them. Plain tensors can only be checked with --source.

Gates, for a build that is to stop at a bad export: exit code 1 if it does not hold, and a line on
stderr for each tensor that fails. Copies of the source's tensors, bit for bit, never fail.

examples:
{
    examples(
        ("is the file whole", "verify small.safetensors"),
        ("and what did it cost", "verify small.safetensors --source model.safetensors"),
        ("a model for another program", "verify small.gguf --source model.gguf"),
        ("a gate", "verify small.gguf --source model.gguf --min-sqnr 18 --max-bytes 5GB"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(commands, "verify", run, "read a packed file back, check it, and measure it again", TEXT)
    add_file(parser, "an export: a file, or a folder")
    parser.add_argument("--source", metavar="FILE", help="what it was quantized from, to measure the errors")
    parser.add_argument(
        "--min-sqnr", metavar="DB", type=one(quality_of), help="fail tensors of a lower SQNR; needs --source"
    )
    parser.add_argument(
        "--max-bytes", metavar="SIZE", type=one(size), help="fail an export of more bytes, all its files together: 5GB"
    )
    parser.add_argument("--max-bits", metavar="BITS", type=one(bits), help="fail tensors of more bits per weight")
    parser.add_argument("--json", action="store_true", help="print JSON; null stands for what does not exist")


def size(text: str) -> Budget:
    """A number of bytes. ConfigError for what is none."""
    if text.strip().lower().endswith(("bpw", "%")):
        raise ConfigError(f"the size is {shown(text)}: give bytes as 4700000000, 4.7GB or 4.4GiB")
    return budget_of(text, fixed=0, values=0, source=0)


def bits(text: str) -> float:
    """A number of bits. ConfigError for what is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return check_number("the number of bits", value, 0, 64)


def run(args: argparse.Namespace) -> None:
    """Read, check and measure, and fail at a gate."""
    if args.min_sqnr is not None and args.source is None:
        raise UsageError("--min-sqnr is about errors, which only show beside the original: give --source, too")
    with Bar() as bar:
        if args.source is None:
            found = verify(args.file, on_progress=bar)
        else:
            with open_checkpoint(args.source) as source:
                found = verify(args.file, source, on_progress=bar)
    if args.json:
        more = {"kind": found.kind, "same": found.same, "absent": found.absent, "note": found.note}
        print(json_text({"file": args.file, "tensors": records(found.frame), **more}))
    else:
        show_figures(found.frame)
        print(f"\n{told(found)}: {found.kind}")
        if found.note:
            note(f"the figures are the format's own, as {found.note}")
    gate(failing(found, args), args.file)


def failing(found: Verified, args: argparse.Namespace) -> list[str]:
    """A sentence for the file, and for each tensor, that does not hold what is asked of it."""
    sentences = []
    if args.max_bytes is not None and (nbytes := bytes_of(args.file)) > args.max_bytes.nbytes:
        sentences.append(
            f"{shown(Path(args.file).name)} has {nbytes:,} bytes, and --max-bytes allows {args.max_bytes.nbytes:,}"
        )
    for row in found.frame.to_dict("records"):
        # Not "is below": an error that is not known is no proof that it is small.
        if args.min_sqnr is not None and not row["sqnr_db"] >= args.min_sqnr.decibels:
            has = figure(row["sqnr_db"], ".2f")
            sentences.append(f"{shown(row['tensor'])} has {has} dB, and --min-sqnr asks for {args.min_sqnr.decibels:g}")
        if args.max_bits is not None and row["bits_per_weight"] > args.max_bits:
            has = figure(row["bits_per_weight"], ".3f")
            sentences.append(
                f"{shown(row['tensor'])} has {has} bits per weight, and --max-bits allows {args.max_bits:g}"
            )
    return sentences


def gate(sentences: list[str], path: str) -> None:
    """Say what fails, a line each; CheckpointError if anything does."""
    for sentence in sentences:
        note(f"fails: {sentence}")
    if sentences:
        raise CheckpointError(f"{shown(Path(path).name)} is whole, and fails {counted(len(sentences), 'check')}")


def bytes_of(path: str) -> int:
    """Bytes of a file, or of all files of a folder."""
    if is_url(path):
        with open_checkpoint(path) as export:
            return sum(file.size for file in export.files)
    files = [Path(path)] if Path(path).is_file() else Path(path).rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
