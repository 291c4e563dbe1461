"""ONNX models, against the onnx package: it writes them, and says what is in them."""

import contextlib
import importlib.metadata
import os
import time
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from quantlab import QuantConfig, sweep
from quantlab.errors import CheckpointError, DTypeError, EmptyTensorError, LimitError, QuantlabError
from quantlab.formats import open_checkpoint
from quantlab.formats.onnx import protobuf
from quantlab.formats.onnx.tensor import KINDS

from ..hostile import (
    damaged,
    floats,
    open_and_read_all,
    refusal,
    refused_in_one_sentence,
    safetensors,
    same_bits,
    tensor,
)

NUMBERS = [code for code, kind in KINDS.items() if kind.dtype != "str"]
TYPED = [code for code in NUMBERS if KINDS[code].dtype != "float8_e8m0fnu"]  # of which zero is no value


def values(code: int, shape: tuple[int, ...] = (3, 5)) -> np.ndarray:
    """Whole numbers that every type holds, negative ones where the type has them; an odd count, to need padding."""
    dtype = np.dtype(KINDS[code].dtype)
    highest = 2 if dtype.name.endswith("int2") else 4
    lowest = 0 if dtype.name.startswith(("u", "bool", "float8_e8m0")) else -1
    x = np.resize(np.arange(lowest, highest), shape)
    return (np.minimum(x, 1) if dtype.name == "int2" else x).astype(dtype)


def save(path: Path, nodes=(), initializers=(), **graph) -> None:
    """A model with these nodes and tensors; it need not be one that runs."""
    made = helper.make_graph(list(nodes), "g", [], [], list(initializers), **graph)
    path.write_bytes(model(made).SerializeToString())


def model(graph: onnx.GraphProto, **more) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, **more)


def opened_with(path: Path, nodes=(), **arrays: np.ndarray):
    save(path, nodes, [numpy_helper.from_array(array, name) for name, array in arrays.items()])
    return open_checkpoint(path)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


# -- values


def test_the_types_are_those_of_the_onnx_package():
    assert KINDS.keys() == set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
    for code in NUMBERS:
        assert np.dtype(KINDS[code].dtype) == helper.tensor_dtype_to_np_dtype(code)


@pytest.mark.parametrize("code", NUMBERS, ids=lambda code: KINDS[code].dtype)
@pytest.mark.parametrize("shape", [(3, 5), (4,), (), (1, 1, 1)])
def test_raw_data_are_read_as_the_onnx_package_reads_them(code, shape, tmp_path):
    proto = numpy_helper.from_array(values(code, shape), "w")
    assert proto.raw_data
    check(tmp_path / "f", proto)


@pytest.mark.parametrize("code", TYPED, ids=lambda code: KINDS[code].dtype)
@pytest.mark.parametrize("shape", [(3, 5), (4,), ()])
def test_typed_data_are_read_as_the_onnx_package_reads_them(code, shape, tmp_path):
    proto = helper.make_tensor("w", code, shape, values(code, shape).reshape(-1))
    assert not proto.raw_data
    check(tmp_path / "f", proto)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64", "int16", "uint16", "int8"])
def test_the_largest_numbers_are_read_from_typed_data(dtype, tmp_path):
    limits = np.iinfo(dtype)
    numbers = np.array([limits.min, limits.max, 0, 1, 100, 127, limits.max - 1], dtype)
    check(tmp_path / "f", helper.make_tensor("w", helper.np_dtype_to_tensor_dtype(numbers.dtype), [7], numbers))


def test_numbers_of_every_length_cross_the_blocks_in_which_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(protobuf, "BLOCK", 64)
    rng = np.random.default_rng(0)
    numbers = (rng.integers(0, 2**63, 500) >> rng.integers(0, 63, 500)) * rng.choice([-1, 1], 500)
    check(tmp_path / "f", helper.make_tensor("w", TensorProto.INT64, [500], numbers))


def check(path: Path, proto: TensorProto) -> None:
    """A model of one tensor opens with the onnx package's values."""
    save(path, initializers=[proto])
    theirs = numpy_helper.to_array(proto)
    with open_checkpoint(path) as checkpoint:
        spec, ours = checkpoint.spec("w"), checkpoint.raw("w")
        assert checkpoint.format == "onnx"
        assert (spec.shape, spec.dtype) == (theirs.shape, theirs.dtype.name)
        assert spec.nbytes == len(numpy_helper.from_array(theirs).raw_data)
        assert same_bits(ours, theirs)


