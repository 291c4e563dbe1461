"""A cluster is offered where the server was started with one, measures the same, and fails in a sentence."""

import pandas as pd
import pytest

pytest.importorskip("distributed", reason="needs requirements-cluster.txt")

from quantlab.formats import open_checkpoint
from quantlab.sweeping.sweep import sweep
from tests.daskcluster import running
from tests.pages.app import job_of, page, said
from tests.pages.sweeping import CONFIGS, SMALL, run_button, swept


def test_without_a_cluster_nothing_is_asked():
    at = page("sweep", **SMALL)
    assert not [control for control in at.segmented_control if control.key == "on"]


def test_the_rows_of_the_cluster_are_those_of_this_computer(model, tmp_path, monkeypatch):
    with running(tmp_path / "cluster", workers=1) as cluster:
        monkeypatch.setenv("QUANTLAB_CLUSTER", cluster.address)
        at = swept(file=model, on="Cluster")
        job = job_of(at)
    assert not at.exception and not at.error and job.state == "done"
    with open_checkpoint(model) as checkpoint:
        expected = sweep(checkpoint, CONFIGS, job.result.names)
    pd.testing.assert_frame_equal(job.result.frame, expected, check_dtype=False)


def test_this_computer_stays_the_choice_until_another_is_made(model, monkeypatch):
    monkeypatch.setenv("QUANTLAB_CLUSTER", "tcp://127.0.0.1:1")
    at = swept(file=model)
    assert not at.error and job_of(at).state == "done"


def test_a_cluster_that_is_not_there_is_a_sentence(model, monkeypatch):
    monkeypatch.setenv("QUANTLAB_CLUSTER", "tcp://127.0.0.1:1")
    at = swept(file=model, on="Cluster")
    assert not at.exception and job_of(at).state == "failed"
    assert "The sweep failed" in said(at) and "tcp://127.0.0.1:1" in said(at)


def test_an_address_that_is_none_is_refused_before_the_sweep(monkeypatch):
    monkeypatch.setenv("QUANTLAB_CLUSTER", "over there")
    at = page("sweep", **SMALL, on="Cluster")
    assert not at.exception and "write tcp://HOST:PORT" in said(at)
    assert run_button(at).disabled
