"""Fixtures that more than one part of the tests uses."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from quantlab.samples import sample_path as path_of_sample

# No deadline: the first call of a kernel compiles it. CI draws the same examples every time.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same ones in every run."""
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session")
def sample_path() -> Path:
    """The sample model's safetensors file."""
    return path_of_sample()
