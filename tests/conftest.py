"""Fixtures that more than one part of the tests uses."""

import itertools
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

STORES = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def not_this_users_store(tmp_path_factory):
    """No test reads or writes the results that somebody keeps at home."""
    os.environ["QUANTLAB_STORE"] = str(tmp_path_factory.mktemp("results"))


@pytest.fixture(autouse=True)
def store_of_its_own(tmp_path_factory, monkeypatch) -> Path:
    """The folder in which a test's sweeps are kept; it is not there before they are."""
    folder = tmp_path_factory.getbasetemp() / f"store-{next(STORES)}"
    monkeypatch.setenv("QUANTLAB_STORE", str(folder))
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same ones in every run."""
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session")
def sample_path() -> Path:
    """The sample model's safetensors file."""
    return path_of_sample()
