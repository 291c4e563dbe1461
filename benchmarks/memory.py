"""Peak memory of `evaluate`, in a process of its own: `python -m benchmarks.memory SLUG VALUES` prints the ratio."""

import subprocess
import sys
from pathlib import Path

import numpy as np

import quantlab as ql

SLUGS = [
    "int8-sym-tensor-minmax",
    "int4-sym-g128-minmax",
    "int4-aff-g32-minmax",
    "int4-sym-g128-mse",
    "int8-sym-tensor-percentile",
    "int8-sym-tensor-entropy",
    "int8-sym-ch-1-minmax",
]


def resident(key: str) -> int:
    """Bytes of this process in memory: now (VmRSS) or at most so far (VmHWM). Linux only."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(key))


def peak_over_tensor(slug: str, values: int) -> float:
    """Peak memory while a tensor is made and evaluated, beyond that of a process at rest, over the tensor's size."""
    config = ql.QuantConfig.parse(slug)
    # Loads the kernels, those for groups larger than a piece too.
    ql.evaluate(np.linspace(-1, 1, 1 << 20, dtype=np.float32).reshape(512, -1), config)
    before = resident("VmRSS")
    x = np.random.default_rng(0).standard_normal((4096, values // 4096), dtype=np.float32)
    ql.evaluate(x, config)
    return (resident("VmHWM") - before) / x.nbytes


def measured(slug: str, values: int) -> float:
    """`peak_over_tensor` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", slug, str(values)]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


if __name__ == "__main__":
    print(peak_over_tensor(sys.argv[1], int(sys.argv[2])))
