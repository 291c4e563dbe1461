"""A sweep as a job: into the store tensor by tensor, and on without it where it fails."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from quantlab.core.config import QuantConfig
from quantlab.errors import ConfigError, StoreError
from quantlab.plots.damage import Figures
from quantlab.sweeping.store import ResultStore
from quantlab.sweeping.sweep import Row, Runner, SweepRequest, stream, table
from quantlab.ui import jobs, state, sweep_plan, sweep_store
from quantlab.ui.sweep_results import Results
from quantlab.wording import counted

Rows = list[Row]

PUBLISH_SECONDS = 0.5


def start(
    session: state.Session, configs: Sequence[QuantConfig], tensors: Sequence[str], runner: Runner = stream
) -> jobs.Job:
    """Sweep `configs` over `tensors` of the open file as a job, whose result and partial result are `Results`.

    `runner` measures. Raises ConfigError if there is nothing to do, LimitError if there is too much.
    """
    if not configs or not tensors:
        raise ConfigError("a sweep needs at least one configuration and one tensor: choose some above")
    sweep_plan.check(configs, [session.checkpoint.spec(name) for name in tensors])
    collected = Collected(session, tensors, configs)
    store, collected.unsaved = sweep_store.reach()
    label = f"{counted(len(configs), 'configuration')} × {counted(len(tensors), 'tensor')}"
    return jobs.start("sweep", label, lambda *job: _run(store, collected, runner, *job))


def _run(
    store: ResultStore | None, collected: "Collected", runner: Runner, progress: jobs.Progress,
    cancel: Callable[[], bool],
) -> Results:  # fmt: skip
    """Sweep as far as it goes, and offer what there is in any case."""
    collected.progress = progress
    try:
        results = _measured(store, collected, runner, cancel)
    except BaseException:
        progress.publish(collected.results())
        raise
    progress.publish(results)  # in place of the rows of the last moment, which are several times as large
    return results


def _measured(store: ResultStore | None, collected: "Collected", runner: Runner, cancel: Callable[[], bool]) -> Results:
    """Sweep into the store; without one, or once it fails, go on without it and say so."""
    if store is not None:
        try:
            return _kept(store, collected, runner, cancel)
        except StoreError as error:
            collected.unsaved = str(error)
    request = SweepRequest(
        collected.checkpoint, collected.configs, collected.missing, on_progress=collected.report, cancel=cancel
    )
    for name, rows in runner(request):
        collected.add(name, rows)
    return _settled(collected, collected.results().frame)


def _kept(store: ResultStore, collected: "Collected", runner: Runner, cancel: Callable[[], bool]) -> Results:
    frame = store.run(
        collected.checkpoint, collected.configs, collected.names, title=collected.title, location=collected.location,
        on_progress=collected.report, on_rows=collected.add, cancel=cancel, runner=runner,
    )  # fmt: skip
    collected.held = frame.attrs["held"]
    return _settled(collected, frame)


def _settled(collected: "Collected", frame: pd.DataFrame) -> Results:
    """The results as a table alone: many sweeps stay in memory, and rows in dictionaries take several times that."""
    return replace(collected.results(), make=lambda: frame)


class Collected:
    """Rows as they come in, published at once, then every PUBLISH_SECONDS at most; progress is counted in weights."""

    def __init__(self, session: state.Session, names: Sequence[str], configs: Sequence[QuantConfig]) -> None:
        self.checkpoint, self.key = session.checkpoint, session.key
        self.title, self.location = session.title, session.source
        self.names, self.configs = tuple(names), tuple(configs)
        self.unsaved, self.held = "", 0
        self.progress: jobs.Progress | None = None
        self._figures = Figures(names, [config.slug for config in configs])
        self._rows: dict[str, Rows] = {}
        self._published = -math.inf
        # What still waits: tensors mostly end in the order in which they were given.
        self._sizes = {name: self.checkpoint.spec(name).size for name in names}
        self._whole = sum(self._sizes.values())

    @property
    def missing(self) -> list[str]:
        """The tensors without rows."""
        return list(self._sizes)

    def add(self, name: str, rows: Rows) -> None:
        """The rows of one tensor."""
        self._rows[name] = rows
        self._figures.add(name, rows)
        self._sizes.pop(name, None)
        if self.progress is not None and time.monotonic() - self._published > PUBLISH_SECONDS:
            self.progress.publish(self.results())
            self._published = time.monotonic()

    def report(self, done: int, total: int, at: str) -> None:
        """`done` of `total` rows: a row of a large tensor counts for more than one of a small."""
        count = total // len(self.configs)  # of the tensors that this run was asked for
        within = done / len(self.configs) - (count - len(self._sizes))
        ahead = next(iter(self._sizes.values()), 0) * min(max(within, 0.0), 1.0)
        if self.progress is not None:
            self.progress(self._whole - sum(self._sizes.values()) + ahead, self._whole, at)

    def results(self) -> Results:
        """Everything so far."""
        return Results(
            self.key, self.title, self.names, self._figures, partial(table, dict(self._rows), self.names),
            len(self._rows), self.held, self.unsaved,
        )  # fmt: skip
