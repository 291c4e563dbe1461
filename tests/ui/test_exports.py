"""Exports for download are private, addressed by ids that nobody can guess, and do not pile up."""

import os
import stat
import threading

import numpy as np
import pytest

from quantlab.core.config import QuantConfig
from quantlab.errors import CheckpointError, ExportError
from quantlab.formats import load_packed, open_checkpoint
from quantlab.shipping import shipping
from quantlab.shipping.recipe import Rule, assign
from quantlab.sweeping.sweep import sweep
from quantlab.ui import exports
from quantlab.ui.exports import Store, safe_name

CONFIG = QuantConfig.parse("int4-sym-g32-mse")


@pytest.fixture
def store(tmp_path, monkeypatch):
    folder = tmp_path / "exports"
    folder.mkdir()
    own = Store(folder, kept=3, budget=1000)
    monkeypatch.setattr(exports, "store", lambda: own)
    return own


@pytest.fixture
def checkpoint(tmp_path, rng, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    np.savez(tmp_path / "model.npz", a=rng.standard_normal((32, 64)).astype(np.float32), b=rng.standard_normal((8, 40)))
    with open_checkpoint(tmp_path / "model.npz") as opened:
        yield opened


def added(store, size=10, name="x.npz"):
    download, path = store.place(name)
    path.write_bytes(bytes(size))
    store.add(download, path)
    return download


def finished(checkpoint, **more):
    key = (str(checkpoint.path), 1, 1)
    job = exports.start(checkpoint, key, assign(checkpoint, [Rule("", CONFIG)]), "npz", "out.npz", **more)
    assert job.finished.wait(30)
    return job


# -- the store


def test_a_files_folder_is_its_users_alone(store):
    download, path = store.place("x.npz")
    assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700
    assert path.parent.parent == store.folder
    assert store.find(download) is None  # not before it is whole


def test_ids_cannot_be_guessed_from_each_other(store):
    ids = {store.place("x.npz")[0] for _ in range(100)}
    assert len(ids) == 100
    assert min(map(len, ids)) >= 22  # 128 bits and more


def test_the_oldest_make_room_when_there_are_too_many(store):
    ids = [added(store) for _ in range(5)]
    assert [store.find(download) is not None for download in ids] == [False, False, True, True, True]
    assert len(list(store.folder.iterdir())) == 3


def test_the_oldest_make_room_when_there_are_too_many_bytes(store):
    ids = [added(store, 400), added(store, 400), added(store, 400)]
    assert [store.find(download) is not None for download in ids] == [False, True, True]


def test_the_newest_is_kept_whatever_its_size(store):
    added(store)
    large = added(store, 5000)
    assert store.find(large) is not None
    assert len(list(store.folder.iterdir())) == 1


def test_only_what_the_store_wrote_is_ever_removed(store):
    (store.folder / "mine.txt").write_text("keep")
    for _ in range(5):
        added(store)
    assert (store.folder / "mine.txt").exists()


def test_a_dropped_export_leaves_nothing(store):
    download, path = store.place("x.npz")
    path.write_bytes(b"half")
    store.drop(download)
    assert list(store.folder.iterdir()) == []


def test_the_servers_own_folder_goes_when_it_stops(monkeypatch):
    monkeypatch.delenv("QUANTLAB_EXPORTS", raising=False)
    folder = exports.store().folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert exports.store() is exports.store()
    exports.forget_exports()
    assert not folder.exists()


def test_a_configured_folder_is_used_and_left_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("QUANTLAB_EXPORTS", str(tmp_path))
    exports.store.clear()
    assert exports.store().folder == tmp_path
    download = added(exports.store())
    exports.forget_exports()
    assert (tmp_path / download / "x.npz").exists()


def test_a_configured_folder_that_does_not_exist_is_said_to_be_none(monkeypatch, tmp_path):
    monkeypatch.setenv("QUANTLAB_EXPORTS", str(tmp_path / "missing"))
    exports.store.clear()
    with pytest.raises(ExportError, match="QUANTLAB_EXPORTS names"):
        exports.store()


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("model-int4.npz", "model-int4.npz"), ("../../etc/passwd", "etc-passwd"), ("", "tensors"), ("...", "tensors"),
        ("a b (c).safetensors", "a-b-c.safetensors"), (".npz", "tensors.npz"), ("\0\r\n", "tensors"),
        ("größe.npz", "gr-e.npz"), ("x.exe", "x.exe"),
    ],
)  # fmt: skip
def test_a_name_is_made_safe(name, safe):
    assert safe_name(name) == safe
    assert safe_name(safe) == safe


