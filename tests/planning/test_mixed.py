"""Plans mix configurations: files of several, written as plans are, read by the programs that they are for."""

import itertools
import json
import re
import shutil

import gguf
import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save_file as save_arrays

import quantlab as ql
from quantlab.formats import FORMATS
from quantlab.formats.gguf.write import TYPES
from quantlab.planning.planner import problem
from quantlab.planning.targets import TARGETS
from quantlab.shipping.recipe import Rule
from quantlab.shipping.rehearsal import assigned, bound, file_nbytes
from quantlab.shipping.shipping import ship
from quantlab.sweeping.weights import names_of_weights
from tests.formats.onnx.test_rewrite import run, twin

from .models import LLAMA, saved
from .test_targets import network

COPY = "copy"


def mixed(source, target, turn=0):
    """A choice for every weight: what the target offers for its unit and a copy, in turn; weight -> slug or "copy"."""
    chosen, choices = TARGETS[target], {}
    menu = chosen.menu(source)
    for unit in chosen.ties(source, names_of_weights(source)):
        specs = [source.spec(name) for name in unit.members]
        options = [str(c) for c in menu if not any(chosen.refuses(spec, c, source) for spec in specs)]
        options += [] if options and any(map(chosen.must, specs)) else [COPY]
        choices |= dict.fromkeys(unit.members, options[turn % len(options)])
        turn += 1
    return choices


def shipped(source, choices, path, format):
    """The export of a plan's choices by rules; what its program computes, by name."""
    return by_rules(source, rules_of(choices), choices, path, format)[0]


def rules_of(choices):
    """A rule for every name, and a copy of all else."""
    return [Rule("*", None, copy=True), *(Rule.parse(f"{name}={choice}") for name, choice in choices.items())]


def by_rules(source, rules, choices, path, format):
    """The export of rules that must come to these choices: what its program computes by name, and its bytes."""
    assignment = assigned(source, rules, format)
    assert {item.spec.name: str(item.config) for item in assignment.taken} == {
        name: choice for name, choice in choices.items() if choice != COPY
    }
    predicted = file_nbytes(source, assignment, format)
    shipment = ship(source, assignment, path, format)
    assert shipment.equal.all() and shipment.file_nbytes == predicted
    decoded = bound(source, format).decoded
    names = {item.spec.name: item.config for item in assignment.taken}
    return {name: decoded(ql.quantize(source.raw(name), config)) for name, config in names.items()}, predicted


# -- compressed-tensors, by transformers

TINY = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96}


def causal(transformers, kind, **about):
    config = getattr(transformers, f"{kind}Config")(**TINY, intermediate_size=128, **about)
    return getattr(transformers, f"{kind}ForCausalLM")(config)


MODELS = {
    "tied": lambda t: causal(t, "Llama", tie_word_embeddings=True),
    "untied": lambda t: causal(t, "Llama", tie_word_embeddings=False),
    "biases": lambda t: causal(t, "Qwen2", tie_word_embeddings=True),
    "experts": lambda t: causal(t, "Mixtral", num_local_experts=4, tie_word_embeddings=False),
    "experts and norms": lambda t: causal(
        t, "Qwen3Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, tie_word_embeddings=True
    ),
}
CASES = [
    ("tied", "vllm", 0),
    ("untied", "transformers", 5),
    ("biases", "vllm", 3),
    ("experts and norms", "transformers", 4),
]
CASES += [("experts", "transformers", turn) for turn in (0, 3)]


@pytest.fixture
def libraries():
    pytest.importorskip("compressed_tensors")
    return pytest.importorskip("torch"), pytest.importorskip("transformers")


def with_values(folder, out, values):
    """A copy of a model's folder with other values in the place of its own, in the same dtype."""
    shutil.copytree(folder, out)
    arrays = load_file(out / "model.safetensors")
    arrays |= {name: each.astype(arrays[name].dtype) for name, each in values.items()}
    save_arrays(arrays, out / "model.safetensors", {"format": "pt"})
    return out


