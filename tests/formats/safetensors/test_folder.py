"""Folders of safetensors files, as Hugging Face writes and caches them."""

import contextlib
import hashlib
import json
import os
import pickle
import time
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantlab.errors import CheckpointError, LimitError, QuantlabError
from quantlab.formats import open_checkpoint
from quantlab.formats.safetensors import folder as folder_module

from ..hostile import SECONDS, Canary, archive, damaged, open_and_read_all, refusal, tensor
from ..hostile import safetensors as header_of

PARTS = {"model-00001-of-00002.safetensors": ["a", "b"], "model-00002-of-00002.safetensors": ["c"]}


@pytest.fixture
def folder(tmp_path):
    """A model in two files, with its index."""
    place = tmp_path / "model"
    place.mkdir()
    for file, names in PARTS.items():
        safetensors.numpy.save_file({name: np.full(3, ord(name), np.float32) for name in names}, place / file)
    write_index(place, {name: file for file, names in PARTS.items() for name in names})
    return place


def write_index(place, weight_map, **more):
    index = {"metadata": {"total_size": 36.0, "note": "x"}, "weight_map": weight_map, **more}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_model_in_several_files_is_one_checkpoint(folder):
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.names == ["a", "b", "c"]
        assert checkpoint.title == f"{folder.parent.name}/model"  # "model" says nothing by itself
        assert [checkpoint.load(name)[0] for name in "abc"] == [97, 98, 99]
        lines = "".join(f"{hashlib.sha256((folder / file).read_bytes()).hexdigest()}  {file}\n" for file in PARTS)
        assert checkpoint.sha256() == hashlib.sha256(lines.encode()).hexdigest()


def test_a_folder_with_one_file_is_that_file(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with open_checkpoint(tmp_path) as checkpoint:
        assert (checkpoint.names, checkpoint.title) == (["a"], "model.safetensors")


def test_a_snapshot_of_hugging_faces_cache_is_followed_into_its_store(tmp_path):
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, blobs / "0123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    assert open_checkpoint(snapshot).names == ["a"]


@pytest.mark.parametrize("name", ["best.pth.tar", "model.pth", "last.CKPT"])
def test_a_folder_with_one_other_file_of_pytorch_is_that_file(tmp_path, name):
    torch.save({"a": torch.ones(2)}, tmp_path / name)
    (tmp_path / "log.txt").write_text("")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.names == ["a"]
    torch.save({"a": torch.ones(2)}, tmp_path / f"other-{name}")
    with pytest.raises(CheckpointError, match=f"other-{name}.*open one of the files"):
        open_checkpoint(tmp_path)


def test_a_snapshot_is_called_by_its_repository(tmp_path):
    place = tmp_path / "models--org--tiny" / "snapshots" / "4e20de36"
    place.mkdir(parents=True)
    for file, names in PARTS.items():
        safetensors.numpy.save_file({name: np.ones(3, np.float32) for name in names}, place / file)
    write_index(place, {name: file for file, names in PARTS.items() for name in names})
    with open_checkpoint(place) as checkpoint:
        assert checkpoint.title == "org/tiny"


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    outside = tmp_path / "secret.safetensors"
    safetensors.numpy.save_file({"c": np.ones(2, np.float32)}, outside)
    file = folder / "model-00002-of-00002.safetensors"
    file.unlink()
    file.symlink_to(outside)
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "file",
    ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "x\0.safetensors", "", ".."],
)
def test_the_index_cannot_name_files_elsewhere(file, folder):
    write_index(folder, {"a": file})
    assert "only .safetensors files of the same folder" in str(refusal(folder))


BAD_INDEXES = {
    "no JSON": (b"\x80\x04", "not valid"),
    "nothing": (b"", "not valid"),
    "no map": (b'{"metadata":{}}', "no weight_map"),
    "a list for a map": (b'{"weight_map":[]}', "an object"),
    "a number for a name": (b'{"weight_map":{"a":1}}', "a string"),
    "a tensor twice": (b'{"weight_map":{"a":"m.safetensors","a":"n.safetensors"}}', "twice"),
    "nesting": (b'{"metadata":{"x":' + b"[" * 100_000, "not valid"),
    "a file that is not there": (b'{"weight_map":{"a":"m.safetensors"}}', "no such file"),
    "a tensor that is not there": (b'{"weight_map":{"x":"model-00001-of-00002.safetensors"}}', "it is not"),
}


@pytest.mark.parametrize("name", BAD_INDEXES)
def test_an_index_that_lies_is_refused(name, folder):
    content, word = BAD_INDEXES[name]
    (folder / "model.safetensors.index.json").write_bytes(content)
    assert word in str(refusal(folder))


def test_a_folder_with_several_models_asks_for_one(tmp_path):
    for name in ("x", "y"):
        safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"'x.safetensors', 'y.safetensors': open one"):
        open_checkpoint(tmp_path)


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="has none"):
        open_checkpoint(tmp_path)