def test_typed_data_may_come_in_several_pieces(tmp_path):
    pieces = field(4, floats(1, 2)) + field(2, 1) + field(4, floats(3)) + field(1, 3) + field(8, b"f")
    numbers = field(7, b"\x01\xac") + field(7, b"") + field(7, b"\x02\x03") + field(1, b"\x03") + field(8, b"i")
    (tmp_path / "f").write_bytes(hand_made(field(5, pieces), field(5, numbers + field(2, 7))))
    with open_checkpoint(tmp_path / "f") as checkpoint:
        assert checkpoint.load("f").tolist() == [1, 2, 3]
        assert checkpoint.raw("i").tolist() == [1, 300, 3]


@pytest.fixture(scope="module")
def magika() -> Path:
    files = importlib.metadata.distribution("magika").files or []
    return next(Path(file.locate()) for file in files if file.name == "model.onnx")


def test_every_tensor_of_a_published_model_is_read_bit_by_bit(magika):
    theirs = {proto.name: numpy_helper.to_array(proto) for proto in onnx.load(magika).graph.initializer}
    with open_checkpoint(magika) as checkpoint:
        assert checkpoint.names == list(theirs)
        assert len(theirs) == 36
        for name, array in theirs.items():
            assert same_bits(checkpoint.raw(name), array)
        dense, conv = (
            "jax2tf_get_logits_/Const_24:0",
            "jax2tf_get_logits_/pjit_get_logits_/MagikaV2/Conv_0/transpose_3:0",
        )
        assert (checkpoint.spec(dense).shape, checkpoint.spec(dense).channel_axis) == ((512, 214), 1)
        assert checkpoint.spec(dense).note.startswith("used by jax2tf_get_logits_/")
        assert checkpoint.spec(dense).note.endswith("Dense_1/MatMul; [in, out]")
        assert (checkpoint.spec(conv).shape, checkpoint.spec(conv).channel_axis) == ((512, 256, 5, 1), 0)
        assert len(sweep(checkpoint, [QuantConfig(dtype="int8")], [dense, conv])) == 2


def test_text_is_listed_and_not_read(tmp_path):
    save(tmp_path / "f", initializers=[helper.make_tensor("words", TensorProto.STRING, [2], [b"one", b"three"])])
    with open_checkpoint(tmp_path / "f") as checkpoint:
        spec = checkpoint.spec("words")
        assert (spec.shape, spec.dtype, spec.nbytes) == ((2,), "str", 8)
        for read in (checkpoint.raw, checkpoint.load):
            with pytest.raises(DTypeError, match="str"):
                read("words")


def test_4_bit_numbers_are_shown_and_no_weights(tmp_path):
    with opened_with(tmp_path / "f", w=np.int8([[-8, 7, 1]]).astype(ml_dtypes.int4)) as checkpoint:
        assert (checkpoint.spec("w").dtype, checkpoint.spec("w").nbytes) == ("int4", 2)
        assert checkpoint.raw("w").astype(int).tolist() == [[-8, 7, 1]]
        with pytest.raises(DTypeError, match="int4"):
            checkpoint.load("w")


def test_an_empty_tensor_can_be_looked_at_and_not_loaded(tmp_path):
    with opened_with(tmp_path / "f", w=np.zeros((0, 3), np.float32)) as checkpoint:
        assert checkpoint.raw("w").shape == (0, 3)
        with pytest.raises(EmptyTensorError):
            checkpoint.load("w")


# -- where tensors are


def constant(output: str, array: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [output], value=numpy_helper.from_array(array, "not its name"))


def test_constants_are_called_like_their_nodes_outputs(tmp_path):
    with opened_with(
        tmp_path / "f", [constant("c", weight(2, 3)), helper.make_node("Neg", ["c"], ["y"])]
    ) as checkpoint:
        assert checkpoint.names == ["c"]
        assert same_bits(checkpoint.load("c"), weight(2, 3))
        assert checkpoint.spec("c").note == "used by a Neg node"


def test_constants_that_are_no_tensors_are_left_out(tmp_path):
    others = {"value_float": 1.0, "value_ints": list(range(500)), "value_floats": [0.5] * 500, "value_strings": ["a"]}
    nodes = [helper.make_node("Constant", [], [key], **{key: value}) for key, value in others.items()]
    assert opened_with(tmp_path / "f", nodes).names == []


