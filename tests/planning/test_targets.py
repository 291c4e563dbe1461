"""What programs load: menus that their exports hold, and nothing offered that an export would refuse."""

import itertools
import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import quantlab as ql
from quantlab.formats import FORMATS
from quantlab.planning.targets import TARGETS
from quantlab.shipping.recipe import Rule
from quantlab.shipping.rehearsal import assigned, refusals
from quantlab.sweeping.weights import names_of_weights

from .models import LLAMA, MOE, saved

MODELS = {
    "llama": lambda folder: saved(folder, LLAMA),
    "llama in float16": lambda folder: saved(folder, LLAMA, "float16"),
    "odd rows": lambda folder: saved(
        folder, {"a.q_proj.weight": (8, 40), "a.up_proj.weight": (64, 96), "c": (4, 3, 32)}
    ),
    "experts": lambda folder: saved(folder, MOE, num_experts=3),
    "an old ONNX": lambda folder: network(folder, 15),
    "an ONNX": lambda folder: network(folder, 21),
    "an ONNX in float16": lambda folder: network(folder, 21, np.float16),
}


def network(folder, opset, dtype=np.float32):
    """Two MatMuls and a Conv."""
    folder.mkdir()
    shapes = {"one": (64, 64), "two": (64, 32), "conv": (4, 2, 3, 3)}
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("MatMul", ["x", "one"], ["h"]), helper.make_node("MatMul", ["h", "two"], ["y"])]
    nodes.append(helper.make_node("Conv", ["image", "conv"], ["z"]))
    inputs = [
        helper.make_tensor_value_info("x", elem, (1, 64)),
        helper.make_tensor_value_info("image", elem, (1, 2, 8, 8)),
    ]
    outputs = [
        helper.make_tensor_value_info("y", elem, (1, 32)),
        helper.make_tensor_value_info("z", elem, (1, 4, 6, 6)),
    ]
    rng = np.random.default_rng(1)
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(dtype), n) for n, s in shapes.items()]
    graph = helper.make_graph(nodes, "network", inputs, outputs, weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), folder / "m.onnx"
    )
    return folder / "m.onnx"


@pytest.fixture(params=MODELS)
def source(request, tmp_path):
    with ql.open_checkpoint(MODELS[request.param](tmp_path / "model")) as opened:
        yield opened


def test_the_registry_is_keyed_by_name_and_knows_its_formats():
    for name, target in TARGETS.items():
        assert target.name == name and target.label
        assert target.formats[0] == target.format
        assert all(FORMATS[format].writable for format in target.formats)


def units(target, source):
    """The units of a target, one of every kind: members of one shape are treated alike."""
    found = target.ties(source, names_of_weights(source))
    return {frozenset(source.spec(name).shape for name in unit.members): unit for unit in found}.values()


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_offered_is_what_the_export_takes(target, source):
    """A target refuses what a rehearsal of the export refuses, of its own menu and of some that others have."""
    chosen = TARGETS[target]
    configs = dict.fromkeys([*chosen.wishes(source), *(each.wishes(source)[-1] for each in TARGETS.values())])
    for unit, config in itertools.product(units(chosen, source), configs):
        specs = [source.spec(name) for name in unit.members]
        try:
            rules = [Rule("*", None, copy=True), *(Rule(name, config) for name in unit.members)]
            assignment = assigned(source, rules, chosen.format)
            says = refusals(source, assignment, chosen.format)
        except ql.QuantlabError as error:
            says = [str(error)]
        whys = [why for spec in specs if (why := chosen.refuses(spec, config, source))]
        if whys:
            # Beyond the format: what the program asks, and scales that the file would hold otherwise.
            beyond = [chosen.never(spec, source) or chosen.demands(spec, config) for spec in specs]
            assert says or any(beyond) or "measure" in whys[0], (unit.name, str(config), whys)
        else:
            assert not says, (unit.name, str(config), says)
            assert {str(item.config) for item in assignment.taken} == {str(config)}


