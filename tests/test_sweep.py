"""Sweeps: rows, order, refusals, progress and cancel."""

import numpy as np
import pytest

import quantlab as ql
from quantlab.sweep import COLUMNS

TENSORS = {
    "a": np.random.default_rng(0).standard_normal((8, 96)).astype(np.float32),
    "b": np.random.default_rng(1).standard_normal(700).astype(np.float16),
    "c": np.random.default_rng(2).standard_normal((3, 4, 600)).astype(np.float32),
}
CONFIGS = ql.grid(["int4", "int8", "fp16"], ["symmetric", "affine"], ["tensor", "ch1", "g32"], ["minmax", "entropy"])


def test_a_row_per_tensor_and_configuration_in_the_order_given():
    frame = ql.sweep(TENSORS, CONFIGS)
    assert list(frame.columns) == COLUMNS
    assert [tuple(row) for row in frame[["tensor", "config"]].to_numpy()] == [
        (name, config.slug) for name in TENSORS for config in CONFIGS
    ]
    assert frame.shape[0] == len(TENSORS) * len(CONFIGS)
    assert frame[frame.tensor == "c"]["shape"].unique().tolist() == ["3x4x600"]


def test_figures_are_those_of_evaluate():
    frame = ql.sweep(TENSORS, CONFIGS).set_index(["tensor", "config"])
    for name, x in TENSORS.items():
        for config in CONFIGS:
            try:
                expected = ql.evaluate(x, config)
            except ql.QuantlabError:
                assert np.isnan(frame.loc[(name, config.slug), "mse"])
                continue
            row = frame.loc[(name, config.slug)]
            for metric in ("sqnr_db", "mse", "mae", "max_abs_error", "cosine", "clipped_fraction", "nbytes"):
                assert row[metric] == getattr(expected, metric)
            assert row["compression_ratio"] == expected.compression_ratio


def test_what_cannot_serve_a_tensor_is_a_row_without_figures_and_a_sentence():
    frame = ql.sweep(TENSORS, CONFIGS)
    refused = {(item["tensor"], item["config"]): item["reason"] for item in frame.attrs["refused"]}
    missing = frame[frame["mse"].isna()]
    assert set(refused) == set(zip(missing["tensor"], missing["config"], strict=True))
    assert "axis 1 does not exist" in refused["b", "int4-sym-ch1-minmax"]
    assert "at least 512 values" in refused["a", "int8-aff-g32-entropy"]


def test_a_tensor_that_cannot_be_quantized_does_not_stop_the_others():
    source = {"bad": np.float32([1, np.nan]), "counts": np.arange(5), "good": np.ones(5, np.float32)}
    frame = ql.sweep(source, [ql.QuantConfig()])
    assert frame["mse"].isna().tolist() == [True, True, False]
    assert "1 NaN" in frame.attrs["refused"][0]["reason"]
    assert "int64" in frame.attrs["refused"][1]["reason"]


def test_what_does_not_apply_to_a_cast_is_not_said_of_it():
    frame = ql.sweep(TENSORS["a"], [ql.QuantConfig(dtype="bf16")])
    assert frame.loc[0, ["mapping", "granularity", "calibration"]].tolist() == ["-", "-", "-"]


def test_sources_of_every_kind(sample_path):
    one = ql.sweep(TENSORS["a"], [ql.QuantConfig()])
    assert one["tensor"].tolist() == ["tensor"]
    with ql.open_checkpoint(sample_path) as checkpoint:
        frame = ql.sweep(checkpoint, [ql.QuantConfig()], tensors=["conv2.weight", "conv1.weight"])
        assert frame["tensor"].tolist() == ["conv2.weight", "conv1.weight"]
        assert frame["sqnr_db"][0] == ql.evaluate(checkpoint.raw("conv2.weight"), ql.QuantConfig()).sqnr_db


def test_equal_configurations_count_once():
    assert len(ql.sweep(TENSORS["a"], [ql.QuantConfig()] * 3)) == 1


@pytest.mark.parametrize("workers", [1, 2, None])
def test_the_number_of_threads_does_not_change_a_figure(workers):
    frame = ql.sweep(TENSORS, CONFIGS, workers=workers)
    assert frame.equals(ql.sweep(TENSORS, CONFIGS))


def test_progress_counts_finished_rows_and_ends_with_all_of_them():
    told = []
    ql.sweep(TENSORS, CONFIGS, on_progress=lambda done, total, label: told.append((done, total, label)))
    counts = [done for done, _, _ in told]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == len(TENSORS) * len(CONFIGS)
    assert {total for _, total, _ in told} == {counts[-1]}
    assert all(isinstance(label, str) and label for _, _, label in told)


def test_cancel_is_asked_between_pieces_of_one_tensor():
    """A tensor of 8 M values under a slow search is cancelled long before it is done: after a few pieces."""
    x = np.ones(1 << 23, np.float32)
    asked = []

    def cancel():
        asked.append(True)
        return len(asked) > 5

    with pytest.raises(ql.Cancelled):
        ql.sweep(x, [ql.QuantConfig(calibration=ql.MSE())], cancel=cancel)
    assert len(asked) < 12


@pytest.mark.parametrize("configs", [[], ["int8"], [None]])
def test_configurations_that_are_none_are_refused(configs):
    with pytest.raises(ql.ConfigError, match="QuantConfig"):
        ql.sweep(TENSORS, configs)


def test_a_tensor_that_is_not_there_is_refused():
    with pytest.raises(ql.ConfigError, match="unknown tensor 'd'"):
        ql.sweep(TENSORS, CONFIGS, tensors=["d"])


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_a_number_of_workers_that_is_none_is_refused(workers):
    with pytest.raises(ql.ConfigError, match="workers"):
        ql.sweep(TENSORS, CONFIGS, workers=workers)
