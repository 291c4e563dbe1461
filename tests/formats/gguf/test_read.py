"""GGUF files, against gguf-py: its writer makes them, its reader and its decoders say what is in them."""

import contextlib
import struct
import time
import tracemalloc
import warnings

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import given
from hypothesis import strategies as st

from quantlab import QuantConfig, sweep
from quantlab.errors import CheckpointError, DTypeError, EmptyTensorError, NonFiniteError, QuantlabError
from quantlab.formats import open_checkpoint
from quantlab.formats.gguf import header as ggufheader
from quantlab.formats.gguf.header import KINDS, MAX_STRINGS, Long
from quantlab.formats.gguf.read import UNDECODED
from quantlab.shipping.recipe import Rule, assign
from quantlab.shipping.shipping import ship

from ..hostile import damaged, open_and_read_all, refusal, refused_in_one_sentence, same_bits

BLOCKS = {kind.name: kind for kind in KINDS.values() if not kind.dtype}
DECODED = sorted(BLOCKS.keys() - UNDECODED)
PLAIN = {"F32": np.float32, "F16": np.float16, "F64": np.float64} | {f"I{b}": f"int{b}" for b in (8, 16, 32, 64)}
ROWS = 3


def random_blocks(name: str, rows: int = ROWS, blocks: int = 2) -> np.ndarray:
    """Random bytes of a block type, uint8 [rows, bytes of a row]: every code, and scales of every kind, NaN too."""
    return np.random.default_rng(len(name)).integers(0, 256, (rows, blocks * BLOCKS[name].nbytes), dtype=np.uint8)


def write(path, tensors: dict[str, tuple[np.ndarray, str | None]], **scalars) -> None:
    """A file of gguf-py's writer: arrays as they are, or uint8 blocks with the name of their type."""
    writer = GGUFWriter(path, "test")
    for key, value in scalars.items():
        writer.add_key_value(f"test.{key}", *value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=None if kind is None else GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def every_type(tmp_path_factory):
    """A file with a tensor of every type that gguf-py's writer takes."""
    path = tmp_path_factory.mktemp("gguf") / "all.gguf"
    rng = np.random.default_rng(0)
    tensors = {name: (rng.integers(-9, 9, (2, 5)).astype(dtype), None) for name, dtype in PLAIN.items()}
    tensors["BF16"] = rng.standard_normal((4, 6)).astype(ml_dtypes.bfloat16).view(np.uint8), "BF16"
    write(path, tensors | {name: (random_blocks(name), name) for name in BLOCKS})
    return path


# -- what is right


def test_the_types_are_those_of_the_reference():
    theirs = {kind.value: (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {number: kind[:3] for number, kind in KINDS.items()} == theirs


def test_what_cannot_be_decoded_is_what_the_reference_cannot_decode():
    def decodes(name: str) -> bool:
        try:
            gguf.quants.dequantize(random_blocks(name), GGMLQuantizationType[name])
        except NotImplementedError:
            return False
        return True

    with np.errstate(all="ignore"):
        assert [name for name in BLOCKS if not decodes(name)] == [name for name in BLOCKS if name in UNDECODED]


def test_every_type_is_read_as_the_reference_reads_it(every_type):
    with open_checkpoint(every_type) as checkpoint, np.errstate(all="ignore"):
        found = GGUFReader(every_type).tensors
        assert checkpoint.format == "gguf"
        assert checkpoint.names == [tensor.name for tensor in found]
        for tensor in found:
            spec = checkpoint.spec(tensor.name)
            assert (spec.shape, spec.nbytes) == (tuple(tensor.shape[::-1].tolist()), tensor.n_bytes)
            if tensor.name in PLAIN:
                assert same_bits(checkpoint.raw(tensor.name), np.array(tensor.data))
            elif tensor.name not in UNDECODED:
                decoded = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
                assert same_bits(checkpoint.raw(tensor.name).astype(np.float32), decoded)


def test_types_are_called_as_numpy_calls_them_and_blocks_are_float32_with_a_note(every_type):
    with open_checkpoint(every_type) as checkpoint:
        assert [checkpoint.spec(name).dtype for name in ("F32", "F16", "BF16", "I8")] == [
            "float32", "float16", "bfloat16", "int8",
        ]  # fmt: skip
        assert checkpoint.raw("BF16").dtype == ml_dtypes.bfloat16
        assert {checkpoint.spec(name).dtype for name in DECODED} == {"float32"}
        assert checkpoint.spec("Q4_K").note == "decoded from Q4_K"
        assert checkpoint.spec("F32").note == ""


@pytest.mark.parametrize("name", sorted(UNDECODED))
def test_a_type_without_a_decoder_is_listed_and_refused(name, every_type):
    with open_checkpoint(every_type) as checkpoint:
        assert checkpoint.spec(name).dtype == name.lower()
        for read in (checkpoint.raw, checkpoint.load):
            with pytest.raises(DTypeError, match=name.lower()):
                read(name)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "MXFP4"])
def test_what_the_reference_quantized_loads_as_its_decoded_values(name, tmp_path):
    x = np.random.default_rng(1).standard_normal((4, 64), dtype=np.float32)
    packed = gguf.quants.quantize(x, GGMLQuantizationType[name])
    write(tmp_path / "f", {"w": (packed.view(np.uint8), name)})
    with open_checkpoint(tmp_path / "f") as checkpoint:
        decoded = gguf.quants.dequantize(packed, GGMLQuantizationType[name])
        assert same_bits(checkpoint.load("w"), decoded)


def test_many_batches_of_blocks_are_decoded_like_one(tmp_path):
    blocks = random_blocks("Q6_K", rows=3, blocks=400)
    write(tmp_path / "f", {"w": (blocks, "Q6_K")})
    with open_checkpoint(tmp_path / "f") as checkpoint, np.errstate(all="ignore"):
        assert same_bits(checkpoint.raw("w"), gguf.quants.dequantize(blocks, GGMLQuantizationType.Q6_K))


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_a_scale_that_is_not_finite_is_said_and_not_warned_of(scale, tmp_path):
    block = np.frombuffer(np.float16(scale).tobytes() + bytes(16), np.uint8).reshape(1, 18)
    write(tmp_path / "f", {"w": (block, "Q4_0")})
    with open_checkpoint(tmp_path / "f") as checkpoint, warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NonFiniteError, match="'w'"):
            checkpoint.load("w")


