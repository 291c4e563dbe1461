"""Files behind URLs: read from a real server on loopback, the same values as from the disk."""

import json
import os
import sys

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import quantlab as ql
from quantlab.errors import CheckpointError
from quantlab.formats import FORMATS, open_checkpoint
from quantlab.formats.input import remote, web

from ...webserver import serving

pytest.importorskip("fsspec", reason="needs requirements-cluster.txt")

WRITTEN = [name for name, known in FORMATS.items() if known.writable and known.open]
ARRAYS = {
    "a.weight": np.random.default_rng(0).standard_normal((300, 1000)).astype(ml_dtypes.bfloat16),
    "a.bias": np.float32([1, 2, 3]),
    "b.weight": np.random.default_rng(1).standard_normal((7, 9)).astype(np.float16),
}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of an empty folder; requests that fail are made again at once."""
    monkeypatch.setattr(remote, "PAUSES", (0, 0))
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def model(server):
    """A model in two files with an index, and in one."""
    place = server.folder / "model"
    place.mkdir()
    parts = {"model-1.safetensors": ["a.weight"], "model-2.safetensors": ["a.bias", "b.weight"]}
    for file, names in parts.items():
        safetensors.numpy.save_file({name: ARRAYS[name] for name in names}, place / file)
    write_index(place, {name: file for file, names in parts.items() for name in names})
    safetensors.numpy.save_file(ARRAYS, server.folder / "one.safetensors")
    return place


def write_index(place, weight_map):
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def said(call):
    """The one line of the error that a call raises."""
    with pytest.raises(CheckpointError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(found, arrays):
    assert set(found.names) == set(arrays)
    for name, array in arrays.items():
        raw = found.raw(name)
        assert (raw.dtype, raw.shape) == (array.dtype, array.shape)
        assert raw.tobytes() == array.tobytes()


@pytest.mark.parametrize("format", WRITTEN)
def test_every_format_opens_behind_a_url(server, few, format):
    held = {"gguf": "q8_0", "onnx": "int8"}.get(format)
    x = np.random.default_rng(3).standard_normal((40, 640)).astype(np.float32)
    path = server.folder / f"export{FORMATS[format].suffix}"
    ql.export(path, {"x": ql.quantize(x, ql.QuantConfig(dtype=held))} if held else few, format=format)
    with open_checkpoint(path) as local, open_checkpoint(f"{server.url}/{path.name}") as found:
        assert (found.names, found.format, found.title) == (local.names, local.format, local.title)
        assert [found.spec(name) for name in found.names] == [local.spec(name) for name in local.names]
        same(found, {name: local.raw(name) for name in local.names})
        assert found.sha256() == local.sha256()


def test_hdf5_opens_behind_a_url(server):
    with h5py.File(server.folder / "x.h5", "w") as file:
        file.create_dataset("w", data=ARRAYS["b.weight"], chunks=(4, 4), compression="gzip")
    with open_checkpoint(f"{server.url}/x.h5") as found:
        same(found, {"w": ARRAYS["b.weight"]})


def test_npy_opens_behind_a_url_under_its_own_name(server):
    np.save(server.folder / "two words.npy", np.float32([[1, 2], [3, 4]]))
    with open_checkpoint(f"{server.url}/two%20words.npy") as found:
        assert found.load("two words").tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("place", ["one.safetensors", "model/", "model/model.safetensors.index.json"])
def test_a_model_in_one_file_or_several_opens_behind_a_url(server, model, place):
    with open_checkpoint(f"{server.url}/{place}?token=secret") as found:
        same(found, ARRAYS)
        assert "secret" not in str(found) + found.title + str(found.path)
        assert found.location == f"{server.url}/{place}?token=secret"


def test_only_the_bytes_that_are_wanted_are_sent(server, model):
    safetensors.numpy.save_file({f"t{i}": np.full(1 << 20, i, np.float32) for i in range(8)}, server.folder / "big")
    with open_checkpoint(f"{server.url}/big") as found:
        assert server.sent < 2 * remote.BLOCK
        assert found.load("t5").tolist() == [5.0] * (1 << 20)
    assert server.sent < 4 * (1 << 20) + 3 * remote.BLOCK


def test_large_tensors_arrive_whole_whatever_the_size_of_a_request(server, monkeypatch):
    monkeypatch.setattr(web, "PART", 70_001)
    monkeypatch.setattr(remote, "TOGETHER", 3)
    x = np.random.default_rng(2).standard_normal(500_003).astype(np.float32)
    np.save(server.folder / "x.npy", x)
    with open_checkpoint(f"{server.url}/x.npy") as found:
        assert np.array_equal(found.raw("x"), x)


def test_a_request_that_fails_in_passing_is_made_again(server, model):
    with open_checkpoint(f"{server.url}/one.safetensors") as found:
        server.failures = 2
        assert found.load("a.bias").tolist() == [1, 2, 3]
        server.failures = 100
        assert "500" in said(lambda: found.raw("a.weight"))


def test_a_file_that_changes_meanwhile_is_not_mixed_with_the_old_one(server, model):
    path = server.folder / "one.safetensors"
    with open_checkpoint(f"{server.url}/{path.name}") as found:
        os.utime(path, ns=(0, 1))
        for name in ("a.weight", "b.weight"):  # a large one, and one that was not in the blocks of the header
            assert "was changed by another program" in said(lambda name=name: found.raw(name))


def test_a_server_that_sends_less_than_it_says_is_found_out(server, model):
    with open_checkpoint(f"{server.url}/one.safetensors") as found:
        server.cut = 10
        with pytest.raises(CheckpointError, match="was asked for 600000 bytes, and sent 599990"):
            found.raw("a.weight")


def test_a_server_without_ranges_is_refused_before_anything_is_downloaded(tmp_path):
    with (tmp_path / "large.npy").open("wb") as file:
        file.truncate(200 << 20)
    with serving(tmp_path, ranges=False) as server:
        assert "only sends whole files" in said(lambda: open_checkpoint(f"{server.url}/large.npy"))
        assert server.sent < 20 << 20  # what fits the buffers of a connection that is closed unread


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("{server}/nothing.npy?key=secret", "there is no such file"),
        ("{server}/nothing/", "there is no such file"),
        ("http://me:secret@127.0.0.1:1/x.npy", "cannot open 'http://127.0.0.1:1/x.npy'"),
        ("memory://nothing.npy", "there is no such file"),
        ("gopher://host/x.npy", "quantlab reads paths, file:// and http"),
        ("reference://host/x.npy", "quantlab reads paths"),
        ("simplecache::http://host/x.npy", "no such file"),
        ("sftp://secret@host/x.npy", "paramiko"),
    ],
)
def test_what_cannot_be_opened_is_said_in_a_sentence_without_secrets(server, url, words):
    sentence = said(lambda: open_checkpoint(url.format(server=server.url)))
    assert words in sentence
    assert "secret" not in sentence


@pytest.mark.parametrize("name", ["a#b.safetensors", "%2e%2e%2fx.safetensors", "a?b.safetensors", "a b.safetensors"])
def test_an_index_names_plain_files_only(server, model, name):
    write_index(model, {"a.bias": name})
    assert "only letters, digits" in said(lambda: open_checkpoint(f"{server.url}/model/"))


def test_file_urls_are_paths(tmp_path):
    np.save(tmp_path / "a b.npy", np.float32([1]))
    with open_checkpoint((tmp_path / "a b.npy").as_uri()) as found:
        assert found.names == ["a b"]
        assert found.location == str(tmp_path / "a b.npy")


def test_without_fsspec_urls_are_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert "requirements-cluster.txt" in said(lambda: open_checkpoint("s3://host/x.npy"))


def test_an_export_from_a_url_says_what_it_comes_from_and_nothing_secret(server, model, tmp_path):
    with open_checkpoint(f"{server.url}/one.safetensors?token=secret") as found:
        q = ql.quantize(found.load("a.weight"), ql.QuantConfig(dtype="int8", granularity=ql.PerChannel(0)))
        out = ql.export(tmp_path / "out", {"a.weight": q}, format="compressed-tensors", source=found)
        path = ql.export(tmp_path / "out.npz", {"a.weight": q}, source=found)
    assert (out / "model.safetensors").is_file()
    assert b"secret" not in path.read_bytes()


def test_identity_tells_copies_of_another_time_apart(server, model):
    path = server.folder / "one.safetensors"

    def identities():
        with open_checkpoint(path) as local, open_checkpoint(f"{server.url}/{path.name}") as found:
            return local.files[0].identity(), found.files[0].identity()

    before = identities()
    assert before == identities()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert all(a != b for a, b in zip(before, identities(), strict=True))


@pytest.mark.parametrize("file", ["x.npy", "fortran.npy", "x.npz", "x.safetensors", "x.h5"])
def test_rows_are_those_of_the_whole_however_they_are_read(tmp_path, file):
    x = np.random.default_rng(5).standard_normal((40, 3, 7)).astype(np.float32)
    path = tmp_path / file
    if file.endswith(".npy"):
        np.save(path, np.asfortranarray(x) if "fortran" in file else x)
    elif file.endswith(".npz"):
        np.savez(path, w=x)
    elif file.endswith(".h5"):
        with h5py.File(path, "w") as target:
            target.create_dataset("w", data=x, chunks=(8, 3, 7), compression="gzip")
    else:
        safetensors.numpy.save_file({"w": x, "scalar": np.array(1, np.float32)}, path)
    with open_checkpoint(path) as found:
        name = found.names[0] if len(found.names) == 1 else "w"
        for start, stop in ((0, 40), (3, 17), (39, 40), (30, 90), (5, 5)):
            assert np.array_equal(found.raw_rows(name, start, stop), x[start:stop])
        assert found.reads_rows(name) == (file in ("x.npy", "x.safetensors"))
        if "scalar" in found.names:
            assert not found.reads_rows("scalar")
