"""Sweeps: rows, order, refusals, progress and cancel; tensor by tensor, reading ahead."""

import threading

import numpy as np
import pandas as pd
import pytest

import quantlab as ql
from quantlab.core import pool
from quantlab.formats.input.files import CHUNK
from quantlab.sweeping.sources import ArraySource
from quantlab.sweeping.sweep import COLUMNS, SweepRequest, check_grid, stream, sweep, table, tensor_rows

TENSORS = {
    "a": np.random.default_rng(0).standard_normal((8, 96)).astype(np.float32),
    "b": np.random.default_rng(1).standard_normal(700).astype(np.float16),
    "c": np.random.default_rng(2).standard_normal((3, 4, 600)).astype(np.float32),
}
CONFIGS = ql.grid(["int4", "int8", "fp16"], ["symmetric", "affine"], ["tensor", "ch1", "g32"], ["minmax", "entropy"])


def test_a_row_per_tensor_and_configuration_in_the_order_given():
    frame = sweep(TENSORS, CONFIGS)
    assert list(frame.columns) == COLUMNS
    assert [tuple(row) for row in frame[["tensor", "config"]].to_numpy()] == [
        (name, config.slug) for name in TENSORS for config in CONFIGS
    ]
    assert frame.shape[0] == len(TENSORS) * len(CONFIGS)
    assert frame[frame.tensor == "c"]["shape"].unique().tolist() == ["3x4x600"]


def test_figures_are_those_of_evaluate():
    frame = sweep(TENSORS, CONFIGS).set_index(["tensor", "config"])
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
    frame = sweep(TENSORS, CONFIGS)
    refused = {(item["tensor"], item["config"]): item["reason"] for item in frame.attrs["refused"]}
    missing = frame[frame["mse"].isna()]
    assert set(refused) == set(zip(missing["tensor"], missing["config"], strict=True))
    assert "axis 1 does not exist" in refused["b", "int4-sym-ch1-minmax"]
    assert "at least 512 values" in refused["a", "int8-aff-g32-entropy"]


def test_a_tensor_that_cannot_be_quantized_does_not_stop_the_others():
    source = {"bad": np.float32([1, np.nan]), "counts": np.arange(5), "good": np.ones(5, np.float32)}
    frame = sweep(source, [ql.QuantConfig()])
    assert frame["mse"].isna().tolist() == [True, True, False]
    assert "1 NaN" in frame.attrs["refused"][0]["reason"]
    assert "int64" in frame.attrs["refused"][1]["reason"]


def test_what_does_not_apply_to_a_cast_is_not_said_of_it():
    frame = sweep(TENSORS["a"], [ql.QuantConfig(dtype="bf16")])
    assert frame.loc[0, ["mapping", "granularity", "calibration"]].tolist() == ["-", "-", "-"]


def test_sources_of_every_kind(sample_path):
    one = sweep(TENSORS["a"], [ql.QuantConfig()])
    assert one["tensor"].tolist() == ["tensor"]
    with ql.open_checkpoint(sample_path) as checkpoint:
        frame = sweep(checkpoint, [ql.QuantConfig()], tensors=["conv2.weight", "conv1.weight"])
        assert frame["tensor"].tolist() == ["conv2.weight", "conv1.weight"]
        assert frame["sqnr_db"][0] == ql.evaluate(checkpoint.raw("conv2.weight"), ql.QuantConfig()).sqnr_db


@pytest.mark.parametrize("source", [None, "model.safetensors", [TENSORS["a"]], 1.0])
def test_a_source_that_is_none_is_refused(source):
    with pytest.raises(ql.DTypeError, match=r"the source is a .*: give an array"):
        sweep(source, CONFIGS)


def test_one_name_is_not_its_letters():
    assert sweep({"ab": TENSORS["a"], "a": TENSORS["c"]}, CONFIGS[:1], "ab")["tensor"].tolist() == ["ab"]


def test_equal_configurations_count_once():
    assert len(sweep(TENSORS["a"], [ql.QuantConfig()] * 3)) == 1


