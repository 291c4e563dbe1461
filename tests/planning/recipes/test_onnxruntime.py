"""The recipe for ONNX Runtime, run by ONNX Runtime on a small graph."""

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import quantlab as ql
from quantlab.planning.recipes import recipe

from .plans import plan_of, run

WIDTH = 64
WEIGHTS = ["w0", "w1", "w2", "w3"]


def graph(nodes, initializers):
    """A chain of MatMuls, [1, 64] each: (name of the node, name of the matrix)."""
    made, last = [], "x"
    for i, (node, matrix) in enumerate(nodes):
        made.append(helper.make_node("MatMul", [last, matrix], [f"y{i}"], name=node))
        last = f"y{i}"
    rng = np.random.default_rng(0)
    arrays = [numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH), np.float32) / 8, n) for n in initializers]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH]) for name in ("x", last)]
    made = helper.make_graph(made, "g", ends[:1], ends[1:], arrays)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def outputs(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.random.default_rng(1).standard_normal((1, WIDTH), np.float32)})[0]


def attributes(model):
    """Matrix -> what became of the node that multiplies by it."""
    found = {}
    kinds = ("MatMul", "MatMulNBits", "MatMulInteger", "DequantizeLinear")
    for node in model.graph.node:
        name = next((i for i in node.input if i.startswith("w")), None)
        if name and node.op_type in kinds:
            own = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            found.setdefault(name.split("_")[0], (node.op_type, own, len(node.input)))
    return found


MODULES = {
    "model.layers.0.mlp.up_proj.weight": ("w0", "int4-sym-g32-mse"),
    "model.layers.0.mlp.down_proj.weight": ("w1", "int8-aff-g16-minmax"),
    "model.layers.10.self_attn.q_proj.weight": ("w2", "int4-aff-ch0-minmax"),
    "model.layers.10.self_attn.k_proj.weight": ("w3", "int8-sym-ch0-minmax"),
    "model.layers.10.self_attn.v_proj.weight": ("w4", "copy"),
    "lm_head.weight": ("w5", "int2-sym-g16-minmax"),
}
NODES = {
    "w0": "/model/layers.0/mlp/up_proj/MatMul",
    "w1": "/model/layers.0/mlp/down_proj/MatMul",
    "w2": "/model/layers.10/self_attn/q_proj/MatMul",
    "w3": "/model/layers.10/self_attn/k_proj/MatMul",
    "w4": "/model/layers.10/self_attn/v_proj/MatMul",
    "w5": "/lm_head/MatMul",
}


def test_a_plan_of_modules_is_found_by_the_names_of_nodes():
    model = graph([(node, matrix) for matrix, node in NODES.items()], list(NODES))
    before = outputs(model)
    plan = plan_of({name: word for name, (_, word) in MODULES.items()})
    made = run(recipe(plan, "onnxruntime").text)["quantize"](model)
    onnx.checker.check_model(made)
    found = attributes(made)
    assert found["w0"][0] == "MatMulNBits" and found["w0"][1]["bits"] == 4 and found["w0"][1]["block_size"] == 32
    assert found["w1"][0] == "MatMulNBits" and found["w1"][1]["bits"] == 8 and found["w1"][1]["block_size"] == 16
    assert (found["w0"][2], found["w1"][2]) == (3, 4)  # symmetric: no zero points
    assert found["w2"][0] == "DequantizeLinear" and found["w3"][0] == "MatMulInteger" and found["w4"][0] == "MatMul"
    assert found["w5"][0] == "MatMulNBits" and found["w5"][1]["bits"] == 2
    assert np.isfinite(outputs(made)).all() and not np.array_equal(outputs(made), before)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = torch.nn.Sequential()
        self.mlp.add_module("up_proj", torch.nn.Linear(WIDTH, 2 * WIDTH, bias=False))
        self.mlp.add_module("down_proj", torch.nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x):
        return x + self.mlp(x)


@pytest.mark.filterwarnings("ignore")
def test_nodes_have_the_names_that_pytorchs_exporter_gives(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("layers", torch.nn.ModuleList([Block() for _ in range(11)]))
    model.forward = lambda x: functools.reduce(lambda x, layer: layer(x), model.layers, x)
    x = torch.randn(1, 3, WIDTH)
    torch.onnx.export(model.eval(), (x,), str(tmp_path / "model.onnx"), dynamo=False, opset_version=17)
    choices = {name: "int8-aff-g32-minmax" for name, _ in model.named_parameters() if name.endswith("weight")}
    made = run(recipe(plan_of(choices), "onnxruntime").text)["quantize"](onnx.load(tmp_path / "model.onnx"))
    assert [node.op_type for node in made.graph.node].count("MatMulNBits") == 22
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    expected = model(x).detach().numpy()
    # 8 bits, two roundings a block of which each is about 1/255 of its input's range.
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)


@pytest.mark.parametrize("slug", ["int8-sym-ch1-minmax", "int8-aff-tensor-minmax", "int4-sym-ch1-mse"])
def test_a_plan_of_an_onnx_file_is_found_by_its_matrices_whatever_nodes_are_called(slug):
    model = graph([("", "w0"), ("", "w1"), ("named", "w2"), ("", "w1" if "int8" in slug else "w3")], WEIGHTS)
    before = outputs(model)
    plan = plan_of({"w0": "copy"} | {node.input[1]: slug for node in model.graph.node[1:]}, "model.onnx")
    made = run(recipe(plan, "onnxruntime").text)["quantize"](model)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("MatMulInteger" if "int8" in slug else "DequantizeLinear") == 3
    after = outputs(made)
    bits = 8 if "int8" in slug else 4
    # Three roundings, and of int8 three of what goes in: far from the truth is what was quantized along the wrong axis.
    assert np.linalg.norm(after - before) / np.linalg.norm(before) < (0.05 if bits == 8 else 0.5)


def test_the_script_stops_for_a_matrix_of_which_onnx_runtime_makes_a_graph_that_does_not_load():
    model = graph([("", "w1"), ("", "w1")], ["w1"])
    with pytest.raises(SystemExit, match="two nodes in int4 with channels: w1"):
        run(recipe(plan_of({"w1": "int4-sym-ch1-mse"}, "m.onnx"), "onnxruntime").text)["quantize"](model)


def test_groups_of_an_onnx_files_matrices_are_refused_since_its_blocks_go_the_other_way():
    with pytest.raises(ql.ConfigError, match="nearest that it has is int4-sym-ch1-mse"):
        recipe(plan_of({"w0": "int4-sym-g32-mse"}, "model.onnx"), "onnxruntime")


def test_the_script_stops_where_nothing_multiplies_by_a_matrix():
    model = graph([("a", "w0")], ["w0"])
    with pytest.raises(SystemExit, match="no MatMul of this graph is for 1 matrices of the plan: w7"):
        run(recipe(plan_of({"w0": "int8-sym-ch1-minmax", "w7": "int8-sym-ch1-minmax"}, "m.onnx"), "onnxruntime").text)[
            "quantize"
        ](model)