def test_budgets_of_an_index(folder, monkeypatch):
    monkeypatch.setattr(folder_module, "MAX_FILES", 1)
    with pytest.raises(LimitError, match="opens up to 1"):
        open_checkpoint(folder)
    monkeypatch.setattr(folder_module, "MAX_INDEX", 10)
    with pytest.raises(LimitError, match="index of up to 10"):
        open_checkpoint(folder)


def test_a_folder_of_100_gb_appears_at_once(tmp_path):
    size, count = 2**28, 20  # bytes of a tensor, and how many are in each of 20 files
    names = {f"model-{i:05}-of-00020.safetensors": [f"layer{i}.{j}.weight" for j in range(count)] for i in range(20)}
    for file, tensors in names.items():
        header = {name: tensor("BF16", [2**12, 2**15], j * size, (j + 1) * size) for j, name in enumerate(tensors)}
        start = header_of(header)
        with (tmp_path / file).open("wb") as target:
            target.write(start)
            target.truncate(len(start) + count * size)  # a hole: it takes no room on the disk
    write_index(tmp_path, {name: file for file, tensors in names.items() for name in tensors})
    tracemalloc.start()
    started = time.process_time()
    with open_checkpoint(tmp_path) as checkpoint:
        assert sum(checkpoint.spec(name).nbytes for name in checkpoint.names) == 400 * size > 100e9
        assert checkpoint.spec("layer19.19.weight").shape == (2**12, 2**15)
    assert time.process_time() - started < SECONDS
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


# -- PyTorch's files


@pytest.fixture
def pytorch(tmp_path):
    """A model in two of torch's files, as transformers wrote them before safetensors; a view shares a storage."""
    place = tmp_path / "model"
    place.mkdir()
    a = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    parts = {"a": a, "a.turned": a.T, "b": torch.ones(3, dtype=torch.bfloat16)}, {"c": torch.full((2,), 7.0)}
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for name, part in zip(names, parts, strict=True):
        torch.save(part, place / name)
    index = {"metadata": {"total_size": 62}, "weight_map": {t: n for n, p in zip(names, parts, strict=True) for t in p}}
    (place / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return place


def test_pytorch_files_with_an_index_are_one_checkpoint(pytorch):
    read = {}
    for path in sorted(pytorch.glob("*.bin")):
        read |= torch.load(path, weights_only=True)
    with open_checkpoint(pytorch) as checkpoint:
        assert (checkpoint.format, checkpoint.names) == ("torch", ["a", "a.turned", "b", "c"])
        for name, tensor in read.items():
            np.testing.assert_array_equal(checkpoint.load(name), tensor.to(torch.float32).numpy())


def test_a_folder_with_a_whole_pytorch_model_beside_other_files_of_the_kind(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    torch.save({"step": torch.ones(1)}, tmp_path / "optimizer.bin")
    assert open_checkpoint(tmp_path).names == ["w"]
    safetensors.numpy.save_file({"s": np.ones(2, np.float32)}, tmp_path / "weights.safetensors")
    assert open_checkpoint(tmp_path).names == ["s"]


@pytest.mark.parametrize("file", ["../x.bin", "/etc/x.bin", "a/b.bin", "model.safetensors", "x\0.bin"])
def test_an_index_of_pytorch_files_names_nothing_else(file, pytorch):
    index = {"weight_map": {"a": file}}
    (pytorch / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert "only .bin files of the same folder" in str(refusal(pytorch))


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}, 2), b"", b"GGUF" + bytes(60), archive(("x.npy", b""))])
def test_a_shard_that_is_no_checkpoint_of_torch_is_refused(content, pytorch):
    (pytorch / "pytorch_model-00002-of-00002.bin").write_bytes(content)
    assert isinstance(refusal(pytorch), CheckpointError)


def test_nothing_in_a_shard_is_ever_called(pytorch, tmp_path):
    evil = archive(("m/data.pkl", pickle.dumps(Canary(tmp_path / "executed"), 2)), ("m/version", b"3\n"))
    (pytorch / "pytorch_model-00002-of-00002.bin").write_bytes(evil)
    assert "convert it to safetensors" in str(refusal(pytorch))
    assert not (tmp_path / "executed").exists()


@given(data=st.data())
def test_a_damaged_index_gives_a_typed_error_or_is_read(data, tmp_path_factory):
    place = tmp_path_factory.getbasetemp() / "a damaged index"
    place.mkdir(exist_ok=True)
    for file, names in PARTS.items():
        safetensors.numpy.save_file({name: np.full(3, 1, np.float32) for name in names}, place / file)
    content = json.dumps({"metadata": {}, "weight_map": {n: file for file, names in PARTS.items() for n in names}})
    (place / "model.safetensors.index.json").write_bytes(data.draw(damaged(content.encode())))
    with contextlib.suppress(QuantlabError):
        open_and_read_all(place)


def test_nothing_stays_open_after_a_refusal(folder):
    write_index(folder, {"a": "model-00001-of-00002.safetensors", "x": "model-00002-of-00002.safetensors"})
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(CheckpointError):
            open_checkpoint(folder)
    assert len(os.listdir("/proc/self/fd")) == before
