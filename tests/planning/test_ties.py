"""What is decided as one: by program, by file and by the user."""

from collections import OrderedDict

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import quantlab as ql
from quantlab.planning.targets import TARGETS
from quantlab.planning.units import Unit
from quantlab.sweeping.weights import names_of_weights

from .models import EXPERTS, LLAMA, MOE, saved


@pytest.fixture
def llama(tmp_path):
    with ql.open_checkpoint(saved(tmp_path / "llama", LLAMA)) as source:
        yield source


def tied(units):
    return {unit.members: unit.reason for unit in units if len(unit.members) > 1}


def check_whole(units, names):
    """Every name once, members and units in the order of the names, and a reason for whoever is not alone."""
    assert sorted(name for unit in units for name in unit.members) == sorted(names)
    assert [unit.name for unit in units] == sorted((unit.name for unit in units), key=names.index)
    for unit in units:
        assert list(unit.members) == sorted(unit.members, key=names.index)
        assert (unit.name == unit.members[0]) and bool(unit.reason) == (len(unit.members) > 1)


def test_vllm_fuses_q_k_v_and_gate_up(llama):
    names = names_of_weights(llama)
    units = TARGETS["vllm"].ties(llama, names)
    check_whole(units, names)
    layer = "model.layers.1."
    attention = sorted(f"{layer}self_attn.{part}_proj.weight" for part in "qkv")
    mlp = [f"{layer}mlp.{part}_proj.weight" for part in ("gate", "up")]
    found = {frozenset(members): reason for members, reason in tied(units).items()}
    assert found[frozenset(attention)] == "vLLM fuses q, k and v"
    assert found[frozenset(mlp)] == "vLLM fuses gate and up"
    assert len(found) == 4 and len(units) == 4 + 2 * 2 + 1  # o and down of two layers, and the head


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "vllm"])
def test_other_programs_leave_projections_free(target, llama):
    names = names_of_weights(llama)
    assert TARGETS[target].ties(llama, names) == [Unit(name, (name,)) for name in names]


@pytest.mark.parametrize(
    ("together", "words"),
    [
        (("layers.0.attention.wq", "layers.0.attention.wk", "layers.0.attention.wv"), "wq, wk and wv"),
        (("layers.0.feed_forward.w1", "layers.0.feed_forward.w3"), "w1 and w3"),
        (("l.linear_attn.in_proj_qkv", "l.linear_attn.in_proj_z"), "in_proj_qkv and in_proj_z"),
        (("l.linear_attn.in_proj_a", "l.linear_attn.in_proj_b"), "in_proj_a and in_proj_b"),
        (("l.self_attn.q_a_proj", "l.self_attn.kv_a_proj_with_mqa"), "q_a and kv_a"),
        (("e.attention.self.query", "e.attention.self.key", "e.attention.self.value"), "query, key and value"),
    ],
)
def test_vllm_fuses_layers_by_their_other_names(together, words, tmp_path):
    names = sorted(f"{module}.weight" for module in together)
    others = ["layers.1.attention.wq.weight", "layers.0.feed_forward.w2.weight", "l.self_attn.kv_b_proj.weight"]
    with ql.open_checkpoint(saved(tmp_path / "model", dict.fromkeys([*names, *others], (32, 32)))) as source:
        found = tied(TARGETS["vllm"].ties(source, source.names))
    assert found == {tuple(names): f"vLLM fuses {words}"}


def test_all_experts_of_a_layer_are_one_in_vllm_and_a_projection_is_one_where_they_are_stacked(tmp_path):
    with ql.open_checkpoint(saved(tmp_path / "moe", MOE)) as source:
        names = names_of_weights(source)
        programs = ("vllm", "llama.cpp", "mlx", "transformers", "any")
        vllm, ggml, mlx, transformers, free = (TARGETS[name].ties(source, names) for name in programs)
    for units in (vllm, ggml, mlx, transformers, free):
        check_whole(units, names)
    assert [len(unit.members) for unit in vllm] == [9, 1, 9, 1]
    assert {unit.reason for unit in vllm} == {"", "vLLM runs all experts of a layer under one scheme"}
    assert sorted(len(unit.members) for unit in ggml) == sorted(len(unit.members) for unit in mlx) == [1, 1] + [3] * 6
    assert {name.split(".")[-2] for name in ggml[0].members} == {"down_proj"}
    assert [len(unit.members) for unit in transformers] == [len(EXPERTS), 1, 1]
    assert len(free) == len(EXPERTS) + 2


def test_layers_that_pytorch_ties_are_one_decision_for_every_program(tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.ones(8, 8)
    torch.save(OrderedDict(a=torch.zeros(8, 8), encoder=weight, decoder=weight), tmp_path / "tied.pt")
    with ql.open_checkpoint(tmp_path / "tied.pt") as source:
        for target in TARGETS.values():
            assert target.ties(source, source.names) == [
                Unit("a", ("a",)),
                Unit("encoder", ("encoder", "decoder"), "'decoder' is 'encoder' itself"),
            ]


def test_an_initializer_that_two_nodes_share_is_one_decision(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])],
        "shared",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 32))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 32))],
        [numpy_helper.from_array(np.eye(32, dtype=np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    with ql.open_checkpoint(tmp_path / "m.onnx") as source:
        assert TARGETS["onnxruntime"].ties(source, names_of_weights(source)) == [Unit("w", ("w",))]


def test_what_the_user_ties_is_merged_with_what_its_members_share(llama):
    names = names_of_weights(llama)
    units = TARGETS["vllm"].ties(llama, names, ["*.0.*v_proj.weight", "model.layers.[01].self_attn.k_proj.weight"])
    check_whole(units, names)
    (reason,) = {unit.reason for unit in units if "model.layers.0.self_attn.q_proj.weight" in unit.members}
    assert reason == "vLLM fuses q, k and v; tied by you"
    assert [len(unit.members) for unit in units if "tied by you" in unit.reason] == [6]


def test_all_may_be_tied_and_a_glob_of_one_ties_nothing(llama):
    names = names_of_weights(llama)
    (unit,) = TARGETS["any"].ties(llama, names, ["*"])
    assert (unit.members, unit.reason) == (tuple(names), "tied by you")
    assert TARGETS["any"].ties(llama, names, ["lm_head*"]) == TARGETS["any"].ties(llama, names)


def test_a_chain_of_ties_is_one_unit(tmp_path):
    shapes = {f"l.{i}.w": (1, 2) for i in range(400)}
    with ql.open_checkpoint(saved(tmp_path / "chain", shapes, "float32")) as source:
        names = source.names
        globs = [f"l.[{i % 10}-{i % 10}]*" for i in range(10)] + ["l.?.w"]
        (unit,) = TARGETS["any"].ties(source, names, globs)
    assert unit.members == tuple(names)