@pytest.mark.parametrize("workers", [1, 2, None])
def test_the_number_of_threads_does_not_change_a_figure(workers):
    frame = sweep(TENSORS, CONFIGS, workers=workers)
    assert frame.equals(sweep(TENSORS, CONFIGS))


def test_progress_counts_finished_rows_and_ends_with_all_of_them():
    told = []
    sweep(TENSORS, CONFIGS, on_progress=lambda done, total, label: told.append((done, total, label)))
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
        sweep(x, [ql.QuantConfig(calibration=ql.MSE())], cancel=cancel)
    assert len(asked) < 12


def test_cancel_is_asked_between_configurations_of_one_piece():
    configs = ql.grid(["int2", "int3", "int4"], ["uniform", "affine"], ["g32"], ["mse"])
    asked = []
    with pytest.raises(ql.Cancelled):
        sweep(TENSORS["a"], configs, cancel=lambda: bool(asked.append(True)) or len(asked) >= len(configs))
    assert len(asked) == len(configs)


@pytest.mark.parametrize("configs", [[], ["int8"], [None], None, ql.QuantConfig()], ids=str)
def test_configurations_that_are_none_are_refused(configs):
    with pytest.raises(ql.ConfigError, match=r"give .*(QuantConfig|list)"):
        sweep(TENSORS, configs)


def test_a_tensor_that_is_not_there_is_refused():
    with pytest.raises(ql.ConfigError, match="unknown tensor 'd'"):
        sweep(TENSORS, CONFIGS, tensors=["d"])


@pytest.mark.parametrize("tensors", [5, [["a"]]], ids=str)
def test_what_is_no_list_of_names_is_refused(tensors):
    with pytest.raises(ql.ConfigError, match="give a list of names"):
        sweep(TENSORS, CONFIGS, tensors)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_a_number_of_workers_that_is_none_is_refused(workers):
    with pytest.raises(ql.ConfigError, match="workers"):
        sweep(TENSORS, CONFIGS, workers=workers)


# -- tensor by tensor


class Slow(ArraySource):
    """Arrays that are read when they may be, or not at all."""

    def __init__(self, arrays, read):
        super().__init__(arrays)
        self.read = read

    def raw(self, name):
        self.read(name)
        return super().raw(name)


def test_rows_of_a_stream_are_those_of_single_tensors_and_of_the_sweep():
    streamed = dict(stream(SweepRequest(ArraySource(TENSORS), CONFIGS, list(TENSORS))))
    assert list(streamed) == list(TENSORS)
    for name, x in TENSORS.items():
        pd.testing.assert_frame_equal(
            table({name: tensor_rows(name, x, x.nbytes, CONFIGS)}, [name]),
            table(streamed, [name]),
            check_exact=True,
        )
    whole = sweep(TENSORS, CONFIGS)
    pd.testing.assert_frame_equal(table(streamed, list(TENSORS)), whole, check_exact=True)
    assert table(streamed, list(TENSORS)).attrs == whole.attrs


def test_a_row_has_every_column_and_a_reason_only_if_it_was_refused():
    for _, rows in stream(SweepRequest(ArraySource(TENSORS), CONFIGS, list(TENSORS))):
        for row in rows:
            assert list(row) in (COLUMNS, [*COLUMNS, "reason"])
            assert ("reason" in row) == bool(np.isnan(row["mse"]))


def test_rows_of_a_tensor_are_told_when_it_ends():
    told = []
    frame = sweep(TENSORS, CONFIGS, on_rows=lambda name, rows: told.append((name, rows)))
    assert [name for name, _ in told] == list(TENSORS)
    assert table(dict(told), list(TENSORS)).equals(frame)


def test_the_next_tensor_is_read_while_this_one_is_computed():
    """`b` is read before the rows of `a` are there: `a` is held up until it is."""
    begun = threading.Event()
    source = Slow(TENSORS, lambda name: name == "b" and begun.set())
    overlapped = []
    rows = stream(
        SweepRequest(
            source,
            CONFIGS,
            ["a", "b"],
            on_progress=lambda done, total, label: label.startswith("a: eval") and overlapped.append(begun.wait(30)),
        )
    )
    next(rows)
    assert overlapped
    assert all(overlapped)


