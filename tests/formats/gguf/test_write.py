"""GGUF exports, read by gguf-py: its quantizer's bytes, its dequantizer's values, and all metadata kept."""

import struct

import gguf
import numpy as np
import pytest

import quantlab as ql
from quantlab.formats import FORMATS
from quantlab.formats.gguf import filetype
from quantlab.formats.gguf.write import TYPES
from quantlab.formats.output.outgoing import Outgoing
from quantlab.formats.writing import export_layout
from quantlab.shipping.recipe import Rule
from quantlab.shipping.rehearsal import assigned, file_nbytes
from quantlab.shipping.shipping import ship

Q = gguf.GGMLQuantizationType
SHAPES = [(64, 128), (32,), (3, 5, 64)]


def weights(shape):
    return np.random.default_rng(2).standard_normal(shape, dtype=np.float32)


def read(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bytes_are_ggufs_own_and_values_what_was_measured(shape, tmp_path):
    x = weights(shape)
    tensors = {name: ql.quantize(x, ql.QuantConfig(dtype=name)) for name in TYPES}
    found = read(ql.export(tmp_path / "weights.gguf", tensors, format="gguf"))
    assert list(found) == list(tensors)
    for name, q in tensors.items():
        kind = gguf.GGMLQuantizationType[TYPES[name]]
        assert found[name].tensor_type == kind
        assert tuple(found[name].shape[::-1]) == shape
        assert found[name].data.tobytes() == gguf.quantize(x, kind).tobytes()
        decoded = gguf.dequantize(found[name].data, kind).reshape(shape)
        np.testing.assert_array_equal(decoded, q.dequantize())


@pytest.fixture
def model(tmp_path):
    """A GGUF file with metadata of every kind, made by gguf-py."""
    x = weights((64, 128))
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_string("general.name", "a model")
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_array("tokenizer.ggml.tokens", [f"token{i}" for i in range(500)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 500)
    writer.add_tensor("blk.0.ffn_up.weight", x.astype(np.float16))
    writer.add_tensor("blk.0.ffn_norm.weight", np.ones(33, np.float32))
    kind = gguf.GGMLQuantizationType.Q5_1
    writer.add_tensor("blk.0.attn_q.weight", gguf.quantize(x, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "model.gguf"


def test_from_a_gguf_source_all_metadata_and_every_copied_block_is_kept(model, tmp_path):
    with ql.open_checkpoint(model) as source:
        chosen = {"blk.0.ffn_up.weight": ql.QuantConfig(dtype="q4_0")}
        tensors = [
            Outgoing(spec.name, spec.shape, spec.dtype, chosen.get(spec.name), lambda name=spec.name: source.raw(name))
            for spec in map(source.spec, source.names)
        ]
        export_layout(tmp_path / "small.gguf", tensors, FORMATS["gguf"], source)
    before, after = gguf.GGUFReader(model), gguf.GGUFReader(tmp_path / "small.gguf")
    assert fields(before) == fields(after)
    old, new = read(model), read(tmp_path / "small.gguf")
    assert new["blk.0.ffn_up.weight"].tensor_type.name == "Q4_0"
    for name in ("blk.0.ffn_norm.weight", "blk.0.attn_q.weight"):
        assert new[name].tensor_type == old[name].tensor_type
        assert new[name].data.tobytes() == old[name].data.tobytes()


def test_an_export_keeps_the_order_of_a_gguf_source(model, tmp_path):
    with ql.open_checkpoint(model) as source:
        rules = [Rule("*", None, copy=True), Rule.parse("*attn_q*=q8_0")]
        ship(source, assigned(source, rules, "gguf"), tmp_path / "small.gguf", "gguf")
    names = [[tensor.name for tensor in gguf.GGUFReader(path).tensors] for path in (model, tmp_path / "small.gguf")]
    assert names[0] == names[1]
    assert names[0].index("blk.0.attn_q.weight") == 2


FAMILIES = {"IQ3_M": "IQ3_S", "IQ3_XS": "IQ3_S", "IQ2_M": "IQ2_S", "MXFP4_MOE": "MXFP4"}


@pytest.mark.parametrize("kind", filetype.MIXES)
def test_the_mixes_of_a_type_are_those_that_llama_cpp_names_after_it(kind):
    names = [
        gguf.LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_") for number in filetype.MIXES[kind]
    ]
    assert {FAMILIES.get(name, name.removesuffix("_S").removesuffix("_M").removesuffix("_L")) for name in names} <= {
        kind,
        kind.removesuffix("_S").removesuffix("_M"),
    }
    assert gguf.GGMLQuantizationType[kind].name == kind


def with_file_type(tmp_path, said, kinds):
    """A GGUF file of a norm and of matrices of these types, which says that it is mostly of another."""
    writer = gguf.GGUFWriter(tmp_path / "said.gguf", "llama")
    if said is not None:
        writer.add_file_type(said)
    writer.add_uint32("llama.block_count", 2)
    writer.add_tensor("norm.weight", np.ones(33, np.float32))
    for i, kind in enumerate(kinds):
        if kind in (Q.F32, Q.F16):
            writer.add_tensor(f"blk.{i}.w.weight", weights((32, 256)).astype("float32" if kind is Q.F32 else "float16"))
        else:
            blocks = np.zeros(gguf.quant_shape_to_byte_shape((32, 256), kind), np.uint8)
            writer.add_tensor(f"blk.{i}.w.weight", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "said.gguf"


SAYS = {
    "the majority": (1, [Q.F16] * 5, ["*.[012].*=q4_0", "*.3.*=q8_0"], 2),
    "that of copies": (1, [Q.F16] * 5, ["*.3.*=q8_0", "*.4.*=q4_0"], 1),
    "a mix of the same type stays": (14, [Q.Q4_K] * 3 + [Q.F16] * 2, ["*.3.*=q8_0", "*.4.*=q5_0"], 14),
    "a mix of another type does not": (17, [Q.Q5_0] * 2, ["*.0.*=q5_0"], 8),
    "nothing where nothing was said": (None, [Q.F16] * 2, ["*.*.w.*=q5_1"], None),
    "a cast": (0, [Q.F32] * 3, ["*.[01].w.*=bf16"], 32),
}


@pytest.mark.parametrize("case", SAYS)
def test_a_file_says_what_most_of_it_is(case, tmp_path):
    said, kinds, rules, expected = SAYS[case]
    with ql.open_checkpoint(with_file_type(tmp_path, said, kinds)) as source:
        assignment = assigned(source, [Rule("*", None, copy=True), *map(Rule.parse, rules)], "gguf")
        predicted = file_nbytes(source, assignment, "gguf")
        ship(source, assignment, tmp_path / "small.gguf", "gguf")
    assert (tmp_path / "small.gguf").stat().st_size == predicted
    before, after = fields(gguf.GGUFReader(tmp_path / "said.gguf")), fields(gguf.GGUFReader(tmp_path / "small.gguf"))
    found = gguf.GGUFReader(tmp_path / "small.gguf").fields.get("general.file_type")
    assert (found and found.contents()) == expected
    assert {key: value for key, value in before.items() if key != "general.file_type"} == {
        key: value for key, value in after.items() if key != "general.file_type"
    }


@pytest.mark.parametrize(
    "value", [struct.pack("<IQ4sII", 8, 12, b"long", 4, 1), struct.pack("<IB", 0, 1), struct.pack("<Ii", 5, 1)]
)
def test_what_is_no_number_of_a_mix_is_left_as_it_is(value):
    record = struct.pack("<Q", len(filetype.KEY)) + filetype.KEY.encode() + value
    assert filetype.updated(record, "Q4_0") == record


def fields(reader):
    """The metadata, as bytes, without the counts that GGUFReader adds."""
    return {
        key: [bytes(part) for part in field.parts]
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    }


@pytest.mark.parametrize(
    ("slug", "name", "shape", "why"),
    [
        ("int4-sym-g32-minmax", "w", (4, 64), "ggml's own types"),
        ("fp16", "w", (1, 1, 1, 1, 32), "1 to 4 dimensions"),
        ("fp16", "x" * 64, (4, 64), "allows 1 to 63"),
    ],
)
def test_what_gguf_cannot_hold_is_refused_with_the_reason(slug, name, shape, why, tmp_path):
    q = ql.quantize(weights(shape), ql.QuantConfig.parse(slug))
    with pytest.raises(ql.ExportError, match=why):
        ql.export(tmp_path / "weights.gguf", {name: q}, format="gguf")
    assert not list(tmp_path.iterdir())
