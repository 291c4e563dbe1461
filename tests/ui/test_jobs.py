"""Long work: it reports, stops when told to, fails with a sentence, is found by its id, and does not pile up."""

import threading
import time

import pytest

from quantlab.errors import Cancelled, ConfigError, LimitError
from quantlab.ui import jobs
from quantlab.ui.jobs import Job, Registry, Step


def patient(progress, cancel):
    """Work without an end, that looks at `cancel` the way the core does: between pieces of 0.05 s."""
    for i in range(10_000):
        if cancel():
            raise Cancelled("stopped")
        progress(i, 10_000, f"piece {i}")
        time.sleep(0.05)


@pytest.fixture
def registry():
    registry = Registry(kept=3, running=1, queued=2)
    yield registry
    for job in list(registry._jobs.values()):
        registry.cancel(job)
        assert job.finished.wait(5)


def finish(registry, fn, kind="sweep"):
    job = registry.start(kind, "a job", fn)
    assert job.finished.wait(5)
    return job


def test_a_job_ends_with_the_result_of_its_function(registry):
    job = finish(registry, lambda progress, cancel: 42)
    assert (job.state, job.result, job.error, job.active) == ("done", 42, "", False)


def test_a_job_reports_how_far_it_is_and_what_can_be_shown_before_the_end(registry):
    gate, reported = threading.Event(), threading.Event()

    def work(progress, cancel):
        progress(1, 4, "conv.weight")
        progress.publish(["first row"])
        reported.set()
        gate.wait(5)

    job = registry.start("sweep", "a job", work)
    assert reported.wait(5)
    assert (job.state, job.step, job.fraction, job.partial) == (
        "running",
        Step(1, 4, "conv.weight"),
        0.25,
        ["first row"],
    )
    gate.set()
    assert job.finished.wait(5)


def test_the_time_left_follows_the_pace_so_far():
    job = Job("sweep", "a job", state="running", started=time.monotonic() - 10, step=Step(1, 4))
    assert job.seconds_left == pytest.approx(30, rel=0.01)


@pytest.mark.parametrize(
    "job", [Job("sweep", "waits"), Job("sweep", "just began", state="running", started=time.monotonic())]
)
def test_no_time_left_is_claimed_before_there_is_a_pace(job):
    assert job.seconds_left is None


def test_a_cancel_takes_effect_while_the_work_goes_on(registry):
    job = registry.start("sweep", "a job", patient)
    time.sleep(0.1)
    registry.cancel(job)
    assert job.finished.wait(30)
    assert (job.state, job.error, job.result) == ("cancelled", "", None)


def test_a_job_that_still_waits_is_cancelled_at_once(registry):
    running, waiting = registry.start("sweep", "first", patient), registry.start("sweep", "second", patient)
    assert (running.state, waiting.state) == ("running", "queued")
    registry.cancel(waiting)
    assert waiting.state == "cancelled"
    assert waiting.thread is None


def test_work_that_ended_before_it_saw_the_cancel_keeps_its_result(registry):
    began, gate = threading.Event(), threading.Event()

    def work(progress, cancel):
        began.set()
        gate.wait(5)
        return "complete"

    job = registry.start("sweep", "a job", work)
    assert began.wait(5)
    registry.cancel(job)
    gate.set()
    assert job.finished.wait(5)
    assert (job.state, job.result) == ("done", "complete")


def fail(error):
    def work(progress, cancel):
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ConfigError("unknown dtype 'int44': choose one of int4, int8"),
            "unknown dtype 'int44': choose one of int4, int8",
        ),
        (MemoryError(), "not enough memory"),
        (FileNotFoundError(2, "No such file or directory", "model.safetensors"), "model.safetensors"),
        (ZeroDivisionError("secret detail"), "unexpected ZeroDivisionError"),
        (SystemExit(1), "unexpected SystemExit"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_is_told_in_one_sentence(registry, error, expected):
    job = finish(registry, fail(error))
    assert job.state == "failed"
    assert expected in job.error
    assert "\n" not in job.error
    assert "secret detail" not in job.error


def test_a_failed_job_makes_room_for_the_next(registry):
    finish(registry, fail(ValueError()))
    assert finish(registry, lambda progress, cancel: 1).state == "done"


def test_kinds_do_not_wait_for_each_other(registry):
    registry.start("sweep", "long", patient)
    assert finish(registry, lambda progress, cancel: "written", kind="export").result == "written"


def test_waiting_jobs_start_in_the_order_of_their_arrival(registry):
    order, gate = [], threading.Event()
    first = registry.start("sweep", "first", lambda progress, cancel: gate.wait(5))
    rest = [
        registry.start("sweep", name, lambda progress, cancel, name=name: order.append(name)) for name in ("b", "c")
    ]
    gate.set()
    assert all(job.finished.wait(5) for job in [first, *rest])
    assert order == ["b", "c"]


def test_a_crowd_is_refused_with_the_way_out(registry):
    for name in ("runs", "waits", "waits too"):
        registry.start("sweep", name, patient)
    with pytest.raises(LimitError, match="cancel one"):
        registry.start("sweep", "one too many", patient)


def test_only_the_newest_results_are_kept_and_never_a_running_job_dropped(registry):
    running = registry.start("sweep", "long", patient)
    ended = [finish(registry, lambda progress, cancel, i=i: i, kind="export") for i in range(5)]
    assert [registry.get(job.id) for job in ended] == [None, None, *ended[2:]]
    assert registry.get(running.id) is running
    assert len(registry) == 4


def test_an_id_finds_its_job_and_an_unknown_one_finds_nothing(registry):
    job = finish(registry, lambda progress, cancel: None)
    assert registry.get(job.id) is job
    assert registry.get("no such job") is registry.get("") is registry.get(None) is None


def test_ids_cannot_be_guessed_from_each_other():
    ids = {Job("sweep", "a job").id for _ in range(1000)}
    assert len(ids) == 1000
    assert min(map(len, ids)) >= 12


def test_the_registry_is_the_same_for_every_session_of_the_server():
    job = jobs.start("sweep", "a job", lambda progress, cancel: "result")
    assert job.finished.wait(5)
    found = []
    tab = threading.Thread(target=lambda: found.append(jobs.get(job.id)))
    tab.start()
    tab.join()
    assert found == [job]
