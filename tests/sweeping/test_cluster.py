"""Sweeps on a Dask cluster of real processes: the rows of one machine, whatever dies on the way."""

import os
import shutil
import socket
import sys
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import quantlab as ql
from quantlab.cli import main
from quantlab.core.granularity import row_step
from quantlab.formats import TensorSpec
from quantlab.sweeping.cluster import ClusterRunner, connection
from quantlab.sweeping.cluster.task import Place, Task
from quantlab.sweeping.cluster.work import TensorWork, row_ranges, rows_are_channels
from quantlab.sweeping.store import ResultStore
from quantlab.sweeping.sweep import SweepRequest, stream, table

from ..webserver import serving

pytest.importorskip("distributed", reason="needs requirements-cluster.txt")

from ..daskcluster import running, until

STEP = row_step((1, 1024))  # rows of 1024 values that share a piece
RANGE = STEP * 1024  # values: the largest tensor of the model has three such ranges
CONFIGS = (
    ql.grid(["int4", "fp16"], ["symmetric", "affine"], ["tensor", "ch0", "ch-1", "g32", "g100"], ["minmax"])
    + ql.grid(["int8"], ["uniform"], ["tensor", "ch0", "g32"], ["percentile"])
    + ql.grid(["int4"], ["symmetric"], ["g32"], ["mse"])
    + ql.grid(["int8", "q8_0"], ["symmetric"], ["g32", "ch0"], ["entropy"])
)
SLOW = ql.grid(
    ["int2", "int3", "int4", "int5", "int6", "int7", "int8"], granularities=["g8", "g32"], calibrations=["mse"]
)


def weights(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32).astype(ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """bf16 in three files: matrices, one of them large, and what no sweep can measure."""
    folder = tmp_path_factory.mktemp("model")
    bad = weights(STEP + 50, 1024, seed=9)
    bad[STEP + 40, 3] = np.nan
    files = {
        "model-1.safetensors": {f"layers.{i}.weight": weights(96, 320, seed=i) for i in range(6)},
        "model-2.safetensors": {"head.weight": weights(2 * STEP + 90, 1024, seed=7), "bad.weight": bad},
        "model-3.safetensors": {"bias": weights(320), "ids": np.arange(7), "scale": np.array(2, np.float32)},
    }
    index = {}
    for file, tensors in files.items():
        safetensors.numpy.save_file(tensors, folder / file)
        index |= dict.fromkeys(tensors, file)
    text = '{"weight_map": {' + ", ".join(f'"{name}": "{file}"' for name, file in index.items()) + "}}"
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


@pytest.fixture(scope="module")
def local(model):
    """The rows of one machine, by tensor."""
    with ql.open_checkpoint(model) as checkpoint:
        return dict(stream(SweepRequest(checkpoint, CONFIGS, checkpoint.names)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, local):  # after `local`: the workers then find the kernels compiled
    with running(tmp_path_factory.mktemp("cluster")) as found:
        yield found


def same(found, expected):
    """Whether rows are equal to the last bit, NaN and reasons included."""
    assert found.keys() == expected.keys()
    for name in expected:
        assert repr(found[name]) == repr(expected[name])
    return True


def swept(address, place, configs=CONFIGS, **options):
    with ql.open_checkpoint(place) as checkpoint:
        return dict(
            ClusterRunner(address, range_values=RANGE).stream(
                SweepRequest(checkpoint, configs, checkpoint.names, **options)
            )
        )


def test_rows_are_those_of_one_machine_to_the_last_bit(cluster, model, local):
    told = []
    found = swept(cluster.address, model, on_progress=lambda *step: told.append(step))
    assert same(found, local)
    frame = table(found, local)
    assert frame.equals(table(local, local))
    assert any("1 NaN" in item["reason"] for item in frame.attrs["refused"])
    counts = [done for done, _, _ in told]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1], told[-1][1]) == (0, len(frame), len(frame))
    assert "2 workers" in told[-1][2]


def test_inputs_have_their_weights_wherever_their_rows_are_measured(cluster, model):
    names, rng = ["head.weight", "layers.0.weight", "layers.1.weight"], np.random.default_rng(4)
    importance = {"head.weight": rng.random(1024), "layers.0.weight": rng.random(320)}
    with ql.open_checkpoint(model) as checkpoint:
        options = {"tensors": names, "importance": importance}
        here = ql.sweep(checkpoint, CONFIGS, **options)
        runner = ClusterRunner(cluster.address, range_values=RANGE).stream
        assert ql.sweep(checkpoint, CONFIGS, **options, runner=runner).equals(here)
    assert here["weighted_sqnr_db"].notna().sum() > len(CONFIGS)


def layouts(task):
    return {ql.QuantConfig.parse(slug).granularity.slug for slug in task.slugs}


