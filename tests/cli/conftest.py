"""A small model and a way to run the command line inside the tests' process."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from quantlab.cli import main


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """stdout as strict JSON: NaN and Infinity are not part of it."""

        def refuse(token):
            raise AssertionError(f"{token} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


@pytest.fixture
def run(capsys):
    """run(*arguments) -> Ran."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def model(tmp_path, rng) -> Path:
    """Two weights, a bias, integers, and a name that a spreadsheet would run."""
    path = tmp_path / "model.npz"
    arrays = {
        "fc1.weight": rng.standard_normal((48, 64)).astype(np.float32),
        "fc2.weight": rng.standard_t(3, (16, 40)).astype(np.float16),
        "fc1.bias": rng.standard_normal(48).astype(np.float32),
        "steps": np.arange(6).reshape(2, 3),
        "=HYPERLINK(1)": np.zeros((4, 4), np.float32),
    }
    np.savez(path, **arrays)
    return path
