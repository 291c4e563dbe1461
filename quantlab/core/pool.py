"""One thread pool for the whole process.

Kernels are serial and release the GIL; this module spreads them over the cores. The thread that asks also works, so a
call never waits for a pool that others keep busy, and a call from inside a task cannot deadlock. The other threads take
one item of every call in turn, so that two sweeps at once are helped alike.
"""

import ctypes
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from ..errors import Cancelled

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> set[int]:
    """Cores that this process may use (an affinity mask or a container may allow fewer than exist).

    Asked of the main thread: helpers are kept off one of them.
    """
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(os.getpid())
    return set(range(os.cpu_count() or 1))


def core_count() -> int:
    """Number of `cores`."""
    return len(cores())


class _Helpers:
    """The threads that help, on other cores than the one they are called from.

    Linux may wake a thread on the core of the one that wakes it, and leave it waiting there for a time slice, although
    another core is idle: on a virtual machine of two cores that made 7.6 ms of 3.2 ms of work.
    """

    def __init__(self) -> None:
        self._avoided: dict[int, int] = {}  # core by thread
        self._core = getattr(ctypes.CDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None
        self._turns: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        # No ThreadPoolExecutor: of a thread that Ctrl-C interrupts it in starting it knows nothing, and waits for that
        # one at the end of the program for ever.
        for i in range(max(1, core_count() - 1)):
            threading.Thread(target=self._serve, name=f"quantlab_{i}", daemon=True).start()

    def _serve(self) -> None:
        self._avoided[threading.get_native_id()] = -1
        while True:
            self._turns.get().help(self._turns)

    def submit(self, work: "_Work", count: int) -> None:
        """Ask `count` helpers for help."""
        self._leave_core()
        for _ in range(count):
            self._turns.put(work)

    def _leave_core(self) -> None:
        """Keep helpers off the core of the calling thread, unless that is a helper itself."""
        if self._core is None or threading.get_native_id() in self._avoided:
            return
        core = self._core()
        for thread, avoided in list(self._avoided.items()):
            if avoided != core:
                self._avoided[thread] = core
                with suppress(OSError):  # the thread has ended, or the cores of the process have changed
                    os.sched_setaffinity(thread, cores() - {core} or {core})


@cache
def _helpers() -> _Helpers:
    return _Helpers()


@dataclass(frozen=True)
class Limits:
    """What holds for every `run` inside a `limits` block."""

    workers: int | None = None
    cancel: Callable[[], bool] | None = None


NO_LIMITS = Limits()
# Long calls pass through many layers that have no business knowing of threads or of a Cancel button.
_limits: ContextVar[Limits] = ContextVar("limits", default=NO_LIMITS)


@contextmanager
def limits(workers: int | None = None, cancel: Callable[[], bool] | None = None) -> Iterator[None]:
    """Within the block, `run` uses at most `workers` threads and raises Cancelled once `cancel()` is true.

    What is None stays as it is outside of the block.
    """
    outer = _limits.get()
    token = _limits.set(Limits(workers or outer.workers, cancel or outer.cancel))
    try:
        yield
    finally:
        _limits.reset(token)


def check_cancel() -> None:
    """Raise Cancelled if the `limits` that hold here say so: for work that is long within one item."""
    cancel = _limits.get().cancel
    if cancel is not None and cancel():
        raise Cancelled()


def run(task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`[task(item) for item in items]`, spread over the cores (fewer within `limits`).

    Raises the first error of any task, after the tasks in flight have ended; Cancelled once the `cancel` of `limits` is
    true, which is asked before every item.
    """
    held = _limits.get()
    work = _Work(task, items, held.cancel)
    helpers = min(held.workers or core_count(), len(work.todo)) - 1
    try:
        if helpers > 0:
            _helpers().submit(work, helpers)
        while work.todo:
            work.step()
    finally:
        # What a helper has begun must not outlive the call; a turn that comes later finds nothing to do.
        errors, results = work.release()
    if errors:
        raise errors[0]
    return results


class _Work:
    """Items to do and what came of them, shared by the threads that work on them."""

    def __init__(self, task: Callable, items: Iterable, cancel: Callable[[], bool] | None) -> None:
        self.task, self.cancel = task, cancel
        self.todo = deque(enumerate(items))
        self.results: list = [None] * len(self.todo)
        self.errors: list[BaseException] = []
        # The caller's limits: a task that calls `run` itself must hear of a Cancel on any thread.
        self.context = copy_context()
        self._helping, self._changed = 0, threading.Condition()

    def step(self) -> None:
        """Do one item, if one is left."""
        try:
            index, item = self.todo.popleft()
        except IndexError:  # another thread took the last one
            return
        try:
            if self.cancel is not None and self.cancel():
                raise Cancelled()
            self.results[index] = self.task(item)
        except BaseException:
            self.todo.clear()
            raise

    def help(self, turns: "queue.SimpleQueue[_Work]") -> None:
        """Do one item, and come back for another when the calls that wait behind this one have had their turn."""
        if self.todo and self.begin():
            try:
                self.context.copy().run(self.step)
            except BaseException as error:
                self.errors.append(error)
            finally:
                self.end()
            turns.put(self)

    def begin(self) -> bool:
        """Announce a helper; False if the call has ended."""
        with self._changed:
            self._helping += self.task is not None
            return self.task is not None

    def end(self) -> None:
        """The helper is done with its item."""
        with self._changed:
            self._helping -= 1
            self._changed.notify_all()

    def release(self) -> tuple[list[BaseException], list]:
        """Errors of helpers and the results, once no helper is at work.

        Nothing is kept: a turn that is left over stays in the executor's queue for a while, and with it this object.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._helping)
            errors, results = self.errors, self.results
            self.errors, self.results = [], []
            self.task = self.cancel = self.context = None  # type: ignore[assignment]
        return errors, results