@pytest.mark.parametrize("target", TARGETS)
def test_a_plan_may_mix_all_that_is_offered(target, source):
    """One configuration a unit, in turn: what is offered for each alone is taken by the export of all together."""
    chosen = TARGETS[target]
    menu, rules, turn = chosen.menu(source), [Rule("*", None, copy=True)], 0
    assert len(menu) <= 12
    for unit in chosen.ties(source, names_of_weights(source)):
        specs = [source.spec(name) for name in unit.members]
        options = [config for config in menu if not any(chosen.refuses(spec, config, source) for spec in specs)]
        if options:
            rules += [Rule(name, options[turn % len(options)]) for name in unit.members]
            turn += 1
    if len(rules) > 1:
        assert not refusals(source, assigned(source, rules, chosen.format), chosen.format)


@pytest.mark.parametrize(
    ("target", "model", "scales"),
    [
        ("vllm", "llama", {"bf16"}),
        ("transformers", "llama in float16", {"fp16"}),
        ("mlx", "llama", {"bf16"}),
        ("mlx", "llama in float16", {"fp16"}),
        ("onnxruntime", "an ONNX", {"fp32"}),
        ("onnxruntime", "an ONNX in float16", {"fp16"}),
        ("any", "llama", {"fp16"}),
    ],
)
def test_scales_are_measured_in_the_dtype_that_the_file_holds(target, model, scales, tmp_path):
    with ql.open_checkpoint(MODELS[model](tmp_path / "model")) as source:
        assert {config.scale_dtype for config in TARGETS[target].menu(source)} == scales


def test_a_configuration_that_the_file_would_hold_otherwise_is_refused_with_that_one(tmp_path):
    with ql.open_checkpoint(saved(tmp_path / "model", LLAMA)) as source:
        spec, config = source.spec("lm_head.weight"), ql.QuantConfig.parse("int4-sym-g32-mse")
        why = TARGETS["vllm"].refuses(spec, config, source)
    assert why == "its file holds scales as bf16, in which this model runs: measure int4-sym-g32-mse-sbf16 instead"


def test_an_old_onnx_model_is_offered_what_its_opset_decodes(tmp_path):
    with ql.open_checkpoint(network(tmp_path / "model", 15)) as source:
        assert {config.dtype for config in TARGETS["onnxruntime"].menu(source)} == {"int8"}
    with ql.open_checkpoint(network(tmp_path / "newer", 21)) as source:
        assert {config.dtype for config in TARGETS["onnxruntime"].menu(source)} == {"int4", "int8"}


REFUSED = {
    "llama.cpp": [
        ("blk.0.ffn_gate_inp.weight", (8, 64), "q8_0", "it is small"),
        ("blk.0.ssm_conv1d.weight", (64, 4), "fp16", "short convolution"),
        ("blk.0.ffn_down_exps.bias_like", (8, 64), "q8_0", "called weight"),
        ("v.patch_embd.weight", (64, 3, 16, 16), "fp16", "vision"),
        ("token_types.weight", (2, 64), "q8_0", "token types"),
        ("blk.0.ffn_up.weight", (64, 40), "q8_0", "32"),
        ("blk.0.ffn_up.weight", (64, 64), "int8-sym-ch0-mse", "ggml's own types"),
        ("blk.0.ffn_up.weight", (64, 64), "q8_0", ""),
        ("model.layers.0.mlp.gate.weight", (8, 64), "q8_0", "chooses experts"),
    ],
    "vllm": [
        ("l.0.mlp.gate.weight", (8, 64), "int8-sym-ch0-mse", "chooses experts"),
        ("l.0.mlp.up_proj.weight", (64, 64), "int4-aff-g32-mse-sbf16", "only where all are symmetric"),
        ("l.0.mlp.up_proj.weight", (8, 64), "int8-sym-tensor-mse-sbf16", "per channel or per group"),
        ("l.0.mlp.experts.up_proj", (4, 8, 64), "int8-sym-ch0-mse-sbf16", "matrices"),
        ("l.0.mlp.up_proj.weight", (8, 64), "int4-sym-g32-mse-sbf16", ""),
    ],
    "transformers": [
        ("l.0.mlp.up_proj.weight", (8, 64), "int8-sym-tensor-mse-sbf16", ""),
        ("l.0.mlp.up_proj.weight", (64, 64), "int4-aff-g32-mse-sbf16", "only where all are symmetric"),
    ],
    "mlx": [
        ("conv.weight", (64, 3, 64), "int4-uni-g32-mse-sbf16", "this has shape"),
        ("l.0.mlp.switch_mlp.up_proj.weight", (4, 64, 64), "int4-uni-g32-mse-sbf16", ""),
        ("l.0.mlp.up_proj.weight", (64, 64), "int4-sym-g32-mse-sbf16", "uniform mapping"),
    ],
}


