"""Calibrations that search: what they promise, against plain twins and against each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import quantlab as ql
from quantlab.granularity import PIECE
from tests import reference
from tests.tensors import gaussian, kinds

ANY_FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
KINDS = list(kinds(8))
MAPPINGS = list(ql.MAPPINGS)
each_mapping = pytest.mark.parametrize("mapping", MAPPINGS)
each_kind = pytest.mark.parametrize("kind", KINDS)


def ranges(x: np.ndarray, config: ql.QuantConfig) -> tuple[np.ndarray, np.ndarray]:
    """(lo, hi) of every group, float64 [rows, groups]."""
    return config.calibration.range(config.granularity.to_groups(x), config.codec)


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
