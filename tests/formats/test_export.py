"""Exports: what is written is what was measured, other readers see it, and nobody ever sees half of it."""

import errno
import itertools
import os
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from quantlab import PRESETS, QuantConfig, fake_quantize, quantize
from quantlab.core.pool import limits
from quantlab.errors import Cancelled, ConfigError, ExportError
from quantlab.formats import FORMATS, PackedCheckpoint, export, load_packed, open_checkpoint, writing
from quantlab.formats.numpy import npz
from quantlab.formats.output import atomic as output
from quantlab.formats.safetensors import file as safetensors_format
from quantlab.formats.safetensors import shards

from .decoder import decode_npz, decode_safetensors
from .hostile import PACKED, same_bits

ROOT = Path(__file__).parents[2]
DECODERS = {"npz": decode_npz, "safetensors": decode_safetensors}
SLUGS = [
    f"{dtype}-{mapping}-{granularity}-minmax{suffix}"
    for dtype in ("int2", "int3", "int4", "int5", "int8", "int16")
    for mapping in ("sym", "aff", "uni")
    for granularity in ("tensor", "ch0", "ch-1", "g3", "g100")
    for suffix in ("", "-sfp16", "-sbf16-pow2")
] + ["fp16", "bf16", "int4-sym-g3-exact", "int8-sym-ch0-exact-sfp16", "int3-aff-ch0-exact-sbf16-pow2"]
SHAPES = [(4, 7), (5,), (2, 3, 4), (1, 1)]


def tensors_of(shape: tuple[int, ...]) -> dict:
    x = np.random.default_rng(5).standard_normal(shape, dtype=np.float32)
    return {slug: quantize(x, QuantConfig.parse(slug)) for slug in SLUGS}


# -- what is written is what was measured


