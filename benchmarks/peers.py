"""Other people's ways to do the work, each as `build(x) -> call`: what `build` prepares is not timed.

x is float32 [rows, cols]. Torch and onnxruntime are imported where they are used, so that the tests, which hold the
calls below to what quantlab computes, run without torch. Everybody may use `THREADS` threads; NumPy's element-wise
functions use one.
"""

import contextlib
import io
import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .timing import Call

THREADS = 2
INT8_MAX, INT4_MAX = 127, 7
GROUP, EXACT_GROUP = 128, 32
GRID = 100  # candidates of a grid search for the range of least squared error
BINS, LEVELS = 2048, 128  # of an entropy calibration at 8 bits
PERCENTILES = (0.1, 99.9)
# A sweep: (values that share a scale, bits, mapping); 0 stands for a row, -1 for the whole tensor.
SWEEP = [
    (size, bits, mapping) for size in (32, 128, 0, -1) for bits in (2, 4, 6, 8) for mapping in ("symmetric", "affine")
]


class Missing(Exception):
    """What a peer needs and this machine lacks, in a few words."""


def import_torch() -> Any:
    """torch, at our number of threads."""
    import torch

    torch.set_num_threads(THREADS)
    return torch


def amax(x: np.ndarray) -> float:
    """Largest magnitude, in two passes without a temporary array."""
    return max(-float(x.min()), float(x.max()))


def as_groups(x: Any, size: int) -> Any:
    """x, of NumPy or torch, as [groups, values of a group]: `size` values, 0 for a row, -1 for all."""
    return x.reshape(1, -1) if size < 0 else x.reshape(-1, size or x.shape[1])


# --- onnxruntime ----------------------------------------------------------------------------------------------------


@cache
def onnx_session(op: str, source: str, target: str, block: int = 0) -> Any:
    """A session of one QuantizeLinear or DequantizeLinear, symmetric: inputs x and scale, output y (opset 21).

    `source` and `target` name types of onnx.TensorProto. One scale for the tensor, or one per `block` values of a row.
    """
    from onnx import TensorProto, helper

    kinds = {"x": source, "scale": "FLOAT", "y": target}
    values = {n: helper.make_tensor_value_info(n, getattr(TensorProto, kind), None) for n, kind in kinds.items()}
    attributes = {"axis": 1, "block_size": block} if block else {}
    if op == "QuantizeLinear":
        attributes["output_dtype"] = getattr(TensorProto, target)
    node = helper.make_node(op, ["x", "scale"], ["y"], **attributes)
    return onnx_start(helper.make_graph([node], op, [values["x"], values["scale"]], [values["y"]]))


def onnx_start(graph: Any) -> Any:
    """A session of a graph (opset 21), at our number of threads."""
    import onnxruntime
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def onnx_run(session: Any, x: np.ndarray, scale: float | np.ndarray) -> np.ndarray:
    """A plain run: no input is copied, and the output lies in memory that onnxruntime reuses from run to run."""
    return session.run(None, {"x": x, "scale": np.asarray(scale, np.float32)})[0]


def onnx_quantize_int8(x: np.ndarray) -> Call:
    """QuantizeLinear to int8 per tensor, given the scale."""
    session, scale = onnx_session("QuantizeLinear", "FLOAT", "INT8"), amax(x) / INT8_MAX
    return lambda: onnx_run(session, x, scale)


def onnx_quantize_int8_after_numpy(x: np.ndarray) -> Call:
    """The range by NumPy's min and max, then QuantizeLinear to int8 per tensor."""
    session = onnx_session("QuantizeLinear", "FLOAT", "INT8")
    return lambda: onnx_run(session, x, amax(x) / INT8_MAX)


def onnx_quantize_int8_after_torch(x: np.ndarray) -> Call:
    """The range by torch.aminmax, then QuantizeLinear to int8 per tensor."""
    torch, session = import_torch(), onnx_session("QuantizeLinear", "FLOAT", "INT8")
    tensor = torch.from_numpy(x)

    def call() -> np.ndarray:
        low, high = torch.aminmax(tensor)
        return onnx_run(session, x, max(-low.item(), high.item()) / INT8_MAX)

    return call


def onnx_dynamic_quantize(x: np.ndarray) -> Call:
    """DynamicQuantizeLinear: range, scale, zero point and uint8 codes, per tensor."""
    session = onnx_dynamic_session()
    return lambda: session.run(["y"], {"x": x})[0]


