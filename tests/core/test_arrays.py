"""What may be quantized: everything else is refused in one sentence, before it costs memory."""

import tracemalloc
import warnings

import ml_dtypes
import numpy as np
import pytest

import quantlab as ql
from quantlab.core.arrays import NARROW_FLOATS, widened


@pytest.mark.parametrize(
    "x",
    [
        np.arange(10, dtype=np.int32),
        np.array([True, False]),
        np.array([1j]),
        np.array([object()]),
        np.array(["a"]),
        np.zeros(3, "V2"),
        np.array(["2020-01-01"], "M8[D]"),
        [1, 2],
        1.0,
        "x",
        None,
    ],
    ids=lambda x: str(x.dtype) if isinstance(x, np.ndarray) else type(x).__name__,
)
def test_what_is_no_array_of_floats_is_refused_by_its_type(x):
    with pytest.raises(ql.DTypeError) as refused:
        ql.quantize(x, ql.QuantConfig())
    named = str(x.dtype) if isinstance(x, np.ndarray) else type(x).__name__
    assert named in str(refused.value)


def test_a_mask_is_not_passed_over():
    with pytest.raises(ql.DTypeError, match="masked array"):
        ql.evaluate(np.ma.masked_array(np.float32([1, 2]), mask=[True, False]), ql.QuantConfig())


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 0)])
def test_nothing_cannot_be_quantized(shape):
    with pytest.raises(ql.EmptyTensorError, match="no elements"):
        ql.quantize(np.zeros(shape, np.float32), ql.QuantConfig())


@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerChannel(0), ql.PerChannel(1), ql.PerGroup(3)])
@pytest.mark.parametrize("dtype", ["int8", "fp16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_their_count_and_first_index(value, dtype, granularity):
    x = np.ones((4, 8), np.float32)
    x[2, 5] = x[3, 1] = value
    config = ql.QuantConfig(dtype=dtype, granularity=granularity)
    for call in (ql.quantize, ql.evaluate, ql.fake_quantize):
        with pytest.raises(ql.NonFiniteError, match=r"2 (NaN|infinite).*|0 NaN and 2 infinite") as refused:
            call(x, config)
        assert "(2, 5)" in str(refused.value)


@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerGroup(7)], ids=str)
@pytest.mark.parametrize("calibration", ql.CALIBRATIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_every_calibration_refuses_them_before_it_computes_anything(value, calibration, granularity):
    """Infinities would warn of their differences; and too few values for entropy are not what is wrong here first."""
    x = np.full((4, 8), value, np.float32)
    config = ql.QuantConfig(granularity=granularity, calibration=ql.CALIBRATIONS[calibration]())
    said = set()
    for call in (ql.quantize, ql.evaluate):
        with warnings.catch_warnings(action="error"), pytest.raises(ql.NonFiniteError) as refused:
            call(x, config)
        said.add(str(refused.value))
    assert len(said) == 1


def test_the_first_index_is_found_in_a_large_tensor():
    x = np.ones(3_000_000, np.float32)
    x[2_500_000] = np.nan
    with pytest.raises(ql.NonFiniteError, match=r"1 NaN and 0 infinite values of 3,000,000.*\(2500000,\)"):
        ql.quantize(x, ql.QuantConfig())


@pytest.mark.parametrize("step", [1, 2], ids=["as it lies", "copied"])
def test_float64_beyond_float32_is_refused_not_made_infinite(step):
    x = np.repeat([1, 1e300, -1e300], step)[::step]
    with pytest.raises(ql.NonFiniteError, match=r"beyond the range of float32.*\(1,\): 1e\+300"):
        ql.quantize(x, ql.QuantConfig())


@pytest.mark.parametrize(
    "x", [np.float32(3.0), np.array(3.0, np.float32), np.float32([3.0])], ids=["scalar", "0-d", "1-d"]
)
def test_one_value_is_a_tensor(x):
    q = ql.quantize(x, ql.QuantConfig())
    assert q.shape == np.shape(x)
    np.testing.assert_allclose(q.dequantize(), x, rtol=2.0**-23)


def test_a_broadcast_view_of_gigabytes_is_refused_before_it_is_written_out():
    x = np.broadcast_to(np.float32(1), (10**9,))
    tracemalloc.start()
    with pytest.raises(ql.LimitError, match=r"4,000,000,000 bytes"):
        ql.quantize(x, ql.QuantConfig())
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_more_values_than_32_bits_can_count_are_measured_to_the_last():
    x = np.zeros(2**31 + 8, np.uint8).view(ml_dtypes.float8_e4m3fn)  # never written to, they take no memory
    x[[5, 2**31, -1]] = -1, 2, 3
    error = np.array([-1, 2, 3]) - np.array([-2, 5, 7]) * 3 / 7
    report = ql.evaluate(x, ql.QuantConfig(dtype="int4"))
    assert report.mse * x.size == pytest.approx(np.square(error).sum(), rel=1e-6)
    assert report.mae * x.size == pytest.approx(np.abs(error).sum(), rel=1e-6)
    assert report.nbytes == 2**30 + 4 + 4


def test_a_small_broadcast_view_is_quantized():
    x = np.broadcast_to(np.float32([1, 2]), (3, 2))
    np.testing.assert_allclose(ql.fake_quantize(x, ql.QuantConfig()), x, atol=0.01)


def test_big_endian_is_converted_not_reinterpreted():
    x = np.arange(1, 7, dtype=">f4")
    np.testing.assert_array_equal(ql.fake_quantize(x, ql.QuantConfig(dtype="fp16")), x)


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.bfloat16])
def test_narrow_floats_with_nan_are_refused(dtype):
    with pytest.raises(ql.NonFiniteError):
        ql.quantize(np.array([1, np.nan], dtype), ql.QuantConfig())


@pytest.mark.parametrize("dtype", sorted((t for t in NARROW_FLOATS if t.itemsize == 1), key=str), ids=str)
def test_every_8_bit_float_is_widened_as_its_type_says(dtype):
    x = np.arange(256, dtype=np.uint8).view(dtype).reshape(8, 32)
    for matrix in (x, x.T, x[1:3, ::2]):
        np.testing.assert_array_equal(widened(matrix), matrix.astype(np.float32))


SIGNALLING = {
    np.dtype(np.float64): np.uint64(0x7FF0000000000001),
    np.dtype(np.float32): np.uint32(0x7F800001),
    np.dtype(np.float16): np.uint16(0x7C01),
    np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F81),
}


@pytest.mark.parametrize("step", [1, 2], ids=["as it lies", "copied"])
@pytest.mark.parametrize("dtype", SIGNALLING, ids=str)
def test_a_signalling_nan_is_refused_without_a_warning(dtype, step):
    x = np.ones((3, 32 * step), dtype)[:, ::step]
    x[2, 1] = SIGNALLING[dtype].view(dtype)
    for slug in ("int8-sym-tensor-minmax", "int4-aff-ch0-mse", "fp16", "q8_0"):
        for call in (ql.quantize, ql.evaluate):
            with warnings.catch_warnings(action="error"), pytest.raises(ql.NonFiniteError, match=r"1 NaN.*\(2, 1\)"):
                call(x, ql.QuantConfig.parse(slug))
    with warnings.catch_warnings(action="error"), pytest.raises(ql.NonFiniteError, match=r"1 NaN.*\(2, 1\)"):
        ql.measure(np.ones(x.shape), x)