@pytest.mark.parametrize(
    ("target", "name", "shape", "slug", "why"), [(target, *case) for target, cases in REFUSED.items() for case in cases]
)
def test_what_a_program_does_not_load_is_refused_with_the_reason(target, name, shape, slug, why, tmp_path):
    with ql.open_checkpoint(saved(tmp_path / "model", {name: shape})) as source:
        said = TARGETS[target].refuses(source.spec(name), ql.QuantConfig.parse(slug), source)
    assert (why in said) if why else not said


def test_integers_and_nothing_are_never_quantized(tmp_path):
    np.savez(tmp_path / "a.npz", ids=np.zeros((4, 4), np.int64), none=np.zeros((0, 4), np.float32))
    with ql.open_checkpoint(tmp_path / "a.npz") as source:
        for target in TARGETS.values():
            assert "int64" in target.never(source.spec("ids"), source)
            assert target.never(source.spec("none"), source) == "it is empty"
            assert target.menu(source) == []


def test_a_config_that_cannot_be_read_is_one_sentence(tmp_path):
    folder = saved(tmp_path / "model", LLAMA)
    (folder / "config.json").write_text("[")
    with ql.open_checkpoint(folder) as source, pytest.raises(ql.ExportError, match=r"config\.json is not JSON"):
        TARGETS["vllm"].menu(source)


def test_heads_are_quantized_where_a_pin_asks_for_it(tmp_path):
    with ql.open_checkpoint(saved(tmp_path / "model", LLAMA)) as source:
        spec, config = source.spec("lm_head.weight"), ql.QuantConfig.parse("int8-sym-ch0-mse-sbf16")
        for name, target in TARGETS.items():
            assert bool(target.habit(spec)) == (name in ("vllm", "transformers"))
        assert not TARGETS["vllm"].refuses(spec, config, source)
        assert not TARGETS["vllm"].habit(source.spec("model.layers.0.mlp.up_proj.weight"))


NOTES = {
    "llama": {"llama.cpp": "is no GGUF file", "onnxruntime": "is no ONNX model"},
    "an old ONNX": {
        "onnxruntime": "the model has opset 15",
        "llama.cpp": "is no GGUF file",
        **dict.fromkeys(("vllm", "transformers", "mlx"), "no config.json is beside"),
    },
    "an ONNX": {
        "llama.cpp": "convert_hf_to_gguf.py",
        **dict.fromkeys(("vllm", "transformers", "mlx"), "what is written of it is no model yet"),
    },
}


@pytest.mark.parametrize("model", NOTES)
def test_what_a_file_lacks_to_be_a_model_is_said_beforehand(model, tmp_path):
    with ql.open_checkpoint(MODELS[model](tmp_path / "model")) as source:
        for name, target in TARGETS.items():
            notes = target.notes(source)
            assert len(notes) == (name in NOTES[model])
            assert all(NOTES[model][name] in note for note in notes)


def test_answers_are_kept_no_longer_than_the_file_is_open(tmp_path):
    """An ONNX model's graph is read once a configuration, and not once a tensor; and not for a file that is gone."""
    path = network(tmp_path / "model", 21)
    from quantlab.planning import targets

    before = len(targets._HELD)
    source = ql.open_checkpoint(path)
    TARGETS["onnxruntime"].menu(source)
    assert len(targets._HELD) == before + 1
    source.close()
    del source
    assert len(targets._HELD) == before


def test_what_a_config_says_of_the_model_is_obeyed(tmp_path):
    folder = saved(tmp_path / "model", {"transformer.h.0.attn.c_attn.weight": (64, 64)}, model_type="gpt2")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"
    with ql.open_checkpoint(folder) as source:
        (name,) = source.names
        why = TARGETS["vllm"].refuses(source.spec(name), ql.QuantConfig.parse("int8-sym-ch0-mse-sbf16"), source)
        assert "Conv1D" in why
        assert TARGETS["vllm"].menu(source) == []