@cache
def onnx_dynamic_session() -> Any:
    """A session of one DynamicQuantizeLinear."""
    from onnx import TensorProto, helper

    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero_point"])
    kinds = {"y": TensorProto.UINT8, "scale": TensorProto.FLOAT, "zero_point": TensorProto.UINT8}
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    return onnx_start(helper.make_graph([node], "dynamic", inputs, outputs))


def onnx_quantize_int4_groups(x: np.ndarray) -> Call:
    """Blocked QuantizeLinear to int4, given the scales; the output stays in onnxruntime, as NumPy has no int4."""
    session = onnx_session("QuantizeLinear", "FLOAT", "INT4", GROUP)
    scale = np.abs(x.reshape(x.shape[0], -1, GROUP)).max(axis=2) / np.float32(INT4_MAX)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_cpu_input("scale", scale)
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding)


def onnx_dequantize_int8(x: np.ndarray) -> Call:
    """DequantizeLinear of int8 per tensor."""
    codes, scale = onnx_quantize_int8(x)(), amax(x) / INT8_MAX
    session = onnx_session("DequantizeLinear", "INT8", "FLOAT")
    return lambda: onnx_run(session, codes, scale)


def onnx_collector() -> Any:
    """The collector of onnxruntime's entropy calibrator, with our number of bins."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    return HistogramCollector(
        "entropy", symmetric=True, num_bins=BINS, num_quantized_bins=LEVELS, percentile=None, scenario="same"
    )


def onnx_entropy(x: np.ndarray) -> Call:
    """The entropy calibrator: histogram and threshold."""

    def call() -> float:
        collector = onnx_collector()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
            collector.collect({"x": x})
            return float(collector.compute_collection_result()["x"][1])

    return call


def onnx_entropy_search(x: np.ndarray) -> Call:
    """The entropy calibrator's search alone, given the histogram."""
    collector = onnx_collector()
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": x})
    histogram = collector.get_histogram_dict()["x"]
    return lambda: float(collector.get_entropy_threshold(histogram, LEVELS)[1])


# --- NumPy ----------------------------------------------------------------------------------------------------------


def numpy_quantize_int8(x: np.ndarray) -> Call:
    """Range, division, rounding, clipping and cast, per tensor."""

    def call() -> np.ndarray:
        scale = np.float32(amax(x) / INT8_MAX)
        return np.clip(np.rint(x / scale), -INT8_MAX - 1, INT8_MAX).astype(np.int8)

    return call


def numpy_symmetric_error(x: np.ndarray, size: int, bits: int) -> float:
    """Mean squared error of symmetric codes."""
    matrix, high = as_groups(x, size), 2 ** (bits - 1) - 1
    scale = np.abs(matrix).max(axis=1, keepdims=True) / np.float32(high)
    decoded = np.clip(np.rint(matrix / scale), -high - 1, high) * scale
    return float(np.square(matrix - decoded).mean())


def numpy_affine_error(x: np.ndarray, size: int, bits: int) -> float:
    """Mean squared error of codes with a zero point."""
    matrix, high = as_groups(x, size), 2**bits - 1
    low = np.minimum(matrix.min(axis=1, keepdims=True), 0)
    scale = (np.maximum(matrix.max(axis=1, keepdims=True), 0) - low) / np.float32(high)
    zero_point = np.rint(-low / scale)
    decoded = (np.clip(np.rint(matrix / scale) + zero_point, 0, high) - zero_point) * scale
    return float(np.square(matrix - decoded).mean())


def numpy_error_int4_groups(x: np.ndarray) -> Call:
    """The squared error alone, int4 per group of 128."""
    return lambda: numpy_symmetric_error(x, GROUP, 4)


def numpy_error_int8(x: np.ndarray) -> Call:
    """The squared error alone, int8 per tensor."""
    return lambda: numpy_symmetric_error(x, -1, 8)


def numpy_sweep(x: np.ndarray) -> Call:
    """A loop over the configurations, the squared error alone."""
    error_of = {"symmetric": numpy_symmetric_error, "affine": numpy_affine_error}
    return lambda: [error_of[mapping](x, size, bits) for size, bits, mapping in SWEEP]


def numpy_percentile(x: np.ndarray) -> Call:
    """Two percentiles of every row."""
    return lambda: np.percentile(x, PERCENTILES, axis=1)


