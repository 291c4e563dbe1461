"""Faults on purpose: the nth write, sync, opening, read, renaming or allocation fails, or the process is killed there.

The tests try the first of every kind and then every few; `python -m tests.faults` tries every one, for minutes.
"""

import argparse
import builtins
import contextlib
import errno
import io
import itertools
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

import quantlab as ql
from quantlab.errors import ExportError, LimitError, StoreError
from quantlab.formats import FORMATS, open_checkpoint
from quantlab.formats.input import files
from quantlab.formats.output import orphans
from quantlab.sweeping import database
from quantlab.sweeping.store import ResultStore
from quantlab.sweeping.sweep import sweep

KINDS = ("write", "fsync", "open", "read", "rename", "allocate")
EXPORTED = {  # format -> how its tensors are quantized
    "npz": "int4-aff-g32-minmax",
    "safetensors": "int4-aff-g32-minmax",
    "compressed-tensors": "int4-sym-g32-minmax",
    "mlx": "int4-uni-g32-minmax",
    "onnx": "int8-sym-ch0-minmax",
    "gguf": "q8_0",
    "dense": "int8-sym-ch0-minmax",
}
CONFIGS = [ql.QuantConfig.parse(slug) for slug in ("int8-sym-ch0-minmax", "int4-sym-g32-minmax", "fp16")]


class Fault:
    """Within it the `moment`th operation of a kind on a file in `folder` fails; `hit` tells whether there were so many.

    An allocation counts wherever quantlab makes one. With `kill`, the process ends there instead.
    """

    def __init__(self, kind: str, moment: int, folder: Path, kill: bool = False) -> None:
        self.kind, self.moment, self.kill, self.hit = kind, moment, kill, False
        self._folder, self._calls, self._files = str(folder), itertools.count(1), {}

    def step(self, kind: str) -> None:
        """An operation of a kind is about to happen."""
        if kind != self.kind or next(self._calls) != self.moment:
            return
        self.hit = True
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "allocate":
            raise MemoryError
        code = errno.EIO if kind == "read" else errno.ENOSPC
        raise OSError(code, os.strerror(code))

    def __enter__(self) -> "Fault":
        self._stack = contextlib.ExitStack()
        for place, name in (
            (os, "open"), (os, "fdopen"), (os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir"), (os, "preadv"),
            (builtins, "open"), (np, "empty"), (np, "zeros"),
        ):  # fmt: skip
            if hasattr(place, name):
                self._patch(place, name, getattr(self, f"_{place.__name__}_{name}")(getattr(place, name)))
        self._patch(files, "bytearray", self._numpy_empty(bytearray))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _patch(self, place, name, value) -> None:
        had, real = hasattr(place, name), getattr(place, name, None)
        setattr(place, name, value)
        self._stack.callback(lambda: setattr(place, name, real) if had else delattr(place, name))

    def _ours(self, path) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self._folder)

    def _os_open(self, real):
        def call(path, flags, *args, **options):
            if self._ours(path):
                self.step("open")
            descriptor = real(path, flags, *args, **options)
            self._files[descriptor] = self._ours(path)
            return descriptor

        return call

    def _os_fdopen(self, real):
        def call(descriptor, mode="r", *args, **options):
            if self._files.get(descriptor) and "w" in mode:
                return io.BufferedWriter(_Raw(descriptor, mode, self), 512)
            return real(descriptor, mode, *args, **options)

        return call

    def _builtins_open(self, real):
        def call(path, mode="r", *args, **options):
            if not self._ours(path):
                return real(path, mode, *args, **options)
            self.step("open")
            if "b" in mode and set(mode) & set("wx"):
                return io.BufferedWriter(_Raw(path, mode.replace("b", ""), self), 512)
            return real(path, mode, *args, **options)

        return call

    def _counted(self, kind, concerned):
        def patch(real):
            def call(*args, **options):
                if concerned(*args):
                    self.step(kind)
                return real(*args, **options)

            return call

        return patch

    def _os_fsync(self, real):
        return self._counted("fsync", lambda *_: True)(real)

    def _os_preadv(self, real):
        return self._counted("read", lambda descriptor, *_: self._files.get(descriptor))(real)

    def _os_replace(self, real):
        return self._counted("rename", lambda source, target: self._ours(target))(real)

    def _os_mkdir(self, real):
        return self._counted("open", lambda path, *_: self._ours(path))(real)

    def _numpy_empty(self, real):
        def by_quantlab(*_):
            return sys._getframe(2).f_globals.get("__name__", "").startswith("quantlab")

        return self._counted("allocate", by_quantlab)(real)

    _os_rename, _numpy_zeros = _os_replace, _numpy_empty


class _Raw(io.FileIO):
    """A file whose writes reach the disk one by one, and may fail."""

    def __init__(self, place, mode: str, fault: Fault) -> None:
        super().__init__(place, mode.replace("b", ""))
        self._fault = fault

    def write(self, data) -> int:
        self._fault.step("write")
        return super().write(data)


def moments(every: int):
    """1, 2, ..., 8, and then every `every`th."""
    return itertools.chain(range(1, 9), itertools.count(8 + every, every))


