"""Numbers nobody has to doubt: each of these was wrong in some system before."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import quantlab as ql
from quantlab.core.metrics import group_errors
from tests.core import reference
from tests.tensors import kinds

RNG = np.random.default_rng(3)
MAPPINGS = list(ql.MAPPINGS)
GRANULARITIES = [ql.PerTensor(), ql.PerChannel(0), ql.PerChannel(-1), ql.PerGroup(32), ql.PerGroup(7)]
CALIBRATIONS = [ql.MinMax(), ql.Percentile(), ql.MSE(), ql.Octav(), ql.MovingAverage(), ql.EMA()]
SCALES = ["fp32", "fp16", "bf16"]


def config(**options):
    return ql.QuantConfig(**options)


@pytest.mark.parametrize("mapping", ["affine", "uniform"])
@pytest.mark.parametrize(("lo", "hi"), [(0.5, 1.5), (1000, 1001), (-1001, -1000)])
def test_a_range_without_zero_moves_by_at_most_half_a_step(lo, hi, mapping):
    x = np.linspace(lo, hi, 64, dtype=np.float32)
    q = ql.quantize(x, config(mapping=mapping))
    width = max(hi, 0) - min(lo, 0) if mapping == "affine" else hi - lo
    # Half a step, half a step more for the rounded zero point, and the spacing of floats of this size.
    bound = width / 255 + 2 * np.spacing(np.float32(max(abs(lo), abs(hi))))
    assert np.abs(q.dequantize() - x).max() <= bound


@pytest.mark.parametrize("scale_dtype", SCALES)
@pytest.mark.parametrize("calibration", CALIBRATIONS, ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("value", [0.3, -0.3])
def test_a_constant_comes_back_exact_to_the_rounding_of_its_scale(
    value, mapping, granularity, calibration, scale_dtype
):
    x = np.full((8, 64), value, np.float32)
    options = {"mapping": mapping, "granularity": granularity, "calibration": calibration, "scale_dtype": scale_dtype}
    restored = ql.fake_quantize(x, config(**options))
    precision = {"fp32": 2.0**-23, "fp16": 2.0**-10, "bf16": 2.0**-7}[scale_dtype]
    np.testing.assert_allclose(restored, x, rtol=precision)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_percentile_really_clips_the_outlier_it_should(mapping):
    x = np.append(np.linspace(-1, 1, 99), 1000).astype(np.float32)
    clipped = ql.quantize(x, config(mapping=mapping, calibration=ql.Percentile(0, 98)))
    assert clipped.dequantize().max() < 1.1
    assert ql.evaluate(x, clipped.config).clipped_fraction == pytest.approx(0.02, abs=0.01)
    assert np.abs(clipped.dequantize()[:99] - x[:99]).max() < 0.03


# Which group each element of a shape is in, by index arithmetic and not by the layout that quantlab uses.
GROUPS = {
    ql.PerTensor(): lambda i, j, k: 0 * i,
    ql.PerChannel(0): lambda i, j, k: i,
    ql.PerChannel(1): lambda i, j, k: j,
    ql.PerChannel(-1): lambda i, j, k: k,
    ql.PerGroup(1200): lambda i, j, k: 2 * i + (600 * j + k) // 1200,
    ql.PerGroup(32): lambda i, j, k: 100 * i + (600 * j + k) // 32,
}
SHAPES = {ql.PerChannel(-1): (20, 30, 3), ql.PerGroup(32): (2, 1, 80)}


@pytest.mark.parametrize("granularity", GROUPS, ids=str)
@pytest.mark.parametrize("calibration", [kind() for kind in ql.CALIBRATIONS.values()], ids=str)
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_parameters_and_codes_of_a_group_are_those_of_the_group_alone(mapping, calibration, granularity):
    shape = SHAPES.get(granularity, (2, 3, 600))
    group = GROUPS[granularity](*np.indices(shape))
    x = (RNG.standard_normal(shape) * 10.0 ** (group % 5)).astype(np.float32)
    try:
        options = {"dtype": "int4", "mapping": mapping, "calibration": calibration}
        q = ql.quantize(x, config(**options, granularity=granularity))
    except ql.ConfigError as refused:
        assert calibration.slug in {"entropy", "exact"}
        assert calibration.slug in str(refused)
        return
    assert q.scale.size == len(np.unique(group))
    for scale, number in zip(q.scale.reshape(-1), np.unique(group), strict=True):
        alone = ql.quantize(x[group == number], config(**options))
        assert alone.scale == scale
        np.testing.assert_array_equal(q.codes[group == number], alone.codes)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("n", [512, 1000, 4096, 10_000, 65_535, 65_536, 300_000, 1_000_000])
def test_entropy_at_8_bits_stays_within_1_db_of_min_max_on_gaussian_data(n, mapping):
    x = np.random.default_rng(n).standard_normal(n, dtype=np.float32)
    plain = ql.evaluate(x, config(mapping=mapping)).sqnr_db
    assert ql.evaluate(x, config(mapping=mapping, calibration=ql.Entropy())).sqnr_db >= plain - 1


@pytest.mark.parametrize("draw", ["heavy tails", "gaussian", "one-sided"])
def test_entropy_is_the_threshold_of_tensorrts_algorithm(draw):
    """Every threshold tried, on a histogram of magnitudes, of each of two groups; 64 values per bin."""
    rng = np.random.default_rng(4)
    draws = {"heavy tails": rng.standard_t(3, (2, 1 << 14)), "gaussian": rng.standard_normal((2, 1 << 14)),
             "one-sided": rng.exponential(1, (2, 1 << 14))}  # fmt: skip
    x, bins, levels = draws[draw].astype(np.float32), 256, 8
    options = config(dtype="int4", granularity=ql.PerChannel(0), calibration=ql.Entropy(bins))
    lo, hi = options.calibration.range(options.granularity.to_groups(x), options.codec)
    for values, low, high in zip(x, lo[:, 0], hi[:, 0], strict=True):
        amax = float(np.abs(values).max())
        counts = reference.level_zero(reference.histogram(values, 0.0, amax, bins, magnitude=True), 0.0, amax)
        right = reference.best_window(counts, levels)[1]
        assert (low, high) == (0, pytest.approx(amax * right / bins, rel=1e-12))
    scale = ql.quantize(x, options).scale
    np.testing.assert_array_equal(scale, (hi[:, 0] / 7).astype(np.float32))


def spiky() -> dict[str, np.ndarray]:
    """Activations and pruned weights, humps and grids: float32 [1 << 16] of each kind."""
    rng = np.random.default_rng(0)
    bell, share = rng.standard_normal(1 << 16), rng.random(1 << 16)
    return {
        "relu": np.maximum(bell, 0),
        "half zeros": np.where(share < 0.5, 0, bell),
        "pruned": np.where(share < 0.99, 0, bell),
        "pruned by size": np.where(np.abs(bell) < 1, 0, bell),
        "two humps": np.where(share < 0.5, -3, 3) + 0.5 * bell,
        "two humps on one side": np.where(share < 0.5, 0.5, 5) + 0.1 * bell,
        "on the grid of int8": np.clip(np.rint(30 * bell), -127, 127),
        "half on a grid": np.where(share < 0.5, np.clip(np.rint(30 * bell), -127, 127), 30 * bell),
        "heavy tails": np.exp(3 * bell),
        "sparse and heavy": np.where(share < 0.8, 0, rng.standard_t(2, 1 << 16)),
        "clipped above": np.clip(3 * bell, 0, 6),
        "far from 0": np.where(share < 0.3, 100, 100 + bell),
    }


@pytest.mark.parametrize("kind", spiky())
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("size", [1 << 16, 2048])
def test_entropy_is_never_10_db_worse_than_min_max(kind, mapping, size):
    x = spiky()[kind].astype(np.float32).reshape(-1, size)
    for dtype in ("int2", "int4", "int8"):
        plain, found = (
            group_errors(x, config(dtype=dtype, mapping=mapping, granularity=ql.PerChannel(0), calibration=calibration))
            for calibration in (ql.MinMax(), ql.Entropy())
        )
        np.testing.assert_array_less(found, 10 * plain * (1 + 1e-12) + 1e-30)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("kind", ["relu", "half zeros", "pruned"])
def test_entropy_of_8_bits_is_not_lost_beside_a_spike_of_zeros(kind, mapping):
    x = spiky()[kind].astype(np.float32)
    plain = ql.evaluate(x, config(mapping=mapping)).sqnr_db
    assert ql.evaluate(x, config(mapping=mapping, calibration=ql.Entropy())).sqnr_db > plain - 1


def test_entropy_levels_the_spike_where_a_group_is_larger_than_a_piece():
    x = np.where(np.random.default_rng(0).random(1 << 20) < 0.9, 0, np.resize(spiky()["relu"], 1 << 20))
    report = ql.evaluate(x.astype(np.float32), config(calibration=ql.Entropy()))
    assert report.sqnr_db > ql.evaluate(x.astype(np.float32), config()).sqnr_db - 1


def test_entropy_clips_heavy_tails_and_its_range_is_used_for_the_codes():
    x = np.random.default_rng(0).standard_t(3, 200_000).astype(np.float32)
    q, plain = ql.quantize(x, config(calibration=ql.Entropy())), ql.quantize(x, config())
    assert q.scale < plain.scale / 2
    assert np.abs(q.dequantize()).max() <= 128 * float(q.scale)
    assert ql.evaluate(x, q.config).clipped_fraction > 0


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("dtype", ["int2", "int4", "int8"])
@settings(max_examples=40)
@given(
    x=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 40)),
        elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, -1.0, 1e6]),
    ),
    pow2=st.booleans(),
    scale_dtype=st.sampled_from(SCALES),
)
def test_mse_is_never_worse_than_min_max(dtype, mapping, x, pow2, scale_dtype):
    options = {"dtype": dtype, "mapping": mapping, "pow2_scale": pow2, "scale_dtype": scale_dtype}
    options["granularity"] = ql.PerGroup(16)
    searched = group_errors(x, config(**options, calibration=ql.MSE()))
    plain = group_errors(x, config(**options))
    assert (searched <= plain).all()


@pytest.mark.parametrize("mapping", ["symmetric", "affine"])
@pytest.mark.parametrize("dtype", ["int3", "int4", "int8"])
@pytest.mark.parametrize("draw", ["gaussian", "heavy tails"])
def test_mse_is_as_good_as_a_grid_of_200_ranges(dtype, mapping, draw):
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((64, 1024)) if draw == "gaussian" else rng.standard_t(3, (64, 1024))).astype(np.float32)
    searching = config(dtype=dtype, mapping=mapping, granularity=ql.PerChannel(0), calibration=ql.MSE())
    groups, codec = searching.granularity.to_groups(x), searching.codec
    lo, hi = groups.extents
    grid = [codec.squared_errors(groups, codec.fit_range(lo * i / 200, hi * i / 200)) for i in range(1, 201)]
    assert group_errors(x, searching).sum() <= 1.001 * np.min(grid, axis=0).sum()


def gaussian_and_an_outlier(sigma):
    """4095 Gaussian values of a standard deviation, and one of 1e6: float32 [4096]."""
    return np.append(sigma * np.random.default_rng(0).standard_normal(4095), 1e6).astype(np.float32)


def least_error_by_brute_force(x, bits):
    """The least squared error over 6000 symmetric ranges, 0.1 percent apart, by plain arithmetic in float64."""
    x, highest = x.astype(np.float64), 2 ** (bits - 1) - 1
    scales = np.geomspace(x.max() / 500, x.max(), 6000) / highest
    return min(np.square(x - s * np.clip(np.rint(x / s), -highest - 1, highest)).sum() for s in scales)


@pytest.mark.parametrize(
    ("dtype", "mapping", "factor"),
    [
        ("int2", "symmetric", 40),
        ("int3", "symmetric", 20),
        ("int4", "symmetric", 7),
        ("int2", "affine", 15),
        ("int3", "affine", 6),
        ("int4", "affine", 2.4),
    ],
)
def test_mse_is_better_than_min_max_and_finds_the_far_smaller_range_for_an_outlier_of_1e6(dtype, mapping, factor):
    """Where clipping it pays: among 4095 values of a standard deviation of 2e4, of which min-max loses nearly all.

    Symmetric, at 4 bits: its step is 1e6/7, so that they round to 0, which costs 4095 * 2e4^2 = 1.6e12; clipping the
    outlier to 1e5 costs 0.8e12, and next to nothing for the others.
    """
    x = gaussian_and_an_outlier(2e4)
    searched, plain = (config(dtype=dtype, mapping=mapping, calibration=c) for c in (ql.MSE(), ql.MinMax()))
    assert ql.quantize(x, plain).scale / ql.quantize(x, searched).scale > factor
    found = ql.evaluate(x, searched).mse
    assert found < 0.75 * ql.evaluate(x, plain).mse
    if mapping == "symmetric":
        assert found * x.size <= 1.001 * least_error_by_brute_force(x, int(dtype[3:]))


@pytest.mark.parametrize(
    ("dtype", "sigma"), [("int2", 1), ("int4", 1), ("int8", 1), ("int16", 1), ("int8", 2e4), ("int16", 2e4)]
)
def test_mse_keeps_an_outlier_of_1e6_whose_clipping_would_cost_more_than_all_else(dtype, sigma):
    """Among standard normal values it is never worth clipping, at whatever number of bits.

    Losing all 4095 of them costs about 4095, and clipping 1e6 to A costs (1e6 - A)^2: the range of least error is
    nearly the whole one, and a far smaller one would be far worse than min-max. The same holds at 8 bits with a
    standard deviation of 2e4: 4095 errors of at most half a step, 1e6/254, come to 6e10; clipping to 1e5 costs 8e11.
    """
    x = gaussian_and_an_outlier(sigma)
    searched, plain = (config(dtype=dtype, calibration=c) for c in (ql.MSE(), ql.MinMax()))
    assert ql.quantize(x, searched).scale > 0.9 * ql.quantize(x, plain).scale
    found = ql.evaluate(x, searched).mse
    assert found <= ql.evaluate(x, plain).mse
    assert found * x.size <= 1.001 * least_error_by_brute_force(x, int(dtype[3:]))


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_16_bit_codes_take_16_bits_and_use_them(mapping):
    q = ql.quantize(RNG.standard_normal(100_000).astype(np.float32), config(dtype="int16", mapping=mapping))
    assert q.packed.nbytes == 200_000
    assert q.codes.dtype.itemsize == 2
    assert np.ptp(q.codes.astype(np.int64)) >= 2**15 + 2**14


def test_8_bit_affine_codes_run_from_0_to_255():
    q = ql.quantize(np.linspace(-1, 3, 1000, dtype=np.float32), config(mapping="affine"))
    assert q.codes.dtype == np.uint8
    assert (q.codes.min(), q.codes.max()) == (0, 255)


@pytest.mark.parametrize(("first", "second"), [(1, 9), (9, 1)])
def test_an_exponential_average_tracks_up_and_down(first, second):
    x = np.concatenate([np.linspace(-first, first, 100), np.linspace(-second, second, 100)]).astype(np.float32)
    q = ql.quantize(x, config(calibration=ql.EMA(factor=0.5, batches=2)))
    assert float(q.scale) * 127 == pytest.approx((first + second) / 2, rel=1e-6)


def test_sums_do_not_stall_at_two_to_the_24():
    x = np.ones(2**25, np.float32)
    report = ql.measure(x, np.zeros_like(x))
    assert (report.mse, report.mae) == (1, 1)


def test_ties_go_to_even():
    x = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 127])
    assert ql.quantize(x, config()).codes.tolist() == [0, 2, 2, 0, -2, -2, 127]


@pytest.mark.parametrize("scale_dtype", SCALES)
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e6 / 7, 1e6, 3e38])
def test_a_scale_that_its_type_cannot_hold_is_neither_0_nor_infinite(size, mapping, scale_dtype):
    x = np.float32([size, -size / 2, 0, size / 4])
    q = ql.quantize(x, config(dtype="int4", mapping=mapping, scale_dtype=scale_dtype))
    assert 0 < float(q.scale) < math.inf
    assert np.isfinite(q.dequantize()).all()


@pytest.mark.parametrize("slug", ["int4-sym-g8-mse-sfp16", "int8-uni-tensor-percentile", "fp16", "bf16"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["denormal", "every scale", "zeros"])
def test_nothing_is_raised_for_a_caller_who_has_numpy_raise(kind, dtype, slug):
    x, options = kinds(64)[kind].astype(dtype) * dtype(2.0**-9), ql.QuantConfig.parse(slug)
    expected = ql.evaluate(x, options), ql.fake_quantize(x, options)
    with np.errstate(all="raise"):
        assert ql.evaluate(x, options) == expected[0]
        np.testing.assert_array_equal(ql.fake_quantize(x, options), expected[1])


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_float16_near_its_largest_value_does_not_overflow(mapping):
    x = np.float16([60000, -65504, 1])
    q = ql.quantize(x, config(mapping=mapping))
    step = float(q.scale)
    assert np.abs(q.dequantize() - x.astype(np.float64)).max() <= step
    assert step < 600


ANY_FLOAT = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=300)
@given(
    x=hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=12), elements=ANY_FLOAT),
    dtype=st.sampled_from([name for name, kind in ql.DTYPES.items() if kind.block is None]),
    mapping=st.sampled_from(MAPPINGS),
    granularity=st.sampled_from(GRANULARITIES),
    calibration=st.sampled_from([*CALIBRATIONS, ql.Percentile(40, 60)]),
    scale_dtype=st.sampled_from(SCALES),
    pow2=st.booleans(),
)
def test_any_finite_tensor_gives_finite_values_and_figures(
    x, dtype, mapping, granularity, calibration, scale_dtype, pow2
):
    options = config(
        dtype=dtype, mapping=mapping, granularity=granularity, calibration=calibration, scale_dtype=scale_dtype,
        pow2_scale=pow2,
    )  # fmt: skip
    q = ql.quantize(x, options)
    assert np.isfinite(q.dequantize()).all()
    assert q.scale is None or (np.isfinite(q.scale).all() and (q.scale > 0).all())
    report = ql.evaluate(x, options)
    assert all(math.isfinite(value) for value in (report.mse, report.mae, report.max_abs_error, report.cosine))


@settings(max_examples=200)
@given(
    x=hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e3, 1e3, width=32)),
    dtype=st.sampled_from(["int2", "int4", "int8", "int16"]),
    mapping=st.sampled_from(MAPPINGS),
)
def test_values_in_range_move_by_at_most_half_a_step(x, dtype, mapping):
    q = ql.quantize(x, config(dtype=dtype, mapping=mapping))
    # Affine: the rounded zero point may shift the range by half a step more. The scale is rounded, and codes multiply
    # that; then the product is rounded, and for uniform codes the offset and the sum.
    rounded = 2.0**q.config.codec.bits * np.spacing(q.scale) + 4 * np.spacing(np.abs(x).max() + q.scale)
    bound = (1 if mapping == "affine" else 0.5) * float(q.scale) + float(rounded)
    assert np.abs(q.dequantize().astype(np.float64) - x).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("scale_dtype", SCALES)
def test_a_power_of_two_scale_is_one_and_no_neighbour_is_better(mapping, scale_dtype):
    x = RNG.standard_normal((16, 64)).astype(np.float32)
    options = config(
        dtype="int4", mapping=mapping, granularity=ql.PerGroup(32), pow2_scale=True, scale_dtype=scale_dtype
    )
    groups, codec = options.granularity.to_groups(x), options.codec
    fitted = codec.fit(groups, *groups.extents)
    assert (np.frexp(fitted.scale)[0] == 0.5).all()
    best = codec.squared_errors(groups, fitted)
    lo = codec.mapping.widen(*groups.extents)[0]
    for factor in (0.5, 2):
        scale = fitted.scale * np.float32(factor)
        zero_point = codec.grid.has_zero_point * np.clip(np.rint(-lo / scale), 0, codec.grid.steps)
        other = fitted._replace(scale=scale, zero_point=zero_point.astype(np.float32))
        assert (best <= codec.squared_errors(groups, other)).all()


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_zeros_have_scale_1_and_codes_0(mapping):
    q = ql.quantize(np.zeros((3, 5), np.float32), config(mapping=mapping, granularity=ql.PerChannel(0)))
    assert q.scale.tolist() == [1, 1, 1]
    assert not q.codes.any()
    report = ql.evaluate(np.zeros(5, np.float32), config(mapping=mapping))
    assert (report.mse, report.sqnr_db, report.cosine) == (0, math.inf, 1)


@pytest.mark.parametrize("calibration", [ql.Percentile(10, 90), ql.MovingAverage(3), ql.EMA(0.3, 4)], ids=str)
def test_a_calibrated_range_bounds_what_comes_out(calibration):
    x = np.append(np.zeros(99), 7).astype(np.float32)
    groups = ql.PerTensor().to_groups(x)
    lo, hi = calibration.range(groups, config().codec)
    restored = ql.fake_quantize(x, config(calibration=calibration))
    assert np.abs(restored).max() <= max(abs(lo), abs(hi))[0, 0] * 128 / 127 * (1 + 1e-6) + 1e-30
