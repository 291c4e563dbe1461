"""Metrics: the fused pass equals measuring what was shipped, and both equal the formulas."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from operator import mul

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quantlab as ql
from quantlab.core import pool
from quantlab.core.channels import Channels
from quantlab.core.granularity import ChannelRows, row_step
from quantlab.core.metrics import (
    batches_of,
    error_histogram,
    evaluate_quantized,
    group_errors,
    group_sums,
    joined,
    outcomes,
)
from quantlab.core.slices import measure_slices
from quantlab.core.tensor import fit, fit_together, part_specs
from quantlab.sweeping.sweep import tensor_rows
from tests.tensors import FLOAT32_MAX

SHAPES = [(), (1,), (7,), (3, 50), (5, 7, 11), (40, 3000), (300_000,)]
CONFIGS = ql.grid(
    ["int2", "int5", "int8", "int16", "fp16", "bf16"],
    ["symmetric", "affine", "uniform"],
    ["tensor", "ch0", "ch-1", "g32", "g7"],
    ["minmax", "percentile"],
    ["fp32", "bf16"],
) + ql.grid(
    ["int4"],
    ql.MAPPINGS,
    ["tensor", "g32"],
    ["mse", "octav", "exact", "movavg", "ema", "entropy"],
    ["fp16"],
    [False, True],
)


SAME = (
    *("mse", "rmse", "mae", "max_abs_error", "sqnr_db", "psnr_db", "cosine"),
    *("worst_channel_sqnr_db", "channels_sqnr_db", "zeroed_fraction"),
)


def tensor(shape, dtype=np.float32):
    return np.asarray(np.random.default_rng(9).standard_t(4, shape)).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_evaluate_is_the_measure_of_what_is_shipped(shape):
    """Only the order of sums of at most n terms may differ, and all terms of one sum have one sign but those of x*e."""
    x = tensor(shape)
    checked = 0
    for config in CONFIGS:
        try:
            q = ql.quantize(x, config)
        except (ql.ShapeError, ql.ConfigError):
            continue
        found, shipped = ql.evaluate(x, config), ql.measure(x, q.dequantize())
        for name in SAME:
            assert getattr(found, name) == pytest.approx(getattr(shipped, name), rel=1e-12, abs=1e-300), config
        assert found.nbytes == q.nbytes
        assert found.bits_per_weight == q.bits_per_weight
        assert found.compression_ratio == q.compression_ratio
        assert {name: (s.dtype, s.shape) for name, s in part_specs(shape, config).items()} == {
            name: (part.dtype, part.shape) for name, part in q.parts.items()
        }
        checked += 1
    assert checked > 50


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_was_quantized_already_is_measured_as_evaluate_measures(shape):
    x = tensor(shape, ml_dtypes.bfloat16)
    for config in CONFIGS:
        try:
            q = ql.quantize(x, config)
        except ql.QuantlabError:
            continue
        assert evaluate_quantized(x, q, x.nbytes) == ql.evaluate(x, config), config


@pytest.mark.parametrize("shape", [(50, 60), (1100, 500)], ids=["one piece", "several pieces"])
def test_figures_are_those_of_the_formulas(shape):
    """To within the rounding of sums of n terms."""
    x = tensor(shape)
    x_hat = (x.astype(np.float64) * 1.01 + 0.001).astype(np.float32)
    a, b = x.astype(np.float64), x_hat.astype(np.float64)
    e = a - b
    found, rel = ql.measure(x, x_hat), x.size * 2.0**-52
    assert found.mse == pytest.approx(np.mean(e**2), rel=rel)
    assert found.rmse == pytest.approx(np.sqrt(np.mean(e**2)), rel=rel)
    assert found.mae == pytest.approx(np.abs(e).mean(), rel=rel)
    assert found.max_abs_error == np.abs(e).max()
    assert found.sqnr_db == pytest.approx(10 * np.log10(np.sum(a**2) / np.sum(e**2)), rel=rel)
    assert found.psnr_db == pytest.approx(10 * np.log10(np.abs(a).max() ** 2 / np.mean(e**2)), rel=rel)
    cosine = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
    assert found.cosine == pytest.approx(cosine, rel=rel)
    assert (found.clipped_fraction, found.nbytes, found.compression_ratio) == (None, None, None)


def true_cosine(x: np.ndarray, decoded: np.ndarray) -> float:
    """The cosine of the angle between two arrays, in exact arithmetic up to its roots."""
    a, b = ([Fraction(float(value)) for value in values.reshape(-1)] for values in (x, decoded))
    product, powers = sum(map(mul, a, b)), sum(map(mul, a, a)) * sum(map(mul, b, b))
    if not powers:
        return float(not any(a) and not any(b))
    return math.copysign(math.sqrt(product * product / powers), product)


FAR = {
    "percentile": ("int8-sym-tensor-percentile1_99", [0, 1e6, 1e12, 1e18, 1e30]),
    "minmax": ("int16-sym-tensor-minmax", [0, 1e6, 1e12, 1e30]),
    "mse": ("int2-sym-tensor-mse", [0, 1e6, 1e12]),
    "scales that saturate": ("int4-sym-g16-minmax-sfp16", [1e6, 1e12, 1e30]),
}


@pytest.mark.parametrize("slug, far", FAR.values(), ids=FAR)
def test_the_cosine_is_right_whatever_the_lengths(slug, far):
    config = ql.QuantConfig.parse(slug)
    for end in far:
        for x in (np.append(tensor((255,)), np.float32(end)), np.append(tensor((255,)) * np.float32(end or 1), 0)):
            x = x.astype(np.float32)
            decoded = ql.fake_quantize(x, config)
            exact = true_cosine(x, decoded)
            for found in (ql.evaluate(x, config), ql.measure(x, decoded), measure_slices(x, ql.quantize(x, config))):
                assert found.cosine == pytest.approx(exact, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    "x, decoded",
    [
        ([1e-30, 1e30], [1e-30, 0]),
        ([FLOAT32_MAX, -FLOAT32_MAX], [FLOAT32_MAX, FLOAT32_MAX]),
        ([FLOAT32_MAX] * 2, [-FLOAT32_MAX] * 2),
        ([-1e30] * 3, [-1e10] * 3),
        ([1e-45, 1], [1, 1e-45]),
        ([3, 4], [4, 3]),
        ([1, 0], [0, 1]),
        ([0, 0], [1, 0]),
    ],
)
def test_the_cosine_of_extremes_is_that_of_exact_arithmetic(x, decoded):
    x, decoded = np.float32(x), np.float32(decoded)
    assert ql.measure(x, decoded).cosine == pytest.approx(true_cosine(x, decoded), rel=1e-12)


# --- channels -------------------------------------------------------------------------------------------------------


def true_channels(x: np.ndarray, decoded: np.ndarray, axis: int) -> list[float]:
    """The lowest SQNR of the channels along an axis that are not all zeros, and that of their mean relative error."""
    along = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    power = np.square(x.astype(np.float64)).sum(along)
    error = np.square(x.astype(np.float64) - decoded).sum(along)
    relative = error[power > 0] / power[power > 0]
    return [-10 * math.log10(ratio) if ratio else math.inf for ratio in (relative.max(), relative.mean())]


CHANNELS = ["int4-sym-tensor-minmax", "int8-uni-tensor-minmax", "int4-sym-ch0-minmax", "int3-aff-g32-minmax",
            "int4-uni-g7-minmax", "int2-aff-ch-1-minmax", "int4-sym-ch1-percentile", "fp16", "q8_0"]  # fmt: skip


@pytest.mark.parametrize("slug", CHANNELS)
@pytest.mark.parametrize(
    "shape", [(3, 50), (50, 3), (5, 7, 11), (40, 3000), (4, 9, 64), (1, 30), (30, 1), (9, 100_000), (2, 300, 3, 3)]
)
def test_figures_of_channels_and_the_zeroed_share_are_those_of_the_decoded_values(shape, slug):
    x, config = tensor(shape), ql.QuantConfig.parse(slug)
    x[np.random.default_rng(0).random(shape) < 0.2] = 0
    x[0] = 0 if shape[0] > 1 else x[0]  # a channel of zeros along the first axis
    try:
        q = ql.quantize(x, config)
    except ql.ShapeError:
        assert slug == "q8_0"
        return
    decoded = q.dequantize()
    for axis in range(-1, x.ndim):
        reports = [ql.evaluate(x, config, axis), ql.measure(x, decoded, axis), measure_slices(x, q, channel_axis=axis)]
        for found in reports:
            assert found.zeroed_fraction == np.mean((x != 0) & (decoded == 0))
            # To within the rounding of two sums, and of the logarithm.
            assert [found.worst_channel_sqnr_db, found.channels_sqnr_db] == pytest.approx(
                true_channels(x, decoded, axis), abs=10 * x.size * 2.0**-52
            )


def test_a_tensor_that_one_outlier_wipes_out_is_not_called_good():
    """As o_proj of a layer of a language model: all weights but one row's become 0, and the SQNR says 67 dB."""
    x = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32) * np.float32(1e-2)
    x[3, 7] = 6e4
    found = ql.evaluate(x, ql.QuantConfig.parse("int8-sym-tensor-minmax"))
    assert found.sqnr_db > 60 and found.cosine > 0.999999
    assert found.worst_channel_sqnr_db == pytest.approx(0, abs=1e-12)
    assert found.zeroed_fraction == (x.size - 1) / x.size
    row = ql.sweep(x, [ql.QuantConfig.parse("int8-sym-tensor-minmax")]).iloc[0]
    for name in ("worst_channel_sqnr_db", "channels_sqnr_db", "zeroed_fraction"):
        assert row[name] == getattr(found, name)


