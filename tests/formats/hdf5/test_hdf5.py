"""HDF5 weights: what h5py and Keras write is read as h5py reads it, and no dataset can show another file's bytes."""

import contextlib
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t, h5z
from hypothesis import given
from hypothesis import strategies as st

from quantlab import QuantConfig, quantize
from quantlab.errors import CheckpointError, DTypeError, LimitError, NonFiniteError, QuantlabError
from quantlab.formats import open_checkpoint
from quantlab.formats.hdf5 import process
from quantlab.formats.hdf5.chunks import fletcher32
from quantlab.formats.hdf5.libhdf5.frames import MAX_OBJECTS
from quantlab.formats.hdf5.read import channel_axis
from quantlab.formats.input.files import InputFile

from ..hostile import Canary, damaged, open_and_read_all, patched, refusal, same_bits

X = np.random.default_rng(5).standard_normal((23, 7, 3), dtype=np.float32)


@pytest.fixture
def written(tmp_path):
    """Write a file by h5py and open it."""

    def written(write, **options):
        path = tmp_path / "weights.h5"
        with h5py.File(path, "w", **options) as file:
            write(file)
        return open_checkpoint(path)

    return written


def as_h5py_reads(checkpoint, name: str) -> np.ndarray:
    """One dataset by h5py, in native byte order."""
    with h5py.File(checkpoint.path) as file:
        x = file[name][()]
    return np.asarray(x).astype(x.dtype.newbyteorder("="))


# -- values


TYPES = [
    "?",
    "i1",
    "u1",
    "<i2",
    ">i2",
    "<u2",
    "<i4",
    ">i8",
    "<u8",
    "<f2",
    ">f2",
    "<f4",
    ">f4",
    "<f8",
    ">f8",
    "<c8",
    ">c16",
]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_every_type_is_read_as_h5py_reads_it(libver, written):
    def write(file):
        for descr in TYPES:
            file[f"x/{descr}"] = np.arange(-6, 6).reshape(3, 4).astype(descr)

    checkpoint = written(write, libver=libver)
    assert checkpoint.format == "hdf5"
    assert sorted(checkpoint.names) == sorted(f"x/{descr}" for descr in TYPES)
    for name in checkpoint.names:
        expected = as_h5py_reads(checkpoint, name)
        assert same_bits(checkpoint.raw(name), expected)
        assert (checkpoint.spec(name).dtype, checkpoint.spec(name).nbytes) == (expected.dtype.name, expected.nbytes)
        if expected.dtype.kind == "f":
            np.testing.assert_array_equal(checkpoint.load(name), expected.astype(np.float32))


@pytest.mark.parametrize("kind", ["h5", "npy"])
def test_a_signalling_nan_is_refused_without_a_warning(kind, tmp_path):
    x, path = np.array([1 << 62, 0x7FF0000000000001], np.uint64).view("f8"), tmp_path / f"f.{kind}"
    if kind == "npy":
        np.save(path, x)
    else:
        with h5py.File(path, "w") as file:
            file["w"] = x
    with warnings.catch_warnings(), open_checkpoint(path) as checkpoint:
        warnings.simplefilter("error")
        with pytest.raises(NonFiniteError, match="1 NaN and 0 infinite values of 2"):
            checkpoint.load(checkpoint.names[0])
        with pytest.raises(NonFiniteError, match="1 NaN"):
            quantize(checkpoint.raw(checkpoint.names[0]), QuantConfig())


