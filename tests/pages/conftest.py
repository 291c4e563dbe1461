"""The model that sweeps of the pages are about; what needs another has its own."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantlab.ui import open_findings
from tests.pages.sweeping import HOSTILE


@pytest.fixture(autouse=True)
def complete(monkeypatch):
    """The Open page waits until all tensors are read: nobody here polls it."""
    monkeypatch.setattr(open_findings, "FIRST_LOOK", 60)


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    """A model with tensors that quantize and tensors that do not, one of them with a hostile name."""
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    rng = np.random.default_rng(1)
    tensors = {
        "encoder.0.weight": rng.standard_normal((32, 64)).astype(np.float32),
        "encoder.1.weight": rng.standard_normal((16, 64)).astype(np.float16),
        HOSTILE: rng.standard_normal((8, 8)).astype(np.float32),
        "positions": np.arange(9),
        "broken": np.float32([[1, np.nan]]),
        "nothing": np.empty((0, 4), np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")
