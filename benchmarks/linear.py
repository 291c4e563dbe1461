"""Cost against work: a sweep of more values, or of more configurations, should cost in proportion or less.

Less, because what configurations share (reading, ranges) is paid once, and so is waking a thread.
"""

from functools import partial

import numpy as np

import quantlab as ql
from quantlab.core.config import QuantConfig

from .timing import Spread, take_turns

TITLE = "Cost against work"
SHARES = (1, 2, 4, 8)


def configurations() -> list[QuantConfig]:
    """64 of them, so that each half, quarter and eighth has the same mix of groups."""
    granularities = (ql.PerTensor(), ql.PerChannel(0), ql.PerGroup(32), ql.PerGroup(128))
    dtypes = ("int4", "int8", "int2", "int6", "int3", "int5", "int7", "int16")
    return [
        QuantConfig(dtype=dtype, mapping=mapping, granularity=granularity)
        for dtype in dtypes
        for mapping in ("symmetric", "affine")
        for granularity in granularities
    ]


def table(x: np.ndarray, budget: float) -> list[str]:
    """Times of sweeps of 1 to 8 times the work, and how far they are from proportion."""
    configs = configurations()
    rows, few = len(x) // max(SHARES), len(configs) // max(SHARES)
    values = {f"{k}x values": partial(ql.sweep, x[: k * rows], configs[: 4 * few]) for k in SHARES}
    more = {f"{k}x configurations": partial(ql.sweep, x, configs[: k * few]) for k in SHARES}
    lines = [f"\n### {TITLE}\n", "| work | takes | for each unit of work, beside the first |", "|---|---|---|"]
    for calls in (values, more):
        medians = {name: Spread.of(taken).median for name, taken in take_turns(calls, budget).items()}
        first = next(iter(medians.values()))
        for share, (name, median) in zip(SHARES, medians.items(), strict=True):
            lines.append(f"| {name} | {1e3 * median:,.1f} ms | {median / share / first:.2f} |")
    return lines
