"""quantlab quantize: every weight of a file, one configuration, one packed file."""

import argparse
from dataclasses import replace
from typing import Any

from ..shipping.recipe import WEIGHTS, Rule
from .export import execute
from .options import (
    DEFINITION_LINES,
    FORMAT_HELP,
    SLUG_HELP,
    add_file,
    add_output,
    add_tensors,
    command,
    examples,
    glob,
    one,
)

TEXT = f"""\
Without --tensors, the weights are quantized, which are
{DEFINITION_LINES}.
The command says which are not; --others copy takes them into
the file as they are. "quantlab export" gives different tensors different configurations.

{SLUG_HELP}

{FORMAT_HELP}

After writing, the file is read back and measured again; the figures shown are those, and they
equal those of "quantlab sweep".

examples:
{
    examples(
        ("4 bits in groups of 128", "quantize model.safetensors --config int4-sym-g128-mse -o small.safetensors"),
        (
            "a preset, but not for the output layer",
            "quantize model.npz --config w8_channel --skip 'lm_head*' -o small.npz",
        ),
        ("only look", "quantize model.safetensors --config w4_g128 --dry-run"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(commands, "quantize", run, "write a packed file, all weights in one configuration", TEXT)
    add_file(parser)
    parser.add_argument(
        "--config", metavar="SLUG", type=one(Rule.parse), required=True, help="a slug or the name of a preset"
    )
    add_tensors(parser, "names or globs of tensors, quoted so that the shell leaves them alone; default: see below")
    parser.add_argument(
        "--skip", metavar="GLOB", nargs="+", action="extend", type=one(glob), default=[], help="tensors to leave out"
    )
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Write, or say what would be written."""
    rules = [replace(args.config, pattern=pattern) for pattern in args.tensors or [WEIGHTS]]
    execute(args, rules + [Rule(pattern, None) for pattern in args.skip])