def test_every_channel_counts_once_whatever_its_weights_are():
    """A channel of tiny weights that is lost is half of two, though the tensor's SQNR does not feel it."""
    x = np.float32([[100, -50, 25], [1e-3, 1e-3, -1e-3]])
    found = ql.measure(x, np.float32([[100, -50, 25], [0, 0, 0]]))
    assert found.sqnr_db > 90 and found.worst_channel_sqnr_db == 0
    assert found.channels_sqnr_db == pytest.approx(10 * math.log10(2), rel=1e-15)
    assert ql.measure(np.vstack([x, np.zeros((1, 3))]), np.vstack([x, np.ones((1, 3))])).channels_sqnr_db == math.inf


def test_without_channels_the_worst_and_the_mean_are_the_tensor_itself():
    for x in (np.float32(3.3), tensor((1000,)), np.zeros((4, 4), np.float32)):
        found = ql.evaluate(x, ql.QuantConfig.parse("int4-aff-tensor-minmax"), 5 if np.ndim(x) < 2 else 0)
        assert found.worst_channel_sqnr_db == found.channels_sqnr_db == found.sqnr_db
    with pytest.raises(ql.ShapeError, match="axis 2 does not exist"):
        ql.evaluate(tensor((3, 4)), ql.QuantConfig(), 2)


