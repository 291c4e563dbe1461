"""Importance files: what they hold, which tensors that is for, and what is refused."""

import contextlib
import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import quantlab as ql
from quantlab.errors import QuantlabError
from quantlab.planning.imatrix import DAT, GGUF
from quantlab.planning.importance import Importance, match, read_importance
from quantlab.planning.names import Place

from ..formats.hostile import FIXED_MEMORY, SECONDS, archive, damaged, npy, safetensors, tensor
from .imatrices import dat, ended, write_gguf

RNG = np.random.default_rng(5)
SQUARES = np.square(RNG.standard_normal((3, 8))).astype(np.float32)
TOKENS = np.float32([[40], [0], [3]])
ENTRIES = {
    "blk.0.attn_q.weight": (SQUARES[:1] * 9, [9]),
    "blk.0.ffn_up_exps.weight": (SQUARES * TOKENS, TOKENS[:, 0]),
}


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def model(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    save_file({name: np.ones(shape, np.float32) for name, shape in shapes.items()}, path)
    return path


def gguf_model(path: Path, shapes: dict[str, tuple[int, ...]], arch: str = "qwen3moe") -> Path:
    writer = gguf.GGUFWriter(path, arch)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# -- what is right


def test_an_imatrix_in_gguf_holds_means_and_numbers_of_tokens(tmp_path):
    path = write_gguf(tmp_path / "im", ENTRIES, more={"blk.0.attn_q.weight.in_sum": np.float32([[1, np.nan]])})
    found = read_importance(path)
    assert (found.kind, found.origin) == (GGUF, "3 chunks of 512 tokens, from 'wiki.txt'")
    assert list(found.entries) == list(ENTRIES)
    # A product with the count and a division by it: two roundings.
    np.testing.assert_allclose(found.entries["blk.0.attn_q.weight"], SQUARES[0], rtol=2**-23)
    experts = found.entries["blk.0.ffn_up_exps.weight"]
    np.testing.assert_allclose(experts[[0, 2]], SQUARES[[0, 2]], rtol=2**-23)
    assert (experts[1] == 1).all()  # has seen nothing
    assert found.counts["blk.0.ffn_up_exps.weight"].tolist() == [40, 0, 3]


def test_ggml_leaves_out_lengths_of_one(tmp_path):
    """As llama.cpp itself writes them, [1, 8] and [1, 1] are [8] and [1] in the file."""
    more = {"a.weight.in_sum2": SQUARES[0], "a.weight.counts": np.float32([2])}
    found = read_importance(write_gguf(tmp_path / "im", {}, more=more))
    np.testing.assert_array_equal(found.entries["a.weight"], SQUARES[0] / 2)


@pytest.mark.parametrize(
    "tail, origin", [(b"", ""), (struct.pack("<i", 7), "7 chunks"), (ended(), "7 chunks, from 'wiki.txt'")]
)
def test_a_dat_holds_the_same(tmp_path, tail, origin):
    content = dat((b"blk.0.attn_q.weight", 4, SQUARES[0] * 4), (b"output.weight", 0, SQUARES[1]), tail=tail)
    found = read_importance(put(tmp_path / "imatrix.dat", content))
    assert (found.kind, found.origin) == (DAT, origin)
    np.testing.assert_allclose(found.entries["blk.0.attn_q.weight"], SQUARES[0], rtol=2**-23)
    assert (found.entries["output.weight"] == 1).all()
    assert found.counts == {"blk.0.attn_q.weight": [4], "output.weight": [0]}


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_arrays_are_mean_squares_by_name(tmp_path, kind):
    arrays = {"fc1": SQUARES[0].astype(np.float16), "experts.weight": SQUARES}
    path = tmp_path / "squares"
    if kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **arrays)
    else:
        save_file(arrays, path)
    found = read_importance(path)
    assert kind in found.kind and not found.counts
    np.testing.assert_array_equal(found.entries["fc1"], arrays["fc1"].astype(np.float32))
    np.testing.assert_array_equal(found.entries["experts.weight"], SQUARES)


# -- whose it is


