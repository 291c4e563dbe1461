"""Whatever fails, and wherever a process ends: the old file or the new one, one sentence, and the next try succeeds.

The first moments of every kind, and samples of the rest; `python -m tests.faults` has them all.
"""

import os
import sqlite3

import pytest

from quantlab.formats import FORMATS
from quantlab.formats.output import orphans

from . import faults

# Where the killed ones are tried: a file that replaces another, and a folder.
KILLED = [("npz", "write"), ("npz", "rename"), ("compressed-tensors", "open"), ("compressed-tensors", "fsync")]
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes are copied")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A model to export, where unfinished files are swept at once."""
    monkeypatch.setattr(orphans, "FRESH", 0)
    faults.model(tmp_path)
    return tmp_path


def test_every_format_is_tried():
    assert set(faults.EXPORTED) == {name for name, known in FORMATS.items() if known.writable}


@pytest.mark.parametrize("kind", faults.KINDS)
@pytest.mark.parametrize("format", faults.EXPORTED)
def test_an_export_that_fails_loses_nothing(place, format, kind):
    assert faults.fail_export(format, kind, place, every=7) > 0


@forks
@pytest.mark.parametrize(("format", "kind"), KILLED)
def test_an_export_that_is_killed_loses_nothing(place, format, kind):
    assert faults.fail_export(format, kind, place, every=7, kill=True) > 0


@pytest.mark.parametrize("refusal", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY])
def test_a_store_that_fails_loses_nothing(tmp_path, monkeypatch, refusal):
    monkeypatch.setattr(faults._Connection, "refusal", refusal)
    monkeypatch.setattr("quantlab.sweeping.database.BUSY_SECONDS", 0.05)
    assert faults.fail_store(tmp_path, every=23) > 8


@forks
def test_a_store_that_is_killed_loses_nothing(tmp_path):
    assert faults.fail_store(tmp_path, every=23, kill=True) > 8
