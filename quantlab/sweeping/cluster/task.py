"""What one worker of a cluster does: read a tensor, or some of its rows, and measure it.

A task is words and numbers, and so is what comes back: the bytes of tensors stay with the worker that read them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...core import pool
from ...core.arrays import as_values
from ...core.channels import Channels
from ...core.config import QuantConfig
from ...core.inputs import Weighting
from ...core.metrics import PieceSums, group_sums
from ...errors import Cancelled, CheckpointError, ClusterError, QuantlabError
from ...formats import Checkpoint, open_checkpoint
from ...wording import shown
from ..identity import engine_version, fingerprint, reader_version
from ..sweep import Row, SweepRequest, by_granularity, stream

OPEN_FILES = 4  # checkpoints that a worker keeps open between tasks


@dataclass(frozen=True)
class Place:
    """Where a checkpoint is, and what tells whether a worker finds the same one there.

    location : an absolute path, or a URL. name : what its file is called. alone : whether it may have files beside it.
    identities : `InputFile.identity` of every file.
    """

    location: str
    name: str
    alone: bool
    identities: tuple[str, ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Place":
        """Of an open checkpoint. Reads a little of every file."""
        first = checkpoint.files[0]
        return cls(checkpoint.location, first.name, first.alone, identities(checkpoint))


@dataclass(frozen=True)
class Task:
    """Some configurations of one tensor.

    slugs : the configurations. rows : a range of rows, cut where `granularity.row_step` allows; None: the whole tensor.
    with_digest : whether the tensor's fingerprint is wanted. threads : to use at most; None: as many as are free.
    weighting : of the whole tensor's inputs; None: they have none.
    """

    place: Place
    tensor: str
    slugs: tuple[str, ...]
    rows: tuple[int, int] | None = None
    with_digest: bool = False
    threads: int | None = None
    weighting: Weighting | None = None


@dataclass(frozen=True)
class Result:
    """What came of a task.

    rows : of a whole tensor. digest : its fingerprint. sums : of a range of rows, for every layout in the order of
    `by_granularity`; None for a layout that cannot be measured so, because of a NaN for one.
    """

    rows: list[Row] | None = None
    digest: bytes | None = None
    sums: list[PieceSums | None] | None = None


def versions() -> str:
    """What has to be the same on both sides, for the same figures."""
    return f"{engine_version()} {reader_version()}"


def perform(expected: str, task: Task) -> Result:
    """Do a task on this worker, for a client of the versions `expected`.

    Raises
    ------
    ClusterError : this worker runs another version of quantlab, or finds another file. Cancelled : nobody wants it.
    """
    if versions() != expected:
        raise ClusterError(
            f"the worker {address()} runs another version of quantlab, of NumPy or of Numba than this program: "
            f"install the same on both, so that the same figures come of it"
        )
    checkpoint = _opened(task.place)
    configs = [QuantConfig.parse(slug) for slug in task.slugs]
    threads, cancel = task.threads or free_threads(), unwanted()
    if task.rows is None:
        return _whole(checkpoint, task, configs, threads, cancel)
    with pool.limits(threads, cancel):
        return _range(checkpoint, task, task.rows, configs)


def _whole(
    checkpoint: Checkpoint, task: Task, configs: list[QuantConfig], threads: int, cancel: Callable[[], bool]
) -> Result:
    """The rows that `sweep` would have for the tensor."""
    digests: list[bytes | None] = []

    def look(name: str, raw: Any) -> list[QuantConfig]:
        if task.with_digest:
            digests.append(fingerprint(raw, checkpoint.spec(name).channel_axis, task.weighting))
        return configs

    importance = {} if task.weighting is None else {task.tensor: task.weighting}
    ((_, rows),) = stream(SweepRequest(checkpoint, configs, [task.tensor], threads, None, cancel, look, importance))
    return Result(rows, next(iter(digests), None))


def _range(checkpoint: Checkpoint, task: Task, rows: tuple[int, int], configs: list[QuantConfig]) -> Result:
    """The sums of a range of rows, piece by piece."""
    layouts = list(by_granularity(configs))
    try:
        x = as_values(checkpoint.raw_rows(task.tensor, *rows))
    except Cancelled:
        raise
    except QuantlabError:
        return Result(sums=[None] * len(layouts))
    weighting = None if task.weighting is None else task.weighting.taken(slice(*rows), x.shape)
    return Result(sums=[_sums(x, together, weighting) for _, together in layouts])


def _sums(x: Any, configs: Sequence[QuantConfig], weighting: Weighting | None) -> PieceSums | None:
    granularity = configs[0].granularity
    try:
        return group_sums(granularity.to_groups(x), configs, Channels.of(x.shape, 0, granularity), weighting)
    except Cancelled:
        raise
    except QuantlabError:
        return None


@lru_cache(OPEN_FILES)
def _opened(place: Place) -> Checkpoint:
    """The checkpoint at a place, kept open for the next task. ClusterError if there is none, or another one."""
    try:
        checkpoint = open_checkpoint(place.location, name=place.name, alone=place.alone)
        found = identities(checkpoint)
    except CheckpointError as error:
        raise ClusterError(
            f"the worker {address()} {error}: give a path that every worker has, or a URL such as s3://..."
        ) from error
    if found != place.identities:
        raise ClusterError(
            f"the worker {address()} has another file than this program at {shown(place.location, 200)}: give one that "
            f"all share, or a URL"
        )
    return checkpoint


def identities(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What tells the files of a checkpoint from others."""
    return tuple(file.identity() for file in checkpoint.files)


def address() -> str:
    """This worker's, as the cluster calls it."""
    from distributed import get_worker

    return get_worker().address


def free_threads() -> int:
    """Threads for a task that begins now: what Dask gave the worker, divided by the tasks that it runs."""
    from distributed import get_worker

    state = get_worker().state
    return max(1, state.nthreads // max(1, state.executing_count))


def unwanted() -> Callable[[], bool]:
    """Whether the task of this thread is wanted no more: Dask lets its thread run on, and only marks it so."""
    from distributed import get_worker
    from distributed.worker import thread_state

    tasks, key = get_worker().state.tasks, thread_state.key

    def asked() -> bool:
        task = tasks.get(key)
        return task is None or task.state in ("cancelled", "released", "forgotten")

    return asked
