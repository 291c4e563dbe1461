"""The command line: the engine without a browser, with the same numbers.

Every command is a module with `add(commands)`, which describes its arguments, and `run(args)`. Results go to stdout,
everything else (progress, what was left out, the one sentence of a refusal) to stderr. Exit codes: 0 done, 1 an input
was refused, 2 wrong usage, 130 interrupted, 143 terminated.
"""

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from ..core import pool
from ..errors import Cancelled, QuantlabError
from ..formats.input.files import reason
from . import audit, export, importance, info, plan, quantize, recipe, report_file, sweep, sweeps, verify
from .options import SLUG_HELP, UsageError, examples
from .stopping import Stop
from .terminal import complain, discard_stdout, prepare_streams

CLOSED = 141  # 128 + SIGPIPE, as shells report it

EPILOG = f"""\
{SLUG_HELP}

examples:
{
    examples(
        ("what is in a file", "info model.safetensors --stats"),
        ("which configurations are worth it", "sweep model.safetensors --dtype int4 int8 --granularity g32 g128"),
        ("the best for every tensor in 4.7 GB", "plan model.safetensors --for vllm --budget 4.7GB -o plan.json"),
        ("write one down", "quantize model.safetensors --config int4-sym-g128-mse -o small.safetensors"),
        ("check what was written", "verify small.safetensors --source model.safetensors"),
        ("judge what somebody else has quantized", "audit model-q4.gguf --source model/"),
    )
}
"quantlab COMMAND --help" explains one command. Exit code 0: done. 1: an input was refused, and one
line on stderr says why. 2: wrong usage. 130: interrupted.
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="quantlab",
        description="Decide how to quantize a model's weights, and write the packed result.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"quantlab {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for command in (info, sweep, sweeps, importance, plan, quantize, export, recipe, report_file, verify, audit):
        command.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` is what follows the program's name (default: sys.argv)."""
    prepare_streams()
    stop = Stop()
    if argv is None:  # as a program
        stop.listen()
    try:
        with pool.limits(cancel=stop):
            code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        discard_stdout()
        return CLOSED
    except OSError as error:
        if error.filename is not None:  # not of stdout: nobody may let those of files through
            raise
        discard_stdout()
        complain(f"cannot write to stdout: {reason(error)}")
        return 1
    except (Cancelled, KeyboardInterrupt):
        complain("interrupted; no half-written file is left")
        return stop.code
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = parser().parse_args(argv)
        return _done(args)
    except SystemExit as stop:  # argparse has said what is wrong, or shown what was asked for
        return stop.code if isinstance(stop.code, int) else 0


def _done(args: argparse.Namespace) -> int:
    try:
        args.run(args)
    except UsageError as error:
        args.parser.error(str(error))
    except Cancelled:
        raise
    except QuantlabError as error:
        complain(str(error))
        return 1
    except MemoryError:
        complain("there is not enough memory for this: choose fewer or smaller tensors with --tensors")
        return 1
    return 0
