"""Compiled kernels on disk: no change of a source leaves them as they were, and no damage is fatal."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import quantlab as ql
from quantlab.core.kernels import cache

ROOT = str(Path(ql.__file__).parents[1])
# The caller stands in errors.py, and what it calls in fitting.py.
CALLER = """
import numpy as np
from quantlab.core.dtypes import DTYPES, MAPPINGS, SCALE_DTYPES
from quantlab.core.kernels import cache, errors
codec = DTYPES["int4"].codec(MAPPINGS["symmetric"], SCALE_DTYPES["fp32"], False)
x = np.array([-7, 3.5, 7], np.float32)
print(errors.range_error(x, -7.0, 7.0, codec.grid, codec.scale_type.storage))
print(cache.folder().name, cache.folder().parent, len(errors.range_error.stats.cache_hits))
"""
OLD, NEW = "step = max(hi - lo, 0.0) / grid.steps", "step = 2.0 * max(hi - lo, 0.0) / grid.steps"


def run(script: str, **changes: str | None) -> subprocess.CompletedProcess:
    """A Python process with these environment variables changed, or removed; it imports from PYTHONPATH alone."""
    env = {**os.environ, "NUMBA_DISABLE_JIT": None, "PYTHONPATH": ROOT, "PYTHONSAFEPATH": "1", **changes}
    command = [sys.executable, "-c", script]
    env = {name: value for name, value in env.items() if value is not None}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def called(**changes: str | None) -> tuple[float, str, Path, int]:
    """What CALLER prints: the error, the folder and where it lies, and how many kernels were read from it."""
    done = run(CALLER, **changes)
    assert done.returncode == 0, done.stderr
    error, name, base, hits = done.stdout.split()
    return float(error), name, Path(base), int(hits)


@pytest.fixture
def copy(tmp_path):
    """A copy of the package, and the variables with which a process uses it."""
    shutil.copytree(Path(ql.__file__).parent, tmp_path / "quantlab", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path, {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}


def edit(root: Path, old: str, new: str) -> None:
    """Change one line of fitting.py."""
    file = root / "quantlab/core/kernels/fitting.py"
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_a_change_of_what_a_kernel_calls_in_another_file_is_seen(copy):
    root, env = copy
    exact, first, base, hits = called(**env)
    assert (exact, hits) == (0.25, 0)  # 3.5 is half a step off
    assert called(**env) == (exact, first, base, 1)
    edit(root, OLD, NEW)
    changed, second, _, hits = called(**env)
    assert (changed, hits) == (1.0 + 0.25 + 1.0, 0)  # steps of 2: all three are
    assert first != second
    edit(root, NEW, OLD)  # and back: the old folder still is there
    assert called(**env) == (exact, first, base, 1)


def test_folders_that_were_not_used_for_long_are_swept_away_with_the_next_change(copy):
    root, env = copy
    _, first, base, _ = called(**env)
    long_ago = time.time() - (cache.DAYS + 1) * 86400
    os.utime(base / first, (long_ago, long_ago))
    edit(root, OLD, NEW)
    _, second, _, _ = called(**env)
    assert [path.name for path in base.iterdir()] == [second]


def test_sweeping_keeps_what_is_in_use_and_what_is_none_of_its_own(tmp_path):
    used = [tmp_path / f"{i:032x}" for i in range(cache.KEPT + 3)]
    for age, path in enumerate(used):
        path.mkdir()
        (path / "codes.encode.nbc").write_bytes(b"x")
        os.utime(path, (time.time() - age, time.time() - age))
    theirs, elsewhere = tmp_path / "notes", tmp_path / ("f" * 32)
    theirs.mkdir()
    os.utime(theirs, (0, 0))
    elsewhere.symlink_to(theirs)
    cache.sweep(tmp_path, used[-1])  # the oldest is the one in use
    assert set(tmp_path.iterdir()) == {*used[: cache.KEPT], used[-1], theirs, elsewhere}


def test_all_checkouts_of_a_user_share_a_folder_that_nobody_else_writes_to(copy):
    root, env = copy
    home = {**env, "NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": str(root / "caches")}
    _, name, base, hits = called(**home)
    assert (base, hits) == (root / "caches/quantlab/kernels", 0)
    assert (base / name).stat().st_mode & 0o777 == base.stat().st_mode & 0o777 == 0o700
    shutil.copytree(root / "quantlab", root / "second/quantlab")
    assert called(**home | {"PYTHONPATH": str(root / "second")}) == (0.25, name, base, 1)
    base.chmod(0o777)  # what lies there might be anybody's code
    assert called(**home)[2:] == (root / "quantlab/core/kernels/__pycache__/compiled", 0)


def test_without_a_folder_kernels_are_compiled_all_the_same(copy):
    root, env = copy
    (root / "cache").write_text("no folder")
    done = run(CALLER.replace("print(cache.folder().name", "print(cache.folder()) #"), **env)
    assert (done.returncode, done.stdout) == (0, "0.25\nNone\n")
    assert done.stderr.count("no folder to keep compiled kernels in") == 1


def test_what_a_process_runs_is_not_kept_under_the_digest_of_sources_edited_since(copy):
    root, env = copy
    edit_first = f"""
from pathlib import Path
from quantlab.core.kernels import errors, cache, fitting
file = Path(fitting.__file__)
file.write_text(file.read_text(encoding="utf-8") + "# edited", encoding="utf-8")
assert cache.folder() is None and errors.range_error.stats.cache_path is None
{CALLER.replace("print(cache.folder().name", "print(1) #")}
"""
    done = run(edit_first, **env)
    assert (done.returncode, done.stdout) == (0, "0.25\n1\n"), done.stderr
    assert not (root / "cache").exists()


@pytest.mark.parametrize("damage", ["cut", "emptied", "altered"])
def test_the_library_survives_damage(damage, whole):
    folder, first = whole
    for file in folder.rglob("*.nbc"):
        content = file.read_bytes()
        middle = len(content) // 2
        altered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        file.write_bytes({"cut": content[:middle], "emptied": b"", "altered": altered}[damage])
    second = run(CALLER, NUMBA_CACHE_DIR=str(folder))
    assert (second.returncode, second.stdout) == (0, first)
    assert "were damaged" in second.stderr
    third = run(CALLER, NUMBA_CACHE_DIR=str(folder))
    assert (third.stdout, third.stderr) == (first.replace(" 0\n", " 1\n"), "")


def test_files_that_cannot_be_written_are_no_error(whole):
    """A file stands where a kernel's would be replaced: every rename fails, as on a full disk every write does."""
    folder, first = whole
    for file in folder.rglob("*.nbc"):
        file.unlink()
        file.mkdir()
    done = run(CALLER, NUMBA_CACHE_DIR=str(folder))
    assert (done.returncode, done.stdout) == (0, first)
    assert done.stderr.count("cannot be kept") == 1
    for file in folder.rglob("*.nbc"):
        file.rmdir()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of compiled kernels, and what CALLER prints."""
    folder = tmp_path_factory.mktemp("cache")
    return folder, run(CALLER, NUMBA_CACHE_DIR=str(folder)).stdout
