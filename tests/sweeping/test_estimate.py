"""Estimates: they grow with the work, cover every configuration, and name memory that is really taken."""

import pytest

import quantlab as ql
from quantlab.core.granularity import PIECE
from quantlab.formats import TensorSpec
from quantlab.sweeping import estimate as module
from quantlab.sweeping.estimate import (
    Cost,
    copy_bytes,
    duration,
    estimate,
    in_memory,
    kinds,
    peak_bytes,
    representative,
    seconds,
    speedup,
    timed,
)

CONFIGS = ql.grid(["int4", "int8"], ["symmetric", "affine"], ["tensor", "ch1"], ["minmax", "mse"])
EVERY = ql.grid(
    ["int2", "int5", "int16", "fp16", "q4_0"],
    ["uniform"],
    ["tensor", "ch3", "ch-2", "g100000"],
    list(ql.CALIBRATIONS),
    ["bf16"],
    [False, True],
)


def spec(*shape, dtype="float32", nbytes=0):
    return TensorSpec("w", shape, dtype, nbytes)


def test_an_estimate_counts_the_work():
    found = estimate(CONFIGS, [spec(100, 50), spec(7)])
    assert (found.configs, found.tensors, found.values) == (len(CONFIGS), 2, 5007)
    assert (found.rows, found.evaluations) == (2 * len(CONFIGS), 5007 * len(CONFIGS))
    assert found.seconds > 0


def test_time_is_that_of_tensors_and_of_values():
    def cost(kind):
        return Cost(0.5 * len(kind), 0.01 * len(kind))

    assert seconds(CONFIGS[:1], [100], cost, 2) == pytest.approx(0.5 + 1)
    assert seconds(CONFIGS[:1], [100, 100], cost, 2) == pytest.approx(2 * 1.5)
    assert seconds(CONFIGS, [100], cost, 2) == pytest.approx(len(CONFIGS) * 1.5)


def test_threads_help_from_the_second_piece_of_a_tensor_on():
    def spent(size, speedup):
        return seconds(CONFIGS[:1], [size], lambda kind: Cost(0, 1), speedup)

    assert spent(PIECE, 4) == PIECE
    assert spent(2 * PIECE, 4) == PIECE
    assert spent(8 * PIECE, 4) == 2 * PIECE
    assert spent(8 * PIECE, 1) == 8 * PIECE


@pytest.mark.parametrize("config", EVERY, ids=str)
def test_every_configuration_has_a_representative_that_is_built_and_timed(config):
    ((kind, share),) = kinds([config])
    assert kind == (representative(config).slug,)
    assert share == 1
    assert ql.QuantConfig.parse(kind[0]).calibration == config.calibration


def test_what_shares_its_work_is_timed_together_and_equals_once():
    configs = ql.grid(["int4", "int8"], ["affine", "uniform"], ["g32", "g64"], ["minmax"])
    assert kinds(configs) == [
        (("int4-aff-g32-minmax", "int8-aff-g32-minmax"), 2.0),
        (("int4-aff-g64-minmax", "int8-aff-g64-minmax"), 2.0),
    ]


def test_a_configuration_that_serves_no_tensor_of_the_probes_can_be_timed_all_the_same():
    cost = timed(("int8-sym-ch3-minmax",))
    assert cost.per_tensor >= 0 and cost.per_value >= 0


def test_a_machine_of_one_core_has_no_speedup(monkeypatch):
    assert speedup() >= 1
    monkeypatch.setattr(module.pool, "core_count", lambda: 1)
    assert speedup() == 1


def test_memory_is_that_of_the_two_largest_tensors_as_they_are_read():
    base = peak_bytes([], [])
    assert base > 10 << 20  # Python with NumPy and pandas takes more than that
    specs = [spec(1 << 20), spec(1 << 10), spec(1 << 28, dtype="bfloat16", nbytes=1 << 20)]
    assert peak_bytes(CONFIGS, specs) - base == pytest.approx((1 << 29) + (1 << 22), abs=64 << 20)
    assert peak_bytes(CONFIGS[:1] * 10**6, specs) - peak_bytes([], specs) > 1 << 30


def test_a_copy_that_has_to_be_made_is_counted():
    high, wide = spec(1 << 20, 4, dtype="bfloat16"), spec(4, 1 << 20, dtype="float64")
    rows, columns = CONFIGS[:1], ql.grid(["int4"], ["symmetric"], ["ch-1", "ch5"], ["minmax"])
    assert [copy_bytes(rows, each) for each in (high, wide)] == [0, 0]
    assert [copy_bytes(columns, each) for each in (high, wide)] == [8 << 20, 0]
    assert copy_bytes(columns, spec(8, 1 << 20, 2)) == 8 << 23  # float32: 8 << 20 channels of 2 are long columns


def test_what_is_packed_in_its_file_is_counted_as_it_is_in_memory():
    assert in_memory(spec(64, dtype="float32", nbytes=36)) == 256  # four bits and a scale, read as float32
    assert in_memory(spec(64, dtype="of tomorrow", nbytes=36)) == 36


def test_what_is_slow_on_the_smallest_shape_is_timed_on_no_larger_one(monkeypatch):
    shapes = []

    def run(configs, rows, columns, **more):
        shapes.append((rows, columns))
        return module.ENOUGH * rows * columns / 1000

    monkeypatch.setattr(module, "_run", run)
    assert timed(("int8-aff-g8-exact",)) == Cost(0.0, pytest.approx(module.ENOUGH / 1000))
    assert shapes == [module.FIRST, module.PROBES[0]]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "under 0.1 s"),
        (0.1, "0.1 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.9, "1 min 0 s"),
        (3600, "1 h 0 min"),
    ],
)
def test_a_duration_reads_well(seconds, words):
    assert duration(seconds) == words


def test_an_estimate_is_told_with_no_more_digits_than_it_has():
    told = [module.roughly(seconds) for seconds in (0.05, 0.5, 9.6, 54.9, 55, 89, 497, 598, 3440, 3600, 36000)]
    assert told == [
        "under 0.1 s", "about 0.5 s", "about 10 s", "about 50 s", "about 1 min", "about 1 min", "about 8 min",
        "about 10 min", "about 55 min", "about 1 h", "about 10 h",
    ]  # fmt: skip