def killed(task) -> bool:
    """Whether a copy of this process is killed while it does `task`."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        with contextlib.suppress(BaseException):
            task()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


# -- exports


def export_of(format: str, folder: Path, fault=None) -> Path:
    """Write the tensors of the model in `folder` to `folder`/out/x, with a fault."""
    with open_checkpoint(folder / "model.safetensors") as source:
        config = ql.QuantConfig.parse(EXPORTED[format])
        tensors = {name: ql.quantize(source.load(name), config) for name in source.names}
        with fault or contextlib.nullcontext():
            return ql.export(folder / "out" / "x", tensors, format, source=source)


def model(folder: Path) -> None:
    """A model with its settings, and a place for exports."""
    rng = np.random.default_rng(0)
    arrays = {f"layer.{i}.weight": rng.standard_normal((32, 64)).astype(np.float32) for i in range(3)}
    config = ql.QuantConfig.parse("fp16")
    ql.export(folder / "model.safetensors", {n: ql.quantize(x, config) for n, x in arrays.items()}, "dense")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "out").mkdir()


def state(place: Path):
    """What lies at a place: bytes of a file, of every file of a folder, or None."""
    if place.is_dir():
        return {path.name: path.read_bytes() for path in sorted(place.iterdir())}
    return place.read_bytes() if place.exists() else None


def fail_export(format: str, kind: str, folder: Path, every: int = 1, kill: bool = False) -> int:
    """Export with a fault at every moment (see `moments`): the old or the new is there, whole. How many were tried."""
    out = folder / "out" / "x"
    new = state(export_of(format, folder))
    old = None if FORMATS[format].folder else b"what was there before"
    for count, moment in enumerate(moments(every)):
        remove(out)
        if old is not None:
            out.write_bytes(old)
        fault = Fault(kind, moment, folder, kill)
        said = ""

        def task(fault=fault):
            export_of(format, folder, fault)

        if kill:
            fault.hit = killed(task)
        else:
            try:
                task()
            except Exception as error:
                said = checked_sentence(error)
                assert kind not in ("write", "fsync", "rename") or "the disk is full" in said
        if not fault.hit:
            assert state(out) == new
            return count
        found = state(out)
        assert found in (old, new), f"{format}: neither the old nor the new after {kind} {moment}"
        assert kill or found == (old if said else new), f"{format}: {said!r} after {kind} {moment}"
        if not kill:
            assert list((folder / "out").iterdir()) == ([out] if found is not None else [])
        remove(out)
        assert state(export_of(format, folder)) == new
        assert list((folder / "out").iterdir()) == [out]  # what a killed one left is gone
    raise AssertionError("there is always a last moment")


def remove(place: Path) -> None:
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def checked_sentence(error: BaseException) -> str:
    """What an error says, which must be one line of a kind that is meant for people."""
    assert isinstance(error, (ExportError, LimitError, StoreError, ql.CheckpointError)), repr(error)
    assert str(error) and "\n" not in str(error)
    return str(error)


# -- stores


class _Connection(sqlite3.Connection):
    fault: "Fault | None" = None
    refusal = sqlite3.SQLITE_IOERR

    def execute(self, *args):
        self._step(args[0])
        return super().execute(*args)

    def executemany(self, *args):
        self._step(args[0])
        return super().executemany(*args)

    def _step(self, statement: str) -> None:
        # A rollback that fails leaves a connection that is of no use, and nothing in the file.
        if _Connection.fault is None or statement == "ROLLBACK":
            return
        try:
            _Connection.fault.step("statement")
        except OSError:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = _Connection.refusal
            raise error from None


@contextlib.contextmanager
def _statements(fault: Fault):
    real = sqlite3.connect
    database.sqlite3.connect = lambda *args, **options: real(*args, factory=_Connection, **options)
    _Connection.fault = fault
    try:
        yield
    finally:
        database.sqlite3.connect, _Connection.fault = real, None


def fail_store(folder: Path, every: int = 1, kill: bool = False) -> int:
    """A sweep into a store, with its every statement failing once: no row is lost that was there, none is wrong."""
    rng = np.random.default_rng(0)
    tensors = {f"w{i}": rng.standard_normal((4, 64)).astype(np.float32) for i in range(3)}
    first, expected = sweep({"w0": tensors["w0"]}, CONFIGS), sweep(tensors, CONFIGS)
    for count, moment in enumerate(moments(every)):
        place = folder / str(moment)
        with ResultStore(place) as store:
            held = store.run({"w0": tensors["w0"]}, CONFIGS, title="first", location="").attrs["sweep"]
        fault = Fault("statement", moment, folder, kill)

        def task(fault=fault, place=place):
            with _statements(fault), ResultStore(place) as store:
                store.run(tensors, CONFIGS, title="all", location="")

        if kill:
            fault.hit = killed(task)
        else:
            try:
                task()
            except Exception as error:
                checked_sentence(error)
        with ResultStore(place) as store:
            assert store.frame(held).equals(first)
            for record in store.sweeps():
                frame, wanted = (
                    store.frame(record.id),
                    expected[expected["tensor"].isin(store.frame(record.id)["tensor"])],
                )
                assert len(frame) == record.rows_done
                assert frame.empty or frame.equals(wanted.reset_index(drop=True))
            assert store.run(tensors, CONFIGS, title="all", location="").equals(expected)
        shutil.rmtree(place)
        if not fault.hit:
            return count
    raise AssertionError("there is always a last moment")


def main() -> None:
    """Every moment of every kind, and the process killed there."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=main.__doc__)
    parser.add_argument("formats", nargs="*", default=[*EXPORTED, "store"], help="formats, or store")
    parser.add_argument("--every", type=int, default=1, help="after the first eight only every nth moment")
    chosen, counts = parser.parse_args(), Counter()
    orphans.FRESH = 0.0
    for format, kill in itertools.product(chosen.formats, (False, True)):
        for kind in KINDS if format != "store" else ("statement",):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                if format == "store":
                    count = fail_store(folder, chosen.every, kill)
                else:
                    model(folder)
                    count = fail_export(format, kind, folder, chosen.every, kill)
            counts[kill] += count
            print(f"{format:20}{kind:12}{'killed' if kill else 'failed':8}{count:5}", flush=True)
    print(f"{counts[False]} faults and {counts[True]} kills: nothing was lost")


if __name__ == "__main__":
    main()