@pytest.mark.parametrize(("model", "target", "turn"), CASES)
def test_transformers_computes_the_logits_of_a_mixed_plans_dense_twin(model, target, turn, libraries, tmp_path):
    torch, transformers = libraries
    torch.manual_seed(0)
    MODELS[model](transformers).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    with ql.open_checkpoint(tmp_path / "model") as source:
        choices = mixed(source, target, turn)
        assert len(set(choices.values())) > 3
        values = shipped(source, choices, tmp_path / "out", "compressed-tensors")
    check_groups(json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"], choices)
    check_logits(libraries, tmp_path, values)


def check_logits(libraries, folder, values):
    """That the folder `out` computes what `model` does with these values, which is something else than it did."""
    torch, transformers = libraries
    load, tokens = transformers.AutoModelForCausalLM.from_pretrained, torch.arange(24).reshape(2, 12)
    twin = with_values(folder / "model", folder / "twin", values)
    with torch.no_grad():
        before, packed, dense = (load(each).eval()(tokens).logits for each in (folder / "model", folder / "out", twin))
    assert torch.equal(packed, dense)
    assert not torch.equal(packed, before)


@pytest.mark.parametrize(
    ("model", "target"), [("untied", "vllm"), ("experts", "transformers"), ("tied", "transformers")]
)
def test_a_solved_plan_has_the_predicted_size_and_computes_what_its_dense_twin_does(model, target, libraries, tmp_path):
    torch, transformers = libraries
    torch.manual_seed(1)
    MODELS[model](transformers).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    with ql.open_checkpoint(tmp_path / "model") as source:
        table = ql.sweep(source, TARGETS[target].menu(source))
        made = problem(table, source, target=target)
        plan = made.solve(budget="5.5bpw")
        assert len(set(plan.choices.values())) > 1
        assert any("experts" in left.what for left in made.left) == (model == "experts")
        values, size = by_rules(source, plan.rules(), plan.choices, tmp_path / "out", plan.format)
        assert size == plan.nbytes
    check_logits(libraries, tmp_path, values)


def test_a_plan_for_transformers_may_not_copy_experts(mixtral):
    table = ql.sweep(mixtral, TARGETS["transformers"].menu(mixtral))
    with pytest.raises(ql.ConfigError, match="transformers loads experts beside packed layers only packed themselves"):
        problem(table, mixtral, target="transformers", pins=["*experts*=copy"])
    plan = problem(table, mixtral, target="transformers").solve(budget="100%")
    assert COPY in plan.choices.values()  # of all that fits, as much as possible is copied
    assert COPY not in {choice for name, choice in plan.choices.items() if "experts" in name}


def check_groups(settings, choices):
    """Every packed module in one group, by its exact name; every other matrix ignored."""
    named = [module for group in settings["config_groups"].values() for module in group["targets"]]
    assert len(named) == len(set(named))
    assert set(named) == {name.removesuffix(".weight") for name, choice in choices.items() if choice != COPY}
    assert {name.removesuffix(".weight") for name, choice in choices.items() if choice == COPY} <= set(
        settings["ignore"]
    )
    assert not set(named) & set(settings["ignore"])


def test_compressed_tensors_decodes_a_mixed_folder_without_knowing_the_model(libraries, tmp_path):
    torch, _ = libraries
    converters = pytest.importorskip("compressed_tensors.entrypoints.convert")
    with ql.open_checkpoint(saved(tmp_path / "model", LLAMA)) as source:
        values = shipped(source, mixed(source, "vllm", 2), tmp_path / "out", "compressed-tensors")
        dequantizer = converters.CompressedTensorsDequantizer(tmp_path / "out", dtype=torch.bfloat16)
        converters.convert_checkpoint(tmp_path / "out", tmp_path / "dense", dequantizer, device="cpu")
        with ql.open_checkpoint(tmp_path / "dense") as dense:
            for name in source.names:
                np.testing.assert_array_equal(dense.load(name), values.get(name, source.load(name)))


EXPERTS_OTHERWISE = {
    "one of several": (["*experts*=int4-sym-g32-mse", "*experts.1.*=int8-sym-ch0-mse"], "all experts of a layer"),
    "a projection": (["*experts*=int4-sym-g32-mse", "*w2*=int8-sym-ch0-mse"], "all experts of a layer"),
    "one copied": (["*experts*=int4-sym-g32-mse", "*experts.3.w1*=copy"], "'[^']*experts.3.w1.weight' a copy"),
    "affine": (["*experts*=int4-aff-g32-mse"], "experts without zero points"),
}


@pytest.fixture
def mixtral(libraries, tmp_path):
    torch, transformers = libraries
    MODELS["experts"](transformers).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    with ql.open_checkpoint(tmp_path / "model") as source:
        yield source


@pytest.mark.parametrize("case", EXPERTS_OTHERWISE)
def test_experts_of_a_layer_that_no_program_loads_are_refused(case, mixtral, tmp_path):
    rules, why = EXPERTS_OTHERWISE[case]
    assignment = assigned(mixtral, [Rule("*", None, copy=True), *map(Rule.parse, rules)], "compressed-tensors")
    with pytest.raises(ql.ExportError, match=why):
        ship(mixtral, assignment, tmp_path / "out", "compressed-tensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["*experts*=int4-sym-g32-mse-sbf16", "*self_attn*=int8-sym-ch0-mse-sbf16"], False),
        (["*layers.[01].*experts*=int4-sym-g32-mse-sbf16", "*layers.2.*experts*=int8-sym-ch0-mse-sbf16"], True),
        (["*layers.1.*experts*=int4-sym-g32-mse-sbf16"], True),
        (["*self_attn*=int8-sym-ch0-mse-sbf16"], True),
    ],
)
def test_that_transformers_does_not_load_some_experts_is_said_beforehand(rules, said, mixtral):
    found = assigned(mixtral, [Rule("*", None, copy=True), *map(Rule.parse, rules)], "compressed-tensors")
    assert any("for vLLM alone" in remark for remark in found.remarks) == said


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["*_proj*=int4-sym-g32-mse-sbf16"], ""),
        (["*_proj*=int4-sym-g32-mse-sbf16", "*o_proj*=int8-sym-ch0-mse-sbf16", "*down_proj*=copy"], ""),
        (["*_proj*=int4-sym-g32-mse-sbf16", "*.1.*k_proj*=copy"], "q, k and v, which .* 'model.layers.1.self_attn':"),
        (["*gate_proj*=int4-sym-g32-mse-sbf16"], "gate and up, which .* 'model.layers.0.mlp', as 1 more:"),
    ],
)
def test_that_vllm_does_not_load_some_fused_layers_is_said_beforehand(rules, said, tmp_path):
    with ql.open_checkpoint(saved(tmp_path / "model", LLAMA)) as source:
        found = assigned(source, [Rule("*", None, copy=True), *map(Rule.parse, rules)], "compressed-tensors")
        remarks = [remark for remark in found.remarks if "vLLM fuses" in remark]
        assert len(remarks) == bool(said)
        assert all(re.search(f"vLLM fuses {said} the folder is for transformers alone", remark) for remark in remarks)
        plan = rules_of(mixed(source, "vllm", 3))
        assert not any("vLLM" in remark for remark in assigned(source, plan, "compressed-tensors").remarks)