def test_a_model_of_hugging_face_is_matched_with_names_of_llama_cpp(tmp_path):
    shapes = {
        "model.layers.0.self_attn.q_proj.weight": (5, 8),
        **{f"model.layers.0.mlp.experts.{e}.up_proj.weight": (5, 8) for e in range(4)},
        "model.layers.0.mlp.down_proj.weight": (8, 5),
        "model.norm.weight": (8,),
    }
    importance = read_importance(write_gguf(tmp_path / "im", ENTRIES | {"output.weight": (SQUARES[:1], [1])}))
    with ql.open_checkpoint(model(tmp_path / "model.safetensors", shapes)) as checkpoint:
        found = match(importance, checkpoint)
    experts = [f"model.layers.0.mlp.experts.{e}.up_proj.weight" for e in range(4)]
    assert set(found.weights) == {"model.layers.0.self_attn.q_proj.weight", experts[0], experts[2]}
    np.testing.assert_array_equal(found.weights[experts[2]], importance.entries["blk.0.ffn_up_exps.weight"][2])
    assert found.matched[experts[2]] == (Place("blk.0.ffn_up_exps.weight", 2),)
    assert found.unmatched == ("output.weight",)
    assert found.without_data == {experts[1]: (0,)}
    assert list(found.refused) == [experts[3]] and "is expert 3" in found.refused[experts[3]]
    assert found.tokens[experts[0]] == 40 and found.tokens[experts[1]] == 0


def test_a_stack_takes_the_mean_of_the_experts_that_have_seen_something(tmp_path):
    shapes = {"blk.0.ffn_up_exps.weight": (3, 5, 8), "blk.0.attn_q.weight": (5, 8)}
    importance = read_importance(write_gguf(tmp_path / "im", ENTRIES))
    with ql.open_checkpoint(gguf_model(tmp_path / "m.gguf", shapes)) as checkpoint:
        found = match(importance, checkpoint)
    rows = found.weights["blk.0.ffn_up_exps.weight"]
    assert found.without_data == {"blk.0.ffn_up_exps.weight": (1,)}
    np.testing.assert_allclose(rows[1], (rows[0] + rows[2]) / 2, rtol=2**-22)
    assert (found.weights["blk.0.attn_q.weight"].shape, rows.shape) == ((8,), (3, 8))
    assert found.tokens["blk.0.ffn_up_exps.weight"] == 43


def test_a_dat_has_no_shapes_and_experts_without_data_are_ones(tmp_path):
    stack = np.vstack([SQUARES[0], np.ones(8), SQUARES[2]]).astype(np.float32)
    importance = read_importance(put(tmp_path / "im", dat((b"blk.0.ffn_up_exps.weight", 1, stack.reshape(-1)))))
    with ql.open_checkpoint(gguf_model(tmp_path / "m.gguf", {"blk.0.ffn_up_exps.weight": (3, 5, 8)})) as checkpoint:
        found = match(importance, checkpoint)
    assert found.without_data == {"blk.0.ffn_up_exps.weight": (1,)}
    np.testing.assert_array_equal(found.weights["blk.0.ffn_up_exps.weight"][[0, 2]], stack[[0, 2]])


def test_names_of_hugging_face_are_found_in_a_gguf_model(tmp_path):
    names = [f"model.layers.0.mlp.experts.{e}.up_proj.weight" for e in (0, 2)] + ["model.layers.0.self_attn.q_proj"]
    importance = Importance("test", dict(zip(names, SQUARES, strict=True)))
    shapes = {"blk.0.ffn_up_exps.weight": (3, 5, 8), "blk.0.attn_q.weight": (5, 8)}
    with ql.open_checkpoint(gguf_model(tmp_path / "m.gguf", shapes)) as checkpoint:
        found = match(importance, checkpoint)
    np.testing.assert_array_equal(found.weights["blk.0.ffn_up_exps.weight"][[0, 2]], SQUARES[:2])
    assert found.without_data == {"blk.0.ffn_up_exps.weight": (1,)}
    assert "blk.0.attn_q.weight" not in found.refused and not found.tokens
    assert found.matched["blk.0.ffn_up_exps.weight"] == (Place(names[0]), Place(names[1]))


def test_names_of_modules_are_those_of_their_weights(tmp_path):
    with ql.open_checkpoint(model(tmp_path / "m", {"fc1.weight": (3, 8), "fc2.weight": (3, 8)})) as checkpoint:
        found = match(Importance("test", {"fc1": SQUARES[0], "fc2.weight": SQUARES[1]}), checkpoint)
    assert set(found.weights) == {"fc1.weight", "fc2.weight"} and not found.unmatched


