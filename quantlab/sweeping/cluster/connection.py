"""A client of a Dask scheduler: sends tasks, a bounded number at a time, and says what becomes of them."""

import asyncio
import contextlib
import logging
import pickle
import queue
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from threading import Thread
from types import TracebackType
from typing import Any, Self

from ...core import pool
from ...errors import Cancelled, ClusterError
from ...formats.input.remote import INSTALL
from ...wording import counted
from .task import Result, Task, perform, versions
from .work import Part

CONNECT = 10.0  # seconds until a scheduler that does not answer counts as not there
CLOSE = 0.5  # seconds to say goodbye; the scheduler notices all the same
PER_THREAD = 2  # tasks under way per thread of the workers: one that it works on, one that waits at its door
POLL = 0.05  # seconds between two looks at whether the caller has changed its mind
COUNT_EVERY = 0.5  # seconds between two counts of the workers

# What Dask says on the way is said here in one sentence, if it matters.
LOGGERS = ("distributed", "distributed.client", "distributed.core", "distributed.comm", "distributed.batched")

Outcome = tuple[Part, Result | BaseException]


def dask() -> Any:
    """The package `distributed`. ClusterError if it is not installed."""
    try:
        import distributed
    except ImportError as error:
        raise ClusterError(f"a cluster needs Dask, which is not installed here; {INSTALL}") from error
    return distributed


class Call:
    """Pickles as a call of `perform`: who unpickles it does the task, and what comes of it is the object.

    So a task that arrives is bytes to Dask. Sent as a function, it would end a worker that cannot import quantlab, and
    need quantlab on the scheduler's machine.
    """

    def __init__(self, version: str, task: Task) -> None:
        self.arguments = version, task

    def __reduce__(self) -> tuple[Any, tuple[str, Task]]:
        return perform, self.arguments


class Connection:
    """To the scheduler at `address`, within a `with` block; leaving it ends whatever it has sent.

    `patience` are the seconds without any worker after which ClusterError is raised; `cancel` is asked all the time.
    """

    def __init__(self, address: str, patience: float, cancel: Callable[[], bool] | None) -> None:
        self.address, self.patience = address, patience
        self._cancel = cancel or (lambda: False)
        self._version = versions()
        self._outcomes: queue.SimpleQueue[tuple[Part, Future[Result]]] = queue.SimpleQueue()
        self._flying: dict[Part, tuple[Any, Future[Result]]] = {}
        self._workers: dict[str, int] = {}  # threads by address
        self._count: Future[dict[str, int]] | None = None
        self._counted = self._seen = time.monotonic()
        self._quiet = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._quiet.enter_context(quiet())
        try:
            self._client, self._workers = self._opened()
        except BaseException:
            self._quiet.close()
            raise
        return self

    def _opened(self) -> tuple[Any, dict[str, int]]:
        """A client and the workers it found. On a thread of its own: a host that does not answer holds it for long."""
        distributed, opening = dask(), Future[tuple[Any, dict[str, int]]]()

        def connect() -> None:
            try:
                client = distributed.Client(
                    self.address, timeout=CONNECT, set_as_default=False, asynchronous=False, name="quantlab"
                )
                opening.set_result((client, client.nthreads()))
            except BaseException as error:
                opening.set_exception(error)

        Thread(target=connect, name="quantlab-connect", daemon=True).start()
        while not wait([opening], POLL).done:
            try:
                self._check_cancel()
            except Cancelled:
                opening.add_done_callback(_closed)
                raise
        if (error := opening.exception()) is None:
            return opening.result()
        # Dask's own errors, the system's, and those of a program that is no scheduler.
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ClusterError(
            f"there is no scheduler at {self.address}, or it does not answer ({why}): start one with 'dask scheduler', "
            f"and workers with 'dask worker'"
        ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, waiting in self._flying.values():
            waiting.cancel()
        # The scheduler forgets the tasks of a client that has gone, and tells the workers.
        with contextlib.suppress(Exception):
            self._client.close(timeout=CLOSE)
        self._quiet.close()

    def __str__(self) -> str:
        return counted(len(self._workers), "worker")

    @property
    def flying(self) -> int:
        """Tasks that were sent and are not back."""
        return len(self._flying)

    @property
    def free(self) -> int:
        """How many more tasks may be sent now."""
        return PER_THREAD * sum(self._workers.values()) - self.flying

    def send(self, part: Part) -> None:
        """Have a task done by any worker."""
        call = pickle.dumps(Call(self._version, part.task))
        future = self._client.submit(pickle.loads, call, key=f"measure-{uuid.uuid4()}")
        waiting = asyncio.run_coroutine_threadsafe(_result(future), self._client.loop.asyncio_loop)
        self._flying[part] = future, waiting
        waiting.add_done_callback(lambda done: self._outcomes.put((part, done)))

    def next(self) -> Outcome | None:
        """A task that came back, and its result or its error; None if none does for a moment.

        Raises ClusterError if the scheduler has gone, or there are no workers; Cancelled as asked.
        """
        self._check_cancel()
        self._check()
        try:
            part, done = self._outcomes.get(timeout=POLL)
        except queue.Empty:
            return None
        del self._flying[part]
        try:
            return part, done.result()
        except (Exception, CancelledError, asyncio.CancelledError) as error:
            self._check()
            return part, error

    def _check_cancel(self) -> None:
        """Raise Cancelled as asked, here or by the limits of the pool."""
        pool.check_cancel()
        if self._cancel():
            raise Cancelled()

    def _check(self) -> None:
        if self._client.status != "running":
            raise ClusterError(
                f"the scheduler at {self.address} has gone away: what came back before is kept, and the same sweep "
                f"begins there once it is back"
            )
        self._count_workers()
        if not self._workers and time.monotonic() - self._seen > self.patience:
            raise ClusterError(
                f"the cluster at {self.address} has no workers: start some with 'dask worker {self.address}'"
            )

    def _count_workers(self) -> None:
        """Ask the scheduler from time to time for its workers, without waiting for the answer."""
        now = time.monotonic()
        if self._count is not None and self._count.done():
            with contextlib.suppress(Exception, CancelledError):  # a scheduler that has gone is noticed otherwise
                self._workers = self._count.result()
            self._count = None
        if self._workers:
            self._seen = now
        if self._count is None and now - self._counted > COUNT_EVERY:
            self._counted = now
            self._count = asyncio.run_coroutine_threadsafe(self._asked(), self._client.loop.asyncio_loop)

    async def _asked(self) -> dict[str, int]:
        return await self._client.scheduler.ncores()


def _closed(opening: "Future[tuple[Any, dict[str, int]]]") -> None:
    """Close a client that nobody waits for any more."""
    if opening.exception() is None:
        opening.result()[0].close()


async def _result(future: Any) -> Result:
    """What came of a task: its future awaited, as a coroutine of this name."""
    return await future


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block, Dask's client writes no lines of its own into the terminal."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
