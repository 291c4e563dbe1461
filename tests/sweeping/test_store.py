"""The store: the same rows to the last bit, never computed twice, and nothing lost but what was in flight."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import quantlab as ql
from quantlab.sweeping import store as store_module
from quantlab.sweeping import storedrows, storedrun
from quantlab.sweeping.database import APPLICATION, SEAL, VERSION, Database, default_folder
from quantlab.sweeping.identity import fingerprint
from quantlab.sweeping.sources import ArraySource
from quantlab.sweeping.store import ResultStore
from quantlab.sweeping.storedrows import KEPT, LOST
from quantlab.sweeping.sweep import FIGURES, WEIGHTED, fault_rows, stream, sweep, table, tensor_rows

CONFIGS = ql.grid(["int4", "int8", "fp16"], ["symmetric", "affine"], ["tensor", "ch1", "g32"], ["minmax", "entropy"])
FEW = CONFIGS[:3]
TENSORS = {
    "a": np.random.default_rng(0).standard_normal((8, 96)).astype(np.float32),
    "b": np.random.default_rng(1).standard_normal(700).astype(np.float16),
    "zeros": np.zeros((4, 4), np.float32),  # SQNR is infinite
    "broken": np.float32([1, np.nan]),
    "counts": np.arange(12).reshape(3, 4),
}


@pytest.fixture
def store(tmp_path):
    with ResultStore(tmp_path / "kept") as store:
        yield store


@pytest.fixture
def path(tmp_path):
    """A checkpoint of three equal tensors and a small one."""
    path = tmp_path / "model.safetensors"
    write(path, seed=0)
    return path


def write(path, seed):
    rng = np.random.default_rng(seed)
    layers = {f"layer.{i}.weight": rng.standard_normal((16, 64)).astype(np.float32) for i in range(3)}
    save_file(layers | {"out.weight": rng.standard_normal((2, 4)).astype(np.float32)}, path)


class Counting:
    """`stream`, with a count of what it evaluates and reads."""

    def __init__(self):
        self.rows, self.tensors = 0, []

    def __call__(self, request):
        for name, rows in stream(request):
            self.rows += len(rows)
            self.tensors += [name] if rows else []
            yield name, rows


def run(store, source, configs=CONFIGS, **options):
    """(the frame, what was evaluated for it)."""
    counting = Counting()
    frame = store.run(
        source, configs, **{"title": "a model", "location": str(getattr(source, "path", ""))} | options, runner=counting
    )
    return frame, counting


def same(found, expected):
    """The same figures to the last bit, the same words, the same reasons."""
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    for figure in FIGURES:
        assert found[figure].to_numpy(float).tobytes() == expected[figure].to_numpy(float).tobytes()
    assert found.attrs["refused"] == expected.attrs["refused"]


# -- rows


def test_rows_are_those_of_the_sweep_to_the_last_bit(store):
    expected = sweep(TENSORS, CONFIGS)
    assert np.isinf(expected["sqnr_db"]).any() and expected["mse"].isna().any()
    frame, counting = run(store, TENSORS)
    same(frame, expected)
    assert (frame.attrs["held"], counting.rows) == (0, len(expected))
    (record,) = store.sweeps()
    same(store.frame(record.id), expected)
    assert record.complete and record.current
    assert (record.rows_done, record.rows_total, record.tensors) == (len(expected), len(expected), len(TENSORS))
    assert record.configs == tuple(config.slug for config in CONFIGS)
    assert frame.attrs["sweep"] == record.id


def test_tensors_come_in_the_order_asked_for_and_the_source_may_be_an_array(store):
    expected = sweep(TENSORS, CONFIGS, ["b", "a"])
    same(run(store, TENSORS, tensors=["b", "a"])[0], expected)
    same(run(store, TENSORS["a"])[0], sweep(TENSORS["a"], CONFIGS))


def test_the_second_time_nothing_is_computed(store):
    first, _ = run(store, TENSORS)
    again, counting = run(store, TENSORS)
    same(again, first)
    assert (counting.rows, again.attrs["held"]) == (0, len(first))
    assert len(store.sweeps()) == 1


def test_another_store_on_the_same_folder_holds_the_same(store, path):
    with ql.open_checkpoint(path) as checkpoint:
        first, _ = run(store, checkpoint)
    with ResultStore(store.path.parent) as other, ql.open_checkpoint(path) as checkpoint:
        again, counting = run(other, checkpoint)
        same(again, first)
        assert counting.rows == 0


def test_the_ratio_is_that_of_each_source(store):
    """float16 values in float32 are other bytes; the same bytes of another file may take less room there."""

    class Packed(ArraySource):
        def spec(self, name):
            return replace(super().spec(name), nbytes=super().spec(name).nbytes // 7)

    first, _ = run(store, TENSORS)
    packed = Packed(TENSORS)
    again, counting = run(store, packed)
    same(again, sweep(packed, CONFIGS))
    assert counting.rows == 0
    assert not again["compression_ratio"].equals(first["compression_ratio"])
    assert len(store.sweeps()) == 2


@given(st.lists(st.floats(), min_size=len(KEPT), max_size=len(KEPT)), st.integers(1, 2**53))
def test_every_figure_comes_back_as_the_same_bits(figures, nbytes):
    """NaN, infinities, denormals and -0.0 included; a weighted error that is NaN is none, and has no column."""
    row = {**dict(zip(KEPT, figures, strict=True)), "nbytes": nbytes}
    blob, reason = storedrows.kept({"config": "fp16", **row})
    back = storedrows.row_of("w", (2, 3), 24, ql.QuantConfig(dtype="fp16"), blob, reason)
    there = [name for name in KEPT if name != storedrows.WEIGHTED or not np.isnan(row[name])]
    assert [np.float64(back[name]).tobytes() for name in there] == [np.float64(row[name]).tobytes() for name in there]
    assert (storedrows.WEIGHTED in back) == (storedrows.WEIGHTED in there)
    assert back["compression_ratio"] == 24 / nbytes
    assert isinstance(back["nbytes"], int)


@pytest.mark.parametrize("name", ["", "a\0b", "=HYPERLINK(1)", "e\u0301", "\u00e9", "x" * 5000, "a'; --"])
def test_a_tensor_may_have_any_name(store, name):
    same(
        run(store, {name: TENSORS["a"], "other": TENSORS["b"]})[0],
        sweep({name: TENSORS["a"], "other": TENSORS["b"]}, CONFIGS),
    )


def test_a_sweep_of_no_tensor_is_an_empty_table(store):
    assert run(store, {})[0].empty


# -- what is computed, and what is not


def test_more_configurations_cost_only_what_is_new(store):
    run(store, TENSORS, CONFIGS[:10])
    frame, counting = run(store, TENSORS, CONFIGS[5:])
    same(frame, sweep(TENSORS, CONFIGS[5:]))
    assert counting.rows == (len(CONFIGS) - 10) * len(TENSORS)
    assert frame.attrs["held"] == 5 * len(TENSORS)
    assert len(store.sweeps()) == 2


def test_the_same_tensor_in_another_file_is_not_computed_again(store, path, tmp_path):
    with ql.open_checkpoint(path) as checkpoint:
        run(store, checkpoint)
    with ql.open_checkpoint(shutil.copy(path, tmp_path / "copy.safetensors")) as copy:
        frame, counting = run(store, copy)
        same(frame, sweep(copy, CONFIGS))
        assert counting.rows == 0
    assert len(store.sweeps()) == 1  # the same values under the same configurations are the same sweep
    assert store.sweeps()[0].location.endswith("copy.safetensors")


def test_a_file_that_is_as_it_was_is_not_read_again(store, path):
    with ql.open_checkpoint(path) as checkpoint:
        run(store, checkpoint)
    with ql.open_checkpoint(path) as checkpoint:
        checkpoint.raw = lambda name: pytest.fail(f"{name} was read")
        assert run(store, checkpoint)[1].rows == 0


def test_a_file_that_was_only_touched_is_the_same_sweep(store, path):
    with ql.open_checkpoint(path) as checkpoint:
        run(store, checkpoint)
    os.utime(path, ns=(0, 0))
    with ql.open_checkpoint(path) as checkpoint:
        assert run(store, checkpoint)[1].rows == 0
    assert len(store.sweeps()) == 1


@pytest.mark.parametrize("at_rest", [False, True], ids=["finished", "half"])
def test_another_model_in_the_same_place_is_another_sweep(store, path, at_rest):
    """Of the same names, shapes and size: only the values tell."""
    with ql.open_checkpoint(path) as checkpoint:
        if at_rest:
            interrupted(store, checkpoint, after=2)
        else:
            run(store, checkpoint)
    write(path, seed=1)
    os.utime(path, ns=(0, 0))  # a file system's clock may be too coarse to tell
    with ql.open_checkpoint(path) as checkpoint:
        frame, counting = run(store, checkpoint)
        same(frame, sweep(checkpoint, CONFIGS))
        assert counting.rows == len(frame)
    assert len(store.sweeps()) == 2


def test_what_is_no_array_of_its_own_values_is_kept_if_it_can_be_evaluated(store):
    """NumPy's scalars, and small views that repeat a value."""
    odd = {"scalar": np.float32(3), "repeated": np.broadcast_to(np.float32(2), (4, 5)), "list": [1.0, 2.0]}
    same(run(store, odd, FEW)[0], sweep(odd, FEW))
    assert run(store, odd, FEW)[1].tensors == ["list"]  # refused, and tried again