@pytest.mark.parametrize(
    "shape, values, word",
    [
        ((5, 9), SQUARES[0], "has 9 inputs"),
        ((2, 5, 8), SQUARES, "is 2 matrices of 8 inputs"),
        ((8,), SQUARES[0], "has no inputs to weight by"),
        ((2, 3, 4, 8), SQUARES[0], "has no inputs to weight by"),
        ((5, 24), SQUARES, "has 24 inputs"),
        ((0, 8), SQUARES[0], "no elements"),
    ],
)
def test_what_is_of_another_shape_is_refused_and_the_rest_is_matched(tmp_path, shape, values, word):
    path = tmp_path / "m.npz"
    np.savez(path, a=np.ones(shape, np.float32), b=np.ones((2, 8), np.float32))
    with ql.open_checkpoint(path) as checkpoint:
        found = match(Importance("test", {"a": values, "b": SQUARES[0]}), checkpoint)
    assert set(found.weights) == {"b"} and not found.unmatched
    assert word in found.refused["a"] and "\n" not in found.refused["a"]


def test_what_is_0_everywhere_says_nothing(tmp_path):
    with ql.open_checkpoint(model(tmp_path / "m", {"a": (3, 8)})) as checkpoint:
        found = match(Importance("test", {"a": np.zeros(8, np.float32)}), checkpoint)
    assert not found.weights and found.without_data == {"a": (0,)}


# -- what is wrong


def nan(array: np.ndarray, value: float = np.nan) -> np.ndarray:
    out = array.copy()
    out.flat[-1] = value
    return out


ONE = dat((b"a", 2, SQUARES[0]))
LIES = {
    "nothing": (b"", "is empty"),
    "a text": (b"tensor, weight\na.weight, 1\n", "an importance file is"),
    "an array": (npy(data=bytes(4)), "an importance file is"),
    "2^31 - 1 entries": (struct.pack("<ii", 2**31 - 1, 1) + ONE, "an importance file is"),
    "no entries": (struct.pack("<ii", 0, 1) + ONE, "an importance file is"),
    "a negative number of entries": (struct.pack("<ii", -1, 1) + ONE, "an importance file is"),
    "more entries than fit": (dat((b"a", 2, SQUARES[0]), count=90_000), "claims 90000 entries"),
    "an entry too many": (dat((b"a", 2, SQUARES[0]), (b"b", 1, SQUARES[0]), count=3), "ends at byte"),
    "a name of 2^31 bytes": (dat((b"a", 2, SQUARES[0])) + struct.pack("<i", 2**31 - 1) + bytes(9), "bytes behind"),
    "a second name of 2^31 bytes": (
        dat((b"a", 2, SQUARES[0]), count=2) + struct.pack("<i", 2**31 - 1) + bytes(20),
        "claims 2147483647 bytes",
    ),
    "no name": (dat((b"b", 2, SQUARES[0]), (b"", 2, SQUARES[0])), "without a name"),
    "a name that is no text": (dat((b"\xff\xfe", 2, SQUARES[0])), "not valid UTF-8"),
    "a name twice": (dat((b"a", 2, SQUARES[0]), (b"a", 2, SQUARES[1])), "two entries 'a'"),
    "a length of 2^31": (ONE[:13] + struct.pack("<i", 2**31 - 1) + bytes(99), "claims 2147483647 values"),
    "a length of 0": (dat((b"a", 2, SQUARES[:0])) + bytes(99), "claims 0 values"),
    "a negative length": (ONE[:13] + struct.pack("<i", -8) + bytes(99), "claims -8 values"),
    "negative calls": (dat((b"a", -2, SQUARES[0])), "of -2 calls"),
    "a value short": (ONE[:-2], "claims 8 values"),
    "NaN": (dat((b"a", 2, nan(SQUARES[0]))), "NaN or infinity"),
    "infinity": (dat((b"a", 2, nan(SQUARES[0], np.inf))), "NaN or infinity"),
    "a negative square": (dat((b"a", 2, nan(SQUARES[0], -1))), "never below 0"),
    "a tail": (dat((b"a", 2, SQUARES[0]), tail=ended() + b"x"), "1 bytes behind its end"),
    "half a tail": (dat((b"a", 2, SQUARES[0]), tail=b"xyz"), "ends at byte"),
    "a text of 2^31 bytes": (dat((b"a", 2, SQUARES[0]), tail=struct.pack("<ii", 1, 2**31 - 1)), "claims 2147483647"),
    "a negative text": (dat((b"a", 2, SQUARES[0]), tail=struct.pack("<ii", 1, -3)), "claims -3 bytes"),
    "an array of three dimensions": (archive(("a.npy", npy(shape=(1, 2, 3), data=bytes(24)))), "[1, 2, 3]"),
    "a scalar": (archive(("a.npy", npy(shape=(), data=bytes(4)))), "has shape []"),
    "integers": (archive(("a.npy", npy("<i4", (2,), bytes(8)))), "int32"),
    "a negative square in an archive": (archive(("a.npy", npy(data=np.float32(-1).tobytes()))), "never below 0"),
    "NaN in an archive": (archive(("a.npy", npy(data=np.float32(np.nan).tobytes()))), "NaN"),
    "no arrays": (safetensors({}), "no arrays"),
    "an empty array": (safetensors({"a": tensor("F32", [0], 0, 0)}), "no elements"),
    "arrays that are not there": (safetensors({"a": tensor("F32", [2**40], 0, 2**42)}), "cut short"),
}  # fmt: skip
WRONG_GGUF = {
    "a model": ({"entries": ENTRIES, "kind": None}, "a GGUF file of a model"),
    "an adapter": ({"entries": ENTRIES, "kind": "adapter"}, "of 'adapter'"),
    "no entries": ({"entries": {}}, "says nothing of any weight"),
    "sums without counts": ({"entries": {}, "more": {"a.in_sum2": SQUARES}}, "without 'a.counts'"),
    "counts of other experts": (
        {"entries": {}, "more": {"a.in_sum2": SQUARES, "a.counts": SQUARES[:2, :1]}},
        "2 counts",
    ),
    "half floats": (
        {"entries": {}, "more": {"a.in_sum2": SQUARES.astype(np.float16), "a.counts": SQUARES[:, :1]}},
        "is F16",
    ),
    "NaN": ({"entries": {"a": (nan(SQUARES), [1, 1, 1])}}, "NaN or infinity"),
    "infinity": ({"entries": {"a": (SQUARES, [1, 1e-45, 1])}}, "NaN or infinity"),
    "negative sums": ({"entries": {"a": (nan(SQUARES, -1), [1, 1, 1])}}, "never below 0"),
    "negative sums of nothing": ({"entries": {"a": (-SQUARES, [0, 0, 0])}}, "never below 0"),
    "negative counts": ({"entries": {"a": (SQUARES, [1, -1, 1])}}, "never below 0"),
    "NaN counts": ({"entries": {"a": (SQUARES, [1, np.nan, 1])}}, "NaN or infinity"),
    "three dimensions": (
        {"entries": {}, "more": {"a.in_sum2": SQUARES[None], "a.counts": SQUARES[:1, :1]}},
        "shape [1, 3, 8]",
    ),
}


