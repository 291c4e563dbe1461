"""quantlab verify: read a packed file back, check it, and measure it."""

import argparse
from typing import Any

from ..formats import open_checkpoint
from ..shipping.verifying import told, verify
from ..sweeping.tables import json_text
from .options import add_file, command, examples
from .report import records, show_figures
from .terminal import Bar, note

TEXT = f"""\
Reads an export, all of it, and refuses one that contradicts itself: quantlab's own files (.npz,
.safetensors), and those of other programs (.gguf, .onnx, folders of compressed-tensors and MLX).
With --source, every tensor is compared with the original: copies bit for bit, all others as the
program that the export is for decodes them. Plain tensors can only be checked with --source.

examples:
{
    examples(
        ("is the file whole", "verify small.safetensors"),
        ("and what did it cost", "verify small.safetensors --source model.safetensors"),
        ("a model for another program", "verify small.gguf --source model.gguf"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(commands, "verify", run, "read a packed file back, check it, and measure it again", TEXT)
    add_file(parser, "an export: a file, or a folder")
    parser.add_argument("--source", metavar="FILE", help="what it was quantized from, to measure the errors")
    parser.add_argument("--json", action="store_true", help="print JSON; null stands for what does not exist")


def run(args: argparse.Namespace) -> None:
    """Read, check and measure."""
    with Bar() as bar:
        if args.source is None:
            found = verify(args.file, on_progress=bar)
        else:
            with open_checkpoint(args.source) as source:
                found = verify(args.file, source, on_progress=bar)
    if args.json:
        more = {"kind": found.kind, "same": found.same, "absent": found.absent, "note": found.note}
        print(json_text({"file": args.file, "tensors": records(found.frame), **more}))
        return
    show_figures(found.frame)
    print(f"\n{told(found)}: {found.kind}")
    if found.note:
        note(f"the figures are the format's own, as {found.note}")