def test_compression_is_measured_against_the_bytes_in_the_file(tmp_path):
    x = np.random.default_rng(1).standard_normal((4, 64), dtype=np.float32)
    packed = gguf.quants.quantize(x, GGMLQuantizationType.Q8_0)
    write(tmp_path / "f", {"w": (packed, "Q8_0")})
    with open_checkpoint(tmp_path / "f") as checkpoint:
        slug = "int4-sym-g32-minmax-sfp16"
        row = sweep(checkpoint, [QuantConfig.parse(slug)]).iloc[0]
        assert row.compression_ratio == checkpoint.spec("w").nbytes / row["nbytes"] == 8.5 / 4.5
        plan = assign(checkpoint, [Rule.parse(slug)])
        assert plan.compression_ratio == row.compression_ratio
        shipment = ship(checkpoint, plan, tmp_path / "out")
        assert shipment.expected.compression_ratio.item() == shipment.found.compression_ratio.item() == 8.5 / 4.5


def test_metadata_is_what_the_reference_reads(tmp_path):
    kinds = GGUFValueType
    values = {
        "u8": (200, kinds.UINT8), "i8": (-3, kinds.INT8), "u16": (60_000, kinds.UINT16), "i16": (-9, kinds.INT16),
        "u32": (1 << 31, kinds.UINT32), "i32": (-5, kinds.INT32), "u64": (1 << 63, kinds.UINT64),
        "i64": (-(1 << 40), kinds.INT64), "f32": (0.5, kinds.FLOAT32), "f64": (0.1, kinds.FLOAT64),
        "yes": (True, kinds.BOOL), "no": (False, kinds.BOOL), "text": ("été", kinds.STRING),
        "few": ([1, 2, 3], kinds.ARRAY), "words": (["a", "bc"], kinds.ARRAY),
    }  # fmt: skip
    write(tmp_path / "f", {}, **values)
    with open_checkpoint(tmp_path / "f") as checkpoint:
        assert checkpoint.metadata.pop("general.architecture") == "test"
        assert checkpoint.metadata == {f"test.{key}": value for key, (value, _) in values.items()}
        assert {type(value) for value in checkpoint.metadata.values()} == {int, float, bool, str, list}