def test_large_tensors_are_cut_for_what_lies_within_rows(model):
    with ql.open_checkpoint(model) as checkpoint:
        tasks = TensorWork(checkpoint, "head.weight", CONFIGS, RANGE, False).tasks(Task(Place.of(checkpoint), "", ()))
        assert [task.rows for task in tasks] == [None, (0, STEP), (STEP, 2 * STEP), (2 * STEP, 2 * STEP + 90)]
        assert layouts(tasks[0]) == {"tensor", "ch-1"}
        assert layouts(tasks[1]) == {"ch0", "g32", "g100"}
        assert len(TensorWork(checkpoint, "bias", CONFIGS, 1, False).tasks(tasks[0])) == 1 + 1  # channels are values


def test_tensors_whose_channels_are_no_rows_are_not_cut():
    """A channel that goes through every range would have sums that depend on where it is cut."""
    found = {axis: rows_are_channels(TensorSpec("w", (8, 4, 2), "float32", 256, "", axis)) for axis in (0, 1, 2, -3)}
    assert found == {0: True, 1: False, 2: False, -3: True}
    assert rows_are_channels(TensorSpec("w", (8,), "float32", 32))


def test_workers_read_from_a_url_what_they_need_and_no_more(cluster, model, local):
    with serving(model) as server:
        names = ["head.weight", "bias"]
        with ql.open_checkpoint(f"{server.url}/") as checkpoint:
            runner = ClusterRunner(cluster.address, range_values=RANGE)
            found = dict(runner.stream(SweepRequest(checkpoint, CONFIGS, names)))
        assert same(found, {name: local[name] for name in names})
        # Once for what needs the whole tensor, once in ranges; headers in blocks, by this process and two workers.
        assert server.sent < 2 * (2 * STEP + 90) * 1024 * 2 + 3 * 3 * (2 << 18)


def test_a_store_keeps_what_a_cluster_measures_and_reads_nothing_itself(cluster, model, local, tmp_path, monkeypatch):
    runner = ClusterRunner(cluster.address, range_values=RANGE)
    names = ["layers.0.weight", "head.weight", "bad.weight", "bias"]
    with ResultStore(tmp_path) as store, ql.open_checkpoint(model) as checkpoint:
        monkeypatch.setattr(type(checkpoint), "raw", None)
        for held in (0, len(names) * len(CONFIGS)):
            frame = store.run(checkpoint, CONFIGS, names, title="m", location=str(model), runner=runner.stream)
            assert frame.attrs["held"] == held
            assert frame.equals(table(local, names))
            assert frame.attrs["refused"] == table(local, names).attrs["refused"]


def test_the_command_line_prints_the_same_table(cluster, model, tmp_path, capsys):
    printed = []
    for where in ([], ["--cluster", cluster.address], ["--cluster", cluster.address, "--store", str(tmp_path)]):
        slugs = [config.slug for config in CONFIGS]
        assert main(["sweep", str(model), "--tensors", "*", "--config", *slugs, "--csv", "-", *where]) == 0
        printed.append(capsys.readouterr())
    assert printed[0].out == printed[1].out == printed[2].out
    assert printed[0].out.count("\n") > len(CONFIGS)
    assert printed[0].err == printed[1].err
    assert "distributed" not in printed[1].err + printed[2].err


