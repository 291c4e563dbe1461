"""A tensor slice by slice is the tensor: the same values, and the figures of the whole."""

import dataclasses
import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab import QuantConfig, grid, measure, quantize
from quantlab.core.slices import measure_slices, slices
from quantlab.errors import NonFiniteError, QuantlabError, ShapeError

CONFIGS = grid(
    ["int2", "int3", "int4", "int7", "int8", "int16", "fp16", "q4_0", "q5_1"],
    ["symmetric", "affine", "uniform"],
    ["tensor", "ch0", "ch-1", "g7", "g32"],
    scale_dtypes=["fp32", "bf16"],
)
SHAPES = [(), (1,), (70,), (320,), (1, 96), (33, 5), (3, 64), (17, 3, 32), (2, 1, 1, 9), (1, 7, 5)]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_slices_decode_to_the_values_of_the_whole(config, rng):
    fits = 0
    for shape, values in itertools.product(SHAPES, (1, 40, 10**6)):
        try:
            q = quantize(rng.standard_normal(shape, dtype=np.float32), config)
        except QuantlabError:
            continue
        whole, end = q.dequantize().reshape(-1), 0
        for at, part in slices(q, values):
            assert at.start == end
            np.testing.assert_array_equal(part.dequantize().reshape(-1), whole[at])
            end = at.stop
        assert end == q.size
        fits += 1
    assert fits > 5


@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 500), st.sampled_from(CONFIGS))
def test_a_slice_is_about_as_large_as_asked(rows, columns, values, config):
    x = np.ones((rows, columns), np.float32)
    try:
        q = quantize(x, config)
    except QuantlabError:
        return
    # Eight rows, or eight groups of the only row, always end on a byte.
    most = max(values, 8 * min(columns if rows > 1 else 32, q.size))
    assert all(part.size <= most for _, part in slices(q, values))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("slug", ["int4-sym-g32-minmax", "int8-aff-ch-1-minmax", "int3-uni-tensor-minmax", "fp16"])
def test_the_figures_of_slices_are_those_of_the_whole(dtype, slug, rng):
    x = rng.standard_normal((300, 70)).astype(dtype)
    q = quantize(x, QuantConfig.parse(slug))
    found, expected = (
        dataclasses.asdict(each)
        for each in (measure_slices(x, q, values=1000), measure(x.astype(np.float32), q.dequantize()))
    )
    assert found["max_abs_error"] == expected["max_abs_error"]
    for name, value in expected.items():
        assert found[name] == (value if value is None else pytest.approx(value, rel=1e-12))


def test_what_cannot_be_compared_is_refused(rng):
    q = quantize(rng.standard_normal((4, 8)), QuantConfig())
    with pytest.raises(ShapeError, match=r"\(8, 4\) with shape \(4, 8\)"):
        measure_slices(np.ones((8, 4)), q)
    x = np.ones((4, 8))
    x[2, 3] = np.nan
    with pytest.raises(NonFiniteError, match="1 NaN"):
        measure_slices(x, q)
