"""Where a checkpoint may come from, and what else may be read then: nothing, for an upload."""

import os
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quantlab.errors import CheckpointError, LimitError
from quantlab.ui import audience, cache, sources


def test_an_upload_reads_no_file_that_lies_beside_it():
    proto = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL)
    proto.external_data.add(key="location", value="name.json")
    model: onnx.ModelProto = helper.make_model(helper.make_graph([], "g", [], [], [proto]))
    source = sources.keep_upload("model.onnx", model.SerializeToString())
    assert (sources.locate(source).parent / "name.json").is_file()
    with pytest.raises(CheckpointError, match="an upload has no files beside it"):
        cache.checkpoint(source)


@pytest.mark.parametrize("source", [sources.SAMPLE, "/a/path.onnx", "upload-1"])
def test_what_is_no_upload_is_not_taken_for_one(source):
    assert not sources.is_upload(source)


def test_the_same_upload_has_the_same_name_and_a_name_is_only_shown():
    first = sources.keep_upload("../../\u202ea<b>.npy", b"abc")
    assert first == sources.keep_upload("other.npy", b"abc")
    assert sources.locate(first).read_bytes() == b"abc"
    assert sources.title(first) == "\N{REPLACEMENT CHARACTER}a<b>.npy"


def test_uploads_are_forgotten_with_the_server():
    kept = sources.locate(sources.keep_upload("a.npy", b"to be forgotten"))
    sources.forget_uploads()
    assert not kept.exists()


def test_a_budget_bounds_the_uploads(monkeypatch):
    monkeypatch.setattr(sources, "UPLOAD_BUDGET", 10)
    sources.forget_uploads()
    old = sources.keep_upload("old.npy", b"x" * 8)
    new = sources.keep_upload("new.npy", b"y" * 8)
    assert sources.locate(new).is_file()
    with pytest.raises(CheckpointError, match="upload the file again"):
        sources.locate(old)
    with pytest.raises(LimitError, match="11 bytes"):
        sources.keep_upload("big.npy", b"z" * 11)


# -- only what lies under the allowed folders may be opened by path


def test_a_link_that_leads_out_is_refused(tmp_path, monkeypatch):
    inside, outside = tmp_path / "in", tmp_path / "out.npy"
    inside.mkdir()
    np.save(outside, np.ones(3))
    (inside / "link.npy").symlink_to(outside)
    monkeypatch.setenv("QUANTLAB_ROOTS", str(inside))
    with pytest.raises(CheckpointError, match=r"outside the folders .* QUANTLAB_ROOTS"):
        sources.resolve_path(str(inside / "link.npy"))


def test_a_loop_of_links_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(CheckpointError):
        cache.checkpoint(str(tmp_path / "a"))


def test_a_relative_path_starts_in_the_first_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    assert sources.resolve_path("x/y.npy") == tmp_path.resolve() / "x" / "y.npy"


def test_several_folders(tmp_path, monkeypatch):
    first, second = tmp_path / "a", tmp_path / "b"
    monkeypatch.setenv("QUANTLAB_ROOTS", f"{first}{os.pathsep}{second}")
    assert sources.resolve_path(str(second / "m.npy")).parent == second.resolve()
    with pytest.raises(CheckpointError):
        sources.resolve_path(str(tmp_path / "c"))


@pytest.fixture
def nobody_else(tmp_path, monkeypatch):
    """A server as `make app` starts it, by a user whose home is `home` and whose hub is elsewhere."""
    monkeypatch.delenv("QUANTLAB_ROOTS", raising=False)
    for name in ("started", "home", "hub"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "started")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return tmp_path


def test_on_this_computer_alone_the_home_and_the_hub_open_too(nobody_else):
    assert sources.roots() == tuple(nobody_else / name for name in ("started", "home", "hub"))
    np.save(nobody_else / "home" / "own.npy", np.ones(3))
    assert sources.resolve_path("~/own.npy") == nobody_else / "home" / "own.npy"
    with pytest.raises(CheckpointError, match="outside the folders"):
        sources.resolve_path(str(nobody_else / "other.npy"))