def test_a_shard_that_changed_is_noticed(store, tmp_path):
    folder = tmp_path / "sharded"
    folder.mkdir()
    weight_map = {}
    for i, name in enumerate("ab"):
        save_file({name: np.full((4, 4), i + 1, np.float32)}, folder / f"model-{i}.safetensors")
        weight_map[name] = f"model-{i}.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with ql.open_checkpoint(folder) as checkpoint:
        run(store, checkpoint)
    save_file({"b": np.full((4, 4), 9, np.float32)}, folder / "model-1.safetensors")
    os.utime(folder / "model-1.safetensors", ns=(1, 1))
    with ql.open_checkpoint(folder) as checkpoint:
        frame, counting = run(store, checkpoint)
        same(frame, sweep(checkpoint, CONFIGS))
    assert counting.tensors == ["b"]


def test_results_of_another_version_of_the_engine_are_not_this_ones(store, monkeypatch):
    first, _ = run(store, TENSORS)
    for module in (store_module, storedrun):
        monkeypatch.setattr(module, "engine_version", lambda: "another")
    frame, counting = run(store, TENSORS)
    assert counting.rows == len(frame)
    assert [record.current for record in store.sweeps()] == [True, False]
    monkeypatch.undo()
    old = next(record for record in store.sweeps() if record.current)
    same(store.frame(old.id), first)


