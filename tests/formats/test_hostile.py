"""Files of strangers: whatever they claim, one sentence of a typed error comes back, or what is documented."""

import contextlib
import itertools
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab import QuantConfig, quantize
from quantlab.errors import CheckpointError, EmptyTensorError, ExportError, QuantlabError
from quantlab.formats import export, load_packed, open_checkpoint
from quantlab.formats.numpy.npz import MANIFEST

from .hostile import (
    ONE,
    PACKED,
    Canary,
    archive,
    damaged,
    floats,
    npy,
    open_and_read_all,
    patched,
    refusal,
    refused_in_one_sentence,
    safetensors,
    tensor,
)
from .lies import LIES

F32 = tensor("F32", [1], 0, 4)


@pytest.mark.parametrize("name", LIES)
def test_a_lying_file_is_refused_in_one_sentence(name, tmp_path):
    assert refused_in_one_sentence(tmp_path / "a file", LIES[name].content(), LIES[name].word)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_the_name_of_a_file_decides_nothing(suffix, tmp_path):
    content = {".npy": safetensors({"a": F32}, floats(1)), ".npz": ONE, ".safetensors": archive(("a.npy", ONE))}[suffix]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    assert refusal(path) is None
    assert open_checkpoint(path).names == ["a"]


def pickles(canary: Canary) -> dict[str, bytes]:
    return {
        "an object array": npy("|O", (1,), pickle.dumps([canary])),
        "a pickle": pickle.dumps(canary),
        "a PyTorch pickle": pickle.dumps({"w": [canary]}, 2),
        "an object array in an archive": archive(("x.npy", npy("|O", (1,), pickle.dumps([canary])))),
        "a PyTorch archive": archive(("archive/data.pkl", pickle.dumps(canary, 2)), ("archive/version", b"3\n")),
        "a pickle in an archive": archive(("x.npy", pickle.dumps(canary))),
    }


@pytest.mark.parametrize("name", pickles(Canary(Path())))
@pytest.mark.parametrize("file", ["x.npy", "x.npz", "model.safetensors", "pytorch_model.bin"])
def test_a_pickle_is_never_opened(name, file, tmp_path):
    path, marker = tmp_path / file, tmp_path / "executed"
    path.write_bytes(pickles(Canary(marker))[name])
    assert isinstance(refusal(path), CheckpointError)
    assert not marker.exists()


def test_the_canary_would_sing(tmp_path):
    pickle.loads(pickles(Canary(tmp_path / "executed"))["a pickle"])
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("start", [safetensors({}, length=100_000_001), LIES["a header of 2 GiB"].content()])
def test_a_sparse_file_of_2_gib_is_refused_before_it_is_read(start, tmp_path):
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(2**31)
    assert isinstance(refusal(path), QuantlabError)