# -- the job


def test_a_job_writes_a_file_that_holds_what_the_sweep_promised(checkpoint, store):
    job = finished(checkpoint)
    assert job.state == "done"
    path = store.find(job.result.download)
    assert path.name == "out.npz"
    assert list(load_packed(path)) == ["a", "b"]
    assert job.result.equal.all()
    assert not job.result.swept


def test_the_figures_of_the_visitors_own_sweep_are_the_ones_to_be_met(checkpoint, store):
    table = sweep(checkpoint, [CONFIG, QuantConfig()])
    result = finished(checkpoint, swept=table).result
    assert result.swept
    assert result.equal.all()
    wrong = table.assign(max_abs_error=table["max_abs_error"] + 1)
    assert not finished(checkpoint, swept=wrong).result.equal.any()


def test_a_sweep_of_other_combinations_is_not_taken_for_one_of_these(checkpoint, store):
    assert not finished(checkpoint, swept=sweep(checkpoint, [CONFIG], ["a"])).result.swept
    assert not finished(checkpoint, swept=sweep(checkpoint, [QuantConfig()])).result.swept


def test_a_file_can_be_saved_under_an_allowed_folder(checkpoint, store, tmp_path):
    job = finished(checkpoint, folder=str(tmp_path))
    assert job.state == "done"
    assert list(load_packed(tmp_path / "out.npz")) == ["a", "b"]
    assert job.result.download is None
    assert list(store.folder.iterdir()) == []


def test_no_file_is_saved_outside_the_allowed_folders_or_over_another(checkpoint, store, tmp_path):
    with pytest.raises(CheckpointError, match="outside the folders"):
        finished(checkpoint, folder="/etc")
    with pytest.raises(ExportError, match="no folder"):
        finished(checkpoint, folder=str(tmp_path / "missing"))
    (tmp_path / "out.npz").write_bytes(b"mine")
    with pytest.raises(ExportError, match="exists already"):
        finished(checkpoint, folder=str(tmp_path))
    assert (tmp_path / "out.npz").read_bytes() == b"mine"


@pytest.mark.parametrize("folder", [None, "."])
@pytest.mark.parametrize("at", ["exporting", "measuring"])
def test_a_cancelled_export_leaves_nothing(checkpoint, store, monkeypatch, tmp_path, folder, at):
    reached, gate = threading.Event(), threading.Event()
    original = {"exporting": "export_outgoing", "measuring": "remeasure"}[at]

    def pause(*args, **kwargs):
        reached.set()
        gate.wait(10)
        return real(*args, **kwargs)

    real = getattr(shipping, original)
    monkeypatch.setattr(shipping, original, pause)
    key = (str(checkpoint.path), 1, 1)
    job = exports.start(checkpoint, key, assign(checkpoint, [Rule("", CONFIG)]), "npz", "out.npz", folder)
    assert reached.wait(10)
    job.cancel()
    gate.set()
    assert job.finished.wait(10)
    assert job.state == "cancelled"
    assert list(store.folder.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exports", "model.npz"]


def test_a_failed_export_leaves_nothing_and_says_why(store, tmp_path):
    np.savez(tmp_path / "bad.npz", a=np.full((4, 4), np.nan))
    with open_checkpoint(tmp_path / "bad.npz") as checkpoint:
        job = finished(checkpoint)
    assert job.state == "failed"
    assert "tensor 'a' cannot be quantized" in job.error
    assert list(store.folder.iterdir()) == []