def test_the_command_line_says_in_a_line_that_there_is_no_dask(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["sweep", str(model), "--cluster", "tcp://127.0.0.1:8786"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("quantlab: a cluster needs Dask, which is not installed")


def test_a_worker_that_is_killed_loses_nothing(tmp_path, model, local):
    with running(tmp_path / "cluster") as cluster, ql.open_checkpoint(model) as checkpoint:
        runner = ClusterRunner(cluster.address, range_values=RANGE)
        found, killed = {}, False
        for name, rows in runner.stream(SweepRequest(checkpoint, CONFIGS, checkpoint.names)):
            if not killed and (killed := cluster.kill_in_the_middle()):
                cluster.add_worker()
            found[name] = rows
        assert killed
        assert same(found, local)


def test_a_tensor_that_no_worker_survives_is_given_up_and_the_others_are_done(tmp_path, model, local):
    env = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with running(tmp_path / "cluster", env=env) as cluster, ql.open_checkpoint(model) as checkpoint:
        found, killed = {}, False
        with pytest.raises(ql.ClusterError, match="every worker that tried it died") as caught:
            for name, rows in ClusterRunner(cluster.address).stream(
                SweepRequest(checkpoint, CONFIGS, checkpoint.names)
            ):
                killed = killed or cluster.kill_in_the_middle()
                found[name] = rows
        lost = local.keys() - found.keys()
        assert 1 <= len(lost) <= 2  # what was on its way to the one that died
        assert f"{len(lost)} of the tensors" in str(caught.value)
        assert same(found, {name: local[name] for name in found})


def test_a_cancel_leaves_nothing_running(cluster, tmp_path):
    """Of work for many minutes nothing is left on scheduler and workers, neither queued nor in the middle."""
    np.save(tmp_path / "x.npy", np.ones((1 << 15, 1 << 10), np.float32))
    asked = []

    def cancel():
        if len(asked) == 1:  # by then the first tasks are sent
            cluster.busy()
        asked.append(True)
        return len(asked) > 20

    with pytest.raises(ql.Cancelled):
        swept(cluster.address, tmp_path / "x.npy", SLOW, cancel=cancel, workers=1)
    until(cluster.idle)


def test_a_sweep_that_is_left_in_the_middle_leaves_nothing_running(cluster, model):
    with ql.open_checkpoint(model) as checkpoint:
        rows = ClusterRunner(cluster.address).stream(SweepRequest(checkpoint, CONFIGS, checkpoint.names))
        next(rows)
        rows.close()
    until(cluster.idle)


def test_a_scheduler_that_goes_away_is_said_in_a_sentence(tmp_path, model):
    with running(tmp_path / "cluster", workers=1) as cluster, ql.open_checkpoint(model) as checkpoint:
        rows = ClusterRunner(cluster.address).stream(SweepRequest(checkpoint, CONFIGS, checkpoint.names))
        next(rows)
        cluster.scheduler.kill()
        with pytest.raises(ql.ClusterError, match="has gone away"):
            list(rows)


def test_a_cluster_without_workers_is_waited_for_and_then_given_up(tmp_path, model, monkeypatch):
    with running(tmp_path / "cluster", workers=0) as cluster, ql.open_checkpoint(model) as checkpoint:
        with pytest.raises(ql.ClusterError, match="has no workers: start some with 'dask worker"):
            list(ClusterRunner(cluster.address, patience=0.3).stream(SweepRequest(checkpoint, CONFIGS, ["bias"])))
        rows = ClusterRunner(cluster.address).stream(
            SweepRequest(checkpoint, CONFIGS, ["bias"], on_progress=lambda *_: joined())
        )
        joined = lambda: cluster.workers or cluster.add_worker()  # noqa: E731 - a worker that comes late
        assert len(dict(rows)["bias"]) == len(CONFIGS)


def test_a_worker_of_another_version_is_refused(tmp_path, model):
    """A real one: another copy of the package, whose arithmetic has one more line."""
    other = tmp_path / "other" / "quantlab"
    shutil.copytree(Path(ql.__file__).parent, other, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "core" / "metrics.py").open("a") as file:
        file.write("\nOTHER = 1\n")
    env = {"PYTHONPATH": os.pathsep.join([str(other.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}
    with running(tmp_path / "cluster", workers=0) as cluster:
        first = cluster.add_worker(env)
        with pytest.raises(ql.ClusterError, match="another version of quantlab"):
            swept(cluster.address, model)
        assert list(cluster.client.nthreads()) == [first]  # it lives on
        (other / "__init__.py").write_text("raise ModuleNotFoundError('it is not here')")
        cluster.workers[first].kill()
        cluster.add_worker(env)
        with pytest.raises(ql.ClusterError, match=r"cannot run quantlab's tasks \(it is not here"):
            swept(cluster.address, model)


def test_a_file_that_workers_lack_is_said_in_a_sentence(cluster, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.ones((4, 8), np.float32))
    with ql.open_checkpoint(path) as checkpoint:
        runner = ClusterRunner(cluster.address)
        path.unlink()
        with pytest.raises(
            ql.ClusterError, match=r"the worker tcp://.* cannot open 'x.npy': no such file.*every worker"
        ):
            list(runner.stream(SweepRequest(checkpoint, CONFIGS, ["x"])))
        np.save(path, np.zeros((4, 8), np.float32))
        with pytest.raises(ql.ClusterError, match="another file"):
            list(runner.stream(SweepRequest(checkpoint, CONFIGS, ["x"])))


def test_a_scheduler_that_is_not_there_is_said_in_a_sentence(model, monkeypatch):
    monkeypatch.setattr(connection, "CONNECT", 0.3)
    with pytest.raises(ql.ClusterError, match=r"there is no scheduler at tcp://127\.0\.0\.1:9"):
        swept("tcp://127.0.0.1:9", model)


def test_waiting_for_a_host_that_does_not_answer_can_be_cancelled(model):
    asked = iter([False, False, True])
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ql.Cancelled):
        swept(f"tcp://127.0.0.1:{silent.getsockname()[1]}", model, cancel=lambda: next(asked))


def test_arrays_in_memory_are_refused():
    with pytest.raises(ql.ConfigError, match="a checkpoint that was opened"):
        next(ClusterRunner("tcp://127.0.0.1:9").stream(SweepRequest({"x": np.ones(3, np.float32)}, CONFIGS, ["x"])))


@pytest.mark.parametrize("address", ["", "localhost", "tcp://host", "http://host:8786", "tcp://a b:1", None])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ql.ConfigError, match="write tcp://HOST:PORT"):
        ClusterRunner(address)


def test_without_dask_a_cluster_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ql.ClusterError, match=r"not installed here.*requirements-cluster\.txt"):
        ClusterRunner("tcp://127.0.0.1:8786")


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=3), st.integers(1, 10**7))
def test_row_ranges_cover_every_row_once_and_cut_where_pieces_are_cut(shape, values):
    found = row_ranges(tuple(shape), values)
    assert [0, *(stop for _, stop in found)] == [*(start for start, _ in found), shape[0]]
    assert all(start < stop and start % row_step(tuple(shape)) == 0 for start, stop in found)
    assert all(a[1] == b[0] for a, b in pairwise(found))