def test_more_channels_than_are_summed_have_no_figure(monkeypatch):
    monkeypatch.setattr("quantlab.core.channels.COLUMNS", 5)
    x = tensor((4, 6))
    assert ql.evaluate(x, ql.QuantConfig(), 1).worst_channel_sqnr_db is None
    assert ql.evaluate(x, ql.QuantConfig(), 1).channels_sqnr_db is None
    assert ql.evaluate(x, ql.QuantConfig(), 0).worst_channel_sqnr_db is not None
    assert np.isnan(tensor_rows("x", x, x.nbytes, [ql.QuantConfig()], channel_axis=1)[0]["worst_channel_sqnr_db"])


@pytest.mark.parametrize("shape, axis", [((2000, 1000), 1), ((2000, 1000), 0), ((3, 700_000), 0)])
def test_the_sums_of_channels_do_not_depend_on_which_piece_is_done_first(shape, axis):
    x, config = tensor(shape), ql.QuantConfig.parse("int4-sym-g100-minmax")
    with pool.limits(1):
        alone = ql.evaluate(x, config, axis)
    assert all(ql.evaluate(x, config, axis) == alone for _ in range(3))


def test_two_float64_arrays_are_measured_as_they_are():
    x = np.random.default_rng(1).standard_normal((30, 40))
    x_hat = x * (1 + 1e-9)
    for a, b in ((x, x_hat), (x[::2, ::3], x_hat[::2, ::3]), (x.astype(">f8"), x_hat)):
        found, error = ql.measure(a, b), a - b
        assert found.mse == pytest.approx(np.mean(np.square(error)), rel=1e-12)
        assert found.max_abs_error == np.abs(error).max()
        assert found.sqnr_db == pytest.approx(180, abs=1e-5)
        assert 1 - 1e-15 < found.cosine <= 1
    mixed = ql.measure(x, x.astype(np.float32))
    assert mixed.max_abs_error == np.abs(x - x.astype(np.float32)).max()
    # What is quantized is the rounding to float32, and so is what the error of quantizing is against.
    config = ql.QuantConfig.parse("int16-sym-tensor-minmax")
    assert replace(ql.evaluate(x, config), compression_ratio=0) == replace(
        ql.evaluate(x.astype(np.float32), config), compression_ratio=0
    )


def test_nothing_lost_is_infinite_decibels():
    x = tensor((9, 9))
    found = ql.measure(x, x)
    assert (found.mse, found.sqnr_db, found.psnr_db, found.cosine) == (0, math.inf, math.inf, 1)


def test_all_lost_is_zero_decibels():
    x = tensor((9, 9))
    found = ql.measure(x, np.zeros_like(x))
    assert found.sqnr_db == pytest.approx(0, abs=1e-9)
    assert found.cosine == 0


