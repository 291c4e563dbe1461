"""quantlab export: different tensors, different configurations, one packed file."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ExportError
from ..formats import FORMATS, Checkpoint, open_checkpoint
from ..planning.exported import assignment_of
from ..planning.planfile import load_plan
from ..shipping.recipe import Assignment, Rule, assign
from ..shipping.rehearsal import assigned, refusals, source_nbytes, whole_sizes
from ..shipping.shipping import ship
from .options import (
    DEFINITION_LINES,
    FORMAT_HELP,
    SLUG_HELP,
    UsageError,
    add_file,
    add_output,
    chosen_format,
    command,
    examples,
    one,
)
from .output import checked_out
from .report import preview, report
from .terminal import Bar

TEXT = f"""\
With --plan, what "quantlab plan" chose for every tensor, and all others as they are. Else by rules:
a rule is GLOB=SLUG, or SLUG alone for the weights, which are
{DEFINITION_LINES}.
GLOB=copy takes tensors into the file as they are, GLOB=skip leaves them out. Where several match,
the last one counts: the general rule first, its exceptions after it.
A slug may say channel in place of an axis (int8-sym-channel-minmax), and presets such as w8_channel
mean it: along each tensor's own output channels, which for a matrix of ONNX or Keras are its columns.

{SLUG_HELP}

{FORMAT_HELP}

After writing, the file is read back and measured again; the figures shown are those.

examples:
{
    examples(
        ("see what would be written", "export model.safetensors --config w4_g128 'lm_head*=fp16' --dry-run"),
        (
            "write it",
            "export model.safetensors --config w4_g128 'lm_head*=fp16' '*.gate.weight=skip' -o small.safetensors",
        ),
        ("what a plan says, in exactly the bytes that it says", "export model/ --plan plan.json -o small/"),
        ("biases too, which a glob must name", "export model.npz --config w8_channel '*.bias=fp16' -o small.npz"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(commands, "export", run, "write a packed file, by rules for which tensor gets what", TEXT)
    add_file(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--config", metavar="RULE", nargs="+", action="extend", type=one(Rule.parse),
        help="GLOB=SLUG, GLOB=copy, GLOB=skip, or SLUG alone for every weight",
    )  # fmt: skip
    what.add_argument("--plan", metavar="PLAN", help='a plan of this very file, from "quantlab plan"')
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Write, or say what would be written."""
    if args.plan is None:
        execute(args, args.config)
    else:
        execute_plan(args)


def execute_plan(args: argparse.Namespace) -> None:
    """Write what a plan says, in its own format unless another one is asked for."""
    if args.others or args.copy_refused:
        raise UsageError("a plan says what becomes of every tensor: leave out --others and --copy-refused")
    if not args.out and not args.dry_run:
        raise UsageError("say where to write with -o OUT, or look first with --dry-run")
    plan = load_plan(args.plan)
    format = args.format or plan.format
    path = checked_out(args.out, FORMATS[format].folder) if args.out else None
    with open_checkpoint(args.file) as checkpoint:
        write(args, checkpoint, assignment_of(plan, checkpoint, format), format, path)


def execute(args: argparse.Namespace, rules: Sequence[Rule]) -> None:
    """What `export` and `quantize` share: all but how the rules are said."""
    if not args.out and not args.dry_run:
        raise UsageError("say where to write with -o OUT, or look first with --dry-run")
    format = chosen_format(args) if args.out or args.format else ""
    path = checked_out(args.out, FORMATS[format].folder) if args.out else None
    with open_checkpoint(args.file) as checkpoint:
        others = args.others or ("copy" if format and FORMATS[format].layout else "leave")
        rules = [Rule("*", None, copy=True)] * (others == "copy") + list(rules)
        keep = args.copy_refused
        if format:
            assignment = assigned(checkpoint, rules, format, copy_refused=keep)
        else:
            assignment = assign(checkpoint, rules, copy_refused=keep)
        if format:
            refuse_what_it_cannot_hold(checkpoint, format, assignment)
        write(args, checkpoint, assignment, format, path)


def write(
    args: argparse.Namespace, checkpoint: Checkpoint, assignment: Assignment, format: str, path: Path | None
) -> None:
    """Write an export, or show what it would be."""
    if path is None or args.dry_run:
        preview(assignment, args.json, whole_sizes(checkpoint, assignment, format) if format else None)
        return
    with Bar() as bar:
        shipment = ship(checkpoint, assignment, path, format, on_progress=bar)
    report(shipment, args.json, args.snippet, source_nbytes(checkpoint, format))


def refuse_what_it_cannot_hold(checkpoint: Checkpoint, format: str, assignment: Assignment) -> None:
    """ExportError for what the format, or the model that is written again, cannot hold: before anything is computed."""
    found = refusals(checkpoint, assignment, format)
    if len(found) > 1:
        raise ExportError(f"{found[0]} (and {len(found) - 1:,} more; --copy-refused copies them)")
    if found:
        raise ExportError(found[0])
