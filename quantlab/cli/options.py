"""Arguments that several commands share, and their help."""

import argparse
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..core.calibration import CALIBRATIONS
from ..core.config import PRESETS
from ..core.dtypes import DTYPES, MAPPINGS
from ..errors import ConfigError, QuantlabError
from ..formats import FORMATS
from ..sweeping.weights import DEFINITION

Parsed = TypeVar("Parsed")

OPENS = ", ".join(suffix for known in FORMATS.values() for suffix in known.suffixes)
WRITERS = [name for name, known in FORMATS.items() if known.writable]
# The first format of a suffix is its default; folders have no suffix.
SUFFIXES = {FORMATS[name].suffix: name for name in reversed(WRITERS) if FORMATS[name].suffix}

WIDTH = 100  # characters of a line of help


def wrapped(term: str, words: str) -> str:
    """A line of a list of terms, continued below its explanation."""
    return textwrap.fill(f"  {term:20}{words}", WIDTH, subsequent_indent=" " * 22, break_on_hyphens=False)


SLUG_HELP = "\n".join(
    [
        "A configuration is named by its slug, DTYPE-MAPPING-GRANULARITY-CALIBRATION: int4-sym-g128-mse.",
        wrapped("dtype", " ".join(name for name, kind in DTYPES.items() if kind.configurable)),
        wrapped("mapping", ", ".join(f"{m.token} ({m.name}: x = {m.formula})" for m in MAPPINGS.values())),
        wrapped(
            "granularity",
            "tensor: one scale; ch0: one per index along axis 0; ch-1: along the last; g128: per 128 of a row",
        ),
        wrapped(
            "calibration", f"{', '.join(CALIBRATIONS)}: the range that codes cover; parameters as in percentile1_99"
        ),
        wrapped("suffixes", "-sfp16, -sbf16: scales stored in 16 bits; -pow2: scales are powers of two"),
        wrapped("or alone", " ".join(name for name, kind in DTYPES.items() if not kind.configurable)),
        wrapped("or a preset", " ".join(PRESETS)),
    ]
)

FORMAT_HELP = "\n".join(
    ["Formats, the first of a suffix being its default:", *(wrapped(name, FORMATS[name].label) for name in WRITERS)]
)
TENSORS_HELP = f"names or globs of tensors, quoted so that the shell leaves them alone; default: {DEFINITION}"
DEFINITION_LINES = textwrap.fill(DEFINITION, WIDTH - 10, break_on_hyphens=False)  # within a text of help
FILE_HELP = f"{OPENS}, a folder with safetensors and their index, or a file quantlab wrote; a path or a URL"
OTHERS = ("copy", "leave")
OUT_HELP = "the file to write; it appears whole or not at all"


class UsageError(Exception):
    """Arguments that do not go together; main() shows it with the usage, as argparse does its own."""


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], summary: str, text: str
) -> argparse.ArgumentParser:
    """The parser of one command, with FILE as its first argument."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        # argparse would put FILE last, where an option that takes several values swallows it.
        usage=f"quantlab {name} FILE [options]",
        epilog=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_file(parser: argparse.ArgumentParser, help: str = FILE_HELP) -> None:
    """FILE, what is opened."""
    parser.add_argument("file", metavar="FILE", help=help)


def add_tensors(parser: argparse.ArgumentParser, help: str = TENSORS_HELP) -> None:
    """--tensors GLOB ..."""
    parser.add_argument("--tensors", metavar="GLOB", nargs="+", action="extend", type=one(glob), default=[], help=help)


def add_output(parser: argparse.ArgumentParser) -> None:
    """What the commands share that write a packed file."""
    suffixes = ", ".join(SUFFIXES)
    parser.add_argument("-o", "--out", metavar="OUT", help=f"{OUT_HELP}; its suffix says the format: {suffixes}")
    parser.add_argument("--format", choices=WRITERS, help="the format, whatever the suffix of OUT")
    parser.add_argument(
        "--others", choices=OTHERS, help="what becomes of tensors that no rule speaks of: copied into the file as they "
        "are, or left out (default: copied for other programs' formats, which hold whole models)",
    )  # fmt: skip
    parser.add_argument(
        "--copy-refused", action="store_true", help="copy tensors that cannot be quantized so: their shape does not "
        "fit, or the format cannot hold them",
    )  # fmt: skip
    parser.add_argument("--snippet", action="store_true", help="print Python that loads the result, too")
    parser.add_argument("--dry-run", action="store_true", help="show tensors, bytes and ratio, and write nothing")
    parser.add_argument("--json", action="store_true", help="print JSON; null stands for what does not exist")


def chosen_format(args: argparse.Namespace) -> str:
    """--format, or the one that OUT's suffix names."""
    format = args.format or SUFFIXES.get(Path(args.out or "").suffix.lower())
    if format is None:
        raise UsageError(
            f"{args.out!r} does not say which format to write: end it in {' or '.join(SUFFIXES)}, or give --format"
        )
    return format


def several(parse: Callable[[str], Parsed]) -> Callable[[str], list[Parsed]]:
    """An argparse type: one value or more, separated by commas, each read by `parse`."""

    def parts(text: str) -> list[Parsed]:
        found = [parse(part) for part in text.split(",") if part]
        if not found:
            raise ConfigError(f"{text!r} holds no value")
        return found

    return one(parts)


def glob(text: str) -> str:
    """A glob for names of tensors. ConfigError if it is empty, as a variable of a shell may be by mistake."""
    if not text:
        raise ConfigError("'' is no name and no glob: write * for all tensors")
    return text


def one(parse: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """An argparse type whose errors are quantlab's own sentences."""

    def convert(text: str) -> Parsed:
        try:
            return parse(text)
        except QuantlabError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def flattened(lists: Iterable[Iterable[Parsed]]) -> list[Parsed]:
    """The values of a repeated option that takes several."""
    return [value for values in lists for value in values]


def examples(*pairs: Sequence[str]) -> str:
    """Examples for a help text: (what it does, what to type after `quantlab`) each."""
    return "\n".join(f"  # {what}\n  quantlab {line}\n" for what, line in pairs)
