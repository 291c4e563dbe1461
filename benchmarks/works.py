"""The table: what is timed, how quantlab does it, and whom it is set beside.

`ours` and every peer are `build(x) -> call`, for x float32 [rows, cols]. Where a work has `same`, the results of all
calls are compared by it before anything is timed, and by the tests, so that nobody is timed doing something else.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import quantlab as ql
from quantlab.core import kernels
from quantlab.core.config import QuantConfig
from quantlab.core.tensor import encode, fit

from . import peers
from .timing import Call

Build = Callable[[np.ndarray], Call]


@dataclass(frozen=True)
class Peer:
    """Somebody else's way. `target` is how many times as fast as that we mean to be."""

    name: str
    build: Build
    target: float | None = None


@dataclass(frozen=True)
class Work:
    """One piece of work."""

    name: str
    ours: Build
    peers: list[Peer]
    same: Callable[[Any, Any], bool] | None = None
    configurations: int = 1  # value-configurations done per value
    reads: int = 0  # of every value, where shares of the machine's limits are of interest
    values: int | None = None  # of a part of x, where the work is about so many


@dataclass(frozen=True)
class Section:
    """Works that make one table."""

    title: str
    works: list[Work] = field(default_factory=list)


# --- ours -----------------------------------------------------------------------------------------------------------


def config(slug: str) -> QuantConfig:
    """Short for QuantConfig.parse."""
    return QuantConfig.parse(slug)


def quantize(slug: str, x: np.ndarray) -> Call:
    """The codes of a tensor: range, codes, packing."""
    return lambda: ql.quantize(x, config(slug)).packed


def encode_given(slug: str, x: np.ndarray) -> Call:
    """The codes under parameters that are known, as an observer has them after calibration."""
    groups = config(slug).granularity.to_groups(x)
    fitted = fit(groups, config(slug))
    return lambda: encode(groups, fitted, config(slug), x.shape, "float32").packed


def dequantize(slug: str, x: np.ndarray) -> Call:
    """The values of packed codes."""
    return ql.quantize(x, config(slug)).dequantize


def dequantize_into(slug: str, x: np.ndarray) -> Call:
    """Decode a tensor into memory that is there, as ONNX Runtime's and torch's allocators keep it."""
    q, out = ql.quantize(x, config(slug)), np.zeros(x.shape, np.float32)
    return lambda: q.dequantize(out)


def evaluate(slug: str, x: np.ndarray) -> Call:
    """All metrics; the mean squared error stands for them."""
    return lambda: ql.evaluate(x, config(slug)).mse


def sweep(x: np.ndarray) -> Call:
    """All metrics of all configurations."""
    granularities = {0: ql.PerChannel(0), -1: ql.PerTensor()}
    configs = [
        QuantConfig(dtype=f"int{bits}", mapping=mapping, granularity=granularities.get(size) or ql.PerGroup(size))
        for size, bits, mapping in peers.SWEEP
    ]
    return lambda: ql.sweep(x, configs)["mse"].tolist()


def calibrate(slug: str, x: np.ndarray) -> Call:
    """The range that the codes are to cover, float64 [2, rows, groups]."""
    chosen = config(slug)
    return lambda: np.stack(chosen.calibration.range(chosen.granularity.to_groups(x), chosen.codec))


def entropy(x: np.ndarray) -> Call:
    """Histogram and threshold."""
    return lambda: float(calibrate("int8-sym-tensor-entropy", x)()[1].item())


def entropy_search(x: np.ndarray) -> Call:
    """The threshold, given the histogram of |x|."""
    counts = np.histogram(np.abs(x), peers.BINS)[0]
    width = np.abs(x).max() / peers.BINS
    return lambda: float(kernels.entropy.best_window(counts, peers.LEVELS, False)[1] * width)


def pack(bits: int, x: np.ndarray) -> Call:
    """Codes to bytes."""
    codes = peers.codes_of(x, bits)
    return lambda: ql.pack(codes, bits)


def unpack(bits: int, x: np.ndarray) -> Call:
    """Bytes to codes."""
    packed = ql.pack(peers.codes_of(x, bits), bits)
    return lambda: ql.unpack(packed, bits, x.size, signed=True)


def files(kind: str, x: np.ndarray) -> Call:
    """Export, which syncs and verifies what it wrote, and load."""
    q, folder = ql.quantize(x, config("int8-sym-tensor-minmax")), TemporaryDirectory()

    def call() -> dict[str, ql.QuantizedTensor]:
        path = Path(folder.name, f"ours.{kind}")
        ql.export(path, {"x": q}, format=kind)
        return ql.load_packed(path)

    return call


# --- comparisons ----------------------------------------------------------------------------------------------------


def close(ours: Any, theirs: Any) -> bool:
    """Equal but for float32 sums: a mean of 16 M squares differs in the fourth digit between two libraries."""
    return bool(np.allclose(ours, theirs, rtol=1e-3))