FILTERS = {
    "contiguous": {},
    "chunked": {"chunks": (5, 4, 3)},
    "resizable": {"chunks": (8, 8, 3), "maxshape": (None, None, 3)},
    "one chunk": {"chunks": (23, 7, 3)},
    "gzip": {"chunks": (5, 4, 2), "compression": "gzip"},
    "lzf": {"chunks": (5, 4, 2), "compression": "lzf"},
    "shuffle": {"chunks": (5, 4, 2), "shuffle": True},
    "fletcher32": {"chunks": (5, 4, 2), "fletcher32": True},
    "everything": {"chunks": (4, 7, 3), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf and all": {"chunks": (23, 2, 3), "compression": "lzf", "shuffle": True, "fletcher32": True},
}


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("descr", ["<f4", ">f8", "i1"])
def test_every_layout_is_read_as_h5py_reads_it(filters, descr, written):
    x = np.where(X > 1, X, 0).astype(descr)  # runs of zeros for lzf to copy
    checkpoint = written(lambda file: file.create_dataset("w", data=x, **filters), libver="latest")
    assert same_bits(checkpoint.raw("w"), x.astype(x.dtype.newbyteorder("=")))


def test_lzf_is_read_as_h5py_reads_it_where_it_copies_and_where_it_cannot(written, rng):
    arrays = {
        "zeros": np.zeros(5000, np.uint8),
        "short runs": np.tile(np.uint8([1, 2]), 3000),
        "long runs": np.tile(rng.integers(0, 256, 300, dtype=np.uint8), 40),
        "far copies": np.r_[rng.integers(0, 256, 8000, dtype=np.uint8), np.zeros(300, np.uint8)].repeat(2),
        "noise with copies": np.r_[rng.integers(0, 256, 400, dtype=np.uint8), np.zeros(400, np.uint8)],
    }

    def write(file):
        for name, x in arrays.items():
            file.create_dataset(name, data=x, chunks=(x.size,), compression="lzf")

    checkpoint = written(write)
    assert all(same_bits(checkpoint.raw(name), x) for name, x in arrays.items())


@pytest.mark.parametrize("size", [0, 1, 2, 3, 719, 720, 721, 65_535 * 2, 200_001])
@pytest.mark.parametrize("byte", [0, 1, 255, None])
def test_the_checksum_is_hdf5s(size, byte, written, rng):
    data = rng.integers(0, 256, size, dtype=np.uint8) if byte is None else np.full(size, byte, np.uint8)
    if not size:
        assert fletcher32(b"") == 0
        return
    checkpoint = written(lambda file: file.create_dataset("w", data=data, chunks=(size,), fletcher32=True))
    stored = checkpoint.path.read_bytes()
    assert data.tobytes() + struct.pack("<I", fletcher32(data.tobytes())) in stored
    assert same_bits(checkpoint.raw("w"), data)


def test_what_was_never_written_is_the_fill_value(written):
    def write(file):
        file.create_dataset("zeros", (3, 2), "f4")
        file.create_dataset("sevens", (3, 2), ">f4", fillvalue=7)
        file.create_dataset("scalar", (), "f8", fillvalue=2)
        file.create_dataset("chunks", (6, 4), "f4", chunks=(2, 2), fillvalue=-1)
        file["chunks"][2:4, 2:] = 5
        file.create_dataset("bool", (2,), bool, fillvalue=True)

    checkpoint = written(write)
    assert all(same_bits(checkpoint.raw(name), as_h5py_reads(checkpoint, name)) for name in checkpoint.names)


def test_chunks_whose_filters_were_skipped_are_read(written):
    x = np.arange(8, dtype="<f4")

    def write(file):
        dataset = file.create_dataset("w", (8,), "<f4", chunks=(4,), compression="gzip", shuffle=True)
        dataset.id.write_direct_chunk((0,), x[:4].tobytes(), filter_mask=0b11)
        dataset.id.write_direct_chunk((4,), zlib.compress(x[4:].tobytes()), filter_mask=0b01)

    assert same_bits(written(write).raw("w"), x)


def test_values_in_the_datasets_own_header_are_read(written):
    def write(file):
        properties = h5p.create(h5p.DATASET_CREATE)
        properties.set_layout(h5d.COMPACT)
        dataset = h5d.create(file.id, b"w", h5t.IEEE_F32BE, h5s.create_simple((3,)), properties)
        dataset.write(h5s.ALL, h5s.ALL, np.float32([1, 2, 3]))

    assert written(write).load("w").tolist() == [1, 2, 3]


def test_scalars_and_empty_tensors_are_listed_and_read(written):
    def write(file):
        file["scalar"] = np.float32(3)
        file["none"] = np.zeros((0, 4), np.float32)
        file["null"] = h5py.Empty("f4")
        file.create_dataset("chunked", (0, 4), "f4", chunks=(2, 2), maxshape=(None, 4))

    checkpoint = written(write)
    assert checkpoint.load("scalar").tolist() == 3
    assert [checkpoint.raw(name).shape for name in ("none", "null", "chunked")] == [(0, 4), (0,), (0, 4)]


def narrow(order: int, fields: tuple, bias: int, size: int) -> h5t.TypeFloatID:
    kind = h5t.IEEE_F32LE.copy()
    kind.set_fields(*fields)
    kind.set_precision(8 * size)
    kind.set_size(size)
    kind.set_ebias(bias)
    kind.set_order(order)
    return kind


NARROW = {
    "bfloat16": ((15, 7, 8, 0, 7), 127, 2),
    "float8_e4m3fn": ((7, 3, 4, 0, 3), 7, 1),
    "float8_e5m2": ((7, 2, 5, 0, 2), 15, 1),
}


def test_narrow_floats_are_read_by_their_fields(written):
    values = {name: np.array([1, -2, 0.5, 3], getattr(ml_dtypes, name)) for name in NARROW}

    def write(file):
        for name, x in values.items():
            kind = narrow(h5t.ORDER_LE, *NARROW[name])
            dataset = h5d.create(file.id, name.encode(), kind, h5s.create_simple((4,)))
            dataset.write(h5s.ALL, h5s.ALL, x.view(f"V{x.itemsize}"), kind)
        h5d.create(file.id, b"odd", narrow(h5t.ORDER_LE, (15, 9, 6, 0, 9), 31, 2), h5s.create_simple((4,)))
        h5d.create(file.id, b"big", narrow(h5t.ORDER_BE, *NARROW["bfloat16"]), h5s.create_simple((4,)))

    checkpoint = written(write)
    assert all(same_bits(checkpoint.raw(name), x) for name, x in values.items())
    for name in ("odd", "big"):
        assert checkpoint.spec(name).dtype == "float"
        with pytest.raises(DTypeError):
            checkpoint.load(name)


def test_what_is_no_number_is_listed_and_not_read(written):
    def write(file):
        file["text"] = "hello"
        file["texts"] = np.array([b"a", b"b"])
        file["reference"] = np.array([file.ref], h5py.ref_dtype)
        file.create_dataset("vlen", (2,), h5py.vlen_dtype(np.float32))
        file["records"] = np.zeros(2, [("a", "f4"), ("b", "i4")])
        file["complex records"] = np.zeros(2, [("r", "f4"), ("i", "f8")])
        h5d.create(file.id, b"arrays", h5t.array_create(h5t.IEEE_F32LE, (3,)), h5s.create_simple((2,)))
        file["enum"] = np.zeros(2, h5py.enum_dtype({"A": 0, "B": 1}))
        file["raw"] = np.zeros(2, "V3")
        file["weights"] = np.ones(2, np.float32)

    checkpoint = written(write)
    found = {name: checkpoint.spec(name).dtype for name in checkpoint.names}
    assert found == {
        "arrays": "array",
        "complex records": "compound",
        "enum": "enum",
        "raw": "opaque",
        "records": "compound",
        "reference": "reference",
        "text": "string",
        "texts": "string",
        "vlen": "vlen",
        "weights": "float32",
    }
    assert checkpoint.load("weights").tolist() == [1, 1]
    for name in set(found) - {"weights"}:
        with pytest.raises(DTypeError, match=f"is {found[name]}, which"):
            checkpoint.load(name)


def test_a_dataset_of_two_names_is_read_under_both(written):
    def write(file):
        file["a"] = np.float32([1, 2])
        file["b"] = file["a"]
        file["c"] = file.create_dataset("d", data=X, chunks=(5, 7, 3))

    checkpoint = written(write)
    assert checkpoint.load("b").tolist() == [1, 2]
    assert checkpoint.spec("b").note == "the same values as 'a'"
    assert same_bits(checkpoint.raw("c"), checkpoint.raw("d"))


def test_tensors_are_listed_by_path_and_numbers_by_value(written):
    def write(file):
        for number in range(11):
            file[f"layers/dense/vars/{number}"] = np.float32(number)
        file["größe/x y"] = np.float32(1)

    checkpoint = written(write)
    assert checkpoint.names == ["größe/x y", *(f"layers/dense/vars/{number}" for number in range(11))]


def test_opening_reads_no_values(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["w"] = np.zeros(1_000_000, np.float32)
        file.create_dataset("c", data=np.zeros(1_000_000, np.float32), chunks=(100_000,))
    counts = []
    read_into = InputFile.read_into
    monkeypatch.setattr(
        InputFile, "read_into", lambda self, *args: (counts.append(len(args[1])), read_into(self, *args))[1]
    )
    open_checkpoint(tmp_path / "f.h5")
    assert sum(counts) < 50_000


# -- Keras


def keras_weights(file: h5py.File) -> None:
    """What Keras 3.15 writes for a model of these layers (compared by hand with its files)."""
    shapes = {
        "layers/conv2d/vars/0": (3, 3, 3, 4),
        "layers/conv2d/vars/1": (4,),
        "layers/conv2d_transpose/vars/0": (2, 2, 5, 4),
        "layers/dense/vars/0": (75, 6),
        "layers/depthwise_conv2d/vars/0": (2, 2, 5, 1),
        "layers/embedding/vars/0": (10, 4),
        "layers/lstm/cell/vars/0": (4, 12),
        "layers/lstm/cell/vars/1": (3, 12),
        "layers/separable_conv2d/vars/0": (2, 2, 5, 1),
        "layers/separable_conv2d/vars/1": (1, 1, 5, 3),
        "optimizer/vars/1": (75, 6),
    }
    for name, shape in shapes.items():
        file.create_dataset(name, data=np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
        file[name].parent.attrs["name"] = "hidden"
    half = np.arange(6, dtype=np.float32).astype(ml_dtypes.bfloat16).reshape(2, 3)
    file["layers/dense_1/vars/0"] = half.view("V2")
    file["layers/dense_1/vars/0"].attrs["dtype"] = "bfloat16"
    file.create_group("layers/flatten/vars").attrs["name"] = "flatten"


AXES = {
    "layers/conv2d/vars/0": 3,
    "layers/conv2d/vars/1": 0,
    "layers/conv2d_transpose/vars/0": 2,
    "layers/dense/vars/0": 1,
    "layers/dense_1/vars/0": 1,
    "layers/depthwise_conv2d/vars/0": 2,
    "layers/embedding/vars/0": 0,
    "layers/lstm/cell/vars/0": 1,
    "layers/lstm/cell/vars/1": 1,
    "layers/separable_conv2d/vars/0": 2,
    "layers/separable_conv2d/vars/1": 3,
    "optimizer/vars/1": 0,
}


def keras_file(path: Path, method: int = zipfile.ZIP_STORED, config: str = "{}") -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        keras_weights(file)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("config.json", config)
        archive.write(path.with_suffix(".h5"), "model.weights.h5")
    return path


@pytest.mark.parametrize("kind", ["model.keras", "model.h5"])
def test_keras_weights_are_read_and_their_channels_known(kind, tmp_path):
    keras_file(tmp_path / "model.keras")
    with open_checkpoint(tmp_path / kind) as checkpoint, h5py.File(tmp_path / "model.h5") as file:
        assert checkpoint.format == ("keras" if kind.endswith("keras") else "hdf5")
        assert checkpoint.names == list(AXES)
        assert {name: checkpoint.spec(name).channel_axis for name in AXES} == AXES
        for name in AXES:
            assert checkpoint.raw(name).tobytes() == file[name][()].tobytes()
        assert checkpoint.spec("layers/dense_1/vars/0").dtype == "bfloat16"
        assert checkpoint.load("layers/dense_1/vars/0").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("path", "rank", "axis"),
    [
        ("model_weights/dense/dense/kernel:0", 2, 1), ("dense/dense/bias:0", 1, 0), ("conv/conv/kernel", 4, 3),
        ("conv2d_transpose_1/kernel:0", 4, 2), ("lstm/lstm_cell/recurrent_kernel:0", 2, 1), ("e/e/embeddings:0", 2, 0),
        ("s/depthwise_kernel:0", 4, 2), ("separable_conv2d/pointwise_kernel", 4, 3), ("depthwise_conv2d/kernel", 4, 2),
        ("optimizer_weights/adam/kernel", 2, 0), ("w", 2, 0), ("vars/0", 2, 0),
    ],
)  # fmt: skip
def test_channels_of_keras_2_and_of_others(path, rank, axis):
    assert channel_axis(path.split("/"), rank) == axis


def test_a_models_configuration_is_never_read(tmp_path):
    config = '{"class_name": "Lambda", "module": "os", "config": {"function": "mkdir"}}'
    assert open_checkpoint(keras_file(tmp_path / "m.keras", config=config)).names == list(AXES)
    broken = keras_file(tmp_path / "b.keras", config="\xff not JSON")
    assert open_checkpoint(broken).names == list(AXES)


# -- files that lie


def external(file: h5py.File) -> None:
    file.create_dataset("w", (100,), "u1", external=[("/etc/passwd", 0, 100)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((100,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "w", (100,))
    file.create_virtual_dataset("w", layout)


def link(target) -> object:
    return lambda file: file.__setitem__("w", target)


def cycle(file: h5py.File) -> None:
    file["a/b"] = np.float32([1])
    file["a/a"] = file["a"]


def root_cycle(file: h5py.File) -> None:
    file["a/b"] = np.float32([1])
    file["a/root"] = file["/"]


def shared_group(file: h5py.File) -> None:
    file["a/b"] = np.float32([1])
    file["c"] = file["a"]


def deep(file: h5py.File) -> None:
    file["/".join(["g"] * 100)] = np.float32([1])


def long_paths(file: h5py.File) -> None:
    group = file.create_group("/".join(["g" * 130] * 30))
    for number in range(100):
        group.create_group(str(number))


def long_path(file: h5py.File) -> None:
    file.create_group("/".join(["g" * 200] * 25))


def named_type(file: h5py.File) -> None:
    file["kind"] = np.dtype("f4")


def petabytes(file: h5py.File) -> None:
    file.create_dataset("w", (10**6, 10**6, 10**3), "f4", chunks=True, compression="gzip")


def terabytes_in_one_chunk(file: h5py.File) -> None:
    file.create_dataset("w", (2**30, 2**10), "f4", chunks=(2**30, 1))


def terabytes_never_written(file: h5py.File) -> None:
    file.create_dataset("w", (2**40,), "u1")


def millions_of_chunks(file: h5py.File) -> None:
    file.create_dataset("w", (10**7,), "u1", chunks=(1,))


def overflowing(file: h5py.File) -> None:
    file.create_dataset("w", (2**62, 2**62), "f4", chunks=(1, 1))


def chunk_of(data: bytes, **options):
    def write(file: h5py.File) -> None:
        dataset = file.create_dataset("w", (1000,), "f4", chunks=(1000,), **options)
        dataset.id.write_direct_chunk((0,), data)

    return write


def inflating(count: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(count)) + packer.flush()


def bombs(count: int, size: int):
    """Tensors of `size` zeros each, a thousandth of it in the file: every chunk is whole."""

    def write(file: h5py.File) -> None:
        packed = zlib.compress(bytes(size), 9)
        for number in range(count):
            dataset = file.create_dataset(str(number), (size,), "u1", chunks=(size,), compression="gzip")
            dataset.id.write_direct_chunk((0,), packed)

    return write


def filtered(*filters: tuple[int, tuple[int, ...]]):
    def write(file: h5py.File) -> None:
        properties = h5p.create(h5p.DATASET_CREATE)
        properties.set_chunk((8,))
        for code, values in filters:
            properties.set_filter(code, h5z.FLAG_OPTIONAL, values)
        h5d.create(file.id, b"w", h5t.IEEE_F32LE, h5s.create_simple((8,)), properties)

    return write


def scale_offset(file: h5py.File) -> None:
    file.create_dataset("w", data=np.arange(100), chunks=(10,), scaleoffset=0)


def fill_of_bfloat16(file: h5py.File) -> None:
    kind = narrow(h5t.ORDER_LE, *NARROW["bfloat16"])
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_fill_value(np.ones((), np.float32))
    h5d.create(file.id, b"w", kind, h5s.create_simple((8,)), properties)


# name -> (what writes the file, a word of the message)
LIES = {
    "external storage": (external, "other files"),
    "an external link": (link(h5py.ExternalLink("/etc/passwd", "/x")), "link to another file"),
    "a soft link": (link(h5py.SoftLink("/w")), "soft link"),
    "a virtual dataset": (virtual, "other files"),
    "a group in itself": (cycle, "of its own"),
    "the root in a group": (root_cycle, "of its own"),
    "a group of two names": (shared_group, "of its own"),
    "100 groups in each other": (deep, "nested"),
    "long paths": (long_paths, "almost as long"),
    "a path of 5000": (long_path, "paths of more than 4096"),
    "a named type": (named_type, "neither"),
    "4 PB of chunks": (petabytes, "chunks"),
    "a chunk of 4 GB": (terabytes_in_one_chunk, "would take"),
    "a terabyte never written": (terabytes_never_written, "would take 1.1 TB"),
    "ten million chunks": (millions_of_chunks, "more than 200000 chunks"),
    "a size that overflows": (overflowing, "impossible"),
    "a chunk that inflates to 1 GB": (
        chunk_of(inflating(1000), compression="gzip"),
        "gzip does not give the 4000 bytes",
    ),
    "a tensor that inflates a thousand times": (bombs(1, 70_000_000), "would take 70.0 MB"),
    "small tensors that do together": (bombs(5, 60_000_000), "a file up to 200 times"),
    "a chunk that inflates to less": (chunk_of(zlib.compress(bytes(100)), compression="gzip"), "gzip does not give"),
    "a chunk that is not deflated": (chunk_of(b"hello", compression="gzip"), "gzip Error"),
    "a chunk cut short": (chunk_of(zlib.compress(bytes(4000))[:-5], compression="gzip"), "gzip does not give"),
    "a chunk of no bytes": (chunk_of(b"\0", compression="gzip"), "gzip"),
    "a wrong checksum": (chunk_of(bytes(4000) + b"abcd", fletcher32=True), "checksum"),
    "a chunk shorter than a checksum": (chunk_of(b"abc", fletcher32=True), "checksum"),
    "lzf that copies from nowhere": (chunk_of(b"\x20\x00", compression="lzf"), "lzf copies"),
    "lzf cut short": (chunk_of(b"\xe0", compression="lzf"), "lzf"),
    "lzf that gives less": (chunk_of(b"\x00a", compression="lzf"), "lzf does not give"),
    "lzf that gives more": (chunk_of(b"\x00a" + b"\xe0\xff\x00" * 100_000, compression="lzf"), "lzf does not give"),
    "a raw chunk of another size": (chunk_of(b"abcd"), "takes 4000"),
    "szip or another filter": (filtered((32015, ())), "32015"),
    "compressed twice": (filtered((1, (9,)), (1, (9,))), "more than once"),
    "scale-offset": (scale_offset, "scaleoffset"),
    "a fill value of bfloat16": (fill_of_bfloat16, "never written"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_lying_file_is_refused_in_one_sentence(case, tmp_path):
    write, word = LIES[case]
    with h5py.File(tmp_path / "f.h5", "w") as file:
        write(file)
    error = refusal(tmp_path / "f.h5")
    assert isinstance(error, (CheckpointError, LimitError))
    assert word in str(error)
    assert "f.h5" in str(error)


BYTES = {
    "a signature alone": b"\x89HDF\r\n\x1a\n",
    "half a signature": b"\x89HDF\r\n",
    "zeros": b"\x89HDF\r\n\x1a\n" + bytes(1000),
    "ones": b"\x89HDF\r\n\x1a\n" + b"\xff" * 1000,
}


@pytest.mark.parametrize("case", BYTES)
def test_what_is_no_structure_is_refused(case, tmp_path):
    (tmp_path / "f.h5").write_bytes(BYTES[case])
    error = refusal(tmp_path / "f.h5")
    assert isinstance(error, CheckpointError)
    assert "HDF5" in str(error)


def test_a_small_tensor_may_inflate_as_far_as_it_likes(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        bombs(4, 60_000_000)(file)
    assert open_checkpoint(tmp_path / "f.h5").names == ["0", "1", "2", "3"]


def test_two_datasets_on_the_same_bytes_are_refused(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        addresses = [file.create_dataset(name, data=np.zeros(8, "<f4")).id.get_offset() for name in "ab"]
    content = path.read_bytes()
    second = content.rindex(struct.pack("<QQ", addresses[1], 32))
    path.write_bytes(patched(content, (second, struct.pack("<Q", addresses[0] + 4))))
    error = refusal(path)
    assert isinstance(error, CheckpointError)
    assert "bytes of another one" in str(error)
    path.write_bytes(patched(content, (second, struct.pack("<Q", len(content) - 31))))
    assert isinstance(refusal(path), CheckpointError)


def test_two_chunks_on_the_same_bytes_are_refused(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("w", data=np.zeros(8, "<f4"), chunks=(4,))
        places = [dataset.id.get_chunk_info(number).byte_offset for number in (0, 1)]
    content = path.read_bytes()
    path.write_bytes(patched(content, (content.rindex(struct.pack("<Q", places[1])), struct.pack("<Q", places[0] + 8))))
    assert "tensor 'w' of 'f.h5' lies on bytes of another one" in str(refusal(path))


def test_too_many_objects_are_refused_before_they_are_opened(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w", libver="latest") as file:
        target = file.create_group("a")
        group = file.create_group("g")
        for number in range(MAX_OBJECTS + 1):
            group.id.links.create_hard(b"%d" % number, target.id, b".")
    error = refusal(path)
    assert isinstance(error, LimitError)
    assert "15000" in str(error)


def test_a_structure_without_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "MAX_READS", 2)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for number in range(100):  # more than two pieces of 16 KiB
            file[f"{number}/w"] = np.float32([1])
    assert isinstance(refusal(tmp_path / "f.h5"), LimitError)


def test_no_other_file_is_opened(tmp_path):
    """What h5py reads from a secret through external storage, quantlab never asks for."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"top secret")
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("w", (10,), "u1", external=[(str(secret), 0, 10)])
    with h5py.File(path) as file:
        assert file["w"][()].tobytes() == b"top secret"
    secret.unlink()
    secret.mkdir()
    assert "other files" in str(refusal(path))


@pytest.mark.parametrize("case", ["a chunk that inflates to 1 GB", "4 PB of chunks", "a chunk of 4 GB"])
def test_libhdf5_does_not_take_the_memory_either(case, tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        LIES[case][0](file)
    code = """
import sys, quantlab as ql
from tests.peak import peak
before = peak()
try:
    with ql.open_checkpoint(sys.argv[1]) as checkpoint: checkpoint.load("w")
except ql.QuantlabError: print(peak() - before)
"""
    root = Path(__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd=root)
    assert int(run.stdout) < 2 * path.stat().st_size + 10_000_000  # h5py's own start included


def test_a_keras_file_must_hold_its_weights_as_they_are(tmp_path):
    error = refusal(keras_file(tmp_path / "f.keras", zipfile.ZIP_DEFLATED))
    assert isinstance(error, CheckpointError)
    assert "unpack it" in str(error)
    with zipfile.ZipFile(tmp_path / "g.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"hello")
    assert "not an HDF5 file" in str(refusal(tmp_path / "g.keras"))


def test_no_pickle_in_a_keras_file_is_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "f.keras", "w") as archive:
        archive.writestr("model.weights.h5", pickle.dumps(Canary(tmp_path / "executed")))
        archive.writestr("config.json", pickle.dumps(Canary(tmp_path / "executed")))
    assert isinstance(refusal(tmp_path / "f.keras"), CheckpointError)
    assert not (tmp_path / "executed").exists()


# -- damage of every kind to files that were right


def some_of_everything(file: h5py.File) -> None:
    file["layers/dense/vars/0"] = np.arange(6, dtype="f4").reshape(2, 3)
    file.create_dataset("c", data=X, chunks=(9, 4, 3), compression="gzip", shuffle=True, fletcher32=True)
    file.create_dataset("l", data=X[:5], chunks=(5, 2, 3), compression="lzf", maxshape=(None, 7, 3))
    file.create_dataset("e", (3,), "f8")


@pytest.fixture(scope="module")
def valid_files(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("valid")
    files = []
    for libver in ("earliest", "latest"):
        with h5py.File(folder / "f.h5", "w", libver=libver) as file:
            some_of_everything(file)
        files.append((folder / "f.h5").read_bytes())
    files.append(keras_file(folder / "f.keras", zipfile.ZIP_STORED).read_bytes())
    return files


@given(data=st.data())
def test_a_damaged_file_gives_a_typed_error_or_is_read(data, valid_files, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.h5"
    path.write_bytes(data.draw(damaged(data.draw(st.sampled_from(valid_files)))))
    with contextlib.suppress(QuantlabError):
        open_and_read_all(path)


@given(data=st.binary(max_size=40))
@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_any_bytes_for_a_chunk_give_a_typed_error_or_are_read(compression, data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "chunk.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            "w", (8,), "u1", chunks=(8,), compression=compression, shuffle=True, fletcher32=True
        )
        dataset.id.write_direct_chunk((0,), data or b"\0")
    with contextlib.suppress(QuantlabError):
        open_and_read_all(path)
