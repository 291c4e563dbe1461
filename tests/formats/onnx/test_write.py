"""ONNX exports, run by ONNX Runtime: DequantizeLinear gives the values that were measured, bit for bit."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

import quantlab as ql
from quantlab.formats import FORMATS
from quantlab.formats.output.outgoing import Outgoing, outgoing
from quantlab.formats.writing import export_layout

LAYOUT = FORMATS["onnx"].layout
SHAPES = [(64, 128), (33, 65), (7,), (4, 3, 5, 7), (2, 31)]
CONFIGS = ql.grid(
    ["int4", "int8", "int16"],
    ["symmetric", "affine"],
    ["tensor", "ch0", "ch-1", "g32"],
    scale_dtypes=["fp32", "fp16"],
) + ql.grid(["int4", "int8"], ["symmetric"], ["tensor", "ch0", "g32"], ["exact"], ["fp32", "fp16"])


def weights(shape):
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def run(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {}), strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_onnxruntime_computes_the_values_that_were_measured(shape, tmp_path):
    x = weights(shape)
    tensors = {config.slug: ql.quantize(x, config) for config in CONFIGS}
    path = ql.export(tmp_path / "weights.onnx", tensors, format="onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert ([each.version for each in model.opset_import], model.ir_version) == ([21], 10)
    kinds = {TensorProto.DataType.Name(each.data_type) for each in model.graph.initializer}
    assert kinds >= {"INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16", "FLOAT", "FLOAT16"}
    found = run(path)
    assert found.keys() == tensors.keys()
    for name, q in tensors.items():
        assert found[name].shape == shape
        assert found[name].dtype == q.scale.dtype
        np.testing.assert_array_equal(found[name].astype(np.float32), LAYOUT.decoded(q))
        if q.config.scale_dtype == "fp32":
            np.testing.assert_array_equal(found[name], q.dequantize())


def test_what_is_copied_comes_out_unchanged(tmp_path):
    x = weights((3, 5))
    tensors = [*outgoing({"fc": ql.quantize(x, CONFIGS[0])}), Outgoing("norm", x.shape, "float32", None, lambda: x)]
    export_layout(tmp_path / "weights.onnx", tensors, FORMATS["onnx"])
    np.testing.assert_array_equal(run(tmp_path / "weights.onnx")["norm"], x)


@pytest.mark.parametrize(
    ("slug", "why"),
    [
        ("int5-sym-tensor-minmax", "int4, int8 and int16"),
        ("fp16", "int4, int8 and int16"),
        ("q4_0", "int4, int8 and int16"),
        ("int8-uni-tensor-minmax", "no float offsets"),
        ("int8-sym-tensor-minmax-sbf16", "bfloat16 scales"),
    ],
)
def test_what_onnx_cannot_hold_is_refused_with_the_reason(slug, why, tmp_path):
    q = ql.quantize(weights((4, 64)), ql.QuantConfig.parse(slug))
    with pytest.raises(ql.ExportError, match=why):
        ql.export(tmp_path / "weights.onnx", {"fc": q}, format="onnx")
    assert not list(tmp_path.iterdir())


def test_names_that_would_meet_in_the_graph_are_refused(tmp_path):
    q = ql.quantize(weights((4, 64)), CONFIGS[0])
    with pytest.raises(ql.ExportError, match="fc_scale"):
        ql.export(tmp_path / "weights.onnx", {"fc": q, "fc_scale": q}, format="onnx")
