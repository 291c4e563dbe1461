"""The code that an export comes with runs as it is, and gives the values that were measured."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import quantlab as ql
from quantlab.formats import FORMATS
from quantlab.formats.onnx.inputs import Input, inputs_of

SLUGS = {"onnx": "int4-sym-g32-minmax", "gguf": "q5_1", "dense": "int4-sym-g32-minmax", "mlx": "int4-uni-g32-minmax"}


def executed(code):
    names = {}
    exec(code, names)
    return names


@pytest.mark.parametrize("format", SLUGS)
def test_the_snippet_decodes_tensors_alone(format, rng, tmp_path, capsys):
    q = ql.quantize(rng.standard_normal((8, 64), dtype=np.float32), ql.QuantConfig.parse(SLUGS[format]))
    path = ql.export(tmp_path / "it's", {"fc.weight": q}, format=format)
    weights = executed(FORMATS[format].snippet(path, path))["weights"]
    weights = weights["fc.weight"] if isinstance(weights, dict) else weights
    np.testing.assert_array_equal(np.asarray(weights, np.float32), FORMATS[format].layout.decoded(q))


def model(path, inputs, ir_version=10):
    """A model of a MatMul, and of whatever else it is to be fed with."""
    w = numpy_helper.from_array(np.random.default_rng(0).standard_normal((32, 16), dtype=np.float32), "w")
    others = [name for name, _, _ in inputs if name != "x"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])]
        + [helper.make_node("Identity", [name], [f"{name}-out"]) for name in others],
        "network",
        [helper.make_tensor_value_info(*each) for each in inputs]
        + [helper.make_tensor_value_info("w", TensorProto.FLOAT, (32, 16))] * (ir_version < 4),
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
        + [helper.make_tensor_value_info(f"{name}-out", kind, shape) for name, kind, shape in inputs if name != "x"],
        [w],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=ir_version), path)
    return path


@pytest.mark.parametrize("ir_version", [3, 10])
def test_a_model_written_again_comes_with_its_inputs(ir_version, tmp_path):
    source = model(
        tmp_path / "model.onnx",
        [
            ("x", TensorProto.FLOAT, ("batch", 3, 32)),
            ("it's", TensorProto.INT64, (None, 2)),
            ("half", TensorProto.FLOAT16, ()),
            ("text", TensorProto.STRING, ("# n\nimport os",)),
        ],
        ir_version,
    )
    out = tmp_path / "small.onnx"
    with ql.open_checkpoint(source) as opened:
        q = ql.quantize(opened.raw("w"), ql.QuantConfig.parse("int8-sym-ch1-minmax"))
        ql.export(out, {"w": q}, format="onnx", source=opened)
    code = FORMATS["onnx"].snippet(out, out)
    assert "# of any length: 'batch'" in code
    found = executed(code)
    assert {name: (x.shape, x.dtype) for name, x in found["inputs"].items()} == {
        "x": ((1, 3, 32), np.float32),
        "it's": ((1, 2), np.int64),
        "half": ((), np.float16),
        "text": ((1,), np.dtype(object)),
    }
    assert found["outputs"]["y"].shape == (1, 3, 16)
    assert not found["outputs"]["y"].any()
    assert set(found["outputs"]) == {"y", "it's-out", "half-out", "text-out"}


def test_inputs_are_those_that_onnxruntime_sees(tmp_path):
    path = model(tmp_path / "model.onnx", [("x", TensorProto.FLOAT, ("n", 32)), ("k", TensorProto.BOOL, (4,))])
    seen = onnxruntime.InferenceSession(path).get_inputs()
    assert [(each.name, each.shape) for each in seen] == [(each.name, list(each.shape)) for each in inputs_of(path)]
    assert inputs_of(path)[1] == Input("k", "bool", (4,))


def test_the_code_names_the_place_where_a_download_will_lie(tmp_path):
    path = model(tmp_path / "model.onnx", [("x", TensorProto.FLOAT, (1, 32))])
    code = FORMATS["onnx"].snippet("download.onnx", path)
    assert "InferenceSession('download.onnx'" in code
    assert str(tmp_path) not in code
