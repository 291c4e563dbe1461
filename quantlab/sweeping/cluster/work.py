"""What there is to do for a sweep on a cluster, task by task, and how what comes back becomes rows. Knows no Dask."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...core.config import QuantConfig
from ...core.granularity import row_step
from ...core.inputs import Weighting
from ...core.metrics import ErrorReport, PieceSums, joined, outcomes
from ...errors import ClusterError, QuantlabError
from ...formats import Checkpoint, TensorSpec
from ...wording import shown
from ..sweep import Row, SweepRequest, by_granularity, figures, labels
from .task import Place, Result, Task

RETRIES = 2  # times that a task is sent again after an error that may pass


def row_ranges(shape: tuple[int, ...], values: int) -> list[tuple[int, int]]:
    """The rows of a tensor in ranges of about `values` values, cut where its pieces are cut.

    >>> row_ranges((5, 10**9), 2 * 10**9)
    [(0, 2), (2, 4), (4, 5)]
    """
    step, count = row_step(shape), shape[0]
    rows = max(step, values // math.prod(shape[1:]) // step * step)
    return [(start, min(start + rows, count)) for start in range(0, count, rows)]


def rows_are_channels(spec: TensorSpec) -> bool:
    """Whether a range of rows has whole output channels: sums of parts of them would depend on where it is cut."""
    return len(spec.shape) < 2 or spec.channel_axis % len(spec.shape) == 0


class TensorWork:
    """One tensor: its tasks, and the rows that come of them.

    `missing` is the number of its tasks that are not back.
    """

    def __init__(
        self,
        source: Checkpoint,
        name: str,
        configs: Sequence[QuantConfig],
        range_values: int,
        with_digest: bool,
        weighting: Weighting | None = None,
    ) -> None:
        self._weighting = weighting
        spec = source.spec(name)
        self.name, self.shape, self.nbytes, self.configs = name, spec.shape, spec.nbytes, list(configs)
        split = [config for config in configs if config.granularity.by_rows(spec.shape)]
        if spec.size <= range_values or not split or not source.reads_rows(name) or not rows_are_channels(spec):
            split = []
        self._layouts = list(by_granularity(split))
        self._ranges = row_ranges(spec.shape, range_values) if split else []
        self._sums: dict[tuple[int, int], list[PieceSums | None]] = {}
        self._rows: dict[str, Row] = {}
        self._digest: bytes | None = None
        self._jobs = [(slugs(split), cut) for cut in self._ranges]
        whole = [config for config in configs if config not in frozenset(split)]
        if whole or (split and with_digest):
            self._jobs.insert(0, (slugs(whole), None))  # type: ignore[arg-type]
        self._sent = self.missing = len(self._jobs)

    def tasks(self, base: Task) -> list[Task]:
        """Its tasks, that of the whole tensor, which takes longest, being the first."""
        base = replace(base, tensor=self.name, weighting=self._weighting)
        return [replace(base, slugs=slugs, rows=rows) for slugs, rows in self._jobs]

    def take(self, task: Task, result: Result) -> list[Task]:
        """What came of a task. Returns what is to be done on top of the others: what a range of rows cannot decide."""
        self.missing -= 1
        if task.rows is None:
            self._digest = result.digest or self._digest
            self._rows.update({row["config"]: row for row in result.rows or ()})
            return []
        self._sums[task.rows] = result.sums or []
        again = self._fold() if len(self._sums) == len(self._ranges) else []
        self._sent += bool(again)
        self.missing += bool(again)
        return [replace(task, slugs=slugs(again), rows=None, with_digest=False)] if again else []

    def _fold(self) -> list[QuantConfig]:
        """Make rows of the sums of all ranges. Returns the configurations that refused some, to be asked again.

        What they say names positions and shapes, and has to be about the whole tensor.
        """
        again = []
        for index, (_, together) in enumerate(self._layouts):
            parts = [self._sums[cut][index] for cut in self._ranges]
            sums = [part for part in parts if part is not None]
            if len(sums) < len(parts):
                again += together
                continue
            for config, outcome in zip(
                together, outcomes(self.shape, together, joined(sums), self.nbytes), strict=True
            ):
                if isinstance(outcome, ErrorReport):
                    self._rows[config.slug] = {**labels(self.name, self.shape, config), **figures(outcome)}
                else:
                    again.append(config)
        self._sums.clear()
        return again

    @property
    def rows_done(self) -> int:
        """About how many rows are done."""
        return len(self.configs) * (self._sent - self.missing) // max(self._sent, 1)

    def rows(self) -> list[Row]:
        """The rows, in the order of the configurations; the first has the tensor's fingerprint if that was wanted."""
        rows = [self._rows[config.slug] for config in self.configs]
        if rows and self._digest is not None:
            rows[0]["fingerprint"] = self._digest
        return rows


