"""Long work: one registry of jobs for the whole server, so that work outlives the page that asked for it.

A job belongs to its id and not to a browser tab: a refresh, or a second tab that carries `?job=`, finds it again. Work
is a function `fn(progress, cancel) -> result` that runs on a thread of its own and never calls Streamlit:

    def work(progress, cancel):
        for i, name in enumerate(names):
            if cancel():
                raise Cancelled("stopped")
            progress(i, len(names), name)       # how much is done, of how much, and what it is at
            progress.publish(rows)              # optional: what can be shown before the end
        return rows

    job = jobs.start("sweep", "48 configurations x 15 tensors", work)
    jobs.progress_fragment(job)                 # polls while the job is alive, then reruns the page once
"""

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from quantlab.errors import Cancelled, LimitError, QuantlabError
from quantlab.sweeping.estimate import roughly
from quantlab.ui import text

KEPT = 24  # finished jobs whose results stay in memory, the newest first
RUNNING_PER_KIND = 2  # a third sweep waits for its turn; an export never waits for a sweep
QUEUED_PER_KIND = 16
POLL_SECONDS = 0.5
FIRST_LOOK = 0.4  # seconds that a page waits for something to show

STATES = {  # state -> is there more to come?
    "queued": True,
    "running": True,
    "done": False,
    "failed": False,
    "cancelled": False,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """How far a job is: `done` of `total` in any unit of work, and what it is at."""

    done: float = 0
    total: float = 0
    at: str = ""


@dataclass(eq=False)
class Job:
    """One piece of long work. Written by its thread and the registry; pages read it, and may call `cancel`."""

    kind: str
    label: str
    # Ids travel in URLs, and the registry is shared by all visitors: nobody should guess another's.
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    state: str = "queued"
    step: Step = Step()
    partial: Any = None
    result: Any = None
    error: str = ""
    started: float | None = None
    ended: float | None = None
    thread: threading.Thread | None = None
    cancelling: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    shows: threading.Event = field(default_factory=threading.Event)  # set once there is something to show, or the end

    @property
    def active(self) -> bool:
        """True while the job waits or runs."""
        return STATES[self.state]

    @property
    def fraction(self) -> float:
        """The finished share of the work, 0 to 1."""
        step = self.step
        return min(max(step.done / step.total, 0.0), 1.0) if step.total > 0 else 0.0

    @property
    def seconds(self) -> float:
        """Seconds of running so far, or in all; 0 before the start."""
        if self.started is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.started

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end at the pace so far; None while there is no pace yet."""
        # The first moments say little about the pace: reading and warming up are in them.
        if self.state != "running" or self.fraction < 0.01 or self.seconds < 0.3:
            return None
        return self.seconds * (1 - self.fraction) / self.fraction

    def cancel(self) -> None:
        """Ask the job to stop. It stops at its next look at `cancel()`, within a second."""
        registry().cancel(self)


class Progress:
    """What a job's function reports through: call it with (done, total, at), or `publish` what can be shown already."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, done: float, total: float, at: str = "") -> None:
        """Report `done` of `total` in any unit, and what is being done."""
        # One assignment of a frozen value: a page that reads meanwhile never sees half of it.
        self._job.step = Step(done, total, at)

    def publish(self, partial: Any) -> None:
        """Offer `partial` to the page as `job.partial`. Hand over a new object every time, never one still growing."""
        self._job.partial = partial
        self._job.shows.set()


Work = Callable[[Progress, Callable[[], bool]], Any]


class Registry:
    """All jobs of the process: what waits, what runs, and the newest `kept` that have ended."""

    def __init__(self, kept: int = KEPT, running: int = RUNNING_PER_KIND, queued: int = QUEUED_PER_KIND) -> None:
        self._kept, self._running, self._queued = kept, running, queued
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[tuple[Job, Work]] = deque()
        self._lock = threading.RLock()

    def start(self, kind: str, label: str, fn: Work) -> Job:
        """Queue `fn`; it runs as soon as fewer than the allowed number of its kind do.

        Raises LimitError when too many of this kind wait already.
        """
        job = Job(kind, label)
        with self._lock:
            self._refuse_crowd(kind)
            self._jobs[job.id] = job
            self._waiting.append((job, fn))
            self._dispatch()
        return job

    def get(self, job_id: str | None) -> Job | None:
        """The job with this id; None if there never was one, or if it ended too long ago to be kept."""
        return self._jobs.get(job_id) if job_id else None

    def cancel(self, job: Job) -> None:
        """Ask a job to stop; one that still waits ends at once."""
        with self._lock:
            job.cancelling.set()
            if job.state == "queued":
                self._waiting = deque(pair for pair in self._waiting if pair[0] is not job)
                self._end(job, "cancelled")

    def __len__(self) -> int:
        return len(self._jobs)

    def _refuse_crowd(self, kind: str) -> None:
        waiting = sum(job.kind == kind for job, _ in self._waiting)
        if waiting >= self._queued:
            raise LimitError(
                f"{waiting} jobs of the kind {kind!r} are waiting already: cancel one, or wait for one to end"
            )

    def _dispatch(self) -> None:
        """Start every waiting job whose kind has room, in order of arrival. Called with the lock held."""
        waiting, self._waiting = self._waiting, deque()
        for job, fn in waiting:
            if sum(j.kind == job.kind and j.state == "running" for j in self._jobs.values()) >= self._running:
                self._waiting.append((job, fn))
                continue
            job.state, job.started = "running", time.monotonic()
            # A daemon: Ctrl-C ends the server now, not after the sweep.
            job.thread = threading.Thread(target=self._run, args=(job, fn), name=f"job-{job.kind}", daemon=True)
            job.thread.start()

    def _run(self, job: Job, fn: Work) -> None:
        state, error = "done", ""
        try:
            job.result = fn(Progress(job), job.cancelling.is_set)
        except Cancelled:
            state = "cancelled"
        except BaseException as exception:  # whatever it is, the job must end and say so
            state, error = "failed", sentence(exception)
        with self._lock:
            self._end(job, state, error)

    def _end(self, job: Job, state: str, error: str = "") -> None:
        job.error, job.ended, job.state = error, time.monotonic(), state
        ended = sorted((j for j in self._jobs.values() if not j.active), key=lambda j: j.ended or 0.0)
        for old in ended[: max(len(ended) - self._kept, 0)]:
            del self._jobs[old.id]
        self._dispatch()
        job.finished.set()
        job.shows.set()


def sentence(exception: BaseException) -> str:
    """What a page says about a failure: quantlab's own sentence, or a plain one while the log has the traceback."""
    if isinstance(exception, QuantlabError):
        return str(exception)
    log.error("a job failed", exc_info=exception)
    if isinstance(exception, MemoryError):
        return "there is not enough memory for this: choose fewer or smaller tensors"
    if isinstance(exception, OSError) and exception.strerror:
        return f"the system refused: {exception.strerror} ({exception.filename or 'no file named'})"
    return f"an unexpected {type(exception).__name__} inside quantlab; the server's log has the details"


@st.cache_resource(show_spinner=False)
def registry() -> Registry:
    """The one registry of this server process."""
    return Registry()


def start(kind: str, label: str, fn: Work) -> Job:
    """Run `fn(progress, cancel)` as a job; `kind` groups jobs that share a queue ("sweep", "export", "statistics")."""
    return registry().start(kind, label, fn)


def get(job_id: str | None) -> Job | None:
    """The job with this id, from whichever tab; None if it is unknown or no longer kept."""
    return registry().get(job_id)


def progress_fragment(job: Job, show_partial: Callable[[Any], None] | None = None) -> None:
    """Draw a job that waits or runs, twice a second, with a Cancel button. Only for a page that saw it active.

    The rest of the page stays as it is and answers meanwhile. When the job ends, the whole page is rerun once, and the
    page itself shows the result, the error or that it was cancelled. `show_partial(job.partial)` is drawn below.
    """
    # What is there within moments is drawn at once, and not with the next poll.
    job.shows.wait(FIRST_LOOK)
    if not job.active:
        st.rerun()
    st.fragment(_poll, run_every=POLL_SECONDS)(job, show_partial)


def _poll(job: Job, show_partial: Callable[[Any], None] | None) -> None:
    if not job.active:
        st.rerun()
    bar, button = st.columns([5, 1], vertical_alignment="center")
    bar.progress(job.fraction, text=_headline(job))
    stopping = job.cancelling.is_set()
    if button.button("Stopping" if stopping else "Cancel", key=f"cancel-{job.id}", disabled=stopping, width="stretch"):
        job.cancel()
        # Most jobs are gone within a few hundredths of a second: no need to show "Stopping" to wait for the next poll.
        job.finished.wait(0.3)
        st.rerun(scope="app" if not job.active else "fragment")
    if show_partial is not None and job.partial is not None:
        show_partial(job.partial)


def _headline(job: Job) -> str:
    if job.state == "queued":
        return f"**{text.plain(job.label)}** waits for its turn: {RUNNING_PER_KIND} others run"
    left = job.seconds_left
    pace = f"{roughly(left)} left" if left is not None else "estimating the time left"
    at = text.plain(text.shortened(job.step.at, 96))
    return " · ".join(part for part in (f"**{text.plain(job.label)}**", f"{job.fraction:.0%}", pace, at) if part)
