"""An export takes memory for its largest tensor, whatever the size of the checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.exporting import ALLOWED, synthesize
from quantlab.core.config import QuantConfig
from quantlab.formats import FORMATS

ROOT = Path(__file__).parents[2]
LARGE = (8192, 8192)  # 134 MB of bf16: what is held beyond its own bytes weighs more than what a process needs anyway
SLUGS = ["int4-sym-g128-minmax", "int4-uni-g128-minmax-sbf16", "q8_0"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """One of two large tensors, and one in which they are a quarter of the whole."""
    folder = tmp_path_factory.mktemp("checkpoints")
    large = {f"layer{i}.weight": LARGE for i in range(2)}
    synthesize(folder / "small", large, 2**40)
    synthesize(folder / "large", large | {f"expert{i}.weight": (2048, 4096) for i in range(48)}, 300_000_000)
    return {"small": folder / "small", "large": folder / "large"}


def figures(model: Path, slug: str, format: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.exporting", "--model", model, "--config", slug, "--format", format]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def fitting(format: str) -> str:
    return next(slug for slug in SLUGS if FORMATS[format].why_not(LARGE, QuantConfig.parse(slug)) is None)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("format", [name for name, known in FORMATS.items() if known.writable])
def test_an_export_stays_under_three_times_its_largest_tensor_and_200_mb(format, checkpoints):
    found = figures(checkpoints["small"], fitting(format), format)
    assert found["largest"] == 2 * LARGE[0] * LARGE[1]
    assert found["peak"] < ALLOWED[0] * found["largest"] + ALLOWED[1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_nothing_grows_with_the_checkpoint(checkpoints):
    found = figures(checkpoints["large"], SLUGS[0], "compressed-tensors")
    assert found["source"] > 1e9
    assert found["peak"] < ALLOWED[0] * found["largest"] + ALLOWED[1]
    assert found["open"] < 1