def branches(*arrays: np.ndarray, name: str = "w") -> onnx.NodeProto:
    graphs = [
        helper.make_graph(
            [helper.make_node("Neg", [name], ["y"])], "branch", [], [], [numpy_helper.from_array(a, name)]
        )
        for a in arrays
    ]
    return helper.make_node("If", ["c"], ["y"], "If_3", then_branch=graphs[0], else_branch=graphs[1])


def test_tensors_of_inner_graphs_are_found_and_named_apart(tmp_path):
    x = [np.float32([i]) for i in range(3)]
    with opened_with(
        tmp_path / "f", [branches(x[1], x[2]), helper.make_node("Abs", ["w"], ["z"])], w=x[0]
    ) as checkpoint:
        names = ["w", "If_3.else_branch/w", "If_3.then_branch/w"]
        assert sorted(checkpoint.names) == sorted(names)
        assert [checkpoint.load(name).item() for name in names] == [0, 2, 1]
        assert checkpoint.spec("w").note == "used by a Abs node"
        assert checkpoint.spec("If_3.then_branch/w").note == "used by a Neg node; in If_3.then_branch"


def test_nodes_without_names_do_not_make_names_meet(tmp_path):
    node = branches(np.float32([1]), np.float32([2]))
    node.name = ""
    with opened_with(tmp_path / "f", [node, node, node]) as checkpoint:
        assert len(checkpoint.names) == len(set(checkpoint.names)) == 6
        assert sorted(checkpoint.load(name).item() for name in checkpoint.names) == [1, 1, 1, 2, 2, 2]
        assert {"a If node.then_branch/w", "a If node.then_branch/w#2"} < set(checkpoint.names)


def test_an_inner_graph_uses_the_tensors_around_it(tmp_path):
    inner = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "inner_MatMul")], "body", [], [])
    with opened_with(tmp_path / "f", [helper.make_node("Loop", [], ["y"], body=inner)], w=weight(2, 3)) as checkpoint:
        assert checkpoint.spec("w").note == "used by inner_MatMul; [in, out]"


def test_constants_of_functions_are_found(tmp_path):
    function = helper.make_function("custom", "F", [], ["c"], [constant("c", weight(2))], [helper.make_opsetid("", 21)])
    (tmp_path / "f").write_bytes(model(helper.make_graph([], "g", [], []), functions=[function]).SerializeToString())
    with open_checkpoint(tmp_path / "f") as checkpoint:
        assert checkpoint.spec("c").note == "in function F"


def test_the_values_of_sparse_tensors_are_shown(tmp_path):
    stored = numpy_helper.from_array(np.float32([1, 2]), "s")
    sparse = helper.make_sparse_tensor(stored, numpy_helper.from_array(np.int64([0, 5])), [10])
    save(tmp_path / "f", [helper.make_node("Constant", [], ["c"], sparse_value=sparse)], sparse_initializer=[sparse])
    with open_checkpoint(tmp_path / "f") as checkpoint:
        assert sorted(checkpoint.names) == ["c", "s"]
        assert checkpoint.load("s").tolist() == checkpoint.load("c").tolist() == [1, 2]
        assert checkpoint.spec("s").note == "the values that a sparse tensor stores"


# -- who uses them, and how


def node(operator: str, *inputs: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), ["y"], f"{operator}_7", **attributes)


AXES = {
    "MatMul": (node("MatMul", "x", "w"), (4, 6), 1),
    "MatMul of many": (node("MatMul", "x", "w"), (2, 4, 6), 2),
    "MatMul from the left": (node("MatMul", "w", "x"), (4, 6), 0),
    "MatMul with a vector": (node("MatMul", "x", "w"), (4,), 0),
    "Gemm": (node("Gemm", "x", "w"), (4, 6), 1),
    "Gemm transposed": (node("Gemm", "x", "w", transB=1), (4, 6), 0),
    "Gemm from the left": (node("Gemm", "w", "x"), (4, 6), 0),
    "Gemm from the left transposed": (node("Gemm", "w", "x", transA=1), (4, 6), 1),
    "Gemm's bias": (node("Gemm", "x", "v", "w"), (4, 6), 0),
    "Conv": (node("Conv", "x", "w"), (4, 6, 3, 3), 0),
    "ConvTranspose": (node("ConvTranspose", "x", "w"), (4, 6, 3, 3), 1),
    "LSTM": (node("LSTM", "x", "w", "r"), (1, 8, 6), 1),
    "Gather": (node("Gather", "w", "x"), (4, 6), 0),
    "Add": (node("Add", "x", "w"), (4, 6), 0),
}