def equal(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Equal to the last bit."""
    return bool(np.array_equal(np.ravel(ours).view(np.uint8), np.ravel(theirs).view(np.uint8)))


def off_by_one_at_most(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Codes under scales that differ in their last digit, because one range arithmetic is float32."""
    return bool((np.abs(np.ravel(ours).astype(np.int16) - np.ravel(theirs).astype(np.int16)) <= 1).all())


def no_worse(ours: float, theirs: float) -> bool:
    """A search finds at least what a grid finds, within a thousandth."""
    return ours <= theirs * 1.001


def percentiles(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """The same percentiles, which NumPy rounds to float32."""
    return bool(np.allclose(ours[..., 0], theirs, rtol=1e-6))


# --- the table ------------------------------------------------------------------------------------------------------

INT8, INT4_GROUPS = "int8-sym-tensor-minmax", "int4-sym-g128-minmax"
BITS = range(2, 8)

SECTIONS = [
    Section(
        "Quantize and read back",
        [
            Work(
                "quantize, int8 per tensor",
                partial(quantize, INT8),
                [
                    Peer("onnxruntime QuantizeLinear, given the scale", peers.onnx_quantize_int8, 0.8),
                    Peer("NumPy min and max, then QuantizeLinear", peers.onnx_quantize_int8_after_numpy, 0.8),
                    Peer("torch aminmax, then QuantizeLinear", peers.onnx_quantize_int8_after_torch, 0.8),
                    Peer("torch eager", peers.torch_quantize_int8),
                    Peer("NumPy", peers.numpy_quantize_int8),
                ],
                equal,
            ),
            Work(
                "quantize, uint8 per tensor with a zero point",
                partial(quantize, "int8-aff-tensor-minmax"),
                [Peer("onnxruntime DynamicQuantizeLinear", peers.onnx_dynamic_quantize, 0.8)],
                off_by_one_at_most,
            ),
            Work(
                "codes alone, int8 per tensor, given the scale",
                partial(encode_given, INT8),
                [Peer("onnxruntime QuantizeLinear", peers.onnx_quantize_int8, 0.8)],
                equal,
            ),
            Work(
                "codes alone, int4 per group of 128, given the scales",
                partial(encode_given, INT4_GROUPS),
                [Peer("onnxruntime QuantizeLinear, blocked", peers.onnx_quantize_int4_groups)],
            ),
            Work(
                "dequantize, int8 per tensor",
                partial(dequantize, INT8),
                [
                    Peer("onnxruntime DequantizeLinear", peers.onnx_dequantize_int8),
                    Peer("torch eager", peers.torch_dequantize_int8),
                ],
                close,
            ),
            Work(
                "dequantize, int8 per tensor, into memory that is there",
                partial(dequantize_into, INT8),
                [Peer("onnxruntime DequantizeLinear, which keeps its own", peers.onnx_dequantize_int8)],
                close,
            ),
        ],
    ),
    Section(
        "Evaluate: all metrics, beside the squared error alone",
        [
            Work(
                "evaluate, int4 per group of 128",
                partial(evaluate, INT4_GROUPS),
                [
                    Peer("NumPy", peers.numpy_error_int4_groups, 10),
                    Peer("torch eager", peers.torch_error_int4_groups, 5),
                ],
                close,
            ),
            Work(
                "evaluate, int8 per tensor",
                partial(evaluate, INT8),
                [Peer("NumPy", peers.numpy_error_int8), Peer("torch eager", peers.torch_error_int8)],
                close,
            ),
        ],
    ),
    Section(
        "Sweep: all metrics of 32 configurations, beside their squared errors alone",
        [
            Work(
                f"sweep, {len(peers.SWEEP)} configurations",
                sweep,
                [
                    Peer("torch eager loop", peers.torch_sweep, 20),
                    Peer("torch.compile, compiled before", peers.torch_compiled_sweep, 1.3),
                    Peer("NumPy loop", peers.numpy_sweep, 40),
                ],
                close,
                len(peers.SWEEP),
                len({size for size, _, _ in peers.SWEEP}) + 1,  # a scale for the tensor needs its range first
            ),
        ],
    ),
    Section(
        "Calibrate",
        [
            Work(
                "entropy, 2048 bins, with the histogram",
                entropy,
                [Peer("onnxruntime's entropy calibrator", peers.onnx_entropy, 20)],
            ),
            Work(
                "entropy, 2048 bins, with the histogram, 4 Mi values",
                entropy,
                [Peer("onnxruntime's entropy calibrator", peers.onnx_entropy, 100)],
                values=1 << 22,
            ),
            Work(
                "entropy, 2048 bins, given the histogram",
                entropy_search,
                [Peer("onnxruntime's entropy calibrator", peers.onnx_entropy_search, 20)],
            ),
            Work(
                "MSE, int4 per group of 128",
                partial(evaluate, "int4-sym-g128-mse"),
                [Peer(f"torch eager, a grid of {peers.GRID}", peers.torch_grid_mse, 20)],
                no_worse,
            ),
            Work(
                "Exact, int4 per group of 32, 1 Mi values (32,768 groups)",
                partial(evaluate, "int4-sym-g32-exact"),
                [Peer("the same sweep in NumPy", peers.numpy_exact, 20)],
                close,
                values=1 << 20,
            ),
            Work(
                "percentiles 0.1 and 99.9 per row",
                partial(calibrate, "int8-sym-ch0-percentile"),
                [Peer("numpy.percentile", peers.numpy_percentile, 8)],
                percentiles,
            ),
        ],
    ),
    Section(
        "Pack and unpack",
        [
            *(
                Work(f"pack, {b} bits", partial(pack, b), [Peer("NumPy", partial(peers.numpy_pack, b))], equal)
                for b in BITS
            ),
            *(
                Work(f"unpack, {b} bits", partial(unpack, b), [Peer("NumPy", partial(peers.numpy_unpack, b))], equal)
                for b in BITS
            ),
        ],
    ),
    Section(
        "Write and read a packed int8 tensor (ours syncs to disk and verifies)",
        [
            Work("npz", partial(files, "npz"), [Peer("NumPy", peers.numpy_files)]),
            Work("safetensors", partial(files, "safetensors"), [Peer("safetensors", peers.safetensors_files)]),
        ],
    ),
]
