"""What the Compare page shows is measured on the packed tensor itself."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from quantlab.core.config import QuantConfig, grid
from quantlab.core.metrics import ErrorReport, evaluate, measure
from quantlab.core.tensor import quantize
from quantlab.formats import open_checkpoint
from quantlab.sweeping.sweep import sweep
from quantlab.ui import compare_data
from quantlab.ui.state import Session

CONFIGS = grid(["int3", "int8", "fp16"], ["symmetric", "affine", "uniform"], ["ch0", "g16"], ["mse"])


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    rng = np.random.default_rng(9)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    weights = rng.standard_normal((24, 40, 3)).astype(ml_dtypes.bfloat16)
    save_file({"weights": weights, "scalar": np.array(2.5, np.float32)}, path)
    with open_checkpoint(path) as checkpoint:
        yield Session(opened=((str(path), 1, 1), checkpoint))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_side_agrees_with_the_sweep_and_with_the_packed_parts(session, config):
    side = compare_data.side(session, "weights", config)
    row = sweep(session.checkpoint, [config], ["weights"]).iloc[0]
    for name in ("sqnr_db", "mse", "mae", "max_abs_error", "nbytes", "bits_per_weight", "compression_ratio"):
        assert getattr(side.report, name) == pytest.approx(row[name], rel=1e-12), name
    q = quantize(session.checkpoint.raw("weights"), config)
    assert side.parts == {name: part.nbytes for name, part in q.parts.items()}
    assert sum(side.parts.values()) == side.report.nbytes
    assert side.usage.used == np.unique(q.codes).size <= side.usage.levels == 2**config.codec.bits


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_channel_errors_are_those_of_the_decoded_tensor(session, config):
    x = session.checkpoint.load("weights")
    error = (x - quantize(session.checkpoint.raw("weights"), config).dequantize()).astype(np.float64)
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        expected = np.sqrt(np.square(error).mean(axis=others))
        found = compare_data.channel_errors(session, "weights", [config], axis)[str(config)]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_histograms_share_their_edges_and_reach_the_largest_error(session):
    told = compare_data.histograms(session, "weights", CONFIGS[:3])
    edges = [tuple(edges) for edges, _ in told.values()]
    assert len(set(edges)) == 1
    largest = max(evaluate(session.checkpoint.load("weights"), config).max_abs_error for config in CONFIGS[:3])
    assert edges[0][-1] == pytest.approx(largest)
    assert all(counts.sum() == session.checkpoint.spec("weights").size for _, counts in told.values())


def test_a_sample_is_bounded_repeatable_and_has_the_outliers():
    x = np.random.default_rng(1).standard_normal(200_000).astype(np.float32)
    x[[17, 123_456]] = 50, -60
    chosen = compare_data.sample_of(x)
    assert chosen.size <= compare_data.SAMPLED
    assert {17, 123_456} <= set(chosen)
    np.testing.assert_array_equal(chosen, compare_data.sample_of(x))
    assert compare_data.sample_of(x[:10]).size == 10


@pytest.mark.parametrize("size", [3001, 5000, 200_000])
def test_the_largest_are_those_of_a_full_sort(size):
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    x[-1] = -9  # beyond the last whole block
    found = compare_data.largest(x, 100)
    np.testing.assert_array_equal(np.sort(np.abs(x[found])), np.sort(np.abs(x))[-100:])
    assert np.unique(compare_data.largest(np.full(size, 2, np.float32), 100)).size == 100


def test_one_value_alone_can_be_compared(session):
    side = compare_data.side(session, "scalar", QuantConfig())
    assert side.usage.used == 1
    assert side.sample[0].shape == (1,)


def report(**figures) -> ErrorReport:
    return ErrorReport(**{name: figures.get(name, 0.0) for name in ErrorReport.__dataclass_fields__})


def test_the_winner_is_the_highest_or_the_lowest_as_the_metric_wants():
    reports = [report(sqnr_db=20.0, mse=0.1), report(sqnr_db=30.0, mse=0.2), report(sqnr_db=30.0, mse=0.3)]
    assert compare_data.winners(reports, "sqnr_db") == [False, True, True]
    assert compare_data.winners(reports, "mse") == [True, False, False]


def test_nothing_is_won_where_all_are_equal():
    assert compare_data.winners([report(), report()], "mse") == [False, False]


def test_measured_and_shown_are_the_same(session):
    config = QuantConfig.parse("int4-sym-g16-mse")
    q = quantize(session.checkpoint.raw("weights"), config)
    direct = measure(session.checkpoint.load("weights"), q.dequantize())
    assert compare_data.side(session, "weights", config).report.sqnr_db == pytest.approx(direct.sqnr_db, rel=1e-9)
