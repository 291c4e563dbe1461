"""Times of calls that take turns: A B C, A B C, ... A machine whose speed drifts slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Call = Callable[[], Any]
FEWEST, MOST = 3, 25  # rounds, whatever the budget says
PAUSE = 0.06  # seconds before a call: idle threads of torch and onnxruntime spin on for 33 ms here, and take a core


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of some figures."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        return cls(min(figures), statistics.median(figures), max(figures))


def seconds(call: Call) -> float:
    """Wall-clock seconds of one call; what it returns is freed after the clock has stopped."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    result = call()
    taken = time.perf_counter() - start
    del result
    return taken


def take_turns(calls: Mapping[str, Call], budget: float) -> dict[str, list[float]]:
    """Seconds of every call, round by round, for about `budget` seconds after one round that does not count."""
    warm_up = sum(seconds(call) for call in calls.values())
    rounds = min(max(int(budget / max(warm_up, 1e-9)), FEWEST), MOST)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(seconds(call))
    return taken


def ratios(ours: Sequence[float], peer: Sequence[float]) -> Spread:
    """How many times as fast as the peer we are, round by round."""
    return Spread.of([theirs / own for own, theirs in zip(ours, peer, strict=True)])