def test_whatever_stops_a_sweep_stops_its_runner(store):
    """A reader, or the tasks of a cluster, must not go on for nobody."""
    stopped = []

    def endless(request):
        try:
            yield from stream(request)
        finally:
            stopped.append(True)

    def fail(name, rows):
        raise RuntimeError("the page is gone")

    with pytest.raises(RuntimeError, match="the page is gone"):
        store.run(TENSORS, FEW, title="", location="", runner=endless, on_rows=fail)
    assert stopped


def test_a_tensor_that_could_not_be_read_is_tried_again(store):
    class Flaky(ArraySource):
        broken = True

        def raw(self, name):
            if name == "b" and self.broken:
                raise ql.CheckpointError("the disk does not answer")
            return super().raw(name)

    source = Flaky(TENSORS)
    frame, _ = run(store, source)
    same(frame, sweep(source, CONFIGS))
    assert store.sweeps()[0].complete
    source.broken = False
    frame, counting = run(store, source)
    same(frame, sweep(TENSORS, CONFIGS))
    assert counting.tensors == ["b"]
    assert len(store.sweeps()) == 1


def test_a_file_that_changes_meanwhile_leaves_no_reason_behind(store, path):
    """The fingerprint is known from the file's time; that it cannot be read is not a result of what it held."""
    with ql.open_checkpoint(path) as checkpoint:
        run(store, checkpoint, FEW)
    with ql.open_checkpoint(path) as checkpoint:
        os.utime(path, ns=(5, 5))
        frame, _ = run(store, checkpoint, CONFIGS)
        assert "was changed" in frame.attrs["refused"][0]["reason"]
    with ql.open_checkpoint(path) as checkpoint:
        same(run(store, checkpoint, CONFIGS)[0], sweep(checkpoint, CONFIGS))


# -- runners of other kinds


def elsewhere(request):
    """Rows in another order, all of them, with the fingerprint that was computed where the bytes are."""
    for name in reversed(request.names):
        raw = request.source.raw(name)
        rows = tensor_rows(name, raw, request.source.spec(name).nbytes, request.configs)
        yield name, [{**row, "fingerprint": fingerprint(raw)} for row in rows]


