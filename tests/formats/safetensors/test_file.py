"""safetensors files, against the reference implementation."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from quantlab.errors import CheckpointError, DTypeError, EmptyTensorError, NonFiniteError, QuantlabError
from quantlab.formats import open_checkpoint
from quantlab.formats.safetensors.file import DTYPES

from ..hostile import floats, tensor
from ..hostile import safetensors as file_of

FLOATS = [
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
]
OTHERS = ["bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "complex64"]
SHAPES = [(3, 4), (5,), (), (2, 1, 3)]


def values(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.resize(np.arange(7), shape).astype(dtype)


@pytest.fixture
def written(tmp_path):
    """Tensors of every type and several shapes, and the file that the reference implementation wrote of them."""
    tensors = {f"{dtype} {shape}": values(dtype, shape) for dtype in FLOATS + OTHERS for shape in SHAPES}
    path = tmp_path / "all.safetensors"
    safetensors.numpy.save_file(tensors, path, {"note": "é"})
    return path, tensors


def test_every_type_is_read_as_the_reference_implementation_wrote_it(written):
    path, tensors = written
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "safetensors"
        assert set(checkpoint.names) == set(tensors)
        for name, x in tensors.items():
            raw, spec = checkpoint.raw(name), checkpoint.spec(name)
            assert (spec.shape, spec.dtype, spec.nbytes, spec.size) == (x.shape, x.dtype.name, x.nbytes, x.size)
            assert (raw.dtype, raw.shape, raw.tobytes()) == (x.dtype, x.shape, x.tobytes())


def test_floats_are_loaded_as_float32(written):
    path, tensors = written
    with open_checkpoint(path) as checkpoint:
        for name in (name for name in tensors if name.split()[0] in FLOATS):
            x = checkpoint.load(name)
            assert (x.dtype, x.flags.c_contiguous, x.flags.owndata or x.base.flags.owndata) == (np.float32, True, True)
            np.testing.assert_array_equal(x, tensors[name].astype(np.float32))


@pytest.mark.parametrize("dtype", OTHERS)
def test_what_is_no_float_is_refused_as_weights_with_a_way_out(dtype, written):
    with open_checkpoint(written[0]) as checkpoint, pytest.raises(DTypeError, match=r"raw\(name\)\.astype"):
        checkpoint.load(f"{dtype} (5,)")


def test_the_names_keep_the_order_of_the_header(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(file_of({"b": tensor("F32", [1], 4, 8), "a": tensor("F32", [1], 0, 4)}, floats(1, 2)))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.names == ["b", "a"]
        assert [checkpoint.load(name).item() for name in "ba"] == [2, 1]


@pytest.mark.parametrize("dtype", [name for name, (_, bits) in DTYPES.items() if bits < 8])
def test_types_below_a_byte_are_listed_and_not_unpacked(dtype, tmp_path):
    numpy_name, bits = DTYPES[dtype]
    path = tmp_path / "f"
    path.write_bytes(file_of({"a": tensor(dtype, [8], 0, bits)}, b"\0" * bits))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.spec("a").dtype == numpy_name
        for read in (checkpoint.raw, checkpoint.load):
            with pytest.raises(DTypeError, match=numpy_name):
                read("a")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_values_that_are_not_finite_are_refused_with_count_and_place(dtype, tmp_path):
    x = np.ones((600, 1000), dtype)
    x[511, 7], x[599, 999] = np.nan, np.inf
    path = tmp_path / "f"
    safetensors.numpy.save_file({"w": x}, path)
    with open_checkpoint(path) as checkpoint, pytest.raises(NonFiniteError) as caught:
        checkpoint.load("w")
    assert "'w'" in str(caught.value)
    assert "1 NaN and 1 infinite values of 600,000" in str(caught.value)
    assert "(511, 7)" in str(caught.value)


def test_float64_beyond_float32_is_refused(tmp_path):
    path = tmp_path / "f"
    safetensors.numpy.save_file({"w": np.array([1.0, 1e300])}, path)
    with (
        open_checkpoint(path) as checkpoint,
        pytest.raises(NonFiniteError, match=r"beyond the range of float32.*\(1,\)"),
    ):
        checkpoint.load("w")


def test_a_tensor_that_is_not_there_is_refused_with_a_hint(written):
    with open_checkpoint(written[0]) as checkpoint, pytest.raises(CheckpointError, match="did you mean 'int8"):
        checkpoint.load("int8 (5)")


def test_a_closed_checkpoint_says_so(written):
    with open_checkpoint(written[0]) as checkpoint:
        pass
    checkpoint.close()
    with pytest.raises(CheckpointError, match="closed"):
        checkpoint.load("float32 (5,)")


def test_an_empty_tensor_is_no_weight(tmp_path):
    path = tmp_path / "f"
    safetensors.numpy.save_file({"w": np.zeros((2, 0), np.float32)}, path)
    with open_checkpoint(path) as checkpoint, pytest.raises(EmptyTensorError, match="'w'"):
        checkpoint.load("w")


def test_the_sha256_is_that_of_the_file(written):
    import hashlib

    with open_checkpoint(written[0]) as checkpoint:
        assert checkpoint.sha256() == hashlib.sha256(written[0].read_bytes()).hexdigest()


def test_a_large_tensor_is_widened_without_a_second_copy(tmp_path):
    import tracemalloc

    path = tmp_path / "f"
    safetensors.numpy.save_file({"w": np.ones(8_000_000, ml_dtypes.bfloat16)}, path)
    with open_checkpoint(path) as checkpoint:
        tracemalloc.start()
        x = checkpoint.load("w")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1.2 * x.nbytes


# Headers that are almost right: whatever we accept, the reference implementation reads the same.
LENGTHS = st.sampled_from([0, 1, 2, 3, 4, 2**31, 2**32, 2**63, 2**64])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "I64", "BOOL", "F4", "X", ""]),
        "shape": st.lists(LENGTHS, max_size=3),
        "data_offsets": st.lists(st.integers(0, 16), min_size=2, max_size=2),
    }
)
HEADERS = st.dictionaries(st.text(max_size=3), ENTRIES, max_size=3)


@given(header=HEADERS, size=st.integers(0, 16), padding=st.sampled_from(["", " ", "\n", "\t  "]))
def test_we_accept_nothing_that_the_reference_implementation_refuses(header, size, padding, tmp_path_factory):
    content = file_of(json.dumps(header).encode() + padding.encode(), b"\0" * size)
    path = tmp_path_factory.getbasetemp() / "almost.safetensors"
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(path)
    except QuantlabError:
        return
    theirs = dict(safetensors.deserialize(content))
    assert {name: list(checkpoint.spec(name).shape) for name in checkpoint.names} == {
        name: info["shape"] for name, info in theirs.items()
    }


@pytest.mark.parametrize(
    "data, words", [(-1, "is cut short: its tensors need 800"), (1, "801 bytes of data, and its tens")]
)
def test_a_file_of_another_length_says_what_is_wrong_with_it(tmp_path, data, words):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"w": np.ones(200, np.float32)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:data] if data < 0 else whole + b"\0")
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)
