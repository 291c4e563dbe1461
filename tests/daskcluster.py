"""A Dask cluster on loopback, of real processes: they can be killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from distributed import Client

from quantlab.sweeping.cluster.connection import quiet

SECONDS = 60  # until a process that does not start is a failure


class Cluster:
    """A scheduler, and workers of one thread each; `env` is added to the environment of all of them."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.folder, self.env = folder, {**os.environ, **(env or {})}
        self.workers: dict[str, subprocess.Popen] = {}
        file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--no-show", "--scheduler-file", str(file))
        self.address = until(lambda: file.exists() and file.read_text() and json.loads(file.read_text())["address"])
        self.client = Client(self.address, set_as_default=False)

    def _start(self, kind: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen:
        command = [sys.executable, "-m", "dask", kind, "--host", "127.0.0.1", "--no-dashboard", *arguments]
        log = (self.folder / f"{kind}-{time.monotonic_ns()}.log").open("w")
        return subprocess.Popen(command, stdout=log, stderr=log, env={**self.env, **(env or {})}, cwd=self.folder)

    def add_worker(self, env: dict[str, str] | None = None) -> str:
        """Start a worker; returns its address once the scheduler knows it."""
        place = str(self.folder / f"worker{len(self.workers)}")
        process = self._start("worker", self.address, "--nthreads=1", "--no-nanny", "--local-directory", place, env=env)
        address = until(lambda: next(iter(self.client.nthreads().keys() - self.workers.keys()), None))
        self.workers[address] = process
        return address

    def busy(self) -> str:
        """The address of a worker that has tasks to do, as soon as there is one."""
        return until(lambda: next((worker for worker, tasks in self.client.processing().items() if tasks), None))

    def kill_in_the_middle(self) -> bool:
        """End a worker that has tasks to do, at once (SIGKILL). False if there is none at the moment."""
        address = next((worker for worker, tasks in self.client.processing().items() if tasks), None)
        if address is None:
            return False
        process = self.workers[address]
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)  # what it said last has arrived
        if not self.client.processing()[address]:
            process.send_signal(signal.SIGCONT)
            return False
        process.kill()
        process.wait()
        return True

    def idle(self) -> bool:
        """Whether the scheduler knows of no task, and no worker computes any."""
        known = self.client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        running = self.client.run(lambda dask_worker: len(dask_worker.state.all_running_tasks))
        return not known and not any(running.values())

    def close(self) -> None:
        """End all of it, whatever state it is in."""
        for process in [*self.workers.values(), self.scheduler]:
            process.kill()
            process.wait()
        with contextlib.suppress(Exception), quiet():
            self.client.close(timeout=1)


@contextlib.contextmanager
def running(folder: Path, workers: int = 2, env: dict[str, str] | None = None) -> Iterator[Cluster]:
    """A cluster with so many workers."""
    folder.mkdir(exist_ok=True)
    cluster = Cluster(folder, env)
    try:
        for _ in range(workers):
            cluster.add_worker()
        yield cluster
    finally:
        cluster.close()


def until(condition):
    """What `condition()` returns, once that is true."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found