def test_clipped_is_the_share_of_codes_that_were_cut_off():
    x = np.append(np.linspace(-1, 1, 98), [50, -50]).astype(np.float32)
    config = ql.QuantConfig(calibration=ql.Percentile(1.5, 98.5))
    scale = float(ql.quantize(x, config).scale)
    codes = np.rint(x / np.float32(scale))
    assert ql.evaluate(x, config).clipped_fraction == np.mean((codes > 127) | (codes < -128))


@pytest.mark.parametrize(
    ("dtype", "itemsize"), [(np.float32, 4), (np.float16, 2), (ml_dtypes.bfloat16, 2), (np.float64, 8)]
)
def test_compression_counts_the_source_in_its_own_dtype(dtype, itemsize, tmp_path):
    x = tensor((64, 64), dtype)
    config = ql.QuantConfig(dtype="int4")
    expected = 64 * 64 * itemsize / (64 * 64 // 2 + 4)
    assert ql.evaluate(x, config).compression_ratio == expected
    assert ql.quantize(x, config).compression_ratio == expected
    assert ql.sweep(x, [config])["compression_ratio"].tolist() == [expected]
    for format in ("npz", "safetensors"):
        back = ql.load_packed(ql.export(tmp_path / "packed", {"w": ql.quantize(x, config)}, format))
        assert back["w"].compression_ratio == expected


def test_shapes_must_agree():
    with pytest.raises(ql.ShapeError, match=r"\(3,\).*\(4,\)"):
        ql.measure(np.ones(3, np.float32), np.ones(4, np.float32))


def test_the_array_that_is_not_finite_is_named():
    x, broken = tensor((3, 4)), tensor((3, 4))
    broken[1, 2] = np.inf
    with pytest.raises(ql.NonFiniteError, match=r"^the tensor holds 0 NaN and 1 infinite .*\(1, 2\)"):
        ql.measure(broken, x)
    with pytest.raises(ql.NonFiniteError, match=r"^the decoded tensor holds 0 NaN and 1 infinite .*\(1, 2\)"):
        ql.measure(x, broken)


def test_errors_per_group_add_up_to_the_whole():
    x = tensor((12, 1000))
    for config in (config for config in CONFIGS if not isinstance(config.calibration, ql.Entropy)):
        total = group_errors(x, config).sum()
        assert total == pytest.approx(ql.evaluate(x, config).mse * x.size, rel=1e-11)


@pytest.mark.parametrize("bins", [1, 2, 51, 201])
def test_the_error_histogram_counts_every_error(bins):
    x = tensor((100, 1001))
    q = ql.quantize(x, ql.QuantConfig(dtype="int4"))
    edges, counts = error_histogram(x, q, bins)
    error = x - q.dequantize()
    assert counts.sum() == x.size
    assert edges[-1] == -edges[0] == np.abs(error).max()
    expected = np.histogram(error, edges)[0]
    # An error that lies within rounding of an edge may count on either side of it.
    near = sum(np.isclose(error, edge, rtol=0, atol=1e-6 * edges[-1]).sum() for edge in edges)
    assert np.abs(counts - expected).sum() <= 2 * near


def test_an_error_histogram_without_errors_has_them_all_in_one_bin():
    x = np.float32([1, 2, 3])
    edges, counts = error_histogram(x, ql.quantize(x, ql.QuantConfig(dtype="fp16")), 3)
    assert counts.tolist() == [0, 3, 0]
    assert edges[0] < 0 < edges[-1]


BY_ROWS = ql.grid(
    ["int4", "int8", "q4_0"],
    ["symmetric", "affine", "uniform"],
    ["ch0", "ch-2", "ch-3", "g32", "g100"],
    ["minmax", "percentile", "entropy", "mse", "movavg", "ema"],
)


@settings(max_examples=15)
@given(shape=st.sampled_from([(40, 30_000), (3, 300_000), (2000, 8, 200), (5, 1)]), data=st.data())
def test_sums_of_row_ranges_joined_are_those_of_the_whole_to_the_last_bit(shape, data):
    """A range may be measured anywhere: what its pieces add is put together in the order that one process would."""
    x, step = tensor(shape), row_step(shape)
    inner = st.integers(1, math.ceil(shape[0] / step))
    cuts = sorted({0, shape[0], *(min(step * n, shape[0]) for n in data.draw(st.lists(inner, max_size=3)))})
    configs = data.draw(st.lists(st.sampled_from(BY_ROWS), min_size=1, max_size=3, unique=True))
    for config in configs:
        layout = config.granularity
        if not layout.by_rows(shape):
            continue
        parts = [
            group_sums(layout.to_groups(x[a:b]), [config], Channels.of(x[a:b].shape, 0, layout))
            for a, b in itertools.pairwise(cuts)
        ]
        (found,) = outcomes(shape, [config], joined(parts), x.nbytes)
        try:
            assert found == ql.evaluate(x, config)
        except ql.QuantlabError as refusal:
            assert type(found) is type(refusal)  # its words may name the shape, which is that of a range


def test_what_cannot_be_cut_by_rows_says_so():
    cut = {shape: [g.slug for g in LAYOUTS if g.by_rows(shape)] for shape in [(), (6,), (6, 4), (6, 4, 2)]}
    assert cut == {(): [], (6,): ["ch0", "ch-1"], (6, 4): ["ch0", "ch-2", "g4"], (6, 4, 2): ["ch0", "g4"]}


LAYOUTS = [ql.PerTensor(), ql.PerChannel(0), ql.PerChannel(1), ql.PerChannel(-1), ql.PerChannel(-2), ql.PerGroup(4)]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "slug", ["int4-sym-g32-mse", "int8-aff-tensor-percentile", "int4-uni-ch-1-minmax", "fp16", "q4_0"]
)
@pytest.mark.parametrize("shape", [(40, 64), (1030, 512)], ids=str)
def test_a_16_bit_source_is_widened_part_by_part_to_the_same_figures(dtype, slug, shape):
    narrow, config = tensor(shape, dtype), ql.QuantConfig.parse(slug)
    wide = narrow.astype(np.float32)
    found, expected = ql.evaluate(narrow, config), ql.evaluate(wide, config)
    assert replace(found, compression_ratio=0.0) == replace(expected, compression_ratio=0.0)
    assert expected.compression_ratio == 2 * found.compression_ratio
    assert np.array_equal(ql.quantize(narrow, config).packed, ql.quantize(wide, config).packed)


