"""Memory: evaluating a tensor takes hardly more than the tensor, and a sweep no more than the two largest."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import quantlab as ql

ROOT = Path(__file__).parents[2]
PEAK = """
import sys
import numpy as np
import quantlab as ql
from tests.peak import peak

config = ql.QuantConfig.parse(sys.argv[1])
small = np.random.default_rng(0).standard_normal((1024, 4096), dtype=np.float32)
ql.evaluate(small, config)  # loads the kernels
x = np.tile(small, (16, 1))
before = peak()
ql.evaluate(x, config)
print((peak() - before) / x.nbytes)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
@pytest.mark.parametrize(
    "slug",
    [
        "int8-sym-tensor-minmax",
        "int4-sym-g128-minmax",
        "int4-aff-ch0-percentile",
        "int8-uni-tensor-percentile",
        "int4-sym-g128-mse",
    ],
)
def test_evaluate_takes_less_than_a_tenth_of_the_tensor_on_top(slug):
    done = subprocess.run([sys.executable, "-c", PEAK, slug], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(done.stdout) < 0.1


GRID = ql.grid(["int4", "int8"], ["symmetric", "affine"], ["tensor", "g128", "ch5"], ["minmax", "entropy"])
SWEPT = """
import sys
import numpy as np
import quantlab as ql
from tests.peak import peak

configs = [ql.QuantConfig.parse(slug) for slug in sys.argv[2:]]
ql.sweep(np.ones((513, 1024), np.float32), configs)  # loads the kernels
before = peak()
with ql.open_checkpoint(sys.argv[1]) as checkpoint:
    frame = ql.sweep(checkpoint, configs)
print(peak() - before, peak(), len(frame), len(frame.attrs["refused"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
@pytest.mark.parametrize(("tensors", "dtype"), [(3, "F32"), (12, "F32"), (6, "BF16")])
def test_a_sweep_takes_the_two_largest_tensors_however_many_there_are(tmp_path, tensors, dtype):
    """Some configurations are refused: what a refusal holds on to must not keep a tensor in memory."""
    for kind in (np.float32, ml_dtypes.bfloat16):
        ql.sweep(np.ones((513, 1024), kind), GRID)  # compiling takes memory too, once per machine
    nbytes = 48 << 20
    path = tmp_path / "model.safetensors"
    header = json.dumps(
        {
            f"layer.{i}.weight": {
                "dtype": dtype,
                "shape": [nbytes >> 14, (4 if dtype == "F32" else 8) << 10],
                "data_offsets": [i * nbytes, (i + 1) * nbytes],
            }
            for i in range(tensors)
        }
    ).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + tensors * nbytes)  # zeros, and nothing on the disk
    call = [sys.executable, "-c", SWEPT, path, *map(str, GRID)]
    done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=ROOT)
    more, whole, rows, refused = map(int, done.stdout.split())
    assert rows > refused > 0
    assert more < 2.2 * nbytes
    assert whole < 2 * nbytes + 300e6