def test_a_vocabulary_stays_in_the_file_and_can_be_copied_byte_by_byte(tmp_path):
    path = tmp_path / "f"
    words = [f"word {i}" * (i % 7) for i in range(20_000)]
    write(path, {}, words=(words, GGUFValueType.ARRAY), scores=([0.5] * 70_000, GGUFValueType.ARRAY))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.metadata["test.words"] == Long("string", 20_000)
        assert checkpoint.metadata["test.scores"] == Long("float32", 70_000)
        stream = checkpoint.record("test.words")
        copied = stream.read(stream.left)
        body = b"".join(struct.pack("<Q", len(word)) + word.encode() for word in words)
        key = struct.pack("<Q", 10) + b"test.words"
        assert copied == key + struct.pack("<IIQ", 9, 8, len(words)) + body
        # The records follow each other, and nothing lies between them.
        places = list(checkpoint.records.values())
        assert [place + size for place, size in places[:-1]] == [place for place, _ in places[1:]]
        with pytest.raises(CheckpointError, match=r"no metadata 'x'"):
            checkpoint.record("x")


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_the_alignment_that_a_file_declares_is_followed(alignment, tmp_path):
    writer = GGUFWriter(tmp_path / "f", "test")
    writer.add_custom_alignment(alignment)
    for i in range(3):
        writer.add_tensor(f"t{i}", np.full(3, i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "f") as checkpoint:
        assert checkpoint.alignment == alignment
        assert [checkpoint.load(name).tolist() for name in checkpoint.names] == [[i] * 3 for i in range(3)]


def test_only_headers_are_read_at_the_opening(tmp_path):
    path = tmp_path / "f"
    data = gg(1, 0, info(b"a", [1 << 30], kind=8))
    with path.open("wb") as file:
        file.write(aligned(data))
        file.truncate(len(aligned(data)) + (1 << 30) // 32 * 34)
    assert opens(path).spec("a").nbytes == 1_140_850_688


def opens(path):
    """The checkpoint, which must open at once and with little memory, whatever the file's size."""
    tracemalloc.start()
    try:
        started = time.process_time()
        checkpoint = open_checkpoint(path)
        assert time.process_time() - started < 0.5
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        return checkpoint
    finally:
        tracemalloc.stop()


def test_300_000_strings_are_stepped_over_in_less_than_a_second(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(gg(0, 1, string(b"v") + struct.pack("<IIQ", 9, 8, 300_000) + string(b"token") * 300_000))
    assert refusal(path) is None
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.metadata == {"v": Long("string", 300_000)}


# -- what lies


def string(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def gg(tensors: int = 0, keys: int = 0, body: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body


def info(name: bytes = b"a", dims: tuple | list = (32,), kind: int = 0, offset: int = 0) -> bytes:
    lengths = b"".join(struct.pack("<Q", length) for length in dims)
    return string(name) + struct.pack("<I", len(dims)) + lengths + struct.pack("<IQ", kind, offset)


def aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 32)


def one(*infos: bytes, data: bytes = bytes(128), **other) -> bytes:
    return aligned(gg(len(infos), 0, b"".join(infos), **other)) + data


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, body: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + body


ALIGNMENT = b"general.alignment"

# name -> (content, a word of the message)
LIES = {
    "a magic alone": (b"GGUF", "cut short"),
    "half a header": (b"GGUF" + struct.pack("<IQ", 3, 1), "cut short"),
    "version 1": (one(info(), version=1), "version 1"),
    "version 4": (one(info(), version=4), "version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "2^63 tensors": (gg(2**63), "claims 9223372036854775808 tensors"),
    "2^64 - 1 tensors": (gg(2**64 - 1), "tensors"),
    "2^64 - 1 keys": (gg(0, 2**64 - 1), "keys"),
    "more tensors than are read": (gg(100_001, 0, bytes(25 * 100_001)), "quantlab reads up to"),
    "more keys than are read": (gg(0, 10_001, bytes(14 * 10_001)), "quantlab reads up to"),
    "a name of 2^62 bytes": (gg(1, 0, struct.pack("<Q", 2**62) + b"a" * 64), "cut short"),
    "a key of 2^62 bytes": (gg(0, 1, struct.pack("<Q", 2**62) + b"a" * 64), "cut short"),
    "a key of 5000 bytes": (gg(0, 1, key(b"k" * 5000, 4, bytes(4))), "key of 5000 bytes"),
    "a string of 2^62 bytes": (gg(0, 1, key(b"key", 8, struct.pack("<Q", 2**62) + bytes(9))), "cut short"),
    "an array of 2^40 bytes": (gg(0, 1, key(b"key", 9, array(0, 2**40))), "claims 1099511627776 values"),
    "an array of 2^61 numbers": (gg(0, 1, key(b"key", 9, array(12, 2**61))), "values"),
    "an array of 2^40 strings": (gg(0, 1, key(b"key", 9, array(8, 2**40))), "values"),
    "strings that end beyond the file": (
        gg(0, 1, key(b"key", 9, array(8, 100, bytes(792) + b"\x05" + bytes(7)))), "ends",
    ),
    "strings that lead beyond the file": (
        gg(0, 1, key(b"key", 9, array(8, 100, struct.pack("<Q", 2**63) + bytes(2000)))), "before",
    ),
    "millions of strings": (
        gg(0, 1, key(b"key", 9, array(8, MAX_STRINGS + 1, bytes(8 * MAX_STRINGS + 8)))), "strings",
    ),
    "2000 arrays in each other": (gg(0, 1, key(b"key", 9, array(9, 1) * 2000)), "array of arrays"),
    "metadata of type 13": (gg(0, 1, key(b"key", 13, bytes(8))), "unknown type 13"),
    "an array of type 13": (gg(0, 1, key(b"key", 9, array(13, 1, bytes(8)))), "unknown type 13"),
    "a bool of 2": (gg(0, 1, key(b"key", 7, b"\x02" + bytes(9))), "0 or 1"),
    "a key twice": (gg(0, 2, key(b"key", 4, bytes(4)) * 2), "'key' twice"),
    "an empty key": (gg(0, 1, key(b"", 4, bytes(4))), "empty key"),
    "a key that is no text": (gg(0, 1, key(b"\xff\xfe", 4, bytes(4))), "UTF-8"),
    "lengths of 2^64": (one(info(dims=[2**32, 2**32])), "impossible"),
    "lengths that wrap to 32": (one(info(dims=[2**59 + 1, 32])), "impossible"),
    "a length of 2^63": (one(info(dims=[2**63])), "impossible"),
    "a length of 2^64 - 1": (one(info(dims=[2**64 - 1])), "impossible"),
    "an empty shape that no array can have": (one(info(dims=[2**62, 0])), "impossible"),
    "5 dimensions": (one(info(dims=[1] * 5)), "5 dimensions"),
    "2^32 - 1 dimensions": (aligned(gg(1, 0, string(b"a") + b"\xff" * 4)), "4294967295 dimensions"),
    "rows of 33 values in blocks": (one(info(dims=[33], kind=2)), "multiple of 32"),
    "rows of 32 values in blocks of 256": (one(info(dims=[32, 8], kind=12)), "multiple of 256"),
    "a scalar in blocks": (one(info(dims=[], kind=2)), "multiple of 32"),
    "an offset of 2^40": (one(info(offset=2**40)), "would end at byte"),
    "an offset that is not aligned": (one(info(offset=3)), "no multiple of 32"),
    "an offset that wraps": (one(info(offset=2**64 - 32)), "would end at byte"),
    "data that are cut": (one(info(), data=bytes(127)), "would end at byte"),
    "alignment 0": (gg(0, 1, key(ALIGNMENT, 4, struct.pack("<I", 0))), "power of two"),
    "alignment 13": (gg(0, 1, key(ALIGNMENT, 4, struct.pack("<I", 13))), "power of two"),
    "alignment of another type": (gg(0, 1, key(ALIGNMENT, 5, struct.pack("<i", 32))), "power of two"),
    "alignment in words": (gg(0, 1, key(ALIGNMENT, 8, string(b"32"))), "power of two"),
    "alignment true": (gg(0, 1, key(ALIGNMENT, 7, b"\x01") + bytes(4)), "power of two"),
    "a tensor twice": (one(info(), info(offset=128), data=bytes(256)), "two tensors called 'a'"),
    "tensors on the same bytes": (one(info(), info(b"b", offset=64), data=bytes(256)), "inside the one before"),
    "a thousand tensors on the same bytes": (one(*[info(b"%d" % i) for i in range(1000)]), "inside the one before"),
    "a tensor without a name": (one(info(b"")), "without a name"),
    "a name that is no text": (one(info(b"\xff\xfe")), "UTF-8"),
    "a name of 64 bytes": (one(info(b"x" * 64)), "64 bytes"),
    "a type that ggml gave up": (one(info(kind=4)), "unknown type 4"),
    "type 2^32 - 1": (one(info(kind=2**32 - 1)), "unknown type 4294967295"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lying_header_is_refused_in_one_sentence(name, tmp_path):
    assert refused_in_one_sentence(tmp_path / "a file", *LIES[name])


@pytest.mark.parametrize("content", [gg(2**63), gg(0, 1, key(b"key", 9, array(0, 2**40)))])
def test_a_sparse_file_of_a_terabyte_does_not_hold_the_parser(content, tmp_path):
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.write(content)
        file.truncate(1 << 40)
    assert isinstance(refusal(path), QuantlabError)


def test_what_is_odd_and_right_is_accepted(tmp_path):
    path = tmp_path / "f"
    infos = info(b"scalar", []) + info(b"empty", [4, 0], offset=32) + info(b"w", [2, 3], offset=64)
    longest = b"n" * ggufheader.MAX_TENSOR_NAME
    data = aligned(gg(4, 0, infos + info(longest, [1], offset=32), version=2))
    path.write_bytes(data + np.arange(32, dtype="<f4").tobytes() + b"something behind it")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.version == 2
        assert checkpoint.raw("scalar").shape == ()
        assert checkpoint.load("w").tolist() == [[16, 17], [18, 19], [20, 21]]
        assert checkpoint.load(longest.decode()).tolist() == [8]
        assert checkpoint.raw("empty").shape == (0, 4)
        with pytest.raises(EmptyTensorError):
            checkpoint.load("empty")


def valid_file() -> bytes:
    """A small correct file: several kinds of metadata, several types of tensors."""
    keys = [
        key(ALIGNMENT, 4, struct.pack("<I", 32)),
        key(b"name", 8, string(b"a model")),
        key(b"short", 9, array(8, 2, string(b"a") + string(b"b"))),
        key(b"tokens", 9, array(8, 70, string(b"tok") * 70)),
        key(b"scores", 9, array(6, 70, bytes(280))),
    ]
    infos = [info(b"w", [32, 2], 2), info(b"v", [3], 1, offset=64), info(b"k", [256], 12, offset=96)]
    return aligned(gg(3, 5, b"".join(keys + infos))) + bytes(range(256))


@given(data=st.data())
def test_a_damaged_file_gives_a_typed_error_or_is_read(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(data.draw(damaged(valid_file())))
    with contextlib.suppress(QuantlabError):
        open_and_read_all(path)


def test_the_file_that_is_damaged_was_right(tmp_path):
    (tmp_path / "f").write_bytes(valid_file())
    with open_checkpoint(tmp_path / "f") as checkpoint:
        assert [checkpoint.raw(name).shape for name in checkpoint.names] == [(2, 32), (3,), (256,)]
        assert len(checkpoint.metadata) == 5
