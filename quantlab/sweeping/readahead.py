"""Reading ahead: the next item is read on a thread of its own while the one before it is worked on."""

import queue
import threading
from collections.abc import Callable, Iterable
from contextvars import copy_context
from types import TracebackType
from typing import Generic, Self, TypeVar

from ..core import pool

Item = TypeVar("Item")
Result = TypeVar("Result")

CANCEL_ASKED_EVERY = 0.05  # seconds, while waiting for a reader


class ReadAhead(Generic[Item, Result]):
    """`read(item)` of one item after another, handed over by `take`.

    Item i + 1 is begun when item i is taken, and not before: what was taken and what is being read is all there is in
    memory, if the one who takes has let go of what it took before. The thread has the limits (`pool.limits`) of the
    one who made the reader; `take` raises Cancelled as those of its own caller say.

    Parameters
    ----------
    read : called on the reader's thread; what it raises, `take` raises.
    items : what to read, in this order.
    """

    def __init__(self, read: Callable[[Item], Result], items: Iterable[Item]) -> None:
        self._closed = False
        self._turns = threading.Semaphore(1)
        self._answers: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()
        # A daemon: a file system that does not answer must not keep the program from ending.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._work, read, items), name="quantlab-reader", daemon=True
        )
        self._thread.start()

    def take(self) -> Result:
        """The next item, read; waits for it, and lets the reader begin the one after it."""
        while True:
            pool.check_cancel()
            try:
                result, error = self._answers.get(timeout=CANCEL_ASKED_EVERY)
            except queue.Empty:
                continue
            self._turns.release()
            if error is not None:
                raise error
            return result  # type: ignore[return-value]

    def close(self) -> None:
        """Read no further. What is being read at the moment ends in its own time, and is dropped."""
        self._closed = True
        self._turns.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self, read: Callable[[Item], Result], items: Iterable[Item]) -> None:
        for item in items:
            self._turns.acquire()
            if self._closed:
                return
            self._answers.put(_attempt(read, item))  # no name is given to it: it would be kept while the next is read


def _attempt(read: Callable[[Item], Result], item: Item) -> tuple[Result | None, BaseException | None]:
    """What came of one item. Whatever is raised is handed over: a reader that died would be waited for forever."""
    try:
        return read(item), None
    except BaseException as error:
        return None, error
