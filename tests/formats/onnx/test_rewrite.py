"""ONNX models written again with quantized weights, run by ONNX Runtime beside twins whose weights are decoded."""

import contextlib
import importlib.metadata
import re
import shutil
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import quantlab as ql
from quantlab.cli import main
from quantlab.formats import FORMATS, export_outgoing
from quantlab.formats.input.files import CHUNK
from quantlab.formats.onnx import rewrite as onnxrewrite
from quantlab.formats.onnx.rewrite import limits
from quantlab.formats.output.outgoing import Outgoing, outgoing
from quantlab.shipping import rehearsal
from quantlab.shipping.recipe import Rule
from quantlab.shipping.rehearsal import assigned, refusals
from quantlab.shipping.shipping import ship
from tests.pages.app import page

LAYOUT = FORMATS["onnx"].layout
RNG = np.random.default_rng(3)
# [in, out] of a MatMul, [out, in] of a Gemm with transB, and a convolution's.
WEIGHTS = {
    "matmul.w": RNG.standard_normal((32, 48), dtype=np.float32),
    "gemm.w": RNG.standard_normal((16, 48), dtype=np.float32),
    "conv.w": RNG.standard_normal((4, 3, 3, 3), dtype=np.float32),
}
X = {"x": RNG.standard_normal((5, 32), dtype=np.float32), "image": RNG.standard_normal((2, 3, 8, 8), dtype=np.float32)}


def config(slug):
    return ql.QuantConfig.parse(slug)