@pytest.mark.parametrize("tied", [True, False, None])
def test_a_head_that_is_the_embedding_is_not_quantized_beside_it(tied, tmp_path):
    about = {} if tied is None else {"tie_word_embeddings": tied}
    with ql.open_checkpoint(saved(tmp_path / "model", LLAMA, **about)) as source:
        why = TARGETS["transformers"].refuses(
            source.spec("lm_head.weight"), ql.QuantConfig.parse("int8-sym-ch0-mse-sbf16"), source
        )
    assert ("tie_word_embeddings" in why) == bool(tied)


# -- GGUF, by gguf-py


@pytest.fixture
def llama_gguf(tmp_path):
    """A model in llama.cpp's names, as its converter writes it: matrices in float16, norms in float32."""
    rng, writer = np.random.default_rng(3), gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_block_count(2)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    shapes = {"token_embd": (96, 64), "output": (96, 64), "output_norm": (64,)}
    for block in range(2):
        parts = {
            "attn_q": (64, 64),
            "attn_k": (32, 64),
            "attn_v": (32, 64),
            "attn_output": (64, 64),
            "attn_norm": (64,),
        }
        parts |= {"ffn_gate_inp": (4, 64), "ffn_norm": (64,)}
        parts |= {"ffn_gate_exps": (4, 96, 64), "ffn_up_exps": (4, 96, 64), "ffn_down_exps": (4, 64, 96)}
        shapes |= {f"blk.{block}.{part}": shape for part, shape in parts.items()}
    for name, shape in shapes.items():
        x = rng.standard_normal(shape, np.float32)
        writer.add_tensor(f"{name}.weight", x if len(shape) == 1 or "inp" in name else x.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("turn", [0, 3])
def test_gguf_py_reads_a_mixed_plan(turn, llama_gguf, tmp_path):
    with ql.open_checkpoint(llama_gguf) as source:
        choices = mixed(source, "llama.cpp", turn)
        assert set(choices.values()) > {"q4_0", "q8_0", COPY}
        assert all(choice == COPY for name, choice in choices.items() if "gate_inp" in name)
        values = shipped(source, choices, tmp_path / "out.gguf", "gguf")
        reader, dense = gguf.GGUFReader(tmp_path / "out.gguf"), gguf.GGUFReader(llama_gguf)
        assert [tensor.name for tensor in reader.tensors] == [tensor.name for tensor in dense.tensors] == source.names
        for tensor, old in zip(reader.tensors, dense.tensors, strict=True):
            choice = choices.get(tensor.name, COPY)
            if choice == COPY:
                assert (tensor.tensor_type, tensor.data.tobytes()) == (old.tensor_type, old.data.tobytes())
            else:
                assert tensor.tensor_type.name == TYPES[choice]
                shape = source.spec(tensor.name).shape
                found = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
                np.testing.assert_array_equal(found, values[tensor.name])


# -- MLX, by its config


@pytest.mark.parametrize("turn", [0, 7])
def test_mlx_decodes_a_mixed_folder_by_its_config(turn, tmp_path):
    mx = pytest.importorskip("mlx.core")
    with ql.open_checkpoint(saved(tmp_path / "model", LLAMA)) as source:
        choices = mixed(source, "mlx", turn)
        values = shipped(source, choices, tmp_path / "out", "mlx")
        settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
        arrays = mx.load(str(tmp_path / "out" / "model.safetensors"))
        for name in names_of_weights(source):
            module = name.removesuffix(".weight")
            # As mlx-lm asks: false, a scheme of its own, or that of all.
            own = settings.get(module, {key: settings[key] for key in ("group_size", "bits")})
            assert (own is False) == (choices[name] == COPY)
            weight = arrays[name]
            if own is not False:
                parts = [arrays[f"{module}.{part}"] for part in ("weight", "scales", "biases")]
                weight = mx.dequantize(*parts, group_size=own["group_size"], bits=own["bits"])
            assert weight.dtype == mx.bfloat16
            np.testing.assert_array_equal(np.array(weight.astype(mx.float32)), values.get(name, source.load(name)))


MIXTRAL = {
    f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}.weight": (64, 128) if part == "w2" else (128, 64)
    for layer in range(2)
    for expert in range(3)
    for part in ("w1", "w2", "w3")
}
SWITCHED = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