@pytest.mark.parametrize("name", AXES)
def test_the_channel_axis_follows_the_node_that_uses_the_weight(name, tmp_path):
    used_by, shape, axis = AXES[name]
    with opened_with(tmp_path / "f", [used_by], w=weight(*shape)) as checkpoint:
        assert checkpoint.spec("w").channel_axis == axis
        assert checkpoint.spec("w").note.startswith(f"used by {used_by.op_type}_7")


@pytest.mark.parametrize(
    ("way", "axis"),
    [
        ([helper.make_node("Cast", ["w"], ["v"], to=1)], 1),
        ([helper.make_node("Identity", ["w"], ["v"])], 1),
        ([helper.make_node("Transpose", ["w"], ["v"])], 0),
        ([helper.make_node("Transpose", ["w"], ["v"], perm=[1, 0])], 0),
        ([helper.make_node("Transpose", ["w"], ["v"], perm=[0, 1])], 1),
        ([helper.make_node("Transpose", ["w"], ["u"]), helper.make_node("Transpose", ["u"], ["v"])], 1),
        ([helper.make_node("Transpose", ["w"], ["v"], perm=[7, 9])], None),
        ([helper.make_node("Add", ["w", "x"], ["v"])], None),
    ],
)  # fmt: skip
def test_the_axis_follows_a_weight_through_casts_and_transpositions(way, axis, tmp_path):
    with opened_with(tmp_path / "f", [*way, node("MatMul", "x", "v")], w=weight(4, 6)) as checkpoint:
        spec = checkpoint.spec("w")
        assert spec.channel_axis == (axis or 0)
        assert ("MatMul_7" in spec.note) == (axis is not None)
        assert ("[in, out]" in spec.note) == (axis == 1)


def test_a_note_names_three_nodes_and_counts_the_others(tmp_path):
    nodes = [helper.make_node("Add", ["w", "w"], [f"y{i}"], f"Add_{i}") for i in range(5)]
    with opened_with(tmp_path / "f", nodes, w=weight(4)) as checkpoint:
        assert checkpoint.spec("w").note == "used by Add_0, Add_1, Add_2 and 2 more"


def test_names_of_nodes_are_fit_for_a_sentence(tmp_path):
    odd = helper.make_node("Add", ["w"], ["y"], "a\n\x1b[2J" + "b" * 5000 + "\u202e")
    odd.name = "a\n\x1b[2J" + "b" * 500
    with opened_with(tmp_path / "f", [odd], w=weight(4)) as checkpoint:
        note = checkpoint.spec("w").note
        assert note.isprintable()
        assert len(note) < 100