def network(opset=21, ir_version=10, dtype=np.float32, constants=(), inputs=(), nodes=(), more=(), **about):
    """MatMul, Gemm and Conv; of the weights, `constants` are Constant nodes and `inputs` graph inputs as well."""
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    protos = {name: numpy_helper.from_array(w.astype(dtype), name) for name, w in WEIGHTS.items()}
    graph = helper.make_graph(
        [
            *(helper.make_node("Constant", [], [name], value=protos[name]) for name in constants),
            helper.make_node("MatMul", ["x", "matmul.w"], ["hidden"], "first"),
            helper.make_node("Gemm", ["hidden", "gemm.w", "bias"], ["y"], "second", transB=1),
            helper.make_node("Conv", ["image", "conv.w"], ["z"], "third"),
            *nodes,
        ],
        "network",
        [helper.make_tensor_value_info(name, elem, x.shape) for name, x in X.items()]
        + [helper.make_tensor_value_info(name, elem, WEIGHTS[name].shape) for name in inputs]
        + [helper.make_tensor_value_info("bias", elem, (16,)) for _ in inputs[:1]],
        [helper.make_tensor_value_info("y", elem, (5, 16)), helper.make_tensor_value_info("z", elem, (2, 4, 6, 6))],
        [numpy_helper.from_array(np.arange(16).astype(dtype), "bias"), *more]
        + [proto for name, proto in protos.items() if name not in constants],
        doc_string="what it is for",
        value_info=[helper.make_tensor_value_info("matmul.w", elem, WEIGHTS["matmul.w"].shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, **about)
    helper.set_model_props(model, {"author": "someone"})
    return model


def rewrite(path, target, configs):
    """Export a model with every tensor of it, those of `configs` quantized; returns what was meant by their names."""
    with ql.open_checkpoint(path) as source:
        tensors = [
            Outgoing(spec.name, spec.shape, spec.dtype, configs.get(spec.name), lambda name=spec.name: source.raw(name))
            for spec in map(source.spec, source.names)
        ]
        export_outgoing(target, tensors, "onnx", source=source)
        return {tensor.name: tensor.quantized() for tensor in tensors if tensor.config}


def run(model, feeds, optimized=True):
    """Outputs of a path or bytes. What is not optimized is computed node by node, every product from its own inputs."""
    options = onnxruntime.SessionOptions()
    # ONNX Runtime would quantize activations too where it fuses 4-bit weights into a multiplication.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    data = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def twin(model, quantized):
    """The same model with the decoded values as its weights."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    held = {proto.name: proto for proto in model.graph.initializer}
    held |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    for name, q in quantized.items():
        dtype = helper.tensor_dtype_to_np_dtype(held[name].data_type)
        held[name].CopyFrom(numpy_helper.from_array(LAYOUT.decoded(q).astype(dtype), name))
    return model.SerializeToString()


def rest(model, names):
    """Everything of a model but its quantized weights and what stands for them."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    added = tuple(f"{name}{part}" for name in names for part in ("_", "/"))
    graph = model.graph
    for field in (graph.initializer, graph.input, graph.node):
        kept = [
            each
            for each in field
            if each.name not in names
            and not each.name.startswith(added)
            and not (field is graph.node and each.op_type == "Constant" and each.output[0] in names)
        ]
        del field[:]
        field.extend(kept)
    for proto in graph.initializer:
        if proto.data_location == TensorProto.DEFAULT:  # said or not, it is the same
            proto.ClearField("data_location")
    return model


def check(path, configs, feeds, target):
    """Rewrite a model and compare all that is copied; node by node, it computes what its twin does, bit for bit."""
    model = onnx.load(path)
    quantized = rewrite(path, target, configs)
    found = onnx.load(target)
    onnx.checker.check_model(found, full_check=True)
    assert rest(found, configs.keys()) == rest(model, configs.keys())
    assert found.ir_version == model.ir_version
    decoded = twin(model, quantized)
    for ours, theirs in zip(run(target, feeds, False), run(decoded, feeds, False), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return decoded


def bounds(eps, decoded):
    """How far outputs of the network may lie apart that differ in the order of their sums.

    A sum of n products has an error of at most n eps / 2 times the sum of their sizes, in either order; an error of the
    first layer goes through the second. (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.)
    """
    weights = {name: np.abs(decoded.get(name, w).astype(np.float32)) for name, w in WEIGHTS.items()}
    dense = np.abs(X["x"]) @ weights["matmul.w"] @ weights["gemm.w"].T + 16
    filters = np.abs(X["image"]).max() * weights["conv.w"].reshape(4, -1).sum(axis=1)
    return [(32 + 48 + 2) * eps * dense.max(), (27 + 1) * eps * filters.max()]


def check_network(path, configs, target, dtype=np.float32):
    """`check`, and that the optimized graphs agree as far as sums in another order do."""
    feeds = {name: x.astype(dtype) for name, x in X.items()}
    decoded = check(path, configs, feeds, target)
    weights = {
        proto.name: numpy_helper.to_array(proto) for proto in onnx.ModelProto.FromString(decoded).graph.initializer
    }
    outputs = run(target, feeds)
    limits = bounds(np.finfo(dtype).eps, weights)
    for ours, theirs, limit in zip(outputs, run(decoded, feeds), limits, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit)
    return outputs


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    "slug",
    [
        "int4-sym-g32-mse",
        "int4-aff-g32-minmax",
        "int8-sym-ch0-minmax",
        "int8-aff-ch1-minmax",
        "int8-aff-tensor-minmax",
        "int16-sym-ch0-minmax",
        "int4-sym-g32-minmax-sfp16",
        "int8-sym-tensor-minmax-sfp16",
    ],
)
def test_a_rewritten_model_computes_what_its_decoded_weights_do(slug, path, tmp_path):
    path.write_bytes(network(producer_name="somebody", functions=[]).SerializeToString())
    check_network(path, dict.fromkeys(WEIGHTS, config(slug)), tmp_path / "small.onnx")


@pytest.mark.parametrize("slug", ["int8-sym-ch1-minmax", "int8-aff-tensor-minmax"])
def test_an_older_opset_takes_8_bits_and_close_outputs_come_out(slug, path, tmp_path):
    path.write_bytes(network(13, 7).SerializeToString())
    outputs = check_network(path, dict.fromkeys(WEIGHTS, config(slug)), tmp_path / "small.onnx")
    for ours, original in zip(outputs, run(path, X), strict=True):
        assert np.linalg.norm(ours - original) < 0.03 * np.linalg.norm(original)


def test_the_file_is_the_source_but_for_the_weights(path, tmp_path):
    unknown = b"\xfa\x07\x05hello"  # field 127, of a version to come
    path.write_bytes(network().SerializeToString() + unknown)
    rewrite(path, tmp_path / "small.onnx", {"gemm.w": config("int8-sym-ch0-minmax")})
    assert (tmp_path / "small.onnx").read_bytes().endswith(unknown)
    with ql.open_checkpoint(tmp_path / "small.onnx") as found, ql.open_checkpoint(path) as source:
        q = ql.quantize(source.raw("gemm.w"), config("int8-sym-ch0-minmax"))
        assert sorted(found.names) == sorted({*source.names, "gemm.w_quantized", "gemm.w_scale"} - {"gemm.w"})
        np.testing.assert_array_equal(found.raw("gemm.w_quantized"), q.codes)
        np.testing.assert_array_equal(found.raw("gemm.w_scale"), q.scale)
        assert found.spec("gemm.w_quantized").note.startswith("already quantized: codes of gemm.w/DequantizeLinear")


def test_constants_are_quantized_as_initializers_are(path, tmp_path):
    path.write_bytes(network(constants=["matmul.w", "conv.w"]).SerializeToString())
    configs = {"matmul.w": config("int4-sym-g32-mse"), "conv.w": config("int8-sym-ch0-minmax")}
    check_network(path, configs, tmp_path / "small.onnx")


@pytest.mark.parametrize("ir_version", [3, 8])
def test_weights_are_no_longer_inputs_and_the_models_version_is_obeyed(ir_version, path, tmp_path):
    path.write_bytes(network(13, ir_version, inputs=list(WEIGHTS)).SerializeToString())
    check_network(path, dict.fromkeys(WEIGHTS, config("int8-aff-ch0-minmax")), tmp_path / "small.onnx")
    names = {each.name for each in onnx.load(tmp_path / "small.onnx").graph.input}
    assert not names & WEIGHTS.keys()
    assert ("conv.w_quantized" in names) == (ir_version < 4)


@pytest.mark.parametrize(("ir_version", "told"), [(3, False), (8, True)])
def test_that_callers_can_no_longer_give_a_weight_is_said_beforehand(ir_version, told, path):
    path.write_bytes(network(13, ir_version, inputs=["gemm.w", "conv.w"]).SerializeToString())
    with ql.open_checkpoint(path) as source:
        remarks = assigned(source, [Rule.parse("*.w=int8-sym-ch0-minmax")], "onnx").remarks
        assert bool(remarks) == told
        assert not told or "'gemm.w' and 1 more weights are inputs of the model, which callers may give" in remarks[0]
        assert not assigned(source, [Rule.parse("matmul.w=int8-sym-ch0-minmax")], "onnx").remarks


def test_what_cannot_be_quantized_in_the_model_is_copied_if_asked(path, tmp_path):
    path.write_bytes(branching().SerializeToString())
    with ql.open_checkpoint(path) as source:
        rules = [Rule.parse("*.w=int8-sym-ch0-minmax"), Rule.parse("inner*=int8-sym-ch0-minmax")]
        assert len(refusals(source, assigned(source, rules, "onnx"), "onnx")) == 2  # of both branches
        found = assigned(source, rules, "onnx", copy_refused=True)
        assert {item.spec.name.rpartition("inner")[2] for item in found.refused} == {".w"}
        assert "no dense initializer or constant" in found.refused[0].reason
        shipment = ship(source, found, tmp_path / "small.onnx", "onnx")
    assert shipment.equal.all()
    assert len(run(tmp_path / "small.onnx", X)) == 2


def test_only_4_bits_raise_the_version_of_the_format(path, tmp_path):
    path.write_bytes(network(21, 8).SerializeToString())
    for slug, version in (("int16-sym-ch0-minmax", 8), ("int4-sym-g32-minmax", 10)):
        rewrite(path, tmp_path / "small.onnx", {"gemm.w": config(slug)})
        found = onnx.load(tmp_path / "small.onnx")
        onnx.checker.check_model(found, full_check=True)
        assert found.ir_version == version


def test_half_precision_models_take_half_precision_scales(path, tmp_path):
    path.write_bytes(network(dtype=np.float16).SerializeToString())
    configs = dict.fromkeys(WEIGHTS, config("int8-sym-ch0-minmax-sfp16"))
    check_network(path, configs, tmp_path / "small.onnx", np.float16)
    with pytest.raises(ql.ExportError, match=r"matmul.w.* is float16.*: use fp16 scales"):
        rewrite(path, tmp_path / "other.onnx", dict.fromkeys(WEIGHTS, config("int8-sym-ch0-minmax")))
    assert not (tmp_path / "other.onnx").exists()


def test_weights_in_other_files_are_taken_in(path, tmp_path):
    model = network()
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    target = tmp_path / "elsewhere"
    target.mkdir()
    check_network(path, {"gemm.w": config("int8-sym-ch0-minmax")}, target / "small.onnx")
    found = onnx.load(target / "small.onnx", load_external_data=False)
    values = {proto.name: numpy_helper.to_array(proto) for proto in found.graph.initializer}
    assert all(not proto.external_data for proto in found.graph.initializer)
    np.testing.assert_array_equal(values["conv.w"], WEIGHTS["conv.w"])


def test_weights_of_less_than_a_byte_in_other_files_stay_packed(path, tmp_path):
    codes = helper.make_tensor("codes", TensorProto.INT4, [3, 3], range(-4, 5))
    codes = numpy_helper.from_array(numpy_helper.to_array(codes), "codes")
    onnx.save_model(network(more=[codes]), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    rewrite(path, tmp_path / "small.onnx", {"gemm.w": config("int8-sym-ch0-minmax")})
    held = {proto.name: proto for proto in onnx.load(tmp_path / "small.onnx").graph.initializer}
    assert held["codes"].raw_data == codes.raw_data


# -- what is refused


def inner(weight):
    """A branch whose graph holds a weight, or computes a value of its name."""
    node = helper.make_node("Identity", ["inner.w"], ["chosen"])
    output = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, weight.dims)
    return helper.make_graph([node], "branch", [], [output], [weight])


def branching(name="inner.w", external=False):
    weight = numpy_helper.from_array(WEIGHTS["gemm.w"], name)
    if external:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="weights.bin")
    graph = inner(weight)
    condition = numpy_helper.from_array(np.array(True), "condition")
    return network(
        nodes=[helper.make_node("If", ["condition"], ["w2"], "if", then_branch=graph, else_branch=graph)],
        more=[condition],
    )


def test_weights_of_inner_graphs_are_copied_and_not_quantized(path, tmp_path):
    path.write_bytes(branching().SerializeToString())
    check_network(path, {"gemm.w": config("int8-sym-ch0-minmax")}, tmp_path / "small.onnx")
    with pytest.raises(ql.ExportError, match=r"inner.w.*in if \(If\).*leave it as it is"):
        rewrite(path, tmp_path / "other.onnx", {"inner.w": config("int8-sym-ch0-minmax")})


def test_inner_weights_in_other_files_are_refused(path, tmp_path):
    path.write_bytes(branching(external=True).SerializeToString())
    (tmp_path / "weights.bin").write_bytes(WEIGHTS["gemm.w"].tobytes())
    with pytest.raises(ql.ExportError, match="another file: save it as one file"):
        rewrite(path, tmp_path / "small.onnx", {"gemm.w": config("int8-sym-ch0-minmax")})


@pytest.mark.parametrize(
    ("opset", "slug", "why"),
    [
        (13, "int4-sym-g32-minmax", r"opset 13.*from opset 21.*version_converter.*int8 per tensor or channel"),
        (13, "int8-sym-g32-minmax", r"opset 13.*from opset 21"),
        (13, "int8-sym-ch0-minmax-sfp16", r"opset 13.*from opset 19"),
        (11, "int8-sym-ch0-minmax", r"opset 11.*from opset 13.*or choose int8 per tensor with fp32"),
        (9, "int8-sym-tensor-minmax", r"opset 9.*from opset 10 on.*version_converter.convert_version\(model, 10\)$"),
    ],
)
def test_what_the_models_opset_does_not_know_is_refused_with_the_way_out(opset, slug, why, path, tmp_path):
    path.write_bytes(network(opset, 6).SerializeToString())
    with pytest.raises(ql.ExportError, match=why):
        rewrite(path, tmp_path / "small.onnx", {"gemm.w": config(slug)})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("opset", "held"), [(9, "nothing"), (11, "int8 per tensor with"), (17, "int8 per tensor or channel"), (21, "")]
)
def test_what_an_older_opset_holds_is_known_once_the_model_is_open(opset, held, path, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    path.write_bytes(network(opset, 6).SerializeToString())
    with ql.open_checkpoint(path) as source:
        assert held in limits(source) and bool(limits(source)) == bool(held)
        assert rehearsal.limits(source) == limits(source)
    assert main(["info", str(path)]) == 0
    assert (f"the model has opset {opset}, which holds {held}" in capsys.readouterr().err) == bool(held)
    shown = page("open", file=str(path))
    assert not shown.exception
    assert any(f"opset {opset}, which holds {held}" in each.value for each in shown.caption) == bool(held)


@pytest.mark.parametrize("taken", ["gemm.w_scale", "gemm.w_quantized"])
@pytest.mark.parametrize("inside", [False, True])
def test_names_that_the_model_has_already_are_refused(taken, inside, path, tmp_path):
    clash = numpy_helper.from_array(np.float32([1]), taken)
    path.write_bytes((branching(taken) if inside else network(more=[clash])).SerializeToString())
    with pytest.raises(ql.ExportError, match=f"a value called '{taken}' already"):
        rewrite(path, tmp_path / "small.onnx", {"gemm.w": config("int8-sym-ch0-minmax")})


def test_tensors_that_the_model_does_not_have_are_refused(path, tmp_path):
    path.write_bytes(network().SerializeToString())
    q = ql.quantize(WEIGHTS["gemm.w"], config("int8-sym-ch0-minmax"))
    with ql.open_checkpoint(path) as source:
        with pytest.raises(ql.ExportError, match="no tensor 'fc'"):
            ql.export(tmp_path / "small.onnx", {"fc": q}, "onnx", source=source)
        with pytest.raises(ql.ExportError, match="has shape"):
            ql.export(tmp_path / "small.onnx", {"matmul.w": q}, "onnx", source=source)
        with pytest.raises(ql.ExportError, match="write to another name"):
            ql.export(path, {"gemm.w": q}, "onnx", source=source)


def test_a_model_that_would_be_too_large_is_refused(path, tmp_path, monkeypatch):
    path.write_bytes(network().SerializeToString())
    monkeypatch.setattr(onnxrewrite, "LARGEST", 9_000)
    with pytest.raises(ql.ExportError, match="an ONNX file holds 2 GB"):
        rewrite(path, tmp_path / "small.onnx", {"conv.w": config("int8-sym-ch0-minmax")})


def test_a_copy_that_came_back_different_is_found(path, tmp_path):
    path.write_bytes(network().SerializeToString())
    q = {"gemm.w": ql.quantize(WEIGHTS["gemm.w"], config("int8-sym-ch0-minmax"))}
    with ql.open_checkpoint(path) as source:
        ql.export(tmp_path / "small.onnx", q, "onnx", source=source)
        written = bytearray((tmp_path / "small.onnx").read_bytes())
        written[written.index(b"what it is for")] ^= 1
        (tmp_path / "small.onnx").write_bytes(written)
        with pytest.raises(ql.ExportError, match="came back different"):
            onnxrewrite.verify(tmp_path / "small.onnx", outgoing(q), source, lambda count: None)


def test_other_scales_than_the_weights_type_can_take_exactly_are_refused(path, tmp_path):
    path.write_bytes(network(dtype=ml_dtypes.bfloat16).SerializeToString())
    with pytest.raises(ql.ExportError, match=r"matmul.w.* is bfloat16.*leave it as it is, or convert"):
        rewrite(path, tmp_path / "small.onnx", {"matmul.w": config("int8-sym-tensor-minmax")})


def test_models_without_onnxs_operators_or_with_training_are_refused(path, tmp_path):
    model = network()
    model.opset_import[0].domain = "com.microsoft"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ql.ExportError, match="does not import ONNX's own operators"):
        rewrite(path, tmp_path / "small.onnx", {"gemm.w": config("int8-sym-tensor-minmax")})
    model = network()
    model.training_info.add()
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ql.ExportError, match="save it for inference"):
        rewrite(path, tmp_path / "small.onnx", {"gemm.w": config("int8-sym-tensor-minmax")})