def alone(request):
    """Rows, and nothing else; asks for what is wanted before anything is read."""
    source = request.source
    for name in request.names:
        yield name, tensor_rows(name, source.raw(name), source.spec(name).nbytes, request.wanted(name, None))


def unreachable(request):
    for name in request.names:
        yield name, fault_rows(name, (1,), request.configs, "no worker is left")


@pytest.mark.parametrize("runner", [elsewhere, alone])
def test_whoever_measures_the_rows_are_the_same(store, path, runner):
    for configs in (FEW, CONFIGS):
        with ql.open_checkpoint(path) as checkpoint:
            told = {}
            frame = store.run(checkpoint, configs, title="", location="", runner=runner, on_rows=told.__setitem__)
            same(frame, sweep(checkpoint, configs))
            same(table(told, checkpoint.names), frame)
            assert run(store, checkpoint, configs)[1].rows == 0


def test_what_no_worker_could_read_is_tried_again(store, path):
    with ql.open_checkpoint(path) as checkpoint:
        frame = store.run(checkpoint, FEW, title="", location="", runner=unreachable)
        assert {refused["reason"] for refused in frame.attrs["refused"]} == {"no worker is left"}
        same(run(store, checkpoint, FEW)[0], sweep(checkpoint, FEW))


# -- jobs that survive


def interrupted(store, source, after, **options):
    """Cancel a sweep once `after` tensors are there."""
    done = []
    with pytest.raises(ql.Cancelled):
        run(store, source, on_rows=lambda name, rows: done.append(name), cancel=lambda: len(done) >= after, **options)
    return done


def test_after_a_cancel_the_same_sweep_goes_on_where_it_was(store, path):
    with ql.open_checkpoint(path) as checkpoint:
        done = interrupted(store, checkpoint, after=2)
        (record,) = store.sweeps()
        assert (record.rows_done, record.complete) == (2 * len(CONFIGS), False)
        same(store.frame(record.id), sweep(checkpoint, CONFIGS, done))
    with ql.open_checkpoint(path) as checkpoint:
        frame, counting = run(store, checkpoint)
        same(frame, sweep(checkpoint, CONFIGS))
        assert counting.tensors == checkpoint.names[2:]
        assert frame.attrs["held"] == 2 * len(CONFIGS)
    assert [found.id for found in store.sweeps()] == [record.id]


def test_an_error_in_the_middle_loses_nothing_that_was_done(store):
    def failing(request):
        for i, pair in enumerate(stream(request)):
            if i == 3:
                raise RuntimeError("a bug")
            yield pair

    with pytest.raises(RuntimeError, match="a bug"):
        store.run(TENSORS, CONFIGS, title="", location="here", runner=failing)
    frame, counting = run(store, TENSORS, location="here")
    assert counting.tensors == list(TENSORS)[3:]
    same(frame, sweep(TENSORS, CONFIGS))


KILLED = """
import os, signal, sys
import quantlab as ql
from quantlab.sweeping.store import ResultStore

slugs = sys.argv[4].split()
def die_after(name, rows, told=[]):
    told.append(name)
    if len(told) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

with ql.open_checkpoint(sys.argv[1]) as checkpoint:
    configs = [ql.QuantConfig.parse(slug) for slug in slugs]
    ResultStore(sys.argv[2]).run(checkpoint, configs, title="", location=sys.argv[1], on_rows=die_after)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_process_loses_the_tensor_in_flight_and_no_other(store, path, after):
    slugs = " ".join(config.slug for config in CONFIGS)
    killed = subprocess.run([sys.executable, "-c", KILLED, path, store.path.parent, str(after), slugs], check=False)
    assert killed.returncode == -signal.SIGKILL
    with ql.open_checkpoint(path) as checkpoint:
        frame, counting = run(store, checkpoint)
        assert counting.tensors == checkpoint.names[after:]
        assert counting.rows == (len(checkpoint.names) - after) * len(CONFIGS)
        same(frame, sweep(checkpoint, CONFIGS))
    assert len(store.sweeps()) == 1


def test_many_threads_with_one_store(store):
    sources = {i: {f"w{j}": TENSORS["a"] + i + j // 4 for j in range(8)} for i in range(3)}
    frames, errors = {}, []

    def work(turn):
        try:
            frames[turn] = run(store, sources[turn % 3], FEW, location=str(turn % 3))[0]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    for turn, frame in frames.items():
        same(frame, sweep(sources[turn % 3], FEW))


BESIDE = """
import sys
import numpy as np
import quantlab as ql
from quantlab.sweeping.store import ResultStore

store = ResultStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
configs = ql.grid(["int4", "int8"], ["symmetric"], ["g32", "ch0"], ["minmax"])
for turn in range(int(sys.argv[2])):
    tensors = {f"w{i}": np.full((8, 64), i, np.float32) + turn for i in range(10)}
    assert store.run(tensors, configs, title="", location=str(turn)).equals(ql.sweep(tensors, configs))
"""


def test_two_processes_write_at_once(tmp_path):
    """Both open a store that is not there yet, and then keep the same rows and others in it."""
    folder = tmp_path / "shared"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", BESIDE, folder, str(turns)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for turns in (6, 8)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in both:
        process.communicate(timeout=120)
        assert process.returncode == 0
    with ResultStore(folder) as store:
        assert all(record.complete for record in store.sweeps())


# -- the list, and deleting


def test_the_newest_sweep_comes_first(store):
    for i in range(3):
        run(store, {"w": TENSORS["a"] + i}, FEW, title=f"model {i}", location=f"/models/{i}")
    assert [record.title for record in store.sweeps()] == ["model 2", "model 1", "model 0"]
    run(store, {"w": TENSORS["a"] + 1, "v": TENSORS["b"]}, FEW, title="later")
    assert store.sweeps()[0].title == "later"


def count(store, what):
    with sqlite3.connect(store.path) as sql:
        return sql.execute(f"SELECT count(*) FROM {what}").fetchone()[0]


def test_deleting_a_sweep_keeps_what_another_one_uses(store):
    one, _ = run(store, {"a": TENSORS["a"], "b": TENSORS["b"]}, CONFIGS[:4])
    other, _ = run(store, {"renamed": TENSORS["a"]}, CONFIGS[2:6])
    store.delete(one.attrs["sweep"])
    same(store.frame(other.attrs["sweep"]), sweep({"renamed": TENSORS["a"]}, CONFIGS[2:6]))
    assert count(store, "results") == 4
    assert run(store, {"a": TENSORS["a"]}, CONFIGS[:4])[1].rows == 2


def test_the_last_sweep_leaves_nothing_behind(store, path):
    with ql.open_checkpoint(path) as checkpoint:
        frame, _ = run(store, checkpoint)
    store.delete(frame.attrs["sweep"])
    assert store.sweeps() == []
    for what in ("sweeps", "sweep_configs", "sweep_tensors", "results", "files"):
        assert count(store, what) == 0


def test_a_sweep_that_is_not_there_is_said_to_be_missing(store):
    for ask in (store.frame, store.delete, store.record):
        with pytest.raises(ql.ConfigError, match="no sweep 'gone'"):
            ask("gone")


def test_a_sweep_that_is_deleted_while_it_runs_says_so(store):
    def delete(name, rows):
        store.delete(store.sweeps()[0].id)

    with pytest.raises(ql.StoreError, match="deleted while it ran"):
        run(store, TENSORS, on_rows=delete)
    assert count(store, "results") == 0


def test_progress_and_rows_are_told_of_what_was_there_too(store):
    run(store, TENSORS, tensors=["a", "b"])
    told, rows, begun = [], {}, []
    frame, _ = run(
        store, TENSORS, on_progress=lambda *step: told.append(step), on_rows=rows.__setitem__, on_begin=begun.append
    )
    same(table(rows, list(TENSORS)), frame)
    done = [step[0] for step in told]
    assert done == sorted(done) and done[-1] == len(frame)
    assert {step[1] for step in told} == {len(frame)}
    assert (begun[0].id, begun[0].rows_total) == (frame.attrs["sweep"], len(frame))


# -- files that are not as they should be


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"this is no database at all, but a text file of some length" * 100, "damaged"),
        (b"SQLite format 3\0" + bytes(4000), "damaged"),
    ],
)
def test_a_damaged_file_is_one_sentence_and_the_way_out(tmp_path, content, words):
    (tmp_path / "results.sqlite").write_bytes(content)
    with pytest.raises(ql.StoreError, match=f"{words}.*move it away.*QUANTLAB_STORE"):
        ResultStore(tmp_path)


def test_damage_that_shows_later_is_one_sentence_too(tmp_path):
    with ResultStore(tmp_path) as store:
        run(store, TENSORS)
    data = bytearray(store.path.read_bytes())
    data[8192:] = os.urandom(len(data) - 8192)
    store.path.write_bytes(data)
    with pytest.raises(ql.StoreError, match="damaged"), ResultStore(tmp_path) as store:
        for record in store.sweeps():
            store.frame(record.id)
        run(store, TENSORS)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE results SET figures = x'00'",
        "UPDATE results SET figures = 1.5",
        "UPDATE results SET figures = zeroblob(length(figures))",  # sizes of 0
        "UPDATE sweep_tensors SET position = position + 0.5",
        "UPDATE sweep_tensors SET position = 'first' WHERE position = 0",
        "UPDATE sweep_tensors SET shape = '['",
        "UPDATE sweep_tensors SET shape = printf('%.*c', 100000, '[')",
        "UPDATE sweep_tensors SET shape = '3'",
        "UPDATE sweep_tensors SET name = x'ff'",
        "UPDATE sweep_tensors SET nbytes = 'many'",
        "UPDATE sweeps SET created = 'yesterday'",
        "UPDATE sweeps SET updated = 1e300",
        "UPDATE sweeps SET updated = 1 << 62",
        "UPDATE sweeps SET title = x'ff'",
        "DELETE FROM sweep_configs",
        "DROP TABLE sweep_configs",
    ],
)
def test_rows_that_make_no_sense_are_one_sentence(tmp_path, change):
    """Though their digests are right: whoever makes a store can make these, too."""
    with ResultStore(tmp_path) as store:
        run(store, TENSORS, FEW)
        change_rows(store, change)
        with contextlib.suppress(ql.StoreError):
            seal_rows(store)
        with pytest.raises(ql.StoreError, match=r"^[^\n]*is damaged [^\n]*move it away[^\n]*$"):
            everything(store)


def change_rows(store, *statements):
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as sql:
        for statement in statements:
            sql.execute(statement)


def seal_rows(store):
    with store._database.writing() as sql:
        for statement in SEAL.values():
            sql.execute(statement)


def everything(store):
    """Whatever can be asked of a store, and then the sweep once more: (record, frame) of each, and that of the last."""
    found = [(record, store.frame(record.id)) for record in store.sweeps() if store.tensors(record.id)]
    return found, run(store, TENSORS, FEW)[0]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE sweep_tensors SET name = x'61' WHERE position = 1",
        "UPDATE sweep_tensors SET shape = '[2]' WHERE position = 1",
        "UPDATE sweep_tensors SET nbytes = nbytes + 1 WHERE position = 1",
        "UPDATE sweep_tensors SET fault = x'61' WHERE position = 1",
        "UPDATE sweep_tensors SET done = 0 WHERE position = 1",
        "UPDATE sweep_tensors SET fingerprint = (SELECT fingerprint FROM sweep_tensors WHERE position = 0)",
        "UPDATE sweep_configs SET slug = 'int8-sym-tensor-minmax' WHERE position = 1",
        "UPDATE sweep_configs SET position = position + 7",
        "UPDATE sweep_configs SET position = -position",
        "DELETE FROM sweep_configs WHERE position = 1",
        "DELETE FROM sweep_tensors WHERE position = 1",
        "UPDATE sweeps SET engine = 'another'",
        "UPDATE sweeps SET location = x'61'",
    ],
)
def test_what_was_not_written_by_us_is_not_shown(tmp_path, change):
    with ResultStore(tmp_path) as store:
        expected, _ = run(store, TENSORS, FEW)
        change_rows(store, change)
        try:
            found, _ = everything(store)
        except ql.StoreError as error:
            assert "a row is not what was written" in str(error)
        else:
            for _, frame in found:
                same(frame, expected)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE results SET figures = x'00'",
        "UPDATE results SET figures = 1.5",
        "UPDATE results SET figures = zeroblob(length(figures))",
        "UPDATE results SET figures = randomblob(length(figures)), reason = NULL",
        "UPDATE results SET reason = x'61'",
        "UPDATE results SET slug = slug || 'x'",
        "UPDATE results SET digest = NULL",
        "DELETE FROM results",
    ],
)
@pytest.mark.parametrize("runner", ["alone", "elsewhere"])
def test_a_damaged_result_is_said_and_measured_again(tmp_path, change, runner):
    with ResultStore(tmp_path) as store:
        expected, _ = run(store, TENSORS, FEW)
        change_rows(store, f"{change} WHERE slug = '{FEW[1].slug}'")
        hit = (expected["config"] == FEW[1].slug).to_numpy()
        frame = store.frame(expected.attrs["sweep"])
        assert {row["reason"] for row in frame.attrs["refused"] if row["config"] == FEW[1].slug} == {LOST}
        assert frame.loc[hit, FIGURES].isna().all().all()
        pd.testing.assert_frame_equal(frame[~hit], expected[~hit], check_exact=True)
        again = store.run(TENSORS, FEW, title="", location="", runner=globals()[runner])
        same(again, expected)
        assert again.attrs["held"] == (len(expected) - hit.sum() if runner == "alone" else 0)
        same(store.frame(expected.attrs["sweep"]), expected)


def test_files_that_were_not_noted_by_us_are_read_again(store, path):
    with ql.open_checkpoint(path) as checkpoint:
        expected, _ = run(store, checkpoint, FEW)
    change_rows(store, "UPDATE files SET fingerprint = (SELECT max(fingerprint) FROM files)")
    with ql.open_checkpoint(path) as checkpoint:
        same(run(store, checkpoint, FEW)[0], expected)


@pytest.mark.parametrize("seed", range(4))
def test_bytes_that_change_never_change_a_row_in_silence(tmp_path, seed):
    """A hundred damaged copies of a store: each says so, or has what was there."""
    with ResultStore(tmp_path / "whole") as store:
        expected, _ = run(store, TENSORS, FEW)
    outcomes = [damaged(store.path, tmp_path / "damaged", expected, 25 * seed + turn) for turn in range(25)]
    assert len(set(outcomes)) > 1


def damaged(whole, folder, expected, seed):
    """Damage a copy of a store, and look at what it says: "damaged", "lost" (a few results), or "right"."""
    rng = np.random.default_rng(seed)
    data = bytearray(whole.read_bytes())
    match seed % 4:
        case 0 | 1:
            for at in rng.integers(0, len(data), 1 + seed % 3):
                data[at] ^= 1 << int(rng.integers(8))
        case 2:  # where there is something
            at = int(rng.choice(np.flatnonzero(np.frombuffer(data, np.uint8)[100:]))) + 100
            data[at] = int(rng.integers(256))
        case 3:
            at, length = int(rng.integers(len(data))), int(rng.integers(1, 600))
            data[at : at + length] = rng.bytes(len(data[at : at + length]))
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / "results.sqlite").write_bytes(data)
    try:
        with ResultStore(folder) as store:
            found, again = everything(store)
    except ql.StoreError as error:
        assert "\n" not in str(error)
        return "damaged"
    same(again, expected)
    lost = False
    for record, frame in found:
        reasons = pd.DataFrame(frame.attrs["refused"], columns=["tensor", "config", "reason"])
        gone = reasons[reasons["reason"] == LOST].merge(frame[["tensor", "config"]].reset_index())["index"]
        lost |= bool(len(gone)) or not record.complete
        assert len(frame) == record.rows_done
        there = frame.drop(index=gone)
        pd.testing.assert_frame_equal(there, expected.loc[there.index], check_exact=True)
    return "lost" if lost else "right"


def test_a_store_of_the_first_version_opens_and_is_guarded_from_then_on(tmp_path):
    with ResultStore(tmp_path) as store:
        expected, _ = run(store, TENSORS, FEW)
        record = store.sweeps()[0]
    as_version_one(store)
    with ResultStore(tmp_path) as store:
        assert store.sweeps() == [record]
        same(store.frame(record.id), expected)
        frame, counting = run(store, TENSORS, FEW)
        assert (counting.rows, frame.attrs["held"]) == (0, len(expected))
        change_rows(store, "UPDATE results SET figures = zeroblob(length(figures))")
        assert LOST in {row["reason"] for row in store.frame(record.id).attrs["refused"]}
    with contextlib.closing(sqlite3.connect(store.path)) as sql:
        assert sql.execute("PRAGMA user_version").fetchone() == (VERSION,)


def as_version_one(store):
    """The tables as they were, with the same rows."""
    change_rows(store, *(f"ALTER TABLE {table} DROP COLUMN digest" for table in SEAL), "PRAGMA user_version = 1")


def test_a_store_that_an_older_program_has_open_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("quantlab.sweeping.database.BUSY_SECONDS", 0.05)
    with ResultStore(tmp_path) as store:
        pass
    as_version_one(store)
    older = sqlite3.connect(store.path)
    older.execute("PRAGMA journal_mode = WAL")
    older.execute("SELECT count(*) FROM sweeps").fetchone()
    with pytest.raises(ql.StoreError, match="in use by another program"):
        ResultStore(tmp_path)
    older.close()
    ResultStore(tmp_path).close()


def test_figures_that_an_earlier_version_did_not_have_are_missing(monkeypatch):
    row = {name: float(i) for i, name in enumerate(KEPT)} | {"config": "fp16"}
    blob, _ = storedrows.kept(row)
    monkeypatch.setattr(storedrows, "KEPT", (*KEPT, "tomorrow"))
    back = storedrows.row_of("w", (2, 3), 24, ql.QuantConfig(dtype="fp16"), blob, None)
    assert [back[name] for name in KEPT] == [row[name] for name in KEPT]
    assert np.isnan(back["tomorrow"])


def test_every_figure_is_kept():
    assert sorted(KEPT) == sorted({*FIGURES, WEIGHTED} - {"compression_ratio"})


def test_a_configuration_of_another_version_is_named(tmp_path):
    with ResultStore(tmp_path) as store:
        frame, _ = run(store, TENSORS, FEW)
        change_rows(store, "UPDATE sweep_configs SET slug = 'int4-sym-g32-tomorrow' WHERE position = 0")
        seal_rows(store)
        with pytest.raises(ql.ConfigError, match="tomorrow"):
            store.frame(frame.attrs["sweep"])


def marks(path, application, version):
    with sqlite3.connect(path) as sql:
        sql.execute(f"PRAGMA application_id = {application}")
        sql.execute(f"PRAGMA user_version = {version}")


def test_the_store_of_a_newer_version_is_left_alone(tmp_path):
    ResultStore(tmp_path).close()
    marks(tmp_path / "results.sqlite", APPLICATION, VERSION + 1)
    before = (tmp_path / "results.sqlite").read_bytes()
    with pytest.raises(ql.StoreError, match=f"newer quantlab .its version is {VERSION + 1}"):
        ResultStore(tmp_path)
    assert (tmp_path / "results.sqlite").read_bytes() == before


def test_the_database_of_another_program_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "results.sqlite") as sql:
        sql.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(ql.StoreError, match="another program"):
        ResultStore(tmp_path)


def test_a_folder_that_cannot_be_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ql.StoreError, match=r"cannot be a folder for results: .*QUANTLAB_STORE"):
        ResultStore(tmp_path / "file" / "store")


def test_a_full_disk_is_one_sentence_and_what_was_there_stays(tmp_path):
    with ResultStore(tmp_path) as store:
        first, _ = run(store, {"a": TENSORS["a"]})
        with store._database.reading() as sql:
            pages = sql.execute("PRAGMA page_count").fetchone()[0]
            sql.execute(f"PRAGMA max_page_count = {pages}").fetchone()
        with pytest.raises(ql.StoreError, match="disk is full"):
            run(store, {f"w{i}": TENSORS["a"] + i for i in range(200)})
        same(store.frame(first.attrs["sweep"]), first)


def test_a_closed_store_says_so(store):
    store.close()
    with pytest.raises(ql.StoreError, match="closed"):
        store.sweeps()


def test_another_programs_lock_is_waited_for_and_then_told(tmp_path, monkeypatch):
    monkeypatch.setattr("quantlab.sweeping.database.BUSY_SECONDS", 0.05)
    database = Database(tmp_path / "results.sqlite")
    blocker = sqlite3.connect(tmp_path / "results.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(ql.StoreError, match="in use by another program"), database.writing():
        pass
    blocker.close()
    with database.writing():
        pass


# -- where it is


def test_the_folder_is_the_environments_or_that_of_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("QUANTLAB_STORE", str(tmp_path / "named"))
    assert default_folder() == tmp_path / "named"
    assert ResultStore().path == tmp_path / "named" / "results.sqlite"
    monkeypatch.delenv("QUANTLAB_STORE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "quantlab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "quantlab"
