"""A sweep as a job, and how long one will take on this machine."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import streamlit as st

from quantlab.config import QuantConfig
from quantlab.errors import ConfigError
from quantlab.estimate import Cost, Kind, duration, seconds, speedup, timed
from quantlab.formats import Checkpoint
from quantlab.plots.damage import Figures
from quantlab.sweep import Row, sweep, table
from quantlab.ui import jobs, text
from quantlab.ui.cache import Key
from quantlab.ui.text import counted

Rows = list[Row]

PUBLISH_SECONDS = 0.5


@dataclass(frozen=True, eq=False)
class Results:
    """What a sweep has measured so far, of which file."""

    key: Key
    names: tuple[str, ...]  # of the tensors asked for
    figures: Figures  # the same in arrays; filled further while the sweep runs
    rows: dict[str, Rows]  # of the tensors measured, in the order of their ends

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The table of the library, of what there is; made when it is first looked at, not while the sweep runs."""
        return table(self.rows, self.names)

    @property
    def refused(self) -> list[dict[str, str]]:
        """What was refused: {"tensor", "config", "reason"} each."""
        return self.frame.attrs["refused"]

    @property
    def measured(self) -> int:
        """How many tensors there are rows of."""
        return len(self.rows)


def start(checkpoint: Checkpoint, key: Key, configs: Sequence[QuantConfig], tensors: Sequence[str]) -> jobs.Job:
    """Sweep `configs` over `tensors` as a job, whose result and partial result are `Results`."""
    if not configs or not tensors:
        raise ConfigError("a sweep needs at least one configuration and one tensor: choose some above")
    label = f"{counted(len(configs), 'configuration')} × {counted(len(tensors), 'tensor')}"
    return jobs.start(
        "sweep", label, lambda progress, cancel: _run(checkpoint, key, configs, tensors, progress, cancel)
    )


def _run(
    checkpoint: Checkpoint, key: Key, configs: Sequence[QuantConfig], tensors: Sequence[str],
    progress: jobs.Progress, cancel: Callable[[], bool],
) -> Results:  # fmt: skip
    collected = _Collected(checkpoint, key, tensors, configs, progress)
    try:
        sweep(checkpoint, configs, tensors, None, collected.report, cancel, on_rows=collected.add)
    finally:
        progress.publish(collected.results())
    return collected.results()


class _Collected:
    """Rows as they come in, published at once, then every PUBLISH_SECONDS at most; progress is counted in weights."""

    def __init__(
        self, checkpoint: Checkpoint, key: Key, names: Sequence[str], configs: Sequence[QuantConfig],
        progress: jobs.Progress,
    ) -> None:  # fmt: skip
        self._key, self._names, self._progress = key, tuple(names), progress
        self._figures = Figures(names, [config.slug for config in configs])
        self._rows: dict[str, Rows] = {}
        self._published = -math.inf
        # What still waits: tensors mostly end in the order in which they were given.
        self._sizes = {name: checkpoint.spec(name).size for name in names}
        self._whole = sum(self._sizes.values())

    def add(self, name: str, rows: Rows) -> None:
        """The rows of one tensor."""
        self._rows[name] = rows
        self._figures.add(name, rows)
        self._sizes.pop(name)
        if time.monotonic() - self._published > PUBLISH_SECONDS:
            self._progress.publish(self.results())
            self._published = time.monotonic()

    def report(self, done: int, total: int, at: str) -> None:
        """`done` of `total` rows: a row of a large tensor counts for more than one of a small."""
        within = done * len(self._names) / total - len(self._rows)
        ahead = next(iter(self._sizes.values()), 0) * min(max(within, 0.0), 1.0)
        self._progress(self._whole - sum(self._sizes.values()) + ahead, self._whole, at)

    def results(self) -> Results:
        """Everything so far."""
        return Results(self._key, self._names, self._figures, dict(self._rows))


def estimate(configs: Sequence[QuantConfig], sizes: Sequence[int]) -> float:
    """Seconds that a sweep of these configurations over tensors of these sizes takes about."""
    return seconds(configs, sizes, _cost, _speedup())


def estimate_text(configs: Sequence[QuantConfig], sizes: Sequence[int]) -> str:
    """What a sweep amounts to, in a line: its size, its evaluations, and the time."""
    values = sum(sizes) * len(configs)
    return (
        f"**{counted(len(configs), 'configuration')}** × {counted(len(sizes), 'tensor')} of {text.count(sum(sizes))} "
        f"weights = {text.count(values)} evaluations, "
        f"**about {duration(estimate(configs, sizes))}** on this computer"
    )


@st.cache_resource(max_entries=1024, show_spinner="Timing configurations of each kind …")
def _cost(kind: Kind) -> Cost:
    return timed(kind)


@st.cache_resource(show_spinner=False)
def _speedup() -> float:
    return speedup()