def numpy_exact(x: np.ndarray) -> Call:
    """The sweep over every change of a code, int4 per group of `EXACT_GROUP`; the mean squared error that it leaves.

    All groups at once: changes sorted along each group, sums carried on by cumsum, either sign of the scale.
    """
    groups = x.reshape(-1, EXACT_GROUP).astype(np.float64)
    magnitudes = np.maximum(np.abs(groups), 1e-300)[..., None]
    codes = np.arange(1, INT4_MAX + 2)

    def call() -> float:
        times = ((codes - 0.5) / magnitudes).reshape(len(groups), -1)
        order = np.argsort(times, axis=1)
        weights = np.broadcast_to(magnitudes, (*groups.shape, codes.size)).reshape(times.shape)
        rises = np.broadcast_to(2.0 * codes - 1, (*groups.shape, codes.size)).reshape(times.shape)
        errors = [_swept_error(groups, sign, weights, rises, order) for sign in (1, -1)]
        return float(np.minimum(*errors).sum() / x.size)

    return call


def _swept_error(groups: np.ndarray, sign: int, weights: np.ndarray, rises: np.ndarray, order: np.ndarray) -> Any:
    """The least squared error of every group for one sign of the scale: only one side has the code 8."""
    allowed = np.repeat(groups * sign < 0, INT4_MAX + 1, axis=1) | (rises < 2 * INT4_MAX)
    a, b = (np.cumsum(np.take_along_axis(values * allowed, order, axis=1), axis=1) for values in (weights, rises))
    best = np.argmax(a * a / np.maximum(b, 1), axis=1)[:, None]
    a, b = (np.take_along_axis(sums, best, axis=1) for sums in (a, b))
    scale = (sign * a / b).astype(np.float32)
    decoded = np.clip(np.rint(groups / scale), -INT4_MAX - 1, INT4_MAX) * scale
    return np.square(groups - decoded).sum(axis=1)


def codes_of(x: np.ndarray, bits: int) -> np.ndarray:
    """Signed codes of `bits` bits to pack: int8 [n]."""
    high = 2 ** (bits - 1) - 1
    return np.clip(np.rint(x * (high / amax(x))), -high - 1, high).astype(np.int8).reshape(-1)


def numpy_pack(bits: int, x: np.ndarray) -> Call:
    """The low bits of every code by unpackbits, the bytes by packbits."""
    codes = codes_of(x, bits).view(np.uint8)[:, None]

    def call() -> np.ndarray:
        digits = np.unpackbits(codes, axis=1, count=bits, bitorder="little")
        return np.packbits(digits.reshape(-1), bitorder="little")

    return call


def numpy_unpack(bits: int, x: np.ndarray) -> Call:
    """The way back; two shifts extend the sign."""
    packed, unused = numpy_pack(bits, x)(), 8 - bits

    def call() -> np.ndarray:
        digits = np.unpackbits(packed, count=x.size * bits, bitorder="little").reshape(-1, bits)
        return (np.packbits(digits, axis=1, bitorder="little")[:, 0] << unused).view(np.int8) >> unused

    return call


# --- files -----------------------------------------------------------------------------------------------------------


def numpy_files(x: np.ndarray) -> Call:
    """np.savez of int8 codes and a scale, and np.load."""
    arrays, folder = int8_arrays(x), TemporaryDirectory()

    def call() -> dict[str, np.ndarray]:
        path = Path(folder.name, "peer.npz")
        np.savez(path, **arrays)
        with np.load(path) as file:
            return {name: file[name] for name in file.files}

    return call


def safetensors_files(x: np.ndarray) -> Call:
    """save_file of int8 codes and a scale, and load_file."""
    from safetensors.numpy import load_file, save_file

    arrays, folder = int8_arrays(x), TemporaryDirectory()

    def call() -> dict[str, np.ndarray]:
        path = Path(folder.name, "peer.safetensors")
        save_file(arrays, path)
        return load_file(path)

    return call


def int8_arrays(x: np.ndarray) -> dict[str, np.ndarray]:
    """A packed int8 tensor as plain arrays."""
    return {"packed": codes_of(x, 8).view(np.uint8), "scale": np.array(amax(x) / INT8_MAX, np.float32)}


# --- torch ----------------------------------------------------------------------------------------------------------


def torch_quantize_int8(x: np.ndarray) -> Call:
    """Range, division, rounding, clipping and cast, per tensor."""
    torch = import_torch()
    tensor = torch.from_numpy(x)

    def call() -> np.ndarray:
        low, high = torch.aminmax(tensor)
        scale = torch.maximum(-low, high) / INT8_MAX
        return torch.clamp(torch.round(tensor / scale), -INT8_MAX - 1, INT8_MAX).to(torch.int8).numpy()

    return call