@pytest.mark.parametrize("kind", ["named pipe", "device", "folder", "loop", "missing", "NUL", "too long", "none"])
def test_only_a_regular_file_is_opened(kind, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path, word = {
        "named pipe": (tmp_path / "pipe", "named pipe"),
        "device": (Path("/dev/zero"), "device"),
        "folder": (tmp_path, "folder"),
        "loop": (tmp_path / "loop", "loop"),
        "missing": (tmp_path / "missing", "no such file"),
        "NUL": (tmp_path / "a\0b", "null"),
        "too long": (tmp_path / ("a" * 5000), "too long"),
        "none": (tmp_path / "pipe" / "x", "not a directory"),
    }[kind]
    with pytest.raises(CheckpointError, match=word):
        open_checkpoint(path)


@pytest.mark.parametrize("path", [None, 5, b"x.npy", ["x.npy"]])
def test_what_is_no_path_is_refused(path):
    for call in (open_checkpoint, load_packed):
        with pytest.raises(CheckpointError, match="give a path"):
            call(path)
    with pytest.raises(ExportError, match="give a path"):
        export(path, {"w": quantize(np.ones(2, np.float32), QuantConfig())})


def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = tmp_path / "secret.npy"
    path.write_bytes(ONE)
    path.chmod(0)
    tmp_path.chmod(0o755)
    code = f"import os, quantlab as ql\nif os.geteuid() == 0: os.seteuid(65534)\nql.open_checkpoint({str(path)!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "CheckpointError: cannot open 'secret.npy': permission denied" in run.stderr


def test_a_link_that_the_caller_names_is_followed(tmp_path):
    (tmp_path / "a.npy").write_bytes(ONE)
    (tmp_path / "link.npy").symlink_to(tmp_path / "a.npy")
    assert open_checkpoint(tmp_path / "link.npy").names == ["link"]


# -- what looks odd and is right


def test_white_space_around_a_header_is_accepted(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(safetensors(b"\t\n{}  "))
    assert open_checkpoint(path).names == []


def test_empty_tensors_can_be_looked_at_and_not_loaded(tmp_path):
    (tmp_path / "s").write_bytes(safetensors({"a": tensor("F32", [2, 0], 0, 0)}))
    (tmp_path / "n.npy").write_bytes(npy(shape=(0, 2**40)))
    for path, name in ((tmp_path / "s", "a"), (tmp_path / "n.npy", "n")):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.spec(name).size == 0
            assert checkpoint.raw(name).size == 0
            with pytest.raises(EmptyTensorError):
                checkpoint.load(name)


def test_names_that_look_alike_stay_apart(tmp_path):
    composed, decomposed = "\u00e9", "e\u0301"
    path = tmp_path / "f"
    path.write_bytes(safetensors({composed: F32, decomposed: tensor("F32", [1], 4, 8)}, floats(1, 2)))
    with open_checkpoint(path) as checkpoint:
        assert [checkpoint.load(name).item() for name in (composed, decomposed)] == [1, 2]
        packed = {name: quantize(checkpoint.load(name), QuantConfig()) for name in checkpoint.names}
    for format in ("npz", "safetensors"):
        with open_checkpoint(export(tmp_path / "out", packed, format)) as back:
            assert [back.load(name).item() for name in (composed, decomposed)] == [1, 2]


def test_a_file_cut_while_it_is_open_is_an_error_and_not_the_end_of_the_process(tmp_path):
    code = """
import os, sys, quantlab as ql
checkpoint = ql.open_checkpoint(sys.argv[1])
view = checkpoint.raw("w")
os.truncate(sys.argv[1], 0)
print(int(view.sum()))
try:
    checkpoint.load("w")
except ql.CheckpointError as error:
    print(error)
"""
    path = tmp_path / "w.npy"
    np.save(path, np.ones(1 << 20, np.float32))
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "1048576" in run.stdout
    assert "was changed by another program" in run.stdout


def test_a_file_that_is_rewritten_while_it_is_open_is_not_read_on(tmp_path):
    path = tmp_path / "w.npy"
    np.save(path, np.ones(4, np.float32))
    with open_checkpoint(path) as checkpoint:
        np.save(path, np.zeros(4, np.float32))
        os.utime(path, ns=(1, 1))
        with pytest.raises(CheckpointError, match="changed"):
            checkpoint.load("w")


# -- damage of every kind to files that were right


def valid_files() -> dict[str, bytes]:
    """A small correct file of every format that is read, and of every one that is written."""
    x = np.random.default_rng(3).standard_normal((4, 6), dtype=np.float32)
    return {
        "npy": npy(shape=(4, 6), data=x.tobytes()),
        "npz stored": archive(("x.npy", npy(shape=(4, 6), data=x.tobytes())), method=zipfile.ZIP_STORED),
        "npz deflated": archive(("x.npy", npy(shape=(4, 6), data=x.tobytes())), ("y.npy", ONE)),
        "safetensors": safetensors(
            {"a": tensor("F32", [4, 6], 0, 96), "b": tensor("BF16", [3], 96, 102)}, x.tobytes() + b"\0" * 6
        ),
    }


@pytest.fixture(scope="module")
def packed_files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("packed")
    x = np.random.default_rng(3).standard_normal((4, 6), dtype=np.float32)
    slugs = ["int4-aff-g4-minmax-sbf16", "int3-uni-ch0-minmax", "bf16"]
    packed = {slug: quantize(x, QuantConfig.parse(slug)) for slug in slugs}
    return {name: export(folder / name, packed, name).read_bytes() for name in PACKED}


@given(data=st.data())
@pytest.mark.parametrize("name", valid_files())
def test_a_damaged_file_gives_a_typed_error_or_is_read(name, data, tmp_path_factory):
    check_damage(valid_files()[name], data, tmp_path_factory.getbasetemp() / f"damaged {name}")


@given(data=st.data())
@pytest.mark.parametrize("name", PACKED)
def test_a_damaged_export_gives_a_typed_error_or_is_read(name, data, packed_files, tmp_path_factory):
    check_damage(packed_files[name], data, tmp_path_factory.getbasetemp() / f"damaged packed {name}")


def check_damage(content: bytes, data: st.DataObject, path: Path) -> None:
    """Whatever is damaged, only a QuantlabError may come out."""
    path.write_bytes(data.draw(damaged(content)))
    with contextlib.suppress(QuantlabError):
        open_and_read_all(path)


@pytest.mark.parametrize("name", valid_files())
def test_no_single_byte_can_make_a_reader_hang_or_break(name, tmp_path):
    content = valid_files()[name]
    path = tmp_path / "f"
    for place, value in itertools.product(range(len(content)), (0, 0xFF)):
        path.write_bytes(patched(content, (place, bytes([value]))))
        with contextlib.suppress(QuantlabError):
            open_and_read_all(path)


@given(content=st.binary(max_size=200))
def test_any_bytes_give_a_typed_error_or_are_read(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any bytes"
    path.write_bytes(content)
    with contextlib.suppress(QuantlabError):
        open_and_read_all(path)


def test_an_array_called_manifest_is_an_array(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, **{MANIFEST: np.frombuffer(b"not a manifest of ours", np.uint8)})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "npz"
