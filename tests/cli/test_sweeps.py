"""Sweeps that are kept: resumed, listed, shown, deleted; and grids that are measured out or refused beforehand."""

import functools
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from quantlab import cli
from quantlab.core.config import grid
from quantlab.formats import open_checkpoint
from quantlab.sweeping.store import ResultStore
from quantlab.sweeping.sweep import sweep

WEIGHTS = ["fc1.weight", "fc2.weight", "=HYPERLINK(1)"]
GRID = ["--dtype", "int4", "int8", "--mapping", "sym", "--granularity", "g32", "ch0", "--calibration", "minmax"]
CONFIGS = grid(["int4", "int8"], ["symmetric"], ["g32", "ch0"], ["minmax"])
ROWS = len(WEIGHTS) * len(CONFIGS)


@pytest.fixture
def kept(run, model):
    """The id of a sweep that is in the store."""
    assert run("sweep", model, *GRID, "--store").code == 0
    return run("sweeps", "--json", "-").json[0]["id"]


def test_a_kept_sweep_is_the_same_table_and_says_what_was_there(run, model, store_of_its_own):
    plain = run("sweep", model, *GRID)
    first = run("sweep", model, *GRID, "--store")
    again = run("sweep", model, *GRID, "--store")
    assert plain.out == first.out == again.out
    assert f"0 of {ROWS} rows were in the store {store_of_its_own}" in first.err
    assert f"{ROWS} of {ROWS} rows were in the store" in again.err
    more = run("sweep", model, *GRID, "--config", "fp16", "--store", "--json", "-")
    assert f"{ROWS} of {ROWS + len(WEIGHTS)} rows" in more.err
    assert len(more.json) == ROWS + len(WEIGHTS)


def test_without_the_option_nothing_is_kept(run, model, store_of_its_own):
    run("sweep", model, *GRID)
    assert not store_of_its_own.exists()


def test_a_store_may_be_any_folder(run, model, tmp_path, store_of_its_own):
    folder = tmp_path / "mine"
    assert str(folder) in run("sweep", model, *GRID, "--store", folder).err
    assert not store_of_its_own.exists()
    assert len(run("sweeps", "--store", folder, "--json", "-").json) == 1


def test_the_list_names_every_sweep(run, model, kept):
    run("sweep", model, "--config", "fp16", "--store")
    ran = run("sweeps")
    assert ran.code == 0
    assert kept in ran.out
    assert ran.out.count("model.npz") == 4  # title and place of both
    assert f"{ROWS}/{ROWS}" in ran.out
    newest, oldest = run("sweeps", "list", "--json", "-").json
    assert oldest["id"] == kept
    assert newest["configs"] == ["fp16"]
    assert (oldest["rows_done"], oldest["complete"], oldest["current"]) == (ROWS, True, True)
    assert oldest["location"] == str(model)


def test_an_empty_store_is_no_error(run):
    ran = run("sweeps")
    assert (ran.code, ran.out) == (0, "")
    assert "0 sweeps" in ran.err


def test_a_kept_sweep_is_shown_and_written_as_the_sweep_was(run, model, kept, tmp_path):
    shown = run("sweeps", "show", kept[:4])
    assert shown.out == run("sweep", model, *GRID).out
    assert "model.npz: 4 configurations x 3 tensors" in shown.err
    run("sweeps", "show", kept, "--parquet", tmp_path / "out.parquet")
    with open_checkpoint(model) as checkpoint:
        expected = sweep(checkpoint, CONFIGS, WEIGHTS)
    found = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(found, expected, check_exact=True, check_dtype=False)
    assert len(run("sweeps", "show", kept, "--each").out.splitlines()) == ROWS + 1


def test_a_deleted_sweep_is_gone(run, kept):
    assert f"deleted {kept}: model.npz" in run("sweeps", "delete", kept).err
    assert run("sweeps", "--json", "-").json == []
    missing = run("sweeps", "show", kept)
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert f"no sweep '{kept}'" in missing.err