@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerChannel(0), ql.PerGroup(600)])
def test_configurations_that_are_fitted_together_get_what_each_gets_alone(granularity):
    x = tensor((7, 90_000))
    groups = granularity.to_groups(x)
    for calibration in (ql.MinMax(), ql.Percentile(), ql.Entropy(), ql.EMA(), ql.MovingAverage()):
        configs = [
            ql.QuantConfig(dtype=f"int{bits}", mapping=mapping, granularity=granularity, calibration=calibration)
            for bits in (3, 8)
            for mapping in ("symmetric", "affine", "uniform")
        ]
        assert len(batches_of(configs)) == 1
        together = fit_together(groups, configs)
        for k, config in enumerate(configs):
            assert all(np.array_equal(a[k], b) for a, b in zip(together, fit(groups, config), strict=True)), config


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 5, 70), 1), ((3, 2, 4, 9), 2), ((2, 3, 300_000), 1), ((600_000, 2), -1)]
)
def test_channels_of_any_axis_are_those_of_the_tensor_with_that_axis_in_front(dtype, shape, axis):
    """Neither is copied as a whole; where a channel is longer than a piece, it is read part by part."""
    x = tensor(shape, dtype)
    front = np.ascontiguousarray(np.moveaxis(x, axis, 0))
    for slug in ("int4-sym-ch{}-minmax", "int8-aff-ch{}-percentile", "int4-sym-ch{}-mse"):
        there, here = (ql.QuantConfig.parse(slug.format(a)) for a in (axis, 0))
        assert ql.evaluate(x, there, axis) == ql.evaluate(front, here)
        assert np.array_equal(ql.fake_quantize(x, there), np.moveaxis(ql.fake_quantize(front, here), 0, axis))


def test_a_part_of_channels_is_that_part_of_the_matrix():
    x = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    rows = ChannelRows(x)
    matrix = np.moveaxis(x, 1, 0).reshape(3, 10)
    assert np.array_equal(rows.copy(), matrix)
    for start, stop in itertools.combinations(range(11), 2):
        assert np.array_equal(rows[1:3, start:stop], matrix[1:3, start:stop])
        assert np.array_equal(rows[2, start:stop], matrix[2, start:stop])


@pytest.mark.parametrize("slug", ["int8-sym-tensor-minmax", "int4-aff-g32-mse", "fp16"])
def test_float64_beyond_the_range_of_float32_is_refused_wherever_it_lies(slug):
    x = np.ones((700, 1000))
    x[650, 3] = -1e39
    for call in (ql.evaluate, ql.quantize):
        with pytest.raises(
            ql.NonFiniteError, match=r"1 value beyond the range of float32, the first at index \(650, 3\)"
        ):
            call(x, ql.QuantConfig.parse(slug))
