"""Where a checkpoint may come from, and what else may be read then: nothing, for an upload."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quantlab.errors import CheckpointError, LimitError
from quantlab.ui import cache, sources


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


def test_the_default_is_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("QUANTLAB_ROOTS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert sources.roots() == (tmp_path.resolve(),)
