"""Memory: evaluating a tensor takes hardly more than the tensor."""

import subprocess
import sys

import pytest

PEAK = """
import resource, sys
import numpy as np
import quantlab as ql

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

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
    done = subprocess.run([sys.executable, "-c", PEAK, slug], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.1
