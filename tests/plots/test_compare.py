"""The figures of a comparison show counts of the real codes, bytes of the real parts, and errors on one axis."""

import numpy as np
import pytest

from quantlab.core.config import QuantConfig, grid
from quantlab.core.metrics import error_histogram, evaluate
from quantlab.core.tensor import quantize
from quantlab.plots import compare as plots

CONFIGS = grid(["int2", "int4", "int8", "int16", "fp16"], ["symmetric", "affine", "uniform"], ["tensor", "g16"])


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(3).standard_normal((24, 80)).astype(np.float32)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_code_is_counted_once_and_unused_codes_are_there(x, config):
    q = quantize(x, config)
    codes, counts = plots.code_counts(q)
    assert codes.size == counts.size == 2**config.codec.bits
    assert counts.sum() == x.size
    values, expected = np.unique(q.codes.astype(np.int64), return_counts=True)
    np.testing.assert_array_equal(codes[counts > 0], values)
    np.testing.assert_array_equal(counts[counts > 0], expected)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_drawn_code_shares_add_up_to_all_weights(x, config):
    bar = plots.code_usage(quantize(x, config)).data[0]
    assert sum(bar.y) == pytest.approx(100)
    assert len(bar.x) == len(bar.y) <= plots.DRAWN_CODES


@pytest.mark.parametrize(
    ("counts", "bits"), [([4, 4, 4, 4], 2.0), ([7, 0, 0, 0], 0.0), ([1, 1, 0, 0], 1.0), ([2, 1, 1, 0], 1.5)]
)
def test_the_entropy_of_codes(counts, bits):
    assert plots.code_entropy(np.array(counts)) == pytest.approx(bits)
    assert str(plots.code_entropy(np.array([7, 0]))) == "0.0"  # not -0.0


def histograms(x, slugs):
    tensors = {slug: quantize(x, QuantConfig.parse(slug)) for slug in slugs}
    limit = max(evaluate(x, q.config).max_abs_error for q in tensors.values())
    return {slug: error_histogram(x, q, limit=limit) for slug, q in tensors.items()}


@pytest.mark.parametrize("log", [False, True])
def test_error_histograms_share_an_axis_and_each_holds_all_weights(x, log):
    told = histograms(x, ["int4-sym-tensor-minmax", "int8-sym-tensor-minmax", "fp16"])
    fig = plots.error_histograms(told, log)
    assert [trace.name for trace in fig.data] == list(told)
    for trace in fig.data:
        assert tuple(trace.x) == tuple(fig.data[0].x)
        assert sum(trace.y[:-1]) == pytest.approx(100)
    assert (fig.layout.yaxis.type == "log") is log


def test_a_configuration_has_one_colour_in_every_figure(x):
    q = quantize(x, QuantConfig.parse("int4-sym-tensor-minmax"))
    for i in range(4):
        code = plots.code_usage(q, i).data[0].marker.color
        channel = plots.channel_errors({str(k): np.ones(3) for k in range(4)}, 0).data[i].line.color
        assert code == channel == plots.color(i)


def test_channels_beyond_what_can_be_drawn_show_the_worst_of_their_neighbours():
    errors = np.zeros(5 * plots.DRAWN_CHANNELS + 1)
    errors[432] = 7.0
    trace = plots.channel_errors({"int8": errors}, 1).data[0]
    assert len(trace.x) <= plots.DRAWN_CHANNELS
    assert max(trace.y) == 7.0


def test_sorted_channels_fall_from_the_worst_and_say_which_they_are():
    errors = np.random.default_rng(2).random(5 * plots.SORTED_CHANNELS)
    trace = plots.channel_errors({"int8": errors}, 1, ordered=True).data[0]
    assert trace.y[0] == errors.max() and (np.diff(trace.y) <= 0).all()
    np.testing.assert_array_equal(errors[trace.customdata], trace.y)
    assert trace.x[-1] == errors.size and len(trace.x) <= plots.SORTED_CHANNELS + 64


@pytest.mark.parametrize("within", [None, (-1.0, 1.0)])
def test_errors_are_drawn_over_original_values_and_those_within_are_in_sight(x, within):
    decoded = quantize(x, QuantConfig.parse("int4-sym-tensor-minmax")).dequantize().reshape(-1)
    flat = x.reshape(-1)
    fig = plots.error_over_original(flat, decoded, within=within)
    np.testing.assert_allclose(fig.data[1].y, flat.astype(np.float64) - decoded)
    low, high = fig.layout.yaxis.range
    seen = fig.data[1].y if within is None else fig.data[1].y[(flat >= -1) & (flat <= 1)]
    assert low < seen.min() and seen.max() < high
    assert plots.largest_error(flat, decoded, within) == np.abs(seen).max()


def test_the_bytes_drawn_are_those_of_the_parts(x):
    tensors = {
        slug: quantize(x, QuantConfig.parse(slug)) for slug in ("int4-aff-g16-minmax", "int8-uni-ch0-minmax", "fp16")
    }
    parts = {slug: {name: part.nbytes for name, part in q.parts.items()} for slug, q in tensors.items()}
    fig = plots.byte_split(parts)
    assert [trace.name for trace in fig.data] == ["codes", "scales", "zero points", "offsets"]
    for i, q in enumerate(tensors.values()):
        assert sum(trace.x[i] for trace in fig.data) == q.nbytes


def test_decoded_values_are_drawn_over_original_ones(x):
    decoded = quantize(x, QuantConfig.parse("int4-sym-tensor-minmax")).dequantize()
    diagonal, points = plots.original_and_decoded(x.reshape(-1), decoded.reshape(-1)).data
    np.testing.assert_array_equal(points.x, x.reshape(-1))
    np.testing.assert_array_equal(points.y, decoded.reshape(-1))
    assert list(diagonal.x) == list(diagonal.y)
