"""A whole checkpoint, opened, swept and exported, in a process of its own: how long, and how much memory.

`python -m benchmarks.exporting` makes one of 2 GB (bf16, in shards, with an index) and goes all the way.
"""

import argparse
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

import quantlab as ql
from quantlab.shipping.recipe import Rule, assign, select
from quantlab.shipping.shipping import ship

from .memory import resident

TITLE = "A checkpoint opened, swept and exported"
SLUG = "int4-sym-g128-minmax-sbf16"
EMBEDDING = (32_000, 2048)
LAYER = {"q_proj": (2048, 2048), "k_proj": (512, 2048), "v_proj": (512, 2048), "o_proj": (2048, 2048),
         "gate_proj": (5632, 2048), "up_proj": (5632, 2048), "down_proj": (2048, 5632)}  # fmt: skip
SHARD = 500_000_000  # bytes
ALLOWED = 3, 200_000_000  # times the largest tensor, and bytes besides


def shapes(nbytes: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a language model of about so many bytes: an embedding, and as many layers as there is room for."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": EMBEDDING}
    room, i = nbytes - 2 * EMBEDDING[0] * EMBEDDING[1], 0
    while room > 0:
        layer = {f"model.layers.{i}.{name}.weight": shape for name, shape in LAYER.items()}
        found |= layer | {f"model.layers.{i}.input_layernorm.weight": (2048,)}
        room -= 2 * sum(a * b for a, b in layer.values())
        i += 1
    return found


def synthesize(folder: Path, found: dict[str, tuple[int, ...]], shard: int = SHARD) -> None:
    """A folder of bf16 safetensors files with an index, its values Gaussian: a block of them, over and over."""
    folder.mkdir()
    block = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32).astype(ml_dtypes.bfloat16).tobytes()
    runs: list[list[str]] = [[]]
    for name, shape in found.items():
        if runs[-1] and sum(2 * int(np.prod(found[other])) for other in runs[-1]) + 2 * int(np.prod(shape)) > shard:
            runs.append([])
        runs[-1].append(name)
    weight_map = {}
    for i, run in enumerate(runs, 1):
        file = f"model-{i:05}-of-{len(runs):05}.safetensors"
        weight_map |= dict.fromkeys(run, file)
        _write(folder / file, {name: found[name] for name in run}, block)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _write(path: Path, found: dict[str, tuple[int, ...]], block: bytes) -> None:
    header, position = {}, 0
    for name, shape in found.items():
        end = position + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    with path.open("wb") as target:
        target.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, position, len(block)):
            target.write(block[: position - start])


def warm_up(folder: Path, slug: str, format: str) -> None:
    """Load the kernels and libraries that the way takes."""
    np.save(folder / "small.npy", np.random.default_rng(0).standard_normal((2048, 256), dtype=np.float32))
    with ql.open_checkpoint(folder / "small.npy") as source:
        ql.sweep(source, [ql.QuantConfig.parse(slug)])
        ship(source, assign(source, [Rule.parse(slug)]), folder / "small", format)


def timed(step: Callable[[], object]) -> tuple[float, int]:
    """Seconds that a step takes, and the most memory of the process so far."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start, resident("VmHWM")


def measure(model: Path, slug: str = SLUG, format: str = "compressed-tensors") -> dict[str, float]:
    """Seconds of each step; `largest` tensor, file sizes and `peak` memory beyond a process that has its kernels."""
    with tempfile.TemporaryDirectory(dir=model.parent) as place:
        folder, config = Path(place), ql.QuantConfig.parse(slug)
        warm_up(folder, slug, format)
        before = resident("VmHWM")
        rules = [Rule("*", None, copy=True), Rule.parse(slug)]
        start = time.perf_counter()
        with ql.open_checkpoint(model) as source:
            found = {"open": time.perf_counter() - start, "largest": max(source.spec(n).nbytes for n in source.names)}
            found["source"] = sum(file.size for file in source.files)
            found["sweep"], swept = timed(lambda: ql.sweep(source, [config], select(source, [])))
            found["export"], peak = timed(lambda: ship(source, assign(source, rules), folder / "out", format))
        out = folder / "out"
        found["export_bytes"] = sum(file.stat().st_size for file in ([out] if out.is_file() else out.iterdir()))
        return found | {"sweep_peak": max(0, swept - before), "peak": max(0, peak - before)}


def measured(gigabytes: float) -> dict[str, float]:
    """`measure` of a synthetic checkpoint, in a fresh process."""
    folder = Path(tempfile.mkdtemp(prefix="quantlab-bench-"))
    try:
        synthesize(folder / "model", shapes(int(gigabytes * 1e9)))
        command = [sys.executable, "-m", "benchmarks.exporting", "--model", str(folder / "model")]
        return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    finally:
        shutil.rmtree(folder)


def report(found: dict[str, float]) -> str:
    """The figures as Markdown."""
    times, more = ALLOWED
    bound = times * found["largest"] + more
    return "\n".join(
        [
            f"### {TITLE}: {found['source'] / 1e9:.2f} GB of bf16, its largest tensor of "
            f"{found['largest'] / 1e6:,.0f} MB\n",
            "| step | takes | peak memory | to stay under |",
            "|---|---|---|---|",
            f"| open | {1e3 * found['open']:,.1f} ms | | |",
            f"| sweep of one configuration | {found['sweep']:,.1f} s | {found['sweep_peak'] / 1e6:,.0f} MB | |",
            f"| compressed-tensors export of {found['export_bytes'] / 1e9:.2f} GB, checked and measured again | "
            f"{found['export']:,.1f} s | {found['peak'] / 1e6:,.0f} MB | {bound / 1e6:,.0f} MB |",
        ]
    )


def main() -> None:
    """Measure a model that is there and print JSON, or make one, measure it and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exporting", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the checkpoint (default: 2)")
    parser.add_argument("--model", type=Path, help="a checkpoint that is there; prints JSON")
    parser.add_argument("--config", default=SLUG, help=f"a configuration (default: {SLUG})")
    parser.add_argument("--format", default="compressed-tensors", help="of the export")
    options = parser.parse_args()
    if options.model:
        print(json.dumps(measure(options.model, options.config, options.format)))
    else:
        print(report(measured(options.gigabytes)))


if __name__ == "__main__":
    main()
