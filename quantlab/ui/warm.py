"""Compile the kernels before the first visitor needs them."""

import logging
from pathlib import Path

import numpy as np

from quantlab import kernels
from quantlab.calibration import CALIBRATIONS
from quantlab.config import grid
from quantlab.dtypes import DTYPES, MAPPINGS
from quantlab.errors import QuantlabError
from quantlab.sweep import sweep
from quantlab.tensor import quantize

log = logging.getLogger(__name__)


def warm_up() -> None:
    """Run every kernel once, from its cache file where there is one; a damaged cache is thrown away and rebuilt."""
    try:
        run_kernels()
    except QuantlabError:
        raise
    except Exception as error:  # EOFError, UnpicklingError, a missing attribute: damage has many faces
        log.warning("the kernel cache is damaged (%s: %s); compiling anew", type(error).__name__, error)
        forget_compiled()
        run_kernels()


def forget_compiled() -> None:
    """Remove the files in which Numba keeps compiled kernels."""
    folders = {Path(item.stats.cache_path) for item in vars(kernels).values() if hasattr(item, "stats")}
    for folder in folders:
        for pattern in ("kernels.*.nbi", "kernels.*.nbc"):
            for file in folder.glob(pattern):
                file.unlink(missing_ok=True)


def run_kernels() -> None:
    """Quantize a little of everything."""
    x = np.linspace(-1, 1, 4 * 1024, dtype=np.float32).reshape(4, 1024)
    configs = grid(
        ["int4", "int8", "int16", "fp16"], MAPPINGS, ["tensor", "g512"], CALIBRATIONS, pow2_scales=[False, True]
    )
    sweep({"warm-up": x}, configs)
    for dtype in DTYPES:
        for config in grid([dtype], MAPPINGS):
            quantize(x, config).dequantize()
