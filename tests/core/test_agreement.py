"""Other people's word: ONNX Runtime, ml_dtypes, NumPy, and somebody else's int8 file, bit for bit."""

import importlib.metadata

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

import quantlab as ql
from quantlab.core.granularity import PIECE
from quantlab.core.packing import pack

RNG = np.random.default_rng(11)
SHAPE = (6, 64)
DATA = {
    "random": RNG.standard_normal(SHAPE),
    "ties": RNG.integers(-300, 300, SHAPE) / 2,
    "constant": np.full(SHAPE, 0.3),
    "denormal": RNG.integers(-40, 40, SHAPE) * 2.0**-149,
    "outlier": np.where(np.arange(64) == 5, 1e4, RNG.standard_normal(SHAPE)),
    "one-sided": RNG.random(SHAPE) + 0.5,
}
TYPES = {
    ("int4", "symmetric"): TensorProto.INT4,
    ("int4", "affine"): TensorProto.UINT4,
    ("int8", "symmetric"): TensorProto.INT8,
    ("int8", "affine"): TensorProto.UINT8,
    ("int16", "symmetric"): TensorProto.INT16,
    ("int16", "affine"): TensorProto.UINT16,
}
GRANULARITIES = {
    "tensor": (ql.PerTensor(), {}),
    "axis 0": (ql.PerChannel(0), {"axis": 0}),
    "axis 1": (ql.PerChannel(1), {"axis": 1}),
    "blocks": (ql.PerGroup(16), {"axis": 1, "block_size": 16}),
    "short last block": (ql.PerGroup(24), {"axis": 1, "block_size": 24}),
}


def raw_tensor(name, kind, array, bits):
    """An initializer; codes are packed as quantlab packs them."""
    data = pack(array, bits).tobytes() if array.dtype.kind in "iu" else array.tobytes()
    return helper.make_tensor(name, kind, array.shape, data, raw=True)