QUANTIZED = {
    "DequantizeLinear": (
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"], "dq", axis=1),
        ["codes of dq (DequantizeLinear)", "scales of dq (DequantizeLinear)", "zero points of dq (DequantizeLinear)"],
    ),
    "MatMulNBits": (
        helper.make_node("MatMulNBits", ["x", "w", "s", "z"], ["v"], "m", bits=4, block_size=32, K=1, N=1),
        ["4-bit codes of m (MatMulNBits)", "scales of m (MatMulNBits)", "zero points of m (MatMulNBits)"],
    ),
    "QLinearMatMul": (
        helper.make_node("QLinearMatMul", ["x", "a", "b", "w", "s", "z", "c", "d"], ["v"], "QLinearMatMul_1"),
        ["codes of QLinearMatMul_1", "scales of QLinearMatMul_1", "zero points of QLinearMatMul_1"],
    ),
    "MatMulInteger": (
        helper.make_node("MatMulInteger", ["x", "w", "", "z"], ["v"], "MatMulInteger_1"),
        ["codes of MatMulInteger_1", "", "zero points of MatMulInteger_1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("operator", QUANTIZED)
def test_models_that_are_quantized_already_are_recognised(operator, tmp_path):
    used_by, roles = QUANTIZED[operator]
    arrays = {"w": np.int8([[1, 2]]), "s": np.float32([1, 2]), "z": np.int8([0, 0])}
    with opened_with(tmp_path / "f", [used_by], **arrays) as checkpoint:
        notes = [checkpoint.spec(name).note for name in "wsz"]
        prefixes = ["already quantized: ", "", ""]
        assert all(note.startswith(prefix + role) for note, prefix, role in zip(notes, prefixes, roles, strict=True))


def test_a_dequantized_weight_is_noted_with_its_decoder_its_user_and_its_axis(tmp_path):
    nodes = [QUANTIZED["DequantizeLinear"][0], node("MatMul", "x", "v")]
    with opened_with(tmp_path / "f", nodes, w=np.int8([[1, 2]]), s=np.float32(1), z=np.int8(0)) as checkpoint:
        note = "already quantized: codes of dq (DequantizeLinear); used by MatMul_7; [in, out]"
        assert checkpoint.spec("w").note == note
        assert checkpoint.spec("w").channel_axis == 1
        with pytest.raises(DTypeError):
            checkpoint.load("w")


# -- data in other files


def external(location: str = "weights.bin", **more: object) -> TensorProto:
    """A float32 tensor [3] that another file holds."""
    proto = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        proto.external_data.add(key=key, value=str(value))
    return proto


@pytest.fixture
def folder(tmp_path):
    """A folder with a model's weights in it, and secrets around it."""
    (tmp_path / "secret.bin").write_bytes(floats(7, 7, 7))
    made = tmp_path / "model"
    (made / "sub").mkdir(parents=True)
    for path in (made / "weights.bin", made / "sub" / "real.bin"):
        path.write_bytes(floats(1, 2, 3, 4))
    (made / "link.bin").symlink_to(made / "weights.bin")
    (made / "out.bin").symlink_to(tmp_path / "secret.bin")
    (made / "sub_symlink").symlink_to(made / "sub")
    (made / "hardlink.bin").hardlink_to(tmp_path / "secret.bin")
    os.mkfifo(made / "pipe")
    return made


def test_data_in_files_beside_the_model_are_read(folder):
    onnx.save_model(
        model(helper.make_graph([], "g", [], [], [numpy_helper.from_array(weight(64, 65), n) for n in "ab"])),
        folder / "f.onnx", save_as_external_data=True, location="f.onnx_data", size_threshold=0,
    )  # fmt: skip
    with open_checkpoint(folder / "f.onnx") as checkpoint:
        assert [same_bits(checkpoint.load(name), weight(64, 65)) for name in checkpoint.names] == [True, True]
        assert [file.name for file in checkpoint.files] == ["f.onnx", "f.onnx_data"]
        assert set(checkpoint.digests()) == {"f.onnx", "f.onnx_data"}


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (external(), None),
        (external(offset=4), [2, 3, 4]),
        (external(length=12), [1, 2, 3]),
        (external(offset=4, length=12, checksum="0" * 40), [2, 3, 4]),
        (external("sub/real.bin", length=12), [1, 2, 3]),
        (external("./sub/real.bin", length=12), [1, 2, 3]),
    ],
)
def test_an_offset_and_a_length_are_optional(proto, expected, folder):
    save(folder / "f", initializers=[proto])
    with open_checkpoint(folder / "f") as checkpoint:
        assert checkpoint.load("w").tolist() == (expected or [1, 2, 3])


@pytest.mark.parametrize(
    ("proto", "word"),
    [
        (external("../secret.bin"), "plain path"),
        (external("../../../../../../etc/passwd"), "plain path"),
        (external("sub/../../secret.bin"), "plain path"),
        (external("/etc/passwd"), "plain path"),
        (external("C:\\windows\\x"), "plain path"),
        (external("sub\\real.bin"), "plain path"),
        (external("weights.bin\0.txt"), "plain path"),
        (external(""), "plain path"),
        (external("."), "plain path"),
        (external("link.bin"), "link"),
        (external("out.bin"), "link"),
        (external("sub_symlink/real.bin"), "link"),
        (external("hardlink.bin"), "hard links"),
        (external("sub"), "folder"),
        (external("pipe"), "named pipe"),
        (external("missing.bin"), "no such file"),
        (external("weights.bin/x"), "not a directory"),
        (external("x" * 4000), "too long"),
        (external("x" * 5000), "5000 bytes"),
        (external(offset=8), "has 16"),
        (external(offset=2**64 - 4), "has 16"),
        (external(offset=-4), "whole number"),
        (external(offset="9" * 5000), "5000 bytes"),
        (external(offset="4e0"), "whole number"),
        (external(length=16), "takes 12 bytes"),
        (external(length=2**63), "takes 12 bytes"),
    ],
)
def test_a_file_is_opened_only_if_it_lies_in_the_models_own_folder(proto, word, folder):
    save(folder / "f", initializers=[proto])
    error = refusal(folder / "f")
    assert isinstance(error, (CheckpointError, LimitError))
    assert word in str(error)


def test_a_location_given_twice_is_refused(folder):
    proto = external()
    proto.external_data.add(key="location", value="sub/real.bin")
    save(folder / "f", initializers=[proto])
    with pytest.raises(CheckpointError, match="twice"):
        open_checkpoint(folder / "f")


def test_an_upload_has_no_folder(folder):
    save(folder / "f", initializers=[external()])
    with pytest.raises(CheckpointError, match="an upload has no files beside it"):
        open_checkpoint(folder / "f", name="model.onnx", alone=True)


def test_a_model_in_more_files_than_stay_open_is_refused(folder):
    for i in range(501):
        (folder / f"{i}.bin").write_bytes(floats(1, 2, 3))
    tensors = [external(f"{i}.bin") for i in range(501)]
    for i, proto in enumerate(tensors):
        proto.name = f"w{i}"
    save(folder / "f", initializers=tensors)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    with pytest.raises(LimitError, match="500 files"):
        open_checkpoint(folder / "f")
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    assert after <= before


def test_a_model_in_hugging_faces_cache_opens_through_its_links(tmp_path):
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "abc" / "onnx"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    save(blobs / "d1", initializers=[external("f.onnx_data")])
    (blobs / "d2").write_bytes(floats(1, 2, 3))
    (snapshot / "f.onnx").symlink_to(blobs / "d1")
    (snapshot / "f.onnx_data").symlink_to(blobs / "d2")
    with open_checkpoint(snapshot / "f.onnx") as checkpoint:
        assert checkpoint.load("w").tolist() == [1, 2, 3]
    (snapshot / "f.onnx_data").unlink()
    (snapshot / "f.onnx_data").symlink_to(Path("/etc/passwd"))
    assert isinstance(refusal(snapshot / "f.onnx"), CheckpointError)


# -- the wire format


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: bytes | int) -> bytes:
    """A field of bytes, or of a whole number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def hand_made(*parts: bytes) -> bytes:
    """A model whose graph consists of these fields."""
    return field(1, 10) + field(7, b"".join(parts))


def described(*parts: bytes, shape: tuple[int, ...] = (1,), code: int = 1, name: bytes = b"w") -> bytes:
    """An initializer of the model's graph."""
    return field(5, b"".join(field(1, length) for length in shape) + field(2, code) + field(8, name) + b"".join(parts))