@pytest.mark.parametrize("format", PACKED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_configuration_comes_back_and_decodes_without_quantlab(format, shape, tmp_path):
    tensors = tensors_of(shape)
    path = export(tmp_path / "out", tensors, format)
    back, decoded = load_packed(path), DECODERS[format](path)
    assert list(back) == list(decoded) == list(tensors)
    for name, q in tensors.items():
        assert (back[name].config, back[name].shape, back[name].source_dtype) == (q.config, q.shape, q.source_dtype)
        assert all(same_bits(back[name].parts[part], q.parts[part]) for part in q.parts)
        assert (back[name].nbytes, back[name].bits_per_weight) == (q.nbytes, q.bits_per_weight)
        assert same_bits(back[name].dequantize(), q.dequantize())
        assert same_bits(decoded[name], q.dequantize())


@pytest.mark.parametrize("format", PACKED)
def test_presets_and_source_types_survive(format, tmp_path):
    x = np.random.default_rng(2).standard_normal((8, 256))
    sources = [x.astype(dtype) for dtype in ("float32", "float16", "float64", ml_dtypes.bfloat16)]
    tensors = {f"{name} {s.dtype}": quantize(s, config) for name, config in PRESETS.items() for s in sources}
    for name, q in load_packed(export(tmp_path / "out", tensors, format)).items():
        assert q.config.slug == tensors[name].config.slug
        assert q.source_dtype == tensors[name].source_dtype
        assert q.compression_ratio == tensors[name].compression_ratio


@pytest.mark.parametrize("format", PACKED)
def test_an_export_opens_as_its_decoded_values(format, few, tmp_path):
    with open_checkpoint(export(tmp_path / "out", few, format)) as checkpoint:
        assert isinstance(checkpoint, PackedCheckpoint)
        assert checkpoint.format == f"quantlab {format}"
        for name, q in few.items():
            spec = checkpoint.spec(name)
            assert (spec.shape, spec.dtype, spec.nbytes) == (q.shape, "float32", q.dequantize().nbytes)
            assert f"decoded from {q.config}, {q.nbytes} bytes" in spec.note
            assert same_bits(checkpoint.load(name), q.dequantize())


def test_the_example_of_the_library(tmp_path):
    x = np.random.default_rng(0).standard_normal((16, 64), dtype=np.float32)
    path = export(tmp_path / "w.npz", {"w": quantize(x, PRESETS["w4_g32"])})
    assert same_bits(load_packed(path)["w"].dequantize(), fake_quantize(x, PRESETS["w4_g32"]))


# -- other readers


def test_numpy_opens_an_npz_without_pickle(few, tmp_path):
    path = export(tmp_path / "out.npz", few)
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    expected = {f"{name}.{part}": array for name, q in few.items() for part, array in q.parts.items()}
    assert arrays.keys() == expected.keys() | {"manifest"}
    for name, array in expected.items():
        stored = array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array
        assert same_bits(arrays[name], stored)


def test_the_reference_implementation_opens_a_safetensors_export(few, tmp_path):
    path = export(tmp_path / "out", few, "safetensors")
    arrays = safetensors.numpy.load_file(path)
    expected = {f"{name}.{part}": array for name, q in few.items() for part, array in q.parts.items()}
    assert arrays.keys() == expected.keys()
    assert all(same_bits(arrays[name], array) for name, array in expected.items())


def test_a_safetensors_export_has_the_bytes_that_the_reference_implementation_writes(few, tmp_path):
    few = {f'{name} "ä\n\x7f\\': q for name, q in few.items()}
    path = export(tmp_path / "out", few, "safetensors")
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    arrays = {f"{name}.{part}": array for name, q in few.items() for part, array in q.parts.items()}
    assert path.read_bytes() == safetensors.numpy.save(arrays, metadata)


@pytest.mark.parametrize("format", PACKED)
def test_the_same_tensors_give_the_same_bytes(format, few, tmp_path):
    first = export(tmp_path / "a", few, format).read_bytes()
    assert export(tmp_path / "b", few, format).read_bytes() == first


@pytest.mark.parametrize("format", PACKED)
def test_the_snippet_reads_the_export(format, few, tmp_path):
    path = export(tmp_path / "out's file", few, format)
    names: dict = {}
    exec(FORMATS[format].snippet(path, path), names)
    assert {name: q.config for name, q in names["tensors"].items()} == {name: q.config for name, q in few.items()}
    assert same_bits(names["weights"], few["layer.0.weight"].dequantize())


# -- refusals


def test_what_cannot_be_exported_is_refused_before_anything_is_written(few, tmp_path):
    q = few["layer.0.weight"]
    refused = [
        ({}, "nothing to export"),
        (q, "mapping"),
        ({"a": q.dequantize()}, "mapping"),
        ({3: q}, "called 3"),
        ({"\ud800": q}, "called '\\\\ud800'"),
        ({"x" * 5000: q}, "4096 characters"),
    ]
    for tensors, word in refused:
        with pytest.raises(ExportError, match=word):
            export(tmp_path / "out", tensors)
    for format in ("npy", "zip", None):
        with pytest.raises(ConfigError, match="choose one of npz, "):
            export(tmp_path / "out", few, format)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_could_not_be_opened_again_is_not_written(few, tmp_path, monkeypatch):
    from quantlab.formats.input import ziparchive

    monkeypatch.setattr(ziparchive, "MAX_MEMBERS", 5)
    with pytest.raises(ExportError, match="choose safetensors"):
        export(tmp_path / "out", few)
    assert list(tmp_path.iterdir()) == []


def test_the_source_is_never_replaced(few, tmp_path):
    np.save(tmp_path / "model.npy", np.ones(3))
    (tmp_path / "link").symlink_to(tmp_path / "model.npy")
    with open_checkpoint(tmp_path / "model.npy") as source:
        for name in ("model.npy", "link"):
            with pytest.raises(ExportError, match="another name"):
                export(tmp_path / name, few, source=source)
    np.testing.assert_array_equal(np.load(tmp_path / "model.npy"), np.ones(3))


@pytest.mark.parametrize("kind", ["folder", "named pipe", "device", "no folder", "long", "NUL", "loop", "not a folder"])
def test_places_that_cannot_take_a_file_are_refused(kind, few, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    places = {
        "folder": tmp_path,
        "named pipe": tmp_path / "pipe",
        "device": "/dev/null",
        "no folder": tmp_path / "x" / "y",
        "long": tmp_path / ("x" * 300),
        "NUL": tmp_path / "a\0b",
        "loop": tmp_path / "loop",
        "not a folder": tmp_path / "pipe" / "x",
    }
    with pytest.raises(ExportError, match="cannot write"):
        export(places[kind], few)
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "loop"}
    assert not Path("/dev/null").is_file()


# -- nobody ever sees half of it


@pytest.fixture
def existing(tmp_path):
    """A file that must stay as it is, alone in its folder."""
    path = tmp_path / "out.npz"
    path.write_bytes(b"what stood here before")
    yield path
    assert path.read_bytes() == b"what stood here before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_stop_at_any_moment_leaves_everything_as_it_was(few, existing):
    moments = itertools.count(1)
    for moment in moments:
        calls = itertools.count(1)
        try:
            export(existing, few, cancel=lambda: next(calls) == moment)  # noqa: B023
        except Cancelled:
            assert existing.read_bytes() == b"what stood here before"
            continue
        break
    assert moment > 10
    existing.write_bytes(b"what stood here before")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RecursionError, ZeroDivisionError])
