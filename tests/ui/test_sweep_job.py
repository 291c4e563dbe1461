"""A sweep as a job gives the library's own table, reports on the way, and stops when told to."""

import time

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from quantlab.core.config import grid
from quantlab.errors import ConfigError, StoreError
from quantlab.formats import open_checkpoint
from quantlab.sweeping.sweep import stream, sweep
from quantlab.ui import jobs, sweep_job, sweep_store
from quantlab.ui.state import Session

CONFIGS = grid(["int4", "int8"], ["symmetric", "affine"], ["tensor", "ch1"], ["minmax", "mse"])
KEY = ("model", 1, 1)


def session_of(checkpoint) -> Session:
    return Session(source="/models/model.safetensors", opened=(KEY, checkpoint))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    rng = np.random.default_rng(2)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tensors = {f"layer.{i}.weight": rng.standard_normal((32, 48)).astype(np.float32) for i in range(3)}
    save_file(tensors | {"bias": np.ones(7, np.float32), "broken": np.float32([np.nan])}, path)
    with open_checkpoint(path) as checkpoint:
        yield checkpoint


def test_a_job_gives_the_table_and_the_refusals_of_the_library(checkpoint):
    job = sweep_job.start(session_of(checkpoint), CONFIGS, checkpoint.names)
    assert job.finished.wait(60)
    expected = sweep(checkpoint, CONFIGS, checkpoint.names)
    assert job.state == "done"
    assert job.result.measured == len(checkpoint.names)
    pd.testing.assert_frame_equal(job.result.frame, expected, check_dtype=False)
    assert job.result.refused == expected.attrs["refused"]
    assert job.fraction == 1


def test_rows_of_finished_tensors_are_there_before_the_end(checkpoint):
    seen = []
    job = sweep_job.start(session_of(checkpoint), CONFIGS, checkpoint.names)
    while not job.finished.wait(0.001):
        if job.partial is not None and (not seen or seen[-1] is not job.partial):
            seen.append(job.partial)
    for results in [*seen, job.result]:
        assert (results.frame.groupby("tensor").size() == len(CONFIGS)).all()
        assert results.names == tuple(checkpoint.names)
        assert results.measured == results.frame["tensor"].nunique()


def test_a_sweep_is_cancelled_within_a_tensor_and_keeps_what_it_measured(tmp_path):
    path = tmp_path / "large.npz"
    rng = np.random.default_rng(0)
    np.savez(path, first=np.ones((4, 4), np.float32), second=rng.standard_normal((1500, 2000)).astype(np.float32))
    heavy = grid(["int2", "int3", "int4", "int5", "int6"], ["uniform", "affine"], ["g32", "g64", "ch0"], ["mse"])
    with open_checkpoint(path) as checkpoint:
        job = sweep_job.start(session_of(checkpoint), heavy, checkpoint.names)
        while job.active and not job.step.at.startswith("second"):
            time.sleep(0.01)
        time.sleep(0.3)
        job.cancel()
        assert job.finished.wait(30)
    assert job.state == "cancelled"
    assert list(job.partial.frame["tensor"].unique()) == ["first"]


def test_a_sweep_of_nothing_is_refused(checkpoint):
    for configs, names in (([], checkpoint.names), (CONFIGS, [])):
        with pytest.raises(ConfigError, match="at least one"):
            sweep_job.start(session_of(checkpoint), configs, names)


def job_of(checkpoint, configs=CONFIGS, names=None):
    job = sweep_job.start(session_of(checkpoint), configs, names or checkpoint.names)
    assert job.finished.wait(60)
    return job


def test_rows_are_kept_as_each_tensor_ends_and_taken_from_there_the_next_time(checkpoint):
    first = job_of(checkpoint)
    [record] = sweep_store.reach()[0].sweeps()
    assert (
        record.complete
        and record.title == "models/model.safetensors"
        and record.location == "/models/model.safetensors"
    )
    assert first.result.held == 0
    again = job_of(checkpoint)
    assert again.result.held == len(again.result.frame) == record.rows_total
    pd.testing.assert_frame_equal(again.result.frame, first.result.frame)
    assert again.result.figures.measured == len(checkpoint.names)


def test_a_job_that_has_ended_holds_a_table_and_no_rows(checkpoint):
    job = job_of(checkpoint)
    assert job.partial is job.result
    assert job.result.frame is job.result.make()


