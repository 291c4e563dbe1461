"""The options that choose configurations: a grid of them, or single ones by slug."""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..core.calibration import CALIBRATIONS, parse_calibration
from ..core.config import POPULAR, PRESETS, QuantConfig, combinations
from ..core.dtypes import DTYPES, MAPPINGS, SCALE_DTYPES
from ..core.granularity import parse_granularity
from ..errors import check_known
from .options import UsageError, flattened, several


@dataclass(frozen=True)
class Axis:
    """One dimension of the grid: how its option is read, what is legal, and what it is unless it is given."""

    keyword: str  # of `combinations`
    parse: Callable[[str], Any]
    legal: str
    default: tuple[str, ...]


def known(what: str, legal: Iterable[str], tokens: dict[str, str] | None = None) -> Callable[[str], str]:
    """A parser of the names of a registry, and of other `tokens` for them."""

    def parse(text: str) -> str:
        name = (tokens or {}).get(text, text)
        check_known(what, name, legal)
        return name

    return parse


TOKENS = {mapping.token: name for name, mapping in MAPPINGS.items()}  # as in slugs
GRID = {
    "dtype": Axis("dtypes", known("dtype", DTYPES), " ".join(DTYPES), ("int4", "int8")),
    "mapping": Axis("mappings", known("mapping", MAPPINGS, TOKENS), " ".join(MAPPINGS), ("symmetric", "affine")),
    "granularity": Axis(
        "granularities",
        parse_granularity,
        "tensor, ch0 or any axis, g128 or any size",
        ("tensor", "ch0", "g128"),
    ),
    "calibration": Axis(
        "calibrations", parse_calibration, f"{' '.join(CALIBRATIONS)}, or as in percentile1_99", ("minmax", "mse")
    ),
    "scale_dtype": Axis("scale_dtypes", known("scale dtype", SCALE_DTYPES), " ".join(SCALE_DTYPES), ("fp32",)),
}
POW2 = {"no": [False], "yes": [True], "both": [False, True]}


def add_grid(parser: argparse.ArgumentParser) -> None:
    """The options of the grid, and --config."""
    popular = f"Without any of them, the presets {' '.join(POPULAR)} too."
    grid = parser.add_argument_group("the grid", f"Several values each, separated by blanks or commas.\n{popular}")
    for name, axis in GRID.items():
        grid.add_argument(
            f"--{name.replace('_', '-')}", metavar=name.upper(), nargs="+", action="extend", type=several(axis.parse),
            help=f"{axis.legal} (default: {' '.join(axis.default)})",
        )  # fmt: skip
    grid.add_argument("--pow2-scale", choices=list(POW2), help="scales that are powers of two (default: no)")
    parser.add_argument(
        "--config", metavar="SLUG", nargs="+", action="extend", type=several(QuantConfig.parse), default=[],
        help="configurations by slug or preset, beside the grid; without an option of the grid, instead of it",
    )  # fmt: skip


def chosen(args: argparse.Namespace) -> tuple[list[QuantConfig], list[str]]:
    """The configurations asked for, and sentences about combinations that cannot be built.

    Raises UsageError if none is left.
    """
    named = flattened(args.config)
    if named and args.pow2_scale is None and all(getattr(args, name) is None for name in GRID):
        return list(dict.fromkeys(named)), []
    axes = {axis.keyword: flattened(getattr(args, name) or [axis.default]) for name, axis in GRID.items()}
    configs, refusals = combinations(**axes, pow2_scales=POW2[args.pow2_scale or "no"])
    if args.pow2_scale is None and all(getattr(args, name) is None for name in GRID):
        configs += [PRESETS[name] for name in POPULAR]
    if not named + configs:
        raise UsageError(f"no configuration is left: {refusals[0]}")
    return list(dict.fromkeys(named + configs)), refusals