def refused(path: Path, word: str) -> None:
    """Asserts that reading is refused: in one sentence with a word and the file's name, soon, without much memory."""
    started = time.process_time()
    with pytest.raises(QuantlabError) as caught:
        read_importance(path)
    assert time.process_time() - started < SECONDS
    assert word in str(caught.value) and "\n" not in str(caught.value)
    assert repr(path.name) in str(caught.value)
    assert memory_of(path) < 2 * path.stat().st_size + FIXED_MEMORY


def memory_of(path: Path) -> int:
    tracemalloc.start()
    try:
        with contextlib.suppress(QuantlabError):
            read_importance(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", LIES)
def test_a_lying_file_is_refused_in_one_sentence(name, tmp_path):
    content, word = LIES[name]
    refused(put(tmp_path / "a file", content), word)


@pytest.mark.parametrize("name", WRONG_GGUF)
def test_a_gguf_file_that_is_no_imatrix_is_refused_in_one_sentence(name, tmp_path):
    options, word = WRONG_GGUF[name]
    refused(write_gguf(tmp_path / "a file", **options), word)


def test_an_export_of_quantlab_is_refused(tmp_path):
    path = ql.export(tmp_path / "w.npz", {"w": ql.quantize(np.ones((4, 4), np.float32), ql.QuantConfig())})
    refused(path, "an export of quantlab")


def test_a_large_file_takes_no_more_memory_than_twice_its_size(tmp_path):
    large = np.ones((4, 500_000), np.float32)
    for path in (
        write_gguf(tmp_path / "im.gguf", {"a": (large, [1, 2, 0, 4])}),
        put(tmp_path / "im.dat", dat((b"a", 2, large.reshape(-1)))),
    ):
        assert memory_of(path) < 2 * path.stat().st_size + FIXED_MEMORY


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    older = dat((b"a", 2, SQUARES[0]), (b"b", 1, SQUARES[1]), tail=ended())
    return [older, write_gguf(tmp_path_factory.mktemp("seed") / "im", ENTRIES).read_bytes()]


@given(st.data())
def test_a_damaged_file_is_read_or_refused(seeds, tmp_path_factory, data):
    path = put(tmp_path_factory.getbasetemp() / "damaged", data.draw(st.sampled_from(seeds).flatmap(damaged)))
    with contextlib.suppress(QuantlabError):
        for values in read_importance(path).entries.values():
            assert np.isfinite(values).all() and (values >= 0).all()
