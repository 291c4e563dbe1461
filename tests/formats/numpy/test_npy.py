"""NumPy's .npy files, against NumPy."""

import io

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab.errors import DTypeError, NonFiniteError
from quantlab.formats import open_checkpoint

from ..hostile import npy

DTYPES = st.sampled_from(["<f2", "<f4", "<f8", ">f2", ">f4", ">f8", "<i8", ">i4", "|u1", "|b1", "<c8", ">c16"])
ARRAYS = DTYPES.flatmap(
    lambda dtype: npst.arrays(
        dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5), elements={"allow_nan": False}
        if dtype[1] in "fc" else None,
    )
)  # fmt: skip


@given(x=ARRAYS, fortran=st.booleans(), version=st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_every_array_is_read_as_numpy_reads_it(x, fortran, version, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "array.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.asfortranarray(x) if fortran and x.ndim else x, version)
    expected = np.load(path)
    with open_checkpoint(path) as checkpoint:
        raw = checkpoint.raw("array")
        assert (raw.dtype, raw.shape) == (expected.dtype.newbyteorder("="), expected.shape)
        np.testing.assert_array_equal(raw, expected)


@given(
    x=npst.arrays(
        st.sampled_from(["<f2", "<f4", ">f4", "<f8", ">f8"]),
        npst.array_shapes(min_dims=0, max_dims=4, max_side=5),
        elements=st.floats(-1000, 1000, width=16),
    ),
    fortran=st.booleans(),
)
def test_floats_are_loaded_as_float32_in_c_order(x, fortran, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "floats.npy"
    np.save(path, np.asfortranarray(x) if fortran and x.ndim else x)
    with open_checkpoint(path) as checkpoint:
        loaded = checkpoint.load("floats")
    assert (loaded.dtype, loaded.shape, loaded.flags.c_contiguous) == (np.float32, x.shape, True)
    np.testing.assert_array_equal(loaded, x.astype(np.float32))


def test_blocks_of_a_large_array_are_widened_in_order(tmp_path):
    x = np.resize(np.arange(1000), 3_000_001).astype(">f2")
    np.save(tmp_path / "x.npy", x)
    with open_checkpoint(tmp_path / "x.npy") as checkpoint:
        np.testing.assert_array_equal(checkpoint.load("x"), x.astype(np.float32))


def test_a_place_in_fortran_order_is_named_as_the_user_sees_it(tmp_path):
    x = np.asfortranarray(np.ones((3, 5), np.float32))
    x[2, 1] = np.inf
    np.save(tmp_path / "x.npy", x)
    with open_checkpoint(tmp_path / "x.npy") as checkpoint, pytest.raises(NonFiniteError, match=r"\(2, 1\)"):
        checkpoint.load("x")


def test_the_tensor_is_named_like_the_file(tmp_path):
    np.save(tmp_path / "layer.0.npy", np.ones(2))
    assert open_checkpoint(tmp_path / "layer.0.npy").names == ["layer.0"]
    assert open_checkpoint(tmp_path / "layer.0.npy", name="mine.npy").names == ["mine"]


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }",
        '{"shape":(2,3),"fortran_order":False,"descr":"<f4"}',
    ],
)
def test_headers_of_other_writers_are_read(header, tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(npy(header=header.encode(), data=b"\0" * 24))
    assert open_checkpoint(path).spec("x").shape == (2, 3)


def test_text_is_listed_and_is_no_weight(tmp_path):
    np.save(tmp_path / "x.npy", np.array(["a", "bc"]))
    with open_checkpoint(tmp_path / "x.npy") as checkpoint:
        assert checkpoint.raw("x").tolist() == ["a", "bc"]
        with pytest.raises(DTypeError):
            checkpoint.load("x")


def test_a_file_of_two_arrays_is_refused_and_not_half_read(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.ones(2))
    np.save(buffer, np.ones(3))
    (tmp_path / "x.npy").write_bytes(buffer.getvalue())
    from quantlab.errors import CheckpointError

    with pytest.raises(CheckpointError, match="takes 16 bytes"):
        open_checkpoint(tmp_path / "x.npy")
