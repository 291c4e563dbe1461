"""Prints, as Markdown, how fast quantlab is beside its peers. Ratios are of one run; nothing is asserted."""

import argparse
import time
from collections.abc import Sequence

import numpy as np

from quantlab.core import pool

from . import app, checkpoint, exporting, linear, memory, plans, solver
from .machine import Limits, description, limits
from .peers import THREADS, Missing
from .timing import Spread, ratios, take_turns
from .works import SECTIONS, Peer, Work

HEADER = "| work | quantlab | peer | takes | ratio: median (min to max) | to reach |\n|---|---|---|---|---|---|"
MEMORY = "Peak memory of evaluate"


def main() -> None:
    """Time everything and print the tables."""
    options = arguments()
    x = np.random.default_rng(0).standard_normal((4096, options.values // 4096), dtype=np.float32)
    print(f"{x.size:,} float32 values, Gaussian, as {x.shape[0]} x {x.shape[1]}; {THREADS} threads for everybody.\n")
    machine = limits(x, THREADS)
    print("\n".join(f"- {line}" for line in [*description(), *machine.lines()]))
    print("\nA ratio above 1 says how many times as fast as the peer quantlab is. All calls of a work take turns.")
    with pool.limits(workers=THREADS):
        for section in SECTIONS:
            works = [work for work in section.works if options.only in work.name]
            if works:
                print(f"\n### {section.title}\n\n{HEADER}", flush=True)
            for work in works:
                print("\n".join(rows(work, x, options.seconds, machine)), flush=True)
        if options.only in linear.TITLE.lower():
            print("\n".join(linear.table(x, options.seconds)), flush=True)
    if options.only in MEMORY.lower():
        print_memory(x.size)
    if options.only in checkpoint.TITLE.lower():
        print("\n".join(checkpoint.table(options.parameters)), flush=True)
    if options.only in exporting.TITLE.lower():
        print("\n" + exporting.report(exporting.measured(0.4 if options.quick else 2)), flush=True)
    if options.only in solver.TITLE.lower():
        lines = solver.table(0.3, 5.0) if options.quick else solver.table(options.seconds)
        print("\n".join([*lines, solver.large_line(*(solver.SMALL if options.quick else solver.LARGE))]), flush=True)
    if options.only in plans.TITLE.lower():
        for line in plans.table(0.1 if options.quick else 0.5):
            print(line, flush=True)
    if options.only in app.TITLE.lower():
        for line in app.table(3, 5.0) if options.quick else app.table():
            print(line, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--values", type=int, default=1 << 24, help="size of the tensor (default: 16 Mi values)")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each work with its peers (default: 3)")
    parser.add_argument(
        "--parameters", type=int, default=1 << 30, help="weights of the synthetic checkpoint (default: 1 Gi, 2 GiB)"
    )
    parser.add_argument("--quick", action="store_true", help="1 Mi values, half a second a work, a small checkpoint")
    parser.add_argument("--only", default="", help="only works whose name contains this")
    options = parser.parse_args()
    if options.quick:
        options.values, options.seconds, options.parameters = 1 << 20, 0.5, 1 << 23
    options.values = max(1, options.values // (4096 * 128)) * 4096 * 128
    return options


def rows(work: Work, x: np.ndarray, budget: float, machine: Limits) -> list[str]:
    """A row for every peer of a work."""
    if work.values and work.values < x.size:
        x = x[: work.values // x.shape[1]]
    calls, missing = {"": work.ours(x)}, dict[str, str]()
    for peer in work.peers:
        try:
            calls[peer.name] = peer.build(x)
        except Missing as lack:
            missing[peer.name] = str(lack)
    if work.same:
        ours = calls[""]()
        different = [name for name, call in calls.items() if name and not work.same(ours, call())]
        if different:
            raise SystemExit(f"{work.name}: not the result of {', '.join(different)}; nothing was timed")
    taken = take_turns(calls, budget)
    speed = x.size * work.configurations / Spread.of(taken[""]).median / 1e9
    first = f"{work.name} | {milliseconds(taken[''])}, {speed:.2f} G/s"
    if work.reads:
        first += f": {machine.shares(Spread.of(taken['']).median, x.size, work.configurations, work.reads)}"
    return [
        f"| {first if i == 0 else ' | '} | {peer.name} | not measured: {missing[peer.name]} | | |"
        if peer.name in missing
        else f"| {first if i == 0 else ' | '} | {peer.name} | {milliseconds(taken[peer.name])} | {ratio(peer, taken)} |"
        for i, peer in enumerate(work.peers)
    ]


def milliseconds(taken: Sequence[float]) -> str:
    """The median, in milliseconds."""
    return f"{1e3 * Spread.of(taken).median:,.1f} ms"


def ratio(peer: Peer, taken: dict[str, list[float]]) -> str:
    """Ratio to a peer, and what was to be reached."""
    spread = ratios(taken[""], taken[peer.name])
    goal = f"{peer.target:g}x" if peer.target else ""
    return f"**{spread.median:.2f}x** ({spread.low:.2f} to {spread.high:.2f}) | {goal}"


def print_memory(values: int) -> None:
    """Peak memory of `evaluate`, each configuration in a process of its own."""
    print(f"\n### {MEMORY}, over the tensor's {values * 4 / 1e6:,.0f} MB\n")
    print("| configuration | peak | to stay under |\n|---|---|---|")
    for slug in memory.SLUGS:
        print(f"| `{slug}` | {memory.measured(slug, values):.2f}x | 1.1x |", flush=True)


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"\nMeasured in {time.perf_counter() - start:.0f} s.")