def test_an_id_that_is_that_of_several_sweeps_is_refused(run, kept, monkeypatch):
    records = [SimpleNamespace(id=id) for id in ("abc1", "abd2", "b3")]
    monkeypatch.setattr("quantlab.cli.sweeps.ResultStore.sweeps", lambda store: records)
    ran = run("sweeps", "delete", "ab")
    assert ran.code == 1
    assert "2 sweeps have ids that begin with 'ab'" in ran.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["list", "abc"], "list takes no ID"),
        (["show"], "the ID of one sweep"),
        (["show", "a", "b"], "the ID of one sweep"),
        (["delete"], "IDs of one sweep or more"),
        (["delete", ""], "'' is the ID of no sweep"),
        (["--csv", "-"], "that of one sweep"),
        (["delete", "a", "--json", "x"], "that of one sweep"),
        (["forget"], "invalid choice"),
    ],
)
def test_words_that_do_not_go_together_are_wrong_usage(run, words, told):
    ran = run("sweeps", *words)
    assert ran.code == 2
    assert told in ran.err


def test_a_damaged_store_is_refused_in_one_line(run, model, store_of_its_own):
    store_of_its_own.mkdir()
    (store_of_its_own / "results.sqlite").write_bytes(b"nonsense " * 1000)
    for call in (["sweeps"], ["sweep", model, *GRID, "--store"]):
        ran = run(*call)
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert "damaged" in ran.err and "QUANTLAB_STORE" in ran.err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_command_goes_on_where_it_was(run, model, tmp_path, number, store_of_its_own):
    """The second tensor takes minutes; by then the rows of the first are in the store."""
    path = tmp_path / "large.npz"
    np.savez(path, small=np.ones((4, 64), np.float32), large=np.zeros((1 << 13, 1 << 12), np.float32))
    slugs = [f"int{b}-{m}-g{g}-mse" for b in (2, 3, 4, 5, 6, 7, 8) for m in ("sym", "aff", "uni") for g in (32, 48, 64)]
    call = [sys.executable, "-m", "quantlab", "sweep", str(path), "--store", "--config", *slugs]
    # What runs in the background of a shell ignores SIGINT, and so would what it starts.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    with ResultStore() as store:
        deadline = time.monotonic() + 120
        while not any(record.rows_done for record in store.sweeps()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (130 if number == signal.SIGINT else 143 if number == signal.SIGTERM else -number)
        if number != signal.SIGKILL:
            assert "the same command goes on from there" in err
        (record,) = store.sweeps()
        assert record.rows_done == len(slugs)
        assert not record.complete
    shown = run("sweeps", "show", record.id)
    assert f"{len(slugs)} of {2 * len(slugs)} rows are there" in shown.err
    assert os.path.isdir(store_of_its_own)


# -- before the work


def test_a_dry_run_measures_out_the_work_and_does_none_of_it(run, model, monkeypatch, store_of_its_own):
    monkeypatch.setattr(cli.sweep, "stream", lambda *args, **options: pytest.fail("it was run"))
    ran = run("sweep", model, *GRID, "--dry-run", "--store")
    assert ran.code == 0
    words = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
    assert list(words) == ["rows", "evaluations", "time", "memory"]
    assert words["rows"] == f"{ROWS} (4 configurations x 3 tensors)"
    assert not store_of_its_own.exists()
    found = run("sweep", model, *GRID, "--dry-run", "--json", "-").json
    values = 48 * 64 + 16 * 40 + 16
    assert (found["rows"], found["values"], found["evaluations"]) == (ROWS, values, 4 * values)
    assert found["seconds"] > 0 and found["peak_nbytes"] > 0


def test_a_grid_beyond_a_limit_is_refused_with_the_number(run, model):
    for option, count in (("--max-rows", ROWS), ("--max-evaluations", 4 * (48 * 64 + 16 * 40 + 16))):
        refused = run("sweep", model, *GRID, option, count - 1)
        assert (refused.code, refused.err.count("\n")) == (1, 1)
        assert f"{count:,}" in refused.err and option[2:].replace("-", "_") in refused.err
        assert run("sweep", model, *GRID, option, count).code == 0
    assert run("sweep", model, "--max-rows", "many").code == 2