def torch_dequantize_int8(x: np.ndarray) -> Call:
    """int8 codes times the scale."""
    torch = import_torch()
    codes, scale = torch.from_numpy(numpy_quantize_int8(x)()), amax(x) / INT8_MAX
    return lambda: (codes.to(torch.float32) * scale).numpy()


def torch_symmetric_error(x: Any, size: int, bits: int) -> float:
    """Mean squared error of symmetric codes."""
    torch, matrix, high = import_torch(), as_groups(x, size), 2 ** (bits - 1) - 1
    scale = matrix.abs().amax(dim=1, keepdim=True) / high
    decoded = torch.clamp(torch.round(matrix / scale), -high - 1, high) * scale
    return (matrix - decoded).square().mean().item()


def torch_affine_error(x: Any, size: int, bits: int) -> float:
    """Mean squared error of codes with a zero point."""
    torch, matrix, high = import_torch(), as_groups(x, size), 2**bits - 1
    low, largest = torch.aminmax(matrix, dim=1, keepdim=True)
    low = low.clamp(max=0)
    scale = (largest.clamp(min=0) - low) / high
    zero_point = torch.round(-low / scale)
    decoded = (torch.clamp(torch.round(matrix / scale) + zero_point, 0, high) - zero_point) * scale
    return (matrix - decoded).square().mean().item()


def torch_error_int4_groups(x: np.ndarray) -> Call:
    """The squared error alone, int4 per group of 128."""
    tensor = import_torch().from_numpy(x)
    return lambda: torch_symmetric_error(tensor, GROUP, 4)


def torch_error_int8(x: np.ndarray) -> Call:
    """The squared error alone, int8 per tensor."""
    tensor = import_torch().from_numpy(x)
    return lambda: torch_symmetric_error(tensor, -1, 8)


def torch_sweep(x: np.ndarray) -> Call:
    """A loop over the configurations, the squared error alone."""
    tensor = import_torch().from_numpy(x)
    error_of = {"symmetric": torch_symmetric_error, "affine": torch_affine_error}
    return lambda: [error_of[mapping](tensor, size, bits) for size, bits, mapping in SWEEP]


def torch_compiled_sweep(x: np.ndarray) -> Call:
    """The same loop through torch.compile, which needs a C++ compiler; it compiles here, before anything is timed.

    Bits are passed as a tensor, so that there is one program for each mapping and group size, not for each of 32.
    """
    torch = import_torch()
    if not shutil.which(os.environ.get("CXX", "g++")):
        raise Missing("no C++ compiler")
    tensor = torch.from_numpy(x)

    def error(matrix: Any, high: Any, affine: bool) -> Any:
        if affine:
            low, largest = torch.aminmax(matrix, dim=1, keepdim=True)
            low = low.clamp(max=0)
            scale = (largest.clamp(min=0) - low) / high
            zero_point = torch.round(-low / scale)
            codes = torch.minimum(torch.clamp(torch.round(matrix / scale) + zero_point, min=0), high)
            return (matrix - (codes - zero_point) * scale).square().mean()
        scale = matrix.abs().amax(dim=1, keepdim=True) / high
        codes = torch.minimum(torch.maximum(torch.round(matrix / scale), -high - 1), high)
        return (matrix - codes * scale).square().mean()

    programs = {key: torch.compile(error, dynamic=False) for key in {(size, mapping) for size, _, mapping in SWEEP}}

    def call() -> list[float]:
        errors = []
        for size, bits, mapping in SWEEP:
            affine = mapping == "affine"
            high = torch.tensor(float(2**bits - 1 if affine else 2 ** (bits - 1) - 1))
            errors.append(programs[size, mapping](as_groups(tensor, size), high, affine))
        return [error.item() for error in errors]

    call()
    return call


def torch_grid_mse(x: np.ndarray) -> Call:
    """The least squared error of int4 per group of 128 over `GRID` shrunken ranges."""
    torch = import_torch()
    matrix = torch.from_numpy(x).view(-1, GROUP)

    def call() -> float:
        plain = matrix.abs().amax(dim=1, keepdim=True) / INT4_MAX
        best = torch.full_like(plain, torch.inf)
        for step in range(GRID):
            scale = plain * (1 - step / GRID)
            decoded = torch.clamp(torch.round(matrix / scale), -INT4_MAX - 1, INT4_MAX) * scale
            best = torch.minimum(best, (matrix - decoded).square().sum(dim=1, keepdim=True))
        return best.sum().item() / matrix.numel()

    return call