RAW = field(9, bytes(4))
DEEP = field(1, field(4, b"Neg"))
for _ in range(40):
    DEEP = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, DEEP)))

LIES = {
    "a version alone": (field(1, 10) + b"\x12", "cut short"),
    "no graph": (field(1, 10) + field(2, b"producer"), "one graph"),
    "two graphs": (hand_made() + field(7, b""), "one graph"),
    "a graph that is cut": (hand_made(described(RAW))[:-1], "cut short"),
    "a graph of 2^63 bytes": (field(1, 10) + b"\x3a" + varint(2**63) + bytes(9), "cut short"),
    "raw data of 2^62 bytes": (hand_made(field(5, b"\x4a" + varint(2**62) + bytes(9))), "cut short"),
    "a number that does not end": (field(1, 10) + b"\x12" + b"\xff" * 40, "does not end"),
    "a group": (hand_made(b"\x0b\x0c"), "unknown kind 3"),
    "kind 7": (hand_made(b"\x0f\x0c"), "unknown kind 7"),
    "graphs within graphs, 40 deep": (hand_made(DEEP), "16 deep"),
    "a tensor twice": (hand_made(described(shape=(0,)) * 2), "two tensors called 'w'"),
    "100,001 tensors": (hand_made(*(described(shape=(0,), name=b"%d" % i) for i in range(100_001))), "100000 tensors"),
    "a tensor without a name": (hand_made(described(RAW, name=b"")), "without a name"),
    "a name that is no text": (hand_made(described(RAW, name=b"\xff\xfe")), "UTF-8"),
    "a name of a megabyte": (hand_made(described(RAW, name=b"n" * 1_000_000)), "1000000 bytes"),
    "type 0": (hand_made(described(RAW, code=0)), "unknown type 0"),
    "type 2^40": (hand_made(described(RAW, code=2**40)), "unknown type"),
    "65 dimensions": (hand_made(described(RAW, shape=(1,) * 65)), "64 dimensions"),
    "a million dimensions": (hand_made(described(RAW, shape=(1,) * 1_000_000)), "64 dimensions"),
    "a million dimensions at once": (hand_made(described(field(1, b"\x01" * 1_000_000) + RAW, shape=())), "numbers"),
    "a length of -1": (hand_made(described(RAW, shape=(2**64 - 1,))), "negative"),
    "lengths of -2": (hand_made(described(RAW, shape=(2**64 - 2, 2**64 - 2))), "negative"),
    "lengths that wrap to 0": (hand_made(described(shape=(2**33, 2**31))), "impossible"),
    "an empty shape that no array can have": (hand_made(described(shape=(0, 2**62))), "impossible"),
    "more values than bytes": (hand_made(described(RAW, shape=(2,))), "takes 8 bytes"),
    "fewer values than bytes": (hand_made(described(field(9, bytes(8)))), "takes 4 bytes"),
    "no data": (hand_made(described(shape=(1 << 40,))), "and has 0"),
    "4-bit values without data": (hand_made(described(shape=(1 << 40,), code=22)), "and has 0"),
    "raw data twice": (hand_made(described(RAW, RAW)), "twice"),
    "a type twice": (hand_made(described(RAW, field(2, 2))), "twice"),
    "a name twice": (hand_made(described(RAW, field(8, b"v"))), "twice"),
    "raw and typed data": (hand_made(described(RAW, field(4, bytes(4)))), "more than one place"),
    "raw and external data": (hand_made(described(RAW, field(14, 1))), "more than one place"),
    "data of another type": (hand_made(described(field(7, b"\x01"))), "another type"),
    "external data nowhere": (hand_made(described(field(14, 1))), "plain path"),
    "a segment": (hand_made(described(RAW, field(3, b""))), "segments"),
    "typed data, one by one": (hand_made(described(b"\x25" + bytes(4))), "not packed"),
    "typed data in 2000 pieces": (hand_made(described(field(4, bytes(4)) * 2000, shape=(2000,))), "pieces"),
    "typed floats that are cut": (hand_made(described(field(4, bytes(7)), shape=(2,))), "takes 8 bytes"),
    "numbers that are fewer": (hand_made(described(field(7, b"\xff\x01"), shape=(2,), code=7)), "1 numbers for"),
    "numbers that are many fewer": (
        hand_made(described(field(7, (b"\xff" * 9 + b"\x01") * 100_000), shape=(1_000_000,), code=7)), "numbers",
    ),
    "numbers that are far too few": (hand_made(described(field(7, b"\1"), shape=(1 << 40,), code=7)), "1 bytes for"),
    "numbers that are more": (hand_made(described(field(7, b"\1\1\1"), shape=(2,), code=7)), "3 numbers for"),
    "a last number that does not end": (hand_made(described(field(7, b"\1\xff"), shape=(2,), code=7)), "does not end"),
    "a number of 12 bytes": (
        hand_made(described(field(7, b"\xff" * 11 + b"\1" * 9), shape=(9,), code=7)), "does not end",
    ),
    "a number for int8 of 128 + 128": (hand_made(described(field(5, b"\x80\x02"), code=3)), "int8 cannot hold"),
    "a number for float16 of 2^16": (hand_made(described(field(5, b"\x80\x80\x04"), code=10)), "uint16 cannot hold"),
    "fewer strings than elements": (hand_made(described(field(6, b"a"), shape=(2,), code=8)), "1 strings"),
    "a node of 20,000 attributes": (hand_made(field(1, field(5, b"") * 20_000)), "4096 inputs"),
    "a node of 20,000 inputs": (hand_made(described(RAW), field(1, field(1, b"w") * 20_000)), "4096 inputs"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lying_model_is_refused_in_one_sentence(name, tmp_path):
    assert refused_in_one_sentence(tmp_path / "a file", *LIES[name])


def test_a_model_of_gigabytes_opens_at_once(tmp_path):
    path, sizes = tmp_path / "f", 3 << 30
    tensor_of = field(1, sizes // 4) + field(2, 1) + field(8, b"w") + varint(9 << 3 | 2) + varint(sizes)
    graph = varint(5 << 3 | 2) + varint(len(tensor_of) + sizes) + tensor_of
    after = described(RAW, name=b"v") + field(1, field(1, b"w") + field(4, b"MatMul") + field(3, b"MatMul_1"))
    start = field(1, 10) + varint(7 << 3 | 2) + varint(len(graph) + sizes + len(after)) + graph
    with path.open("wb") as file:
        file.write(start)
        file.seek(sizes, os.SEEK_CUR)
        file.write(after)
    started = time.process_time()
    tracemalloc.start()
    try:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.names == ["w", "v"]
            assert checkpoint.spec("w").nbytes == sizes
            assert checkpoint.spec("w").note == "used by MatMul_1"
            assert checkpoint.load("v").tolist() == [0]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 0.5


def test_a_crowd_of_fields_is_refused_before_a_second_is_over(tmp_path):
    (tmp_path / "f").write_bytes(hand_made(b"\x20\x01" * (protobuf.MAX_FIELDS + 1)))
    started = time.process_time()
    with pytest.raises(LimitError, match="fields"):
        open_checkpoint(tmp_path / "f")
    assert time.process_time() - started < 1


def test_a_large_graph_opens_in_less_than_a_second(tmp_path):
    nodes = [helper.make_node("Add", [f"t{i}", "w"], [f"t{i + 1}"], f"Add_{i}") for i in range(20_000)]
    save(tmp_path / "f", nodes, [numpy_helper.from_array(weight(4), "w")])
    assert refusal(tmp_path / "f") is None


@pytest.mark.parametrize("producer", ["", "p", "a producer with a long name" * 30])
def test_models_of_every_producer_are_recognised(producer, tmp_path):
    made = model(helper.make_graph([], "g", [], [], [numpy_helper.from_array(weight(3), "w")]))
    made.producer_name = producer
    (tmp_path / "f").write_bytes(made.SerializeToString())
    assert open_checkpoint(tmp_path / "f").format == "onnx"


def test_a_safetensors_header_whose_length_looks_like_a_model_is_one_of_safetensors(tmp_path):
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    length = int.from_bytes(b"\x08\x0a\x12", "little")
    (tmp_path / "f").write_bytes(safetensors(header + b" " * (length - len(header)), floats(1)))
    assert open_checkpoint(tmp_path / "f").format == "safetensors"
    small = safetensors({"w": tensor("F32", [1], 0, 4)}, floats(1))
    (tmp_path / "f").write_bytes(small)
    assert open_checkpoint(tmp_path / "f").format == "safetensors"


# -- damage


def valid_models() -> dict[str, bytes]:
    """Small correct models with tensors of every kind, whose data are raw, typed, or in another file."""
    typed = [helper.make_tensor(f"t{c}", c, (3,), values(c, (3,))) for c in (1, 3, 7, 10, 11, 13, 16, 22)]
    raw = [numpy_helper.from_array(values(c), f"r{c}") for c in (1, 6, 16, 17, 21, 23)]
    nodes = [
        constant("c", weight(3)), branches(weight(2), weight(1)), node("Gemm", "x", "r1", transB=1),
        helper.make_node("Transpose", ["r1"], ["q"], perm=[1, 0]), node("MatMul", "x", "q"),
    ]  # fmt: skip
    tensors = {"raw": raw, "typed": typed, "external": [external(offset=4, length=12)]}
    return {
        name: model(helper.make_graph(nodes, "g", [], [], found)).SerializeToString() for name, found in tensors.items()
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = tmp_path_factory.mktemp("damaged")
    (made / "weights.bin").write_bytes(floats(1, 2, 3, 4))
    return made


@given(data=st.data())
@pytest.mark.parametrize("name", ["raw", "typed", "external"])
def test_a_damaged_model_gives_a_typed_error_or_is_read(name, data, place):
    content = data.draw(damaged(valid_models()[name]))
    if data.draw(st.booleans()):  # two parts change places
        a, b, c = sorted(data.draw(st.integers(0, len(content))) for _ in range(3))
        content = content[:a] + content[b:c] + content[a:b] + content[c:]
    (place / name).write_bytes(content)
    with contextlib.suppress(QuantlabError):
        open_and_read_all(place / name)


@given(fields=st.lists(st.tuples(st.integers(1, 25), st.integers(0, 2**64 - 1) | st.binary(max_size=40)), max_size=12))
def test_any_fields_in_any_order_give_a_typed_error_or_are_read(place, fields):
    path = place / "fields"
    inner = b"".join(field(number, value) for number, value in fields)
    for content in (hand_made(inner), hand_made(field(5, inner)), hand_made(field(1, field(4, b"Constant") + inner))):
        path.write_bytes(content)
        with contextlib.suppress(QuantlabError):
            open_and_read_all(path)


def test_the_models_that_are_damaged_were_right(place):
    for name, content in valid_models().items():
        (place / name).write_bytes(content)
        open_and_read_all(place / name)