def test_a_kept_sweep_shows_what_its_job_showed_whether_its_file_is_open_or_not(checkpoint):
    job = job_of(checkpoint)
    [record] = sweep_store.reach()[0].sweeps()
    for session in (session_of(checkpoint), Session(opened=None)):
        kept = sweep_store.results(session, record)
        pd.testing.assert_frame_equal(kept.frame, job.result.frame)
        assert kept.refused == job.result.refused
        assert (kept.names, kept.measured) == (job.result.names, job.result.measured)
        for metric in ("sqnr_db", "nbytes"):
            np.testing.assert_array_equal(
                kept.figures.of_metric(metric), job.result.figures.of_metric(metric), strict=True
            )
    assert sweep_store.results(session_of(checkpoint), record).key == KEY


@pytest.mark.parametrize(
    "session",
    [
        lambda c: Session(source="/models/other.safetensors", opened=(KEY, c)),
        lambda c: Session(source="/models/model.safetensors", opened=(("model", 1, 4 * 10**18), c)),  # in 2096
    ],
    ids=["another file", "changed since"],
)
def test_results_are_not_taken_for_those_of_another_file(checkpoint, session):
    job_of(checkpoint)
    [record] = sweep_store.reach()[0].sweeps()
    assert sweep_store.results(session(checkpoint), record).key is None


def broken_store(tmp_path, monkeypatch):
    (tmp_path / "results.sqlite").write_bytes(b"not a database" * 100)
    monkeypatch.setenv("QUANTLAB_STORE", str(tmp_path))


def test_without_a_store_the_sweep_goes_on_and_says_that_nothing_is_kept(checkpoint, tmp_path, monkeypatch):
    broken_store(tmp_path, monkeypatch)
    job = job_of(checkpoint)
    assert job.state == "done"
    assert "results.sqlite" in job.result.unsaved
    pd.testing.assert_frame_equal(job.result.frame, sweep(checkpoint, CONFIGS, checkpoint.names), check_dtype=False)


def test_a_store_that_fails_in_the_middle_loses_no_row(checkpoint):
    store = sweep_store.reach()[0]
    seen = []

    class Failing:
        """The store, until two tensors have ended."""

        def run(self, *args, on_rows, **options):
            def add(name, rows):
                on_rows(name, rows)
                seen.append(name)
                if len(seen) == 2:
                    raise StoreError("the disk is full: make room")

            return store.run(*args, on_rows=add, **options)

    collected = sweep_job.Collected(session_of(checkpoint), checkpoint.names, CONFIGS)
    job = jobs.start("sweep", "half kept", lambda *job: sweep_job._run(Failing(), collected, stream, *job))
    assert job.finished.wait(60)
    assert job.state == "done" and job.result.unsaved == "the disk is full: make room"
    pd.testing.assert_frame_equal(job.result.frame, sweep(checkpoint, CONFIGS, checkpoint.names), check_dtype=False)


def test_a_cancelled_sweep_goes_on_where_it_was(checkpoint):
    first = sweep_job.start(session_of(checkpoint), CONFIGS, checkpoint.names)
    first.shows.wait(60)
    first.cancel()
    assert first.finished.wait(60)
    measured = first.partial.measured
    again = job_of(checkpoint)
    assert again.result.held >= measured * len(CONFIGS) > 0
    pd.testing.assert_frame_equal(again.result.frame, sweep(checkpoint, CONFIGS, checkpoint.names), check_dtype=False)


def test_two_sessions_sweep_at_once_and_both_get_their_own_rows(checkpoint, tmp_path):
    other = tmp_path / "other.npz"
    np.savez(other, weight=np.random.default_rng(5).standard_normal((300, 200)).astype(np.float32))
    with open_checkpoint(other) as second:
        jobs_ = [
            sweep_job.start(session_of(checkpoint), CONFIGS, checkpoint.names),
            sweep_job.start(Session(source=str(other), opened=(("other", 2, 2), second)), CONFIGS, second.names),
        ]
        assert all(job.finished.wait(60) for job in jobs_)
        for job, source in zip(jobs_, (checkpoint, second), strict=True):
            assert job.state == "done" and job.result.unsaved == ""
            pd.testing.assert_frame_equal(job.result.frame, sweep(source, CONFIGS, source.names), check_dtype=False)
    records = sweep_store.reach()[0].sweeps()
    assert len(records) == 2 and all(record.complete for record in records)
