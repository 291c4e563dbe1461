"""Compile the kernels before the first visitor needs them."""

import gc
import logging
import os
import subprocess
import sys

import numpy as np

from quantlab.core.calibration import CALIBRATIONS
from quantlab.core.config import grid
from quantlab.core.dtypes import DTYPES, MAPPINGS
from quantlab.core.granularity import PIECE
from quantlab.core.kernels import cache
from quantlab.core.tensor import quantize
from quantlab.sweeping.sweep import sweep

log = logging.getLogger(__name__)


def warm_up() -> None:
    """Load every kernel from its cache; compile what is missing or damaged."""
    if not cache.compiles():  # there is nothing to load
        return
    if not cache.files():
        compile_elsewhere()
    run_kernels()
    # What is loaded now is a quarter of a million objects that stay: to walk through them stops all sessions for 0.3 s.
    gc.freeze()


def compile_elsewhere() -> None:
    """Fill the cache in a process of its own.

    Compiling holds this process's interpreter lock for a dozen seconds, and pages would have to wait for it. If it
    fails, the kernels are compiled here after all.
    """
    done = subprocess.run([sys.executable, "-m", __spec__.name], capture_output=True, text=True, check=False)
    if done.returncode:
        log.warning("compiling the kernels in a process of its own failed: %s", done.stderr.strip()[-300:])


def run_kernels() -> None:
    """Quantize a little of everything."""
    x = np.linspace(-1, 1, 4 * 1024, dtype=np.float32).reshape(4, 1024)
    dtypes, granularities = ["int4", "int8", "int16", "fp16"], ["tensor", "g512"]
    configs = grid(dtypes, MAPPINGS, granularities, CALIBRATIONS, pow2_scales=[False, True])
    sweep({"warm-up": x}, configs)
    # Large groups are searched in another way.
    sweep({"warm-up": np.zeros(PIECE + 1, np.float32)}, grid(["int8"], MAPPINGS, ["tensor"], ["mse"]))
    for dtype in DTYPES:
        for config in grid([dtype], MAPPINGS):
            quantize(x, config).dequantize()


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(10)  # pages first
    run_kernels()