MODEL = branching().SerializeToString()
NAMES = [match.start() for match in re.finditer(rb"[a-z_.]{3,}", MODEL)]


@given(st.sampled_from(NAMES), st.integers(-12, 6), st.integers(0, 255))
def test_a_damaged_model_is_written_or_refused(tmp_path_factory, name, beside, byte):
    folder = tmp_path_factory.mktemp("damaged")
    damaged = bytearray(MODEL)
    damaged[name + beside] = byte
    (folder / "model.onnx").write_bytes(damaged)
    with contextlib.suppress(ql.QuantlabError):
        rewrite(folder / "model.onnx", folder / "small.onnx", dict.fromkeys(WEIGHTS, config("int8-sym-tensor-minmax")))
    shutil.rmtree(folder)


# -- size


@pytest.mark.parametrize("external", [False, True])
def test_what_is_copied_is_never_held_whole(external, path, tmp_path):
    large = numpy_helper.from_array(np.zeros(16 << 20, np.float32), "table")
    onnx.save_model(network(more=[large]), path, save_as_external_data=external, location="table.bin")
    del large
    configs = {"gemm.w": config("int8-sym-ch0-minmax")}
    rewrite(path, tmp_path / "warm.onnx", configs)
    tracemalloc.start()
    rewrite(path, tmp_path / "small.onnx", configs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "small.onnx").stat().st_size > 64 << 20
    assert peak < 4 * CHUNK


