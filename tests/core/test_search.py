"""Calibrations that search: what they promise, against plain twins and against each other."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import quantlab as ql
from quantlab.core.calibration import CALIBRATIONS
from quantlab.core.granularity import PIECE, STREAM
from quantlab.core.metrics import group_errors
from quantlab.core.search import Exact
from quantlab.core.tensor import fit
from tests.core import reference
from tests.tensors import gaussian, kinds

ANY_FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
KINDS = list(kinds(8))
MAPPINGS = list(ql.MAPPINGS)
SCALE_DTYPES = ["fp32", "fp16", "bf16"]
ZERO_KEPT = ["symmetric", "affine"]
each_mapping = pytest.mark.parametrize("mapping", MAPPINGS)
each_kind = pytest.mark.parametrize("kind", KINDS)


def ranges(x: np.ndarray, config: ql.QuantConfig) -> tuple[np.ndarray, np.ndarray]:
    """(lo, hi) of every group, float64 [rows, groups]."""
    return config.calibration.range(config.granularity.to_groups(x), config.codec)


def rounding(x: np.ndarray, size: int) -> np.ndarray:
    """What float32 may add to the root of a group's squared error: [rows, groups].

    Decoded values are rounded, and so are the quotients that choose codes. No decoded value is beyond twice the largest
    magnitude, so each of n values moves by less than its spacing there.
    """
    magnitudes = [[np.abs(group).max() for group in row] for row in reference.groups_of(x, size)]
    spacing = np.spacing(2 * np.array(magnitudes, np.float64)) * 2.0**29  # of float32: 2^29 of that of float64
    return np.sqrt(size) * np.maximum(spacing, 2.0**-149)


# --- OCTAV ----------------------------------------------------------------------------------------------------------


def octav(bits: int = 4, mapping: str = "symmetric", granularity=ql.PerTensor(), iterations: int = 20):
    return ql.QuantConfig(
        dtype=f"int{bits}", mapping=mapping, granularity=granularity, calibration=ql.Octav(iterations)
    )


@each_mapping
@each_kind
@pytest.mark.parametrize("iterations", [1, 2, 7])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_octav_is_the_iteration_of_the_paper(mapping, kind, bits, iterations):
    x = kinds(300)[kind]
    lo, hi = ranges(x.reshape(1, -1), octav(bits, mapping, ql.PerGroup(100), iterations))
    for j, group in enumerate(reference.groups_of(x[None], 100)[0]):
        expected = reference.octav(group, reference.Codes(mapping, bits), iterations)
        # A range that no longer moves by 1e-9 of its width stands still.
        np.testing.assert_allclose((lo[0, j], hi[0, j]), expected, rtol=1e-7, atol=1e-7 * float(np.ptp(expected)))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("draw", ["gaussian", "heavy tails"])
def test_octav_ends_where_ai_edge_quantizer_does(bits, draw):
    """Its formula, started at 1: s = sum of |x| > s over (4^-bits / 3 * count of |x| <= s + count of |x| > s)."""
    rng = np.random.default_rng(bits)
    x = rng.standard_normal(20_000) if draw == "gaussian" else rng.standard_t(3, 20_000)
    x = x.astype(np.float32)
    magnitudes, s = np.abs(x.astype(np.float64)), 1.0
    for _ in range(40):
        above = magnitudes > s
        s = magnitudes[above].sum() / (4.0**-bits / 3 * np.count_nonzero(~above) + np.count_nonzero(above))
    assert ranges(x, octav(bits, iterations=40))[1].item() == pytest.approx(s, rel=1e-6)


def test_octav_of_a_gaussian_is_the_published_fixed_point():
    """2.562 sigma at 4 bits, by integrating the density."""
    x = gaussian(4_000_000)
    assert ranges(x, octav(4))[1].item() == pytest.approx(2.56209, abs=0.02)


@each_mapping
def test_octav_is_the_same_for_large_groups_as_for_small_ones(mapping):
    x = np.append(gaussian(PIECE), np.float32(40))
    lo, hi = ranges(x, octav(4, mapping))
    expected = reference.octav(x, reference.Codes(mapping, 4), 20)
    np.testing.assert_allclose((lo.item(), hi.item()), expected, rtol=1e-6)


@each_mapping
@given(
    x=hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e3, 1e3, width=32)),
    exponent=st.integers(-40, 40),
)
def test_octav_scales_with_the_values(mapping, x, exponent):
    x = np.where(np.abs(x) < 1e-3, 0, x).astype(np.float32)
    plain = ranges(x, octav(4, mapping))
    scaled = ranges(np.ldexp(x, exponent).astype(np.float32), octav(4, mapping))
    np.testing.assert_array_equal(np.ldexp(plain, exponent), scaled)


@each_mapping
@given(
    x=hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
)
def test_octav_stays_within_the_extremes(mapping, x):
    lo, hi = ranges(x, octav(4, mapping))
    lowest, highest = ql.MAPPINGS[mapping].widen(np.float64(x.min()), np.float64(x.max()))
    assert lowest <= lo.item() <= hi.item() <= highest


@each_mapping
@pytest.mark.parametrize("far", [20.0, 50.0])
def test_octav_clips_an_outlier_that_costs_less_than_the_steps_it_forces(mapping, far):
    x = np.append(gaussian(100_000), np.float32(far))
    assert ranges(x, octav(4, mapping))[1].item() < 4
    searched, plain = (ql.evaluate(x, octav(4, mapping)), ql.evaluate(x, ql.QuantConfig(dtype="int4", mapping=mapping)))
    assert searched.mse < plain.mse


@pytest.mark.parametrize("iterations", [0, -1, 1001, 2.0, True, "3"])
def test_iterations_that_are_none_are_refused(iterations):
    with pytest.raises(ql.ConfigError, match="iterations is"):
        ql.Octav(iterations)


# --- MSE ------------------------------------------------------------------------------------------------------------


def least_on_grid(x: np.ndarray, config: ql.QuantConfig) -> np.ndarray:
    """The least squared error of every group over 200 ranges, evenly spaced from its extremes to nothing."""
    groups, codec = config.granularity.to_groups(x), config.codec
    lo, hi = groups.extents
    return np.min([codec.squared_errors(groups, codec.fit_range(lo * i / 200, hi * i / 200)) for i in range(1, 201)], 0)


def mse(bits: int, mapping: str, granularity=ql.PerTensor(), **options):
    return ql.QuantConfig(dtype=f"int{bits}", mapping=mapping, granularity=granularity, calibration=ql.MSE(), **options)


def no_worse_than_a_grid(x: np.ndarray, config: ql.QuantConfig) -> None:
    """No group of a matrix has an error more than 0.1 % above the best of 200 ranges."""
    found, best = np.sqrt(group_errors(x, config)), np.sqrt(1.001 * least_on_grid(x, config))
    np.testing.assert_array_less(found, best + rounding(x, config.granularity.to_groups(x).size) + 1e-300)


@pytest.mark.parametrize("size", [8, 33, 128, 600, 5000])
@pytest.mark.parametrize("mapping", ZERO_KEPT)
@pytest.mark.parametrize(("bits", "scale_dtype"), [(2, "fp32"), (4, "bf16"), (5, "fp32"), (8, "fp16"), (16, "bf16")])
@each_kind
def test_mse_does_not_lose_to_200_ranges(size, mapping, bits, scale_dtype, kind):
    x = kinds(max(size, 640))[kind][None]
    no_worse_than_a_grid(x, mse(bits, mapping, ql.PerGroup(size), scale_dtype=scale_dtype))


@settings(max_examples=200)
@given(
    x=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 50)),
        elements=ANY_FLOAT | st.floats(-3, 3, width=32) | st.sampled_from([0.0, 1.0, -1.0, 100.0]),
    ),
    bits=st.sampled_from([2, 3, 4, 5, 6, 8, 16]),
    mapping=st.sampled_from(ZERO_KEPT),
    scale_dtype=st.sampled_from(["fp32", "fp16", "bf16"]),
    size=st.sampled_from([16, 40]),  # every code is followed, and a walk made
)
def test_mse_does_not_lose_to_200_ranges_on_anything(x, bits, mapping, scale_dtype, size):
    no_worse_than_a_grid(x, mse(bits, mapping, ql.PerGroup(size), scale_dtype=scale_dtype))


def least_of_both_ends(x: np.ndarray, config: ql.QuantConfig) -> float:
    """The least squared error of one group over 40 x 40 ranges, either end cut by itself; codes of plain arithmetic."""
    steps, x = config.codec.grid.steps, x.astype(np.float64)
    shares, best = np.linspace(0.1, 1, 40), np.inf
    for lo, hi in itertools.product(x.min() * shares, x.max() * shares):
        scale = (hi - lo) / steps
        zero = lo if config.mapping == "uniform" else -scale * np.rint(-lo / scale)
        best = min(best, np.square(zero + scale * np.clip(np.rint((x - zero) / scale), 0, steps) - x).sum())
    return best


@pytest.mark.parametrize("mapping", ["affine", "uniform"])
@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("draw", ["gaussian", "heavy tails", "outlier"])
@pytest.mark.parametrize("size", [128, 600, 4096])
def test_mse_of_few_codes_is_not_caught_in_a_range_far_from_the_best(mapping, bits, draw, size):
    """Within a tenth of the best of both ends: what is local may be missed by little, not by a factor."""
    rng = np.random.default_rng(1)
    x = {"gaussian": rng.standard_normal(size), "heavy tails": rng.standard_t(3, size),
         "outlier": np.append(rng.standard_normal(size - 1), 12)}[draw].astype(np.float32)  # fmt: skip
    config = mse(bits, mapping)
    assert group_errors(x[None], config).item() <= 1.1 * least_of_both_ends(x, config)


@pytest.mark.parametrize("mapping", ZERO_KEPT)
@pytest.mark.parametrize("bits", [3, 8, 16])
@pytest.mark.parametrize("draw", ["gaussian", "heavy tails", "one-sided", "far outlier", "far from zero", "two values"])
def test_mse_of_a_large_group_does_not_lose_to_200_ranges(mapping, bits, draw):
    """More values than fit a piece: searched as a histogram."""
    rng, n = np.random.default_rng(bits), PIECE + 1001
    draws = {
        "gaussian": lambda: rng.standard_normal(n),
        "heavy tails": lambda: rng.standard_t(2, n),
        "one-sided": lambda: rng.exponential(1, n),
        "far outlier": lambda: np.append(rng.standard_normal(n - 1), 1e6),
        "far from zero": lambda: rng.uniform(1000, 1001, n),
        "two values": lambda: np.where(rng.random(n) < 0.3, -0.5, 2),
    }
    no_worse_than_a_grid(draws[draw]().astype(np.float32)[None], mse(bits, mapping))


@each_mapping
@pytest.mark.parametrize("size", [64, 5000, PIECE + 77])
@pytest.mark.parametrize(("bits", "pow2"), [(3, True), (8, False)])
def test_mse_is_never_worse_than_min_max_whatever_the_size(mapping, size, bits, pow2):
    every = kinds(size)
    for kind in ("gaussian", "far from zero", "constant", "mostly zero", "outlier", "huge", "every scale"):
        x = every[kind]
        searched = group_errors(x[None], mse(bits, mapping, pow2_scale=pow2))
        plain = ql.QuantConfig(dtype=f"int{bits}", mapping=mapping, pow2_scale=pow2)
        assert (searched <= group_errors(x[None], plain)).all()


@each_mapping
@pytest.mark.parametrize(("bits", "size"), [(5, 32), (8, 50), (16, 2500)])
def test_mse_finds_the_same_whatever_is_beside_a_group(mapping, bits, size):
    """Alone, among others that are searched at the same time, and in a row with a short group at its end."""
    x = np.stack([np.roll(gaussian(3 * size + 7), 11 * r) * 1.5**r for r in range(17)]).astype(np.float32)
    lo, hi = ranges(x, mse(bits, mapping, ql.PerGroup(size)))
    for r, row in enumerate(x):
        for j, group in enumerate(reference.groups_of(row[None], size)[0]):
            alone = ranges(group[None], mse(bits, mapping, ql.PerGroup(size)))
            assert (lo[r, j], hi[r, j]) == (alone[0].item(), alone[1].item())


def test_mse_finds_the_same_in_a_short_group_however_long_rows_are_cut():
    """Pieces for fitting alone are larger than those for evaluating; of the former, one would be the short group."""
    size = 600
    x = np.stack([np.roll(gaussian(2 * (STREAM // size) * size + 40), 500 * r) for r in range(3)])
    x[:, -40:] = np.maximum(x[:, -40:], 0)  # many ranges are nearly as good, and following all codes finds a better one
    config = mse(4, "affine", ql.PerGroup(size))
    groups = config.granularity.to_groups(x)
    for fitted, expected in zip(fit(groups, config), config.calibration.fit(groups, config.codec), strict=True):
        np.testing.assert_array_equal(fitted, expected)
    assert groups.shape[1] % (STREAM // size) == 1


@pytest.mark.parametrize("mapping", ZERO_KEPT)
def test_the_range_of_mse_is_the_one_its_scales_are_fitted_to(mapping):
    x = gaussian(64 * 96).reshape(64, 96)
    for bits, size in ((4, 32), (8, 32)):
        config = mse(bits, mapping, ql.PerGroup(size), scale_dtype="fp16")
        groups = config.granularity.to_groups(x)
        again = config.codec.fit(groups, *config.calibration.range(groups, config.codec))
        for found, expected in zip(again, fit(groups, config), strict=True):
            np.testing.assert_array_equal(found, expected)


# --- exact ----------------------------------------------------------------------------------------------------------

SWEPT = [(2, "symmetric"), (3, "symmetric"), (4, "symmetric"), (8, "symmetric"), (2, "affine"), (4, "affine")]
OTHERS = [kind() for name, kind in CALIBRATIONS.items() if name not in ("exact", "entropy")]


def exact(bits: int = 4, mapping: str = "symmetric", granularity=ql.PerTensor(), **options):
    return ql.QuantConfig(
        dtype=f"int{bits}", mapping=mapping, granularity=granularity, calibration=ql.Exact(), **options
    )


def never_worse(x: np.ndarray, config: ql.QuantConfig, other: ql.QuantConfig) -> None:
    """No group of a matrix has a larger error, but for the rounding of float32."""
    found, theirs = (np.sqrt(group_errors(x, c)) for c in (config, other))
    size = config.granularity.to_groups(x).size
    np.testing.assert_array_less(found, theirs + rounding(x, size) + 1e-300)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "huge"])  # real numbers do not overflow
@pytest.mark.parametrize(("bits", "mapping"), SWEPT)
@pytest.mark.parametrize("scale_dtype", SCALE_DTYPES)
@pytest.mark.parametrize("pow2", [False, True])
def test_exact_is_the_sweep_over_every_code_that_changes(kind, bits, mapping, scale_dtype, pow2):
    x = kinds(12)[kind][None]
    config = exact(bits, mapping, scale_dtype=scale_dtype, pow2_scale=pow2)
    best = reference.exact(x[0], reference.Codes(mapping, bits), scale_dtype, pow2)[0]
    found = np.sqrt(group_errors(x, config).item())
    assert abs(found - np.sqrt(best)) <= rounding(x, 12).item()


@pytest.mark.parametrize("other", OTHERS, ids=str)
@pytest.mark.parametrize("mapping", ZERO_KEPT)
@pytest.mark.parametrize("bits", [2, 4, 5])
@each_kind
def test_exact_is_never_worse_than_another_calibration(other, mapping, bits, kind):
    x = np.stack([np.roll(kinds(100)[kind], 7 * r) for r in range(3)])
    for scale_dtype in SCALE_DTYPES:
        for pow2 in (False, True):
            options = {"granularity": ql.PerGroup(32), "scale_dtype": scale_dtype, "pow2_scale": pow2}
            theirs = ql.QuantConfig(dtype=f"int{bits}", mapping=mapping, calibration=other, **options)
            never_worse(x, exact(bits, mapping, **options), theirs)


@settings(max_examples=300)
@given(
    x=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 2), st.integers(1, 40)),
        elements=ANY_FLOAT | st.floats(-3, 3, width=32) | st.sampled_from([0.0, 1.0, -1.0, 100.0]),
    ),
    bits=st.sampled_from([2, 3, 4, 8]),
    mapping=st.sampled_from(ZERO_KEPT),
    other=st.sampled_from(OTHERS),
    scale_dtype=st.sampled_from(SCALE_DTYPES),
    pow2=st.booleans(),
)
def test_exact_is_never_worse_than_another_calibration_on_anything(x, bits, mapping, other, scale_dtype, pow2):
    options = {"granularity": ql.PerGroup(16), "scale_dtype": scale_dtype, "pow2_scale": pow2}
    theirs = ql.QuantConfig(dtype=f"int{bits}", mapping=mapping, calibration=other, **options)
    config = exact(bits, mapping, **options)
    never_worse(x, config, theirs)
    q = ql.quantize(x, config)
    assert np.isfinite(q.dequantize()).all()
    assert mapping == "symmetric" or (q.scale > 0).all()
    assert not pow2 or (np.abs(np.frexp(q.scale.astype(np.float64))[0]) == 0.5).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("draw", ["gaussian", "heavy tails", "one-sided"])
def test_exact_beats_thousands_of_scales_each_improved_by_least_squares(bits, draw):
    rng = np.random.default_rng(bits)
    x = {"gaussian": rng.standard_normal(32), "heavy tails": rng.standard_t(2, 32), "one-sided": rng.exponential(1, 32)}
    values = x[draw].astype(np.float32).astype(np.float64)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    magnitudes = np.abs(values).max() / high * np.geomspace(0.05, 4 * high, 6001)
    scale = np.concatenate([magnitudes, -magnitudes])[:, None]
    codes = np.clip(np.rint(values / scale), low, high)
    with np.errstate(invalid="ignore"):
        refit = (codes @ values) / np.square(codes).sum(axis=1)
    refit = np.where(np.isfinite(refit) & (refit != 0), refit, 1.0)[:, None]
    errors = np.square(values - refit * np.clip(np.rint(values / refit), low, high)).sum(axis=1)
    found = np.sqrt(group_errors(values[None].astype(np.float32), exact(bits)).item())
    assert found <= np.sqrt(errors.min()) + rounding(values[None], 32).item()


@pytest.mark.parametrize("bits, mapping, size", [(8, "symmetric", 32), (8, "affine", 16), (4, "symmetric", 32)])
@pytest.mark.parametrize("spread", [0, 30])
def test_no_scale_of_three_float32_steps_off_is_better(bits, mapping, size, spread):
    """By brute force, with the rounding of code times scale to float32 as it is shipped; errors are summed exactly."""
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((60, size)) * 10.0 ** rng.uniform(-spread, spread, (60, 1))).astype(np.float32)
    q, grid = ql.quantize(x, exact(bits, mapping, ql.PerGroup(size))), reference.Codes(mapping, bits)
    for values, scale, zero_point in zip(x, q.scale[:, 0], q.zero_point[:, 0].tolist(), strict=True):
        here = (scale.view(np.int32) + np.arange(-3, 4, dtype=np.int32)).view(np.float32)
        ends = grid.lowest - zero_point, grid.highest - zero_point
        decoded = [np.clip(np.rint(values / step), *ends).astype(np.float32) * step for step in here]
        errors = [math.fsum(np.square(values.astype(np.float64) - became)) for became in decoded]
        assert min(errors) >= errors[3] * (1 - 1e-13)


def test_exact_is_worth_what_was_computed_elsewhere():
    """Gaussian values in groups of 32 at 4 bits: 21.84 dB for either sign of the scale, 22.34 dB with zero points."""
    x = gaussian(1 << 18).reshape(-1, 32)
    assert ql.evaluate(x, exact(4, "symmetric", ql.PerGroup(32))).sqnr_db == pytest.approx(21.84, abs=0.02)
    assert ql.evaluate(x, exact(4, "affine", ql.PerGroup(32))).sqnr_db == pytest.approx(22.34, abs=0.02)


@pytest.mark.parametrize("mapping", ZERO_KEPT)
@pytest.mark.parametrize("size", [Exact.ROOM, 3 * Exact.ROOM])
def test_exact_lists_changes_in_parts_without_losing_any(mapping, size, monkeypatch):
    """More changes than there is room for, and many at the same scale: the same as with room for all."""
    x = np.append(np.round(gaussian(size - 7), 1), np.float32([9, 9, 9, -9, 8, 0, 0]))[None].astype(np.float32)
    parts = fit(ql.PerTensor().to_groups(x), exact(3, mapping))
    monkeypatch.setattr(Exact, "ROOM", 1 << 22)
    whole = fit(ql.PerTensor().to_groups(x), exact(3, mapping))
    np.testing.assert_array_equal(parts.scale, whole.scale)
    np.testing.assert_array_equal(parts.zero_point, whole.zero_point)


def test_the_one_code_more_below_zero_serves_the_side_that_needs_it():
    x = np.float32([8, 1, -7, 3, 5, 0, -2, 2])
    for values, scale in ((x, -1), (-x, 1)):
        q = ql.quantize(values, exact(4))
        assert q.scale == scale
        np.testing.assert_array_equal(q.dequantize(), values)


@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerChannel(-1), ql.PerGroup(7)], ids=str)
@pytest.mark.parametrize("mapping", ZERO_KEPT)
@pytest.mark.parametrize("value", [0.3, -0.3, 1e-45, -3e38, 0.0])
def test_exact_gives_a_constant_back(value, mapping, granularity):
    x = np.full((4, 30), value, np.float32)
    restored = ql.fake_quantize(x, exact(4, mapping, granularity))
    np.testing.assert_allclose(restored, x, rtol=2.0**-23)


def test_a_scale_below_zero_is_only_for_signed_codes_and_0_for_none():
    x = gaussian(8)
    for mapping, bad in (("symmetric", 0), ("affine", -1), ("affine", 0)):
        q = ql.quantize(x, exact(4, mapping))
        with pytest.raises(ql.PackingError, match="given a scale that is"):
            dataclasses.replace(q, scale=np.float32(bad) * q.scale)
    q = ql.quantize(x, exact(4))
    turned = dataclasses.replace(q, scale=-q.scale)
    np.testing.assert_array_equal(turned.dequantize(), -q.dequantize())


def test_scales_of_either_sign_occur_in_what_other_programs_are_shown():
    """The tests of exports hold them to the same values; this one makes sure that there is something to see."""
    for granularity in (ql.PerChannel(0), ql.PerGroup(32)):
        scale = ql.quantize(gaussian(64 * 128).reshape(64, 128), exact(4, granularity=granularity)).scale
        assert 0.2 < (scale < 0).mean() < 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mapping": "uniform"}, "float offset"),
        ({"dtype": "int16"}, "up to 8 bits, not 16"),
    ],
)
def test_exact_refuses_what_it_cannot_serve_by_name(options, message):
    with pytest.raises(ql.ConfigError, match=message):
        ql.QuantConfig(calibration=ql.Exact(), **options)


@pytest.mark.parametrize(
    ("bits", "mapping", "limit"), [(4, "symmetric", 262_144), (8, "symmetric", 262_144), (8, "affine", 2048)]
)
def test_exact_refuses_groups_that_would_take_too_long_and_says_what_to_use(bits, mapping, limit):
    x = np.zeros((1, limit + 1), np.float32)
    with pytest.raises(ql.ConfigError, match=f"up to {limit:,} values.*use octav or mse, or smaller groups"):
        ql.evaluate(x, exact(bits, mapping))
    assert ql.evaluate(x[:, 1:], exact(bits, mapping)).mse == 0