def test_a_tensor_that_cannot_be_read_is_refused_and_the_others_are_not():
    def read(name):
        if name == "a":
            raise ql.CheckpointError("the file ends before the tensor")
        if name == "b":
            raise MemoryError
        if name == "d":
            raise OSError(5, "Input/output error")

    source = Slow(TENSORS | {"d": TENSORS["a"]}, read)
    frame = sweep(source, [ql.QuantConfig()])
    assert frame["mse"].isna().tolist() == [True, True, False, True]
    assert frame["shape"].tolist() == ["8x96", "700", "3x4x600", "8x96"]
    reasons = [refused["reason"] for refused in frame.attrs["refused"]]
    assert reasons[0] == "the file ends before the tensor"
    assert "1,400 bytes" in reasons[1] and "not enough memory" in reasons[1]
    assert "Input/output error" in reasons[2]


def test_cancel_while_a_tensor_is_read_does_not_wait_for_it():
    reading, cancelled = threading.Event(), threading.Event()

    def read(name):
        cancelled.set()
        reading.wait(30)

    try:
        with pytest.raises(ql.Cancelled):
            sweep(Slow(TENSORS, read), CONFIGS, cancel=cancelled.is_set)
        assert not reading.is_set()
    finally:
        reading.set()


def test_cancel_ends_the_reading_too(tmp_path):
    """Between two chunks: a large tensor would be read on, by a thread that nobody waits for."""
    path = tmp_path / "large.npy"
    np.save(path, np.zeros(10 * CHUNK, np.uint8))
    asked = []

    def cancel():
        asked.append(True)
        return len(asked) > 3

    with ql.open_checkpoint(path) as checkpoint, pool.limits(cancel=cancel), pytest.raises(ql.Cancelled):
        checkpoint.raw("large")
    assert len(asked) == 4


def test_limits_hold_for_the_sweep_and_not_for_the_one_who_takes_its_rows():
    rows = stream(SweepRequest(ArraySource(TENSORS), CONFIGS, ["a", "b"], workers=1, cancel=lambda: False))
    next(rows)
    assert pool._limits.get() is pool.NO_LIMITS
    rows.close()


def test_only_what_is_wanted_is_evaluated():
    asked = []

    def wanted(name, raw):
        asked.append((name, raw is TENSORS[name]))
        return CONFIGS[:2] if name == "a" else []

    found = dict(stream(SweepRequest(ArraySource(TENSORS), CONFIGS, ["a", "b"], wanted=wanted)))
    assert asked == [("a", True), ("b", True)]
    assert [row["config"] for row in found["a"]] == [config.slug for config in CONFIGS[:2]]
    assert found["b"] == []


@pytest.mark.parametrize(("configs", "sizes"), [(1001, [1] * 1000), (10, [10**14]), (1, [10**15])])
def test_a_grid_beyond_the_limit_is_refused_with_the_number(configs, sizes):
    with pytest.raises(ql.LimitError, match="past the limit"):
        check_grid(configs, sizes)
    check_grid(configs, sizes, max_rows=10**7, max_evaluations=10**16)


def test_two_sweeps_at_once_share_the_machine():
    """Neither of two sweeps of equal work is finished before a third of the other one is."""
    tensors = dict.fromkeys(map(str, range(120)), np.random.default_rng(0).standard_normal((64, 8192), np.float32))
    configs = ql.grid(["int2", "int4", "int8"], ["symmetric", "affine"], ["g32", "ch0"], ["minmax"])
    order, together = [], threading.Barrier(2)

    def work(who):
        together.wait(30)
        sweep(tensors, configs, on_rows=lambda name, rows: order.append(who))

    sweep(tensors["0"], configs)  # compiles
    both = [threading.Thread(target=work, args=(who,)) for who in "ab"]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(300)
    assert order.count("a") == order.count("b") == len(tensors)
    slower = order[-1]
    done_before = order[: len(order) - order[::-1].index("b" if slower == "a" else "a")].count(slower)
    assert done_before >= len(tensors) // 3
