"""A sweep as a job gives the library's own table, reports on the way, and stops when told to."""

import time

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from quantlab.config import grid
from quantlab.errors import ConfigError
from quantlab.formats import open_checkpoint
from quantlab.sweep import sweep
from quantlab.ui import sweep_job

CONFIGS = grid(["int4", "int8"], ["symmetric", "affine"], ["tensor", "ch1"], ["minmax", "mse"])
KEY = ("model", 1, 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    rng = np.random.default_rng(2)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tensors = {f"layer.{i}.weight": rng.standard_normal((32, 48)).astype(np.float32) for i in range(3)}
    save_file(tensors | {"bias": np.ones(7, np.float32), "broken": np.float32([np.nan])}, path)
    with open_checkpoint(path) as checkpoint:
        yield checkpoint


def test_a_job_gives_the_table_and_the_refusals_of_the_library(checkpoint):
    job = sweep_job.start(checkpoint, KEY, CONFIGS, checkpoint.names)
    assert job.finished.wait(60)
    expected = sweep(checkpoint, CONFIGS)
    assert job.state == "done"
    assert job.result.measured == len(checkpoint.names)
    pd.testing.assert_frame_equal(job.result.frame, expected, check_dtype=False)
    assert job.result.refused == expected.attrs["refused"]
    assert job.fraction == 1


def test_rows_of_finished_tensors_are_there_before_the_end(checkpoint):
    seen = []
    job = sweep_job.start(checkpoint, KEY, CONFIGS, checkpoint.names)
    while not job.finished.wait(0.001):
        if job.partial is not None and (not seen or seen[-1] is not job.partial):
            seen.append(job.partial)
    for results in [*seen, job.result]:
        assert (results.frame.groupby("tensor").size() == len(CONFIGS)).all()
        assert results.names == tuple(checkpoint.names)
        assert results.measured == results.frame["tensor"].nunique()


def test_a_sweep_is_cancelled_in_under_a_second_and_keeps_what_it_measured(tmp_path):
    path = tmp_path / "large.npz"
    rng = np.random.default_rng(0)
    np.savez(path, first=np.ones((4, 4), np.float32), second=rng.standard_normal((1500, 2000)).astype(np.float32))
    heavy = grid(["int2", "int3", "int4", "int5", "int6"], ["uniform", "affine"], ["g32", "g64", "ch0"], ["mse"])
    with open_checkpoint(path) as checkpoint:
        job = sweep_job.start(checkpoint, KEY, heavy, checkpoint.names)
        while job.active and not job.step.at.startswith("second"):
            time.sleep(0.01)
        time.sleep(0.3)
        asked = time.monotonic()
        job.cancel()
        assert job.finished.wait(10)
        assert time.monotonic() - asked < 1
    assert job.state == "cancelled"
    assert list(job.partial.frame["tensor"].unique()) == ["first"]


def test_a_sweep_of_nothing_is_refused(checkpoint):
    for configs, names in (([], checkpoint.names), (CONFIGS, [])):
        with pytest.raises(ConfigError, match="at least one"):
            sweep_job.start(checkpoint, KEY, configs, names)


def test_an_estimate_grows_with_configurations_weights_and_tensors():
    base = sweep_job.estimate(CONFIGS[:2], [100_000])
    assert 0 < base < 60
    assert sweep_job.estimate(CONFIGS, [100_000]) > base
    assert sweep_job.estimate(CONFIGS[:2], [1_000_000]) > base
    assert sweep_job.estimate(CONFIGS[:2], [100_000] * 3) == pytest.approx(3 * base)


@pytest.mark.parametrize("config", grid(
    ["int2", "int5", "int16", "fp16", "q4_0"], ["uniform"], ["tensor", "ch3", "ch-2", "g100000"],
    ["entropy100", "percentile1_99", "ema0.5_2"], ["bf16"], [False, True],
), ids=str)  # fmt: skip
def test_every_configuration_can_be_estimated(config):
    assert sweep_job.estimate([config], [1000]) >= 0


def test_an_estimate_says_what_it_is_of():
    words = sweep_job.estimate_text(CONFIGS[:2], [1_000_000, 500_000])
    assert (
        "2 configurations" in words and "2 tensors" in words and "1.5 M weights" in words and "3 M evaluations" in words
    )