@pytest.mark.parametrize("turn", [0, 9])
def test_mlx_decodes_experts_that_are_stacked_as_they_are_loaded(turn, tmp_path):
    """mlx-lm stacks what lies one by one, and looks for the scheme under the name that it has then."""
    mx = pytest.importorskip("mlx.core")
    with ql.open_checkpoint(saved(tmp_path / "model", MIXTRAL, model_type="mixtral")) as source:
        choices = mixed(source, "mlx", turn)
        assert len(set(choices.values())) > 4
        values = shipped(source, choices, tmp_path / "out", "mlx")
        dense = {name: values.get(name, source.load(name)) for name in source.names}
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    arrays = mx.load(str(tmp_path / "out" / "model.safetensors"))
    for layer, (part, projection) in itertools.product(range(2), SWITCHED.items()):
        path = f"model.layers.{layer}.block_sparse_moe"
        modules = [f"{path}.experts.{expert}.{part}" for expert in range(3)]
        own = settings[f"{path}.switch_mlp.{projection}"]
        kinds = ["weight"] if own is False else ["weight", "scales", "biases"]
        weight, *scales = (mx.stack([arrays[f"{module}.{kind}"] for module in modules]) for kind in kinds)
        if scales:
            weight = mx.dequantize(weight, *scales, group_size=own["group_size"], bits=own["bits"])
        expected = np.stack([dense[f"{module}.weight"] for module in modules])
        np.testing.assert_array_equal(np.array(weight.astype(mx.float32)), expected)