def test_an_error_in_the_callers_progress_leaves_everything_as_it_was(error, few, existing):
    def on_progress(done, total, label):
        if done > total // 3:
            raise error

    with pytest.raises(error):
        export(existing, few, on_progress=on_progress)


def interrupted(step, modules, task):
    """Run `task` with a KeyboardInterrupt at the step-th line of these modules, as Ctrl-C can come between any two."""
    files, lines = {module.__file__ for module in modules}, itertools.count(1)

    def trace(frame, event, arg):
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and next(lines) == step:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        task()
    finally:
        sys.settrace(before)


@pytest.mark.parametrize(
    ("format", "modules"),
    [
        ("npz", [output, npz, zipfile]),
        ("safetensors", [output, safetensors_format]),
        ("compressed-tensors", [output, writing, shards]),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a ZipFile that is half made
def test_an_interruption_at_any_line_leaves_nothing_or_all(format, modules, tmp_path):
    q = quantize(np.ones((2, 4), np.float32), QuantConfig())
    out = tmp_path / "out"
    for step in itertools.count(1):
        try:
            interrupted(step, modules, lambda: export(out, {"w": q}, format=format))
        except KeyboardInterrupt:
            assert list(tmp_path.iterdir()) in ([], [out])
            if out.exists():  # the interruption came after its last step
                with open_checkpoint(out) as found:
                    assert found.names
                shutil.rmtree(out) if out.is_dir() else out.unlink()
            continue
        break
    assert step > 50


@pytest.mark.parametrize(("code", "word"), [(errno.ENOSPC, "the disk is full"), (errno.EIO, "input/output error")])
@pytest.mark.parametrize("function", ["write", "fsync", "replace"])
def test_what_the_system_refuses_is_one_sentence(code, word, function, few, existing, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    if function == "write":
        monkeypatch.setattr("quantlab.formats.numpy.npz.write_bytes", refuse)
    else:
        monkeypatch.setattr(output.os, function, refuse)
    with pytest.raises(ExportError, match=f"cannot write .*out.npz.*: {word}"):
        export(existing, few)


def test_the_bytes_last_before_the_name_does_and_then_the_name(few, tmp_path, monkeypatch):
    """What a crash of the machine would show, in the order of the calls that prevent it."""
    seen, sync, move, out = [], os.fsync, os.replace, tmp_path / "out.npz"

    def replace(source, target):  # Numba moves the files of its cache, too
        seen.extend(["moved"] * (Path(target) == out))
        move(source, target)

    monkeypatch.setattr(os, "fsync", lambda fd: [seen.append(stat.S_ISDIR(os.fstat(fd).st_mode)), sync(fd)])
    monkeypatch.setattr(os, "replace", replace)
    export(out, few)
    assert seen == [False, "moved", True]


def test_a_file_larger_than_the_system_allows_is_one_sentence(tmp_path):
    code = """
import resource, sys, numpy as np, quantlab as ql
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
ql.export(sys.argv[1], {"w": ql.quantize(np.ones((100, 1000), np.float32), ql.QuantConfig())})
"""
    env = os.environ | {"NUMBA_DISABLE_JIT": "1"}  # numba writes a cache, which the limit would hit
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "o"], capture_output=True, text=True, env=env, check=False
    )
    assert "ExportError: cannot write" in run.stderr.splitlines()[-1]
    assert "too large" in run.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", PACKED)
def test_bytes_that_the_disk_changed_are_found_before_the_file_appears(format, few, tmp_path, monkeypatch):
    real = os.fsync

    def flip_a_code(descriptor):
        real(descriptor)
        for part in tmp_path.glob(".quantlab-*.part"):
            content = bytearray(part.read_bytes())
            place = content.index(few["layer.1.weight"].packed.tobytes()) + 5
            content[place] ^= 1
            part.write_bytes(content)

    monkeypatch.setattr(output.os, "fsync", flip_a_code)
    with pytest.raises(ExportError, match=r"came back different|cannot be read back"):
        export(tmp_path / "out", few, format)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path):
    code = """
import sys, time, numpy as np, quantlab as ql
q = ql.quantize(np.random.default_rng(0).standard_normal((200, 1000), np.float32), ql.QuantConfig())
tensors = {str(i): q for i in range(20)}
def slowly(done, total, label):
    print(label, flush=True)
    time.sleep(0.005)
ql.export(sys.argv[1], tensors, on_progress=slowly)
"""
    path = tmp_path / "out.npz"
    for lines in (1, 30, 55):
        path.write_bytes(b"old")
        child = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
        for _ in range(lines):
            assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert path.read_bytes() == b"old"
    # What a killed process leaves behind has another name, and no reader takes it for a result.
    assert {other.suffix for other in tmp_path.iterdir() if other != path} == {".part"}


