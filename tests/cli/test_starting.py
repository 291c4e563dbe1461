"""A command says what it is called without loading what only work needs."""

import subprocess
import sys

import pytest

HEAVY = {"numba", "pandas", "h5py", "plotly", "streamlit", "distributed", "aiohttp", "onnx", "torch", "gguf", "tqdm"}


@pytest.mark.parametrize(
    "words", [["--help"], ["info", "SAMPLE"], ["sweep", "--help"], ["plan", "--help"], ["export", "SAMPLE"]]
)
def test_heavy_libraries_are_not_loaded_for_light_work(words, sample_path):
    words = [str(sample_path) if word == "SAMPLE" else word for word in words]
    code = f"import sys, quantlab.cli\nquantlab.cli.main({words!r})\nprint(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout or "usage" in run.stderr
    assert HEAVY & set(run.stderr.splitlines()[-1].split()) == set()