def test_a_home_that_is_the_root_of_everything_is_none(nobody_else, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert sources.roots() == (nobody_else / "started", nobody_else / "hub")


@pytest.mark.parametrize(
    "address, hosts",
    [
        ("0.0.0.0", ["localhost"]), ("", ["localhost"]), (None, ["localhost"]), ("::", ["localhost"]),
        ("192.168.1.7", ["localhost"]), ("example.org", ["localhost"]), ("unix:///run/app", ["localhost"]),
        ("127.0.0.1", []), ("127.0.0.1", ["localhost", "models.example.org"]), ("127.0.0.1", ["*"]),
    ],
)  # fmt: skip
def test_a_server_that_faces_others_opens_only_where_it_was_started(nobody_else, monkeypatch, address, hosts):
    settings = {"server.address": address, "server.allowedHosts": hosts}
    monkeypatch.setattr(audience.st.config, "get_option", settings.__getitem__)
    assert not audience.alone()
    assert sources.roots() == (nobody_else / "started",)
    with pytest.raises(CheckpointError, match=r"outside the folders .* QUANTLAB_ROOTS"):
        sources.resolve_path("~/.ssh/id_rsa")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_loopback_is_this_computer(monkeypatch, address):
    settings = {"server.address": address, "server.allowedHosts": ["localhost", "127.0.0.1"]}
    monkeypatch.setattr(audience.st.config, "get_option", settings.__getitem__)
    assert audience.alone()


@pytest.mark.parametrize(
    "ip, headers", [("10.0.0.9", {}), (None, {"X-Forwarded-For": "10.0.0.9"}), (None, {"Via": "1"})]
)
def test_a_visitor_from_elsewhere_is_another_whatever_the_settings_say(nobody_else, monkeypatch, ip, headers):
    """A server that another program starts on all addresses, and one behind a proxy on the same computer."""
    assert audience.alone()
    monkeypatch.setattr(audience.st, "context", SimpleNamespace(ip_address=ip, headers=headers))
    assert not audience.alone()


def test_the_setting_wins_over_the_home(nobody_else, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(nobody_else / "hub"))
    assert sources.roots() == (nobody_else / "hub",)


def test_the_model_that_the_server_was_started_for_opens_wherever_it_is(nobody_else, monkeypatch):
    model, other = nobody_else / "model", nobody_else / "model2"
    for folder in (model, other):
        folder.mkdir()
        np.save(folder / "w.npy", np.ones(3))
    assert sources.first() == sources.SAMPLE
    monkeypatch.setenv("QUANTLAB_MODEL", "../model")
    monkeypatch.setenv("QUANTLAB_ROOTS", str(nobody_else / "hub"))
    assert sources.resolve_path(sources.first()) == model
    assert sources.resolve_path(str(model / "w.npy")) == model / "w.npy"
    with pytest.raises(CheckpointError, match="outside the folders"):
        sources.resolve_path(str(other / "w.npy"))


# -- what a source is called


@pytest.mark.parametrize(
    "source, title, stem",
    [
        ("sample", "Silero VAD 16 kHz (sample)", "Silero VAD 16 kHz"),
        ("/hub/models--Qwen--Qwen2.5-0.5B/snapshots/060db64", "Qwen/Qwen2.5-0.5B", "Qwen2.5-0.5B"),
        ("/hub/models--gpt2/snapshots/607a30d/model.safetensors", "gpt2/model.safetensors", "gpt2"),
        ("/models/Llama-3.2-1B", "Llama-3.2-1B", "Llama-3.2-1B"),
        ("/models/tiny/pytorch_model-00001-of-00002.bin", "tiny/pytorch_model-00001-of-00002.bin", "tiny"),
        ("/models/tiny/model", "tiny/model", "tiny"),
        ("/models/best.pth.tar", "best.pth.tar", "best"),
        ("/model.onnx", "model.onnx", "model"),
    ],
)
def test_a_model_is_called_by_what_tells_it_from_others(source, title, stem):
    assert (sources.title(source), sources.stem(source)) == (title, stem)
