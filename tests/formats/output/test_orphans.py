"""What killed processes leave behind is removed by the next one, and what a living one writes never is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import quantlab as ql
from quantlab.errors import ExportError
from quantlab.formats.output import atomic, orphans
from quantlab.ui import exports, sources

pytestmark = pytest.mark.skipif(orphans.fcntl is None, reason="Windows has no such locks")

WRITING = """
import sys, time, numpy as np, quantlab as ql
q = ql.quantize(np.ones((64, 128), np.float32), ql.QuantConfig.parse("int8-sym-ch0-minmax"))
def wait(done, total, label):
    if done > total // 2:
        print("ready", flush=True)
        time.sleep(600)
ql.export(sys.argv[1], {"fc.weight": q}, sys.argv[2], on_progress=wait)
"""


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Without a rest for what was just made."""
    monkeypatch.setattr(orphans, "FRESH", 0)


@pytest.fixture
def writing():
    """Starts processes that are in the middle of an export."""
    started = []

    def start(path, format):
        child = subprocess.Popen([sys.executable, "-c", WRITING, path, format], stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


def parts(folder):
    return sorted(path for path in folder.iterdir() if path.suffix == ".part")


def some(path, format="npz"):
    q = ql.quantize(np.ones((64, 128), np.float32), ql.QuantConfig.parse("int8-sym-ch0-minmax"))
    return ql.export(path, {"fc.weight": q}, format)


@pytest.mark.parametrize("format", ["npz", "compressed-tensors"])
def test_the_next_export_removes_what_a_killed_one_left_and_not_what_a_living_one_writes(writing, tmp_path, format):
    killed, living = writing(tmp_path / "killed", format), None
    (left,) = parts(tmp_path)
    living = writing(tmp_path / "living", format)
    assert len(parts(tmp_path)) == 2
    some(tmp_path / "other", "npz")
    assert len(parts(tmp_path)) == 2
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    some(tmp_path / "again", format)
    (stays,) = parts(tmp_path)
    assert stays != left
    assert living.poll() is None


def orphan(folder, name=None, age=0.0, content=b"x"):
    path = folder / (name or orphans.part_beside(folder / "x").name)
    if content is None:
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"x")
        os.utime(path / "model.safetensors", (time.time() - age,) * 2)
    else:
        path.write_bytes(content)
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("content", [b"x", None], ids=["file", "folder"])
@pytest.mark.parametrize("where", ["another computer", "an older version", "no locks"])
def test_where_no_lock_tells_only_what_is_old_is_removed(tmp_path, monkeypatch, where, content):
    """Such as on a network disk: the process that writes it may live elsewhere."""
    names = {"another computer": f".quantlab-{'0' * 24}.part", "an older version": f".quantlab-{'0' * 16}.part"}
    if where == "no locks":

        def refuse(*_):
            raise OSError(37, "No locks available")

        monkeypatch.setattr(orphans.fcntl, "flock", refuse)
    path = orphan(tmp_path, names.get(where), orphans.ABANDONED - 100, content)
    orphans.sweep_parts(tmp_path)
    assert path.exists()
    os.utime(path, (time.time() - orphans.ABANDONED - 100,) * 2)
    if content is None:
        orphans.sweep_parts(tmp_path)
        assert path.exists()  # somebody still writes in it
        os.utime(path / "model.safetensors", (time.time() - orphans.ABANDONED - 100,) * 2)
    orphans.sweep_parts(tmp_path)
    assert not path.exists()


def test_an_export_works_where_there_are_no_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(orphans.fcntl, "flock", refuse)
    old = orphan(tmp_path)
    for format in ("npz", "compressed-tensors"):
        some(tmp_path / format, format)
    assert parts(tmp_path) == [old]


def test_what_was_just_made_is_left_alone_and_links_and_others_names_always(tmp_path, monkeypatch):
    monkeypatch.setattr(orphans, "FRESH", 60)
    fresh = orphan(tmp_path)
    orphans.sweep_parts(tmp_path)
    assert fresh.exists()
    monkeypatch.setattr(orphans, "FRESH", 0)
    kept = [tmp_path / name for name in (".quantlab-x.part", "model.part", ".quantlab-0123456789abcdef.partial")]
    for path in kept:
        path.write_bytes(b"mine")
    (tmp_path / "precious").mkdir()
    link = orphans.part_beside(tmp_path / "x")
    link.symlink_to(tmp_path / "precious")
    orphans.sweep_parts(tmp_path)
    assert not fresh.exists()
    assert link.is_symlink() and (tmp_path / "precious").is_dir() and all(path.exists() for path in kept)


def test_a_file_that_was_taken_for_abandoned_is_not_written_on(tmp_path, monkeypatch):
    """Somebody looked between its making and its lock."""
    real = os.open

    def slow(path, flags, *args, **options):
        descriptor = real(path, flags, *args, **options)
        if flags & os.O_CREAT:
            orphans.sweep_parts(tmp_path)
        return descriptor

    monkeypatch.setattr(atomic.os, "open", slow)
    with pytest.raises(ExportError, match="another program has removed the unfinished file: try again"):
        some(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


SERVER = """
import os, sys
from quantlab.ui import exports, sources
print(sources.keep_upload("x.npy", b"x" * 1000) and sources._uploads(), flush=True)
print(exports.store().folder, flush=True)
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""


def test_a_server_that_starts_removes_what_killed_ones_left(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("QUANTLAB_EXPORTS", raising=False)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    folders = [Path(server.stdout.readline().strip()) for _ in range(2)]

    def sweep():
        sources.sweep_uploads()
        exports.sweep_exports()

    sweep()
    assert all(folder.is_dir() and folder.parent == tmp_path for folder in folders)
    server.communicate("\n")
    others = [
        tmp_path / "quantlab-uploads-00000000-abc",
        tmp_path / "quantlab-uploads-abc",
    ]  # of another computer; older
    for other in others:
        other.mkdir()
    sweep()
    assert sorted(tmp_path.iterdir()) == others


def test_a_server_that_starts_removes_what_was_being_written_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_EXPORTS", str(tmp_path))
    (tmp_path / "an id").mkdir()
    left, whole = orphan(tmp_path / "an id"), tmp_path / "an id" / "model.npz"
    whole.write_bytes(b"x")
    exports.sweep_exports()
    assert whole.exists() and not left.exists()
