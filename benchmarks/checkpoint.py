"""A synthetic bfloat16 checkpoint of many weights, swept over a full grid in one go: time, peak memory and speed.

`python -m benchmarks.checkpoint FOLDER` sweeps what is in a folder, in this process, and prints its figures as JSON.
"""

import json
import math
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np

import quantlab as ql

from .memory import resident
from .peers import THREADS

TITLE = "A whole checkpoint"
LAYERS, SHARDS = 15, 2


def grid() -> list[ql.QuantConfig]:
    """96 combinations, less those that entropy cannot serve: more than 8 bits."""
    return ql.grid(
        ["int4", "int8", "int16"],
        ["symmetric", "affine"],
        ["tensor", "ch0", "g32", "g128"],
        ["minmax", "percentile", "entropy", "mse"],
    )


def shapes(parameters: int) -> dict[str, tuple[int, int]]:
    """The matrices of a decoder with about so many weights: an embedding, and four plus three matrices a layer."""
    width = max(128, math.isqrt(parameters // 256) // 128 * 128)
    found = {"model.embed_tokens.weight": (16 * width, width)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        found |= {f"{at}.self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        found |= {f"{at}.mlp.{name}_proj.weight": (4 * width, width) for name in ("gate", "up")}
        found[f"{at}.mlp.down_proj.weight"] = (width, 4 * width)
    return found


def write(folder: Path, parameters: int) -> None:
    """Write the checkpoint as safetensors shards with an index, Gaussian with a few outliers in every tensor."""
    rng, found = np.random.default_rng(0), shapes(parameters)
    names, weight_map = list(found), dict[str, str]()
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        mine = names[shard * len(names) // SHARDS : (shard + 1) * len(names) // SHARDS]
        weight_map |= dict.fromkeys(mine, file)
        with (folder / file).open("wb") as target:
            target.write(header({name: found[name] for name in mine}))
            for name in mine:
                target.writelines(rows(rng, found[name]))
    index = {"metadata": {"total_size": 2 * sum(map(math.prod, found.values()))}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def header(found: dict[str, tuple[int, int]]) -> bytes:
    """The header of a safetensors file of bfloat16 matrices."""
    entries, end = {}, 0
    for name, shape in found.items():
        start, end = end, end + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def rows(rng: np.random.Generator, shape: tuple[int, int]) -> Iterator[bytes]:
    """The bytes of a matrix, 512 rows at a time."""
    for start in range(0, shape[0], 512):
        part = rng.standard_normal((min(512, shape[0] - start), shape[1]), np.float32) * np.float32(0.02)
        part[rng.integers(len(part), size=4), rng.integers(shape[1], size=4)] *= 20
        yield part.astype(ml_dtypes.bfloat16).tobytes()


def swept(folder: Path) -> dict[str, float]:
    """Seconds and peak memory (beyond the loaded library) of one sweep of the whole grid, and its rows."""
    configs = grid()
    warm = np.random.default_rng(0).standard_normal((512, 1024), np.float32).astype(ml_dtypes.bfloat16)
    ql.sweep(warm, configs)  # loads the kernels
    before, start = resident("VmRSS"), time.perf_counter()
    with ql.open_checkpoint(folder) as checkpoint:
        nbytes = sum(checkpoint.spec(name).nbytes for name in checkpoint.names)
        largest = sorted(checkpoint.spec(name).nbytes for name in checkpoint.names)[-2:]
        frame = ql.sweep(checkpoint, configs, workers=THREADS)
    return {
        "seconds": time.perf_counter() - start,
        "peak": resident("VmHWM") - before,
        "bound": sum(largest) + 300e6,
        "nbytes": nbytes,
        "configs": len(configs),
        "rows": len(frame) - len(frame.attrs["refused"]),
        "evaluated": float((8 * frame["nbytes"] / frame["bits_per_weight"]).sum()),
    }


def table(parameters: int) -> list[str]:
    """One sweep, in a process of its own."""
    with TemporaryDirectory() as folder:
        write(Path(folder), parameters)
        command = [sys.executable, "-m", "benchmarks.checkpoint", folder]
        found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    seconds, gigabytes = found["seconds"], found["nbytes"] / 1e9
    return [
        f"\n### {TITLE}: {found['nbytes'] / 2:,.0f} weights in bfloat16, {found['configs']} configurations\n",
        "| takes | of the file | evaluations | peak memory | to stay under |\n|---|---|---|---|---|",
        f"| {seconds:.1f} s for {found['rows']:,.0f} rows | {gigabytes / seconds:.3f} GB/s "
        f"| {found['evaluated'] / seconds / 1e9:.2f} G/s | {found['peak'] / 1e6:,.0f} MB "
        f"| the two largest tensors + 300 MB = {found['bound'] / 1e6:,.0f} MB |",
    ]


if __name__ == "__main__":
    print(json.dumps(swept(Path(sys.argv[1]))))
