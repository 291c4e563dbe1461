"""Warming up the kernels survives whatever lies in their cache."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from quantlab.core import kernels
from quantlab.ui import cache, warm

ROOT = Path(__file__).resolve().parents[2]
# One kernel stands for all: compiling them takes a dozen seconds.
SCRIPT = """
import numpy as np
from quantlab.core import kernels
from quantlab.ui import warm
warm.run_kernels = lambda: kernels.totals.count_zeros(np.ones(4, np.float32))
warm.compile_elsewhere = lambda: None
warm.warm_up()
"""


def run(cache: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    environment.pop("NUMBA_DISABLE_JIT", None)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_damaged_cache_is_thrown_away_and_rebuilt(tmp_path):
    assert run(tmp_path).returncode == 0
    files = list(tmp_path.rglob("*.nbc"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:10])
    second = run(tmp_path)
    assert second.returncode == 0, second.stderr
    assert "were damaged" in second.stderr
    assert "damaged" not in run(tmp_path).stderr


def test_warming_up_runs_the_kernels():
    warm.warm_up()
    assert all(
        kernel.signatures for kernel in (kernels.codes.encode, kernels.codes.decode, kernels.totals.all_error_sums)
    )


def test_an_empty_cache_is_filled_by_another_process(monkeypatch):
    called = []
    monkeypatch.setattr(kernels.cache, "files", list)
    monkeypatch.setattr(warm.subprocess, "run", lambda command, **_: called.append(command) or Failed)
    warm.warm_up()  # and if that fails, here
    assert called == [[sys.executable, "-m", "quantlab.ui.warm"]]


class Failed:
    """A process that could not compile."""

    returncode, stderr = 1, "no space left"


def test_pages_hand_over_arrays_of_the_kind_that_kernels_were_compiled_for():
    key, checkpoint = cache.checkpoint("sample")
    x = cache.values(key, checkpoint, "conv2.weight")
    # Of a read-only array Numba makes another type, and compiles everything once more.
    assert x.flags.writeable and x.flags.c_contiguous and x.dtype == np.float32