def test_what_mlx_lm_does_not_load_is_refused(tmp_path):
    config = ql.QuantConfig.parse("int4-uni-g32-mse-sbf16")
    with ql.open_checkpoint(saved(tmp_path / "qwen", MIXTRAL, model_type="qwen3_moe")) as source:
        why = TARGETS["mlx"].refuses(source.spec(source.names[0]), config, source)
        assert "stacks the experts of qwen3_moe as plain numbers only" in why
    with ql.open_checkpoint(saved(tmp_path / "tied", LLAMA, tie_word_embeddings=True)) as source:
        assert "tie_word_embeddings" in TARGETS["mlx"].refuses(source.spec("lm_head.weight"), config, source)
    with ql.open_checkpoint(saved(tmp_path / "mixtral", MIXTRAL, model_type="mixtral")) as source:
        rules = [Rule("*", config), Rule.parse("*experts.1.w1*=copy")]
        with pytest.raises(ql.ExportError, match=r"experts\.1\.w1\.weight' a copy: mlx-lm stacks a projection"):
            ship(source, assigned(source, rules, "mlx"), tmp_path / "out", "mlx")


# -- ONNX, by ONNX Runtime


@pytest.mark.parametrize(
    ("dtype", "opset", "turn"), [(np.float32, 21, 0), (np.float32, 21, 4), (np.float32, 15, 0), (np.float16, 21, 2)]
)
def test_onnx_runtime_computes_what_a_mixed_plans_dense_twin_does(dtype, opset, turn, tmp_path):
    path = network(tmp_path / "model", opset, dtype)
    with ql.open_checkpoint(path) as source:
        choices = mixed(source, "onnxruntime", turn)
        assert len(set(choices.values())) == 3
        shipped(source, choices, tmp_path / "out.onnx", "onnx")
        quantized = {n: ql.quantize(source.raw(n), ql.QuantConfig.parse(c)) for n, c in choices.items() if c != COPY}
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)
    rng = np.random.default_rng(4)
    feeds = {"x": rng.standard_normal((1, 64)).astype(dtype), "image": rng.standard_normal((1, 2, 8, 8)).astype(dtype)}
    decoded = twin(onnx.load(path), quantized)
    for ours, theirs in zip(run(tmp_path / "out.onnx", feeds, False), run(decoded, feeds, False), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# -- quantlab's own


@pytest.mark.parametrize("format", TARGETS["any"].formats)
def test_quantlabs_own_files_hold_a_mixed_plan(format, tmp_path):
    with ql.open_checkpoint(saved(tmp_path / "model", LLAMA, "float32")) as source:
        choices = mixed(source, "any")
        assignment = assigned(source, rules_of(choices), format)
        shipment = ship(source, assignment, tmp_path / f"out{FORMATS[format].suffix}", format)
        assert shipment.equal.all() and shipment.file_nbytes == file_nbytes(source, assignment, format)
        if format != "dense":
            packed = ql.load_packed(shipment.path)
            assert {name: str(q.config) for name, q in packed.items()} == {
                n: c for n, c in choices.items() if c != COPY
            }


def test_every_target_writes_a_plan_to_every_format_that_it_names(tmp_path):
    """Its own and quantlab's: predicted size and size on disk are one."""
    with ql.open_checkpoint(saved(tmp_path / "model", LLAMA, "float32")) as source:
        for at, (target, format) in enumerate(
            itertools.chain(*([(t, f) for f in t.formats] for t in TARGETS.values()))
        ):
            assignment = assigned(source, rules_of(mixed(source, target.name, at)), format)
            shipment = ship(source, assignment, tmp_path / f"{at}{FORMATS[format].suffix}", format)
            assert shipment.equal.all() and shipment.file_nbytes == file_nbytes(source, assignment, format)