def test_progress_ends_at_its_total_and_names_what_is_done(few, tmp_path):
    seen = []
    np.save(tmp_path / "model.npy", np.ones(1000))
    with open_checkpoint(tmp_path / "model.npy") as source:
        export(tmp_path / "out", few, source=source, on_progress=lambda *args: seen.append(args))
    done, totals, labels = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}
    assert [label.split()[0] for label, _ in itertools.groupby(labels)] == ["reading", "writing", "checking"]


def test_a_new_file_has_the_permissions_of_any_new_file(few, tmp_path):
    (tmp_path / "any").touch()
    path = export(tmp_path / "out", few)
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_link_is_written_through(few, tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    export(tmp_path / "link", few)
    assert (tmp_path / "link").is_symlink()
    assert list(load_packed(tmp_path / "real")) == list(few)


def test_no_second_copy_of_all_data_is_made(tmp_path):
    import tracemalloc

    q = quantize(np.random.default_rng(0).standard_normal((500, 500), np.float32), QuantConfig())
    tensors = {str(i): q for i in range(120)}
    for format in PACKED:
        export(tmp_path / "out", {"0": q}, format)  # compiles what is not compiled yet
        tracemalloc.start()
        with limits(workers=1):  # a thread that has not woken up yet would hold arrays of earlier tensors
            export(tmp_path / "out", tensors, format)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # Checking reads one tensor back and decodes it twice, some 14 bytes per value. All tensors together are 120.
        assert peak < 30 * q.nbytes
