"""Calibration over batches equals calibration of all batches together."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

import quantlab as ql

BATCHES = [np.random.default_rng(i).standard_normal((4, 40)).astype(np.float32) * (i + 1) for i in range(3)]
TOGETHER = [ql.MinMax(), ql.Percentile(5, 95), ql.MSE(), ql.Octav(), ql.Exact(), ql.MovingAverage(4)]


def observed(config, batches=BATCHES):
    observer = ql.Observer(config)
    for batch in batches:
        observer.update(batch)
    return observer


@pytest.mark.parametrize(
    "config", ql.grid(["int4"], ql.MAPPINGS, ["tensor", "ch0"], TOGETHER, pow2_scales=[False, True]), ids=str
)
def test_batches_are_calibrated_as_one_tensor(config):
    # In the order of the batches: which of two ranges with the same error is taken, sums of them decide.
    by_tensor = config.granularity == ql.PerTensor()
    whole = ql.quantize(
        np.concatenate([batch.ravel() for batch in BATCHES]) if by_tensor else np.concatenate(BATCHES, axis=1), config
    )
    q = observed(config).quantize(BATCHES[1])
    np.testing.assert_array_equal(q.scale, whole.scale)
    if whole.packed_zero_point is not None:
        np.testing.assert_array_equal(q.zero_point, whole.zero_point)


@pytest.mark.parametrize("calibration", TOGETHER, ids=str)
def test_groups_of_batches_are_joined_group_by_group(calibration):
    config = ql.QuantConfig(granularity=ql.PerGroup(16), calibration=calibration)
    q = observed(config).quantize(BATCHES[0])
    assert q.scale.shape == (4, 3)
    for j, start in enumerate((0, 16, 32)):
        values = np.concatenate([batch[2, start : start + 16] for batch in BATCHES])
        alone = ql.quantize(values, ql.QuantConfig(calibration=calibration))
        assert q.scale[2, j] == alone.scale


def test_each_update_is_one_batch_of_an_exponential_average():
    observer = observed(ql.QuantConfig(calibration=ql.EMA(factor=0.5)), [np.float32([-v, v]) for v in (8, 4, 2)])
    assert float(observer.params().scale[0, 0]) * 127 == pytest.approx(((8 + 4) / 2 + 2) / 2, rel=1e-6)


def test_an_observer_without_data_says_so():
    with pytest.raises(ql.CalibrationRequiredError, match=r"call update\(batch\)"):
        ql.Observer(ql.QuantConfig()).params()


@pytest.mark.parametrize(
    ("granularity", "other"), [(ql.PerChannel(0), (5, 40)), (ql.PerGroup(8), (4, 48)), (ql.PerGroup(8), (5, 40))]
)
def test_a_batch_of_another_layout_is_refused_and_changes_nothing(granularity, other):
    observer = observed(ql.QuantConfig(granularity=granularity))
    before = observer.params()
    with pytest.raises(ql.ShapeError, match="does not go with the earlier ones"):
        observer.update(np.ones(other, np.float32))
    np.testing.assert_array_equal(observer.params().scale, before.scale)
    with pytest.raises(ql.ShapeError):
        observer.quantize(np.ones((9, 99), np.float32))


def test_values_are_kept_up_to_the_budget():
    observer = ql.Observer(ql.QuantConfig(calibration=ql.MSE()), max_bytes=1000)
    observer.update(BATCHES[0])
    with pytest.raises(ql.LimitError, match="max_bytes"):
        observer.update(BATCHES[1])
    assert observer.batches == 1


@pytest.mark.parametrize("budget", [-1, 1.5, "1000", None])
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(ql.ConfigError, match="max_bytes is"):
        ql.Observer(ql.QuantConfig(), max_bytes=budget)


def test_a_batch_may_be_reused_by_the_caller():
    batch = BATCHES[0].copy()
    observer = observed(ql.QuantConfig(calibration=ql.MSE()), [batch])
    before = observer.params().scale.copy()
    batch[:] = 0
    np.testing.assert_array_equal(observer.params().scale, before)


@pytest.mark.parametrize("calibration", [*TOGETHER, ql.EMA()], ids=str)
def test_dynamic_quantization_is_per_call(calibration):
    quantizer = ql.DynamicQuantizer(ql.QuantConfig(mapping="affine", calibration=calibration))
    for batch in BATCHES:
        np.testing.assert_array_equal(quantizer.quantize(batch).codes, ql.quantize(batch, quantizer.config).codes)


def test_dynamic_quantization_with_scales_of_channels_is_refused():
    with pytest.raises(ql.ConfigError, match="per tensor"):
        ql.DynamicQuantizer(ql.QuantConfig(granularity=ql.PerChannel(0)))


@pytest.mark.parametrize("calibration", [ql.MinMax(), ql.EMA()], ids=str)
def test_running_ranges_need_no_values_to_be_kept(calibration):
    observer = observed(ql.QuantConfig(calibration=calibration))
    assert not observer._kept
    assert np.isfinite(observer.quantize(BATCHES[2]).dequantize()).all()


@pytest.mark.parametrize("mapping", ql.MAPPINGS)
def test_a_power_of_two_is_the_one_of_least_error_on_all_batches(mapping):
    """For EMA as well, whose range is that of no single tensor."""
    config = ql.QuantConfig(dtype="int4", mapping=mapping, calibration=ql.EMA(0.5), pow2_scale=True)
    found, x = observed(config).params(), np.concatenate([batch.reshape(-1) for batch in BATCHES])[None]
    groups = config.granularity.to_groups(x)
    best = config.codec.squared_errors(groups, found)
    plain = observed(dataclasses.replace(config, pow2_scale=False)).params()
    assert np.frexp(found.scale)[0] == 0.5
    for factor in (0.5, 2):
        zero_point = np.rint(plain.zero_point * plain.scale / (found.scale * factor))
        other = found._replace(scale=found.scale * np.float32(factor), zero_point=zero_point.astype(np.float32))
        assert best <= config.codec.squared_errors(groups, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("slug", ["int8-sym-tensor-minmax", "int4-aff-ch0-mse", "int8-sym-g8-minmax"])
def test_what_is_not_finite_is_refused_although_the_scales_are_known(slug, dtype):
    observer = ql.Observer(ql.QuantConfig.parse(slug))
    x = np.random.default_rng(0).standard_normal((6, 40)).astype(dtype)
    observer.update(x)
    known = observer.quantize(x)
    x[4, 5], x[5, 0] = np.nan, np.inf
    with pytest.raises(ql.NonFiniteError, match=r"1 NaN and 1 infinite values of 240, the first at index \(4, 5\)"):
        observer.quantize(x)
    x[4, 5] = x[5, 0] = 0
    assert observer.quantize(x).packed[:100].tolist() == known.packed[:100].tolist()


def test_float64_beyond_float32_is_refused_although_the_scales_are_known():
    observer = ql.Observer(ql.QuantConfig())
    observer.update(np.ones(10, np.float32))
    with pytest.raises(ql.NonFiniteError, match="beyond the range of float32"):
        observer.quantize(np.array([1.0, 1e300]))


def test_parameters_are_those_of_the_batches_so_far_whatever_was_done_with_earlier_ones():
    observer = ql.Observer(ql.QuantConfig(calibration=ql.MSE()))
    for batch in BATCHES:
        observer.update(batch)
        observer.quantize(batch)
        observer.params().scale[:] = 1e9
    again = observed(ql.QuantConfig(calibration=ql.MSE()))
    np.testing.assert_array_equal(observer.params().scale, again.params().scale)
    np.testing.assert_array_equal(observer.quantize(BATCHES[0]).packed, again.quantize(BATCHES[0]).packed)