def run_round_trip(x, q, kind, attributes):
    """(codes, values) by ONNX Runtime's QuantizeLinear and DequantizeLinear, with our scale and zero point."""
    bits = q.config.codec.bits
    initializers = [
        raw_tensor("scale", TensorProto.FLOAT, q.scale, 32),
        raw_tensor("zero", kind, q.zero_point, bits),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"], **attributes),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["values"], **attributes),
        # 4-bit tensors cannot leave the runtime as arrays.
        helper.make_node("Cast", ["codes"], ["integers"], to=TensorProto.INT32),
    ]
    outputs = [
        helper.make_tensor_value_info("integers", TensorProto.INT32, x.shape),
        helper.make_tensor_value_info("values", TensorProto.FLOAT, x.shape),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    graph = helper.make_graph(nodes, "round trip", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(("dtype", "mapping"), TYPES)
def test_codes_and_values_are_those_of_onnxruntime(dtype, mapping, granularity, data):
    x = DATA[data].astype(np.float32)
    ours, attributes = GRANULARITIES[granularity]
    q = ql.quantize(x, ql.QuantConfig(dtype=dtype, mapping=mapping, granularity=ours))
    codes, values = run_round_trip(x, q, TYPES[dtype, mapping], attributes)
    np.testing.assert_array_equal(q.codes, codes)
    np.testing.assert_array_equal(q.dequantize(), values)


@pytest.mark.parametrize("calibration", [ql.Percentile(5, 95), ql.MSE(), ql.MovingAverage(3), ql.EMA(0.5, 4)], ids=str)
@pytest.mark.parametrize(("dtype", "mapping"), TYPES)
def test_codes_of_a_calibrated_range_are_those_of_onnxruntime(dtype, mapping, calibration):
    x = DATA["outlier"].astype(np.float32)
    q = ql.quantize(
        x, ql.QuantConfig(dtype=dtype, mapping=mapping, granularity=ql.PerGroup(16), calibration=calibration)
    )
    codes, values = run_round_trip(x, q, TYPES[dtype, mapping], {"axis": 1, "block_size": 16})
    np.testing.assert_array_equal(q.codes, codes)
    np.testing.assert_array_equal(q.dequantize(), values)


@pytest.mark.parametrize(("name", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_casts_are_those_of_ml_dtypes(name, dtype):
    """On every float32 whose upper 16 bits differ, with ties and their neighbours below."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    x = np.concatenate([upper + low for low in (0, 0x7FFF, 0x8000, 0x8001, 0xFFF, 0x1000, 0x1001)]).view(np.float32)
    with np.errstate(all="ignore"):
        expected = x.astype(dtype)
        inside = np.isfinite(expected.astype(np.float32))
    q = ql.quantize(x[inside], ql.QuantConfig(dtype=name))
    np.testing.assert_array_equal(q.codes, expected[inside].view(np.uint16))
    np.testing.assert_array_equal(q.dequantize(), expected[inside].astype(np.float32))


@pytest.mark.parametrize("n", [1, 2, 99, 4097, 200_001, PIECE + 1])
@pytest.mark.parametrize(("lower", "upper"), [(0.1, 99.9), (5, 95), (0, 100), (49.9, 50.1)])
def test_percentiles_are_those_of_numpy(n, lower, upper):
    """More than a piece are not sorted, but selected by radix."""
    x = np.random.default_rng(n).standard_t(2, n).astype(np.float32)
    groups = ql.PerTensor().to_groups(x)
    lo, hi = ql.Percentile(lower, upper).range(groups, ql.QuantConfig().codec)
    expected = np.percentile(x.astype(np.float64), [lower, upper])
    assert (lo[0, 0], hi[0, 0]) == tuple(expected)


@settings(max_examples=300)
@given(
    x=hnp.arrays(np.float32, st.integers(2, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    lower=st.floats(0, 49.9),
    upper=st.floats(50.1, 100),
)
def test_percentiles_of_anything_are_those_of_numpy_to_the_last_bit(x, lower, upper):
    lo, hi = ql.Percentile(lower, upper).range(ql.PerTensor().to_groups(x), ql.QuantConfig().codec)
    expected = np.percentile(x.astype(np.float64), [lower, upper])
    # Two percentiles that coincide leave no range to cover: it is widened by a hair.
    assert (lo[0, 0], hi[0, 0]) == tuple(expected) or expected[0] == expected[1] == lo[0, 0]


def test_percentiles_per_group_are_those_of_numpy_with_a_short_last_group():
    x = RNG.standard_normal((5, 300)).astype(np.float32)
    lo, hi = ql.Percentile(2, 98).range(ql.PerGroup(128).to_groups(x), ql.QuantConfig().codec)
    for r in range(5):
        for j, start in enumerate(range(0, 300, 128)):
            expected = np.percentile(x[r, start : start + 128].astype(np.float64), [2, 98])
            assert (lo[r, j], hi[r, j]) == tuple(expected)


def test_int8_per_channel_reproduces_somebody_elses_int8_file():
    """fracast: scale amax / 127 per output channel, codes clipped to -127..127; one scale for its 1-D tensor."""
    files = [file.locate() for file in importlib.metadata.distribution("fracast").files]
    names = {str(file): file for file in files if str(file).endswith(".safetensors")}
    theirs = next(path for name, path in names.items() if "int8" in name)
    source = next(path for name, path in names.items() if "int8" not in name)
    with ql.open_checkpoint(source) as dense, ql.open_checkpoint(theirs) as packed:
        names = [name.removesuffix(".qweight") for name in packed.names if name.endswith(".qweight")]
        assert len(names) == 20
        for name in names:
            x = dense.load(name)
            q = ql.quantize(x, ql.QuantConfig(granularity=ql.PerChannel(0) if x.ndim > 1 else ql.PerTensor()))
            np.testing.assert_array_equal(q.codes, packed.raw(f"{name}.qweight"))
            np.testing.assert_array_equal(q.scale.reshape(-1), packed.raw(f"{name}.scale").reshape(-1))