def test_tensors_that_no_other_format_holds_are_copied(path, tmp_path):
    words = helper.make_tensor("words", TensorProto.STRING, [2], [b"one", b"three"])
    codes = helper.make_tensor("codes", TensorProto.INT4, [3, 3], range(-4, 5))
    path.write_bytes(network(more=[words, codes]).SerializeToString())
    check_network(path, {"gemm.w": config("int8-sym-ch0-minmax")}, tmp_path / "small.onnx")


# -- a published model


@pytest.fixture(scope="module")
def magika() -> Path:
    files = importlib.metadata.distribution("magika").files or []
    return next(Path(file.locate()) for file in files if file.name == "model.onnx")


def magika_feeds():
    """Beginnings of files, as magika cuts them: tokens of bytes, 256 where there is none."""
    samples = [
        b"def f(x):\n    return x + 1\n" * 30,
        b"\x7fELF\x02\x01\x01" + bytes(600),
        b"<html><body>hi</body></html>",
    ]
    feed = np.full((3, 2048), 256, np.int32)
    for row, sample in zip(feed, samples, strict=True):
        row[: min(len(sample), 1024)] = list(sample[:1024])
        row[-min(len(sample), 1024) :] = list(sample[-1024:])
    return {"bytes": feed}


def test_a_published_model_computes_what_its_decoded_weights_do(magika, tmp_path):
    with ql.open_checkpoint(magika) as source:
        large = [spec for spec in map(source.spec, source.names) if spec.dtype == "float32" and spec.size > 10_000]
        assert len(large) == 3
        configs = {
            spec.name: ql.QuantConfig(dtype="int8", granularity=ql.PerChannel(spec.channel_axis)) for spec in large
        }
    target = tmp_path / "small.onnx"
    check(magika, configs, magika_feeds(), target)
    assert target.stat().st_size < 0.3 * magika.stat().st_size
    (ours,), (original,) = run(target, magika_feeds()), run(magika, magika_feeds())
    np.testing.assert_array_equal(ours.argmax(axis=1), original.argmax(axis=1))
    assert np.abs(ours - original).max() < 0.02  # of probabilities
    with pytest.raises(ql.ExportError, match=r"opset 15.*from opset 21"):
        rewrite(magika, tmp_path / "other.onnx", {large[0].name: config("int4-sym-g128-minmax")})