def slugs(configs: Sequence[QuantConfig]) -> tuple[str, ...]:
    """Configurations by name."""
    return tuple(config.slug for config in configs)


@dataclass(frozen=True, eq=False)
class Part:
    """A task on its way through the cluster: of which tensor, and how often it was sent before."""

    tensor: TensorWork
    task: Task
    tries: int = 0


class Work:
    """The tensors of a sweep, begun as far as tasks are asked for."""

    def __init__(self, source: Checkpoint, request: SweepRequest, range_values: int) -> None:
        self._source, self._range_values = source, range_values
        self._configs, self._wanted, self._importance = request.configs, request.wanted, request.importance
        self._base = Task(Place.of(source), "", (), None, request.wanted is not None, request.workers)
        self._names = deque(request.names)
        self._ready: deque[Part] = deque()
        self._begun: list[TensorWork] = []
        self._given_up: dict[str, str] = {}
        self._finished = 0

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do or to wait for."""
        return not (self._names or self._ready or self._begun)

    @property
    def rows_done(self) -> int:
        """Rows that are done, or need not be done; those of tensors in part included."""
        return self._finished + sum(tensor.rows_done for tensor in self._begun)

    def next_part(self) -> Part | None:
        """The next task to send; None if there is none at the moment."""
        while self._names and not self._ready:
            self._begin(self._names.popleft())
        return self._ready.popleft() if self._ready else None

    def _begin(self, name: str) -> None:
        configs = self._configs if self._wanted is None else self._wanted(name, None)
        self._finished += len(self._configs) - len(configs)
        weighting = self._importance.get(name)
        tensor = TensorWork(self._source, name, configs, self._range_values, self._base.with_digest, weighting)
        self._begun.append(tensor)
        self._ready.extend(Part(tensor, task) for task in tensor.tasks(self._base))

    def completed(self) -> list[TensorWork]:
        """The tensors that are complete, each once."""
        found = [tensor for tensor in self._begun if not tensor.missing]
        for tensor in found:
            self._begun.remove(tensor)
            self._finished += len(tensor.configs)
        return found

    def take(self, part: Part, outcome: Result | BaseException) -> None:
        """What came of a task. Raises an error that would come again on any worker."""
        if part.tensor not in self._begun:  # given up meanwhile
            return
        if isinstance(outcome, Result):
            self._ready.extendleft(Part(part.tensor, task) for task in part.tensor.take(part.task, outcome))
        elif isinstance(outcome, QuantlabError):
            raise outcome
        elif isinstance(outcome, (ImportError, AttributeError)):  # it has no quantlab, or a very different one
            raise ClusterError(
                f"a worker cannot run quantlab's tasks ({outcome}): install this version of quantlab on every worker"
            ) from outcome
        elif part.tries < RETRIES and type(outcome).__name__ != "KilledWorker":  # which Dask has tried on several
            self._ready.appendleft(replace(part, tries=part.tries + 1))
        else:
            self._give_up(part.tensor, outcome)

    def _give_up(self, tensor: TensorWork, error: BaseException) -> None:
        why = f"{type(error).__name__}: {error}"
        if type(error).__name__ == "KilledWorker":
            why = "every worker that tried it died, as one does that needs more memory than there is"
        self._given_up[tensor.name] = why
        self._begun.remove(tensor)
        self._ready = deque(part for part in self._ready if part.tensor is not tensor)

    def check(self) -> None:
        """ClusterError if tensors were given up; the others are done."""
        if self._given_up:
            name, why = next(iter(self._given_up.items()))
            raise ClusterError(
                f"{len(self._given_up)} of the tensors could not be measured on the cluster, {shown(name)} for one "
                f"({' '.join(why.split())[:300]}): the others are done, and the same sweep tries these again"
            )
