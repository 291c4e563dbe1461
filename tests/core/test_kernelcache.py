"""Files of compiled kernels that were damaged: the library says so, compiles anew, and computes the same."""

import os
import subprocess
import sys

import pytest

CALL = """
import numpy as np, quantlab as ql
print(ql.evaluate(np.linspace(-1, 1, 256, dtype=np.float32).reshape(4, 64), ql.QuantConfig(dtype="int4")).mse)
"""


@pytest.mark.parametrize(("kind", "content"), [("*.nbi", b"\x80\x04\x95"), ("*.nbc", b""), ("*.nbc", b"K\x01.")])
def test_the_library_survives_damage(kind, content, cache):
    folder, first = cache
    for file in folder.rglob(kind):
        file.write_bytes(content)
    second = run(folder)
    assert (second.returncode, second.stdout) == (0, first)
    assert "were damaged" in second.stderr
    third = run(folder)
    assert (third.stdout, third.stderr) == (first, "")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder of compiled kernels, and what the call prints."""
    folder = tmp_path_factory.mktemp("cache")
    return folder, run(folder).stdout


def run(folder):
    env = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    env.pop("NUMBA_DISABLE_JIT", None)
    return subprocess.run([sys.executable, "-c", CALL], env=env, capture_output=True, text=True, check=False)
