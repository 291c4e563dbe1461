"""Cost against work: a sweep of more values, or of more configurations, should cost in proportion."""

import numpy as np

import quantlab as ql
from quantlab.config import QuantConfig
from quantlab.granularity import Granularity

from . import peers
from .timing import Spread, take_turns

TITLE = "Cost against work"
SHARES = (1, 2, 4, 8)


def configurations() -> list[QuantConfig]:
    """Those of the sweep, so that each half, quarter and eighth has the same mix of groups."""
    granularities: dict[int, Granularity] = {0: ql.PerChannel(0), -1: ql.PerTensor()}
    found = [
        QuantConfig(dtype=f"int{bits}", mapping=mapping, granularity=granularities.get(size) or ql.PerGroup(size))
        for size, bits, mapping in peers.SWEEP
    ]
    each = len(found) // 4  # of one granularity
    return [found[granularity * each + i] for i in range(each) for granularity in range(4)]


def table(x: np.ndarray, budget: float) -> list[str]:
    """Times of sweeps of 1 to 8 times the work, and how far they are from proportion."""
    configs = configurations()
    few, eighth = configs[: len(configs) // 8], len(x) // 8
    values = {f"{k}x values": lambda k=k: ql.sweep(x[: k * eighth], few * 2) for k in SHARES}
    more = {f"{k}x configurations": lambda k=k: ql.sweep(x, configs[: k * len(few)]) for k in SHARES}
    lines = [f"\n### {TITLE}\n", "| work | takes | for each unit of work, beside the first |", "|---|---|---|"]
    for calls in (values, more):
        taken = take_turns(calls, budget)
        first = Spread.of(taken[f"1x {next(iter(calls)).split()[1]}"]).median
        for name, seconds in taken.items():
            median, share = Spread.of(seconds).median, int(name.split("x")[0])
            lines.append(f"| {name} | {1e3 * median:,.1f} ms | {median / share / first:.2f} |")
    return lines
