"""A tensor that does not fit is refused in one sentence, in every format, whatever the system would have promised."""

import subprocess
import sys
import textwrap
from pathlib import Path

import gguf
import h5py
import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from safetensors.numpy import save_file

import quantlab as ql

ROOT = Path(__file__).parents[2]
SHAPE = (5 << 10, 1 << 12)  # 84 MB of float32


def zeros(dtype: str = "float32") -> np.ndarray:
    return np.zeros(SHAPE, dtype)


def write_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    kind = gguf.GGMLQuantizationType.Q4_0
    writer.add_tensor("w", np.zeros((SHAPE[0], SHAPE[1] // 32 * 18), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_onnx(path: Path) -> None:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=SHAPE, raw_data=zeros().tobytes())
    graph = helper.make_graph([], "g", [], [], [tensor])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)


def write_hdf5(path: Path, **options: object) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("w", data=zeros(), **options)


def write_packed(path: Path) -> None:
    ql.export(path, {"w": ql.quantize(zeros(), ql.QuantConfig.parse("int4-sym-tensor-minmax"))})


WRITERS = {
    "npy": lambda path: np.save(path, zeros()),
    "npy in Fortran order": lambda path: np.save(path, np.asfortranarray(zeros())),
    "npy of float64": lambda path: np.save(path, zeros("float64")),
    "npy of big-endian values": lambda path: np.save(path, zeros(">f4")),
    "npz": lambda path: np.savez(path, w=zeros()),
    "safetensors": lambda path: save_file({"w": zeros()}, path),
    "safetensors of bfloat16": lambda path: save_file({"w": np.zeros((1 << 13, 1 << 13), ml_dtypes.bfloat16)}, path),
    "gguf": write_gguf,
    "onnx": write_onnx,
    "torch": lambda path: torch.save({"w": torch.zeros(SHAPE)}, path),
    "torch, a view": lambda path: torch.save({"w": torch.zeros(SHAPE).t()}, path),
    "hdf5": write_hdf5,
    "hdf5 in chunks": lambda path: write_hdf5(path, chunks=(1 << 10, 1 << 12)),
    "an export": write_packed,
}
SUFFIXES = {"npz": ".npz", "an export": ".npz", "npy": ".npy"}

# The room is more than the reading of a small piece takes, and less than the tensor.
READ = """
    import os, resource, sys, quantlab as ql
    from quantlab.core.memory import resident_bytes
    checkpoint = ql.open_checkpoint(sys.argv[1])
    (name,) = checkpoint.names
    if sys.argv[2] == "process":
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[3]), resource.getrlimit(resource.RLIMIT_AS)[1]))
    else:
        os.environ["QUANTLAB_MEMORY"] = str(resident_bytes() + int(sys.argv[3]))
    for way in (checkpoint.raw, checkpoint.load):
        try: print("read", way(name).shape)
        except ql.LimitError as error: print(error)
"""


def read_in(path: Path, whose: str, room: int) -> list[str]:
    """What reading a file's one tensor says, with so many bytes of memory left: raw, and as float32."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READ), path, whose, str(room)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return run.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the memory of a process")
@pytest.mark.parametrize("kind", WRITERS)
def test_a_tensor_that_does_not_fit_is_refused(kind, tmp_path):
    path = tmp_path / f"f{SUFFIXES.get(kind.split()[0] if kind.startswith('npy') else kind, '')}"
    WRITERS[kind](path)
    try:
        said = [*read_in(path, "process", 60_000_000), *read_in(path, "setting", 100_000_000)]
    finally:
        path.unlink()  # pytest keeps what tests leave
    assert len(said) == 4
    assert all("of memory" in line and "choose a smaller tensor" in line for line in said), said


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the memory of a process")
def test_what_nobody_asks_for_and_the_system_does_not_give_is_the_same_refusal(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros(15_000_000, np.float32))
    said = read_in(tmp_path / "f.npy", "process", 20_000_000)
    assert all("60.0 MB of memory that the system did not give" in line for line in said) and len(said) == 2
    assert read_in(tmp_path / "f.npy", "process", 200_000_000) == ["read (15000000,)"] * 2
