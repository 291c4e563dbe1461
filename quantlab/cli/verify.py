"""quantlab verify: read a packed file back, check it, and measure it."""

import argparse
from typing import Any

from ..formats import open_checkpoint
from ..shipping.shipping import remeasure
from ..sweeping.tables import json_text
from ..wording import counted
from .options import add_file, command, examples
from .report import records, show_figures
from .terminal import Bar

TEXT = f"""\
Reads a file that quantlab wrote, all of it, and refuses one whose manifest and arrays contradict
each other. With --source, every decoded tensor is compared with the original.

examples:
{
    examples(
        ("is the file whole", "verify small.safetensors"),
        ("and what did it cost", "verify small.safetensors --source model.safetensors"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(commands, "verify", run, "read a packed file back, check it, and measure it again", TEXT)
    add_file(parser, "a file that quantlab wrote")
    parser.add_argument("--source", metavar="FILE", help="what it was quantized from, to measure the errors")
    parser.add_argument("--json", action="store_true", help="print JSON; null stands for what does not exist")


def run(args: argparse.Namespace) -> None:
    """Read, check and measure."""
    with Bar() as bar:
        if args.source is None:
            found = remeasure(args.file, on_progress=bar)
        else:
            with open_checkpoint(args.source) as source:
                found = remeasure(args.file, source, on_progress=bar)
    if args.json:
        print(json_text({"file": args.file, "tensors": records(found)}))
        return
    show_figures(found)
    print(
        f"\n{counted(len(found), 'tensor')}, {found['nbytes'].sum():,} bytes: whole, and consistent with the manifest"
    )
