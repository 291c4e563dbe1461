"""The command line as a whole: exit codes, one line for a refusal, help that teaches, nothing left behind."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import quantlab
from quantlab import cli
from quantlab.core.calibration import CALIBRATIONS
from quantlab.core.config import PRESETS
from quantlab.core.dtypes import DTYPES, MAPPINGS

ROOT = Path(__file__).parents[2]
COMMANDS = ("info", "sweep", "importance", "quantize", "export", "recipe", "report", "verify")
HOSTILE = {
    "empty": b"",
    "text": b"# quantlab\n",
    "pickle": b"\x80\x04K\x01.",
    "huge header": b"\xff" * 8 + b"{}",
    "truncated": b"\x93NUM",
    "claims 32 GiB": b"\x93NUMPY\x01\x00\x76\x00"
    + b"{'descr': '<f8', 'fortran_order': False, 'shape': (65536, 65536), }".ljust(117) + b"\n",
    "escape codes": b"\x1b[2J\x1b[31m\n\n",
}  # fmt: skip


def arguments(command: str, file: object, out: Path) -> list[object]:
    """A correct call of a command."""
    more = {
        "quantize": ["--config", "w4_g32", "-o", out],
        "export": ["--config", "w4_g32", "-o", out],
        "recipe": ["--for", "torchao", "-o", out],
        "report": ["--configs", "w4_g32", "-o", out],
    }
    return [command, file, *more.get(command, [])]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(run, tmp_path, command, content):
    (tmp_path / "bad.safetensors").write_bytes(content)
    ran = run(*arguments(command, tmp_path / "bad.safetensors", tmp_path / "out.npz"))
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("quantlab: ")
    assert "\x1b" not in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["missing", "", "."])
def test_a_file_that_cannot_be_opened_is_refused_in_one_line(run, tmp_path, command, name):
    ran = run(*arguments(command, tmp_path / name, tmp_path / "out.npz"))
    assert (ran.code, ran.err.count("\n")) == (1, 1)


def test_names_of_files_and_tensors_do_not_reach_the_terminal_as_commands(run, tmp_path):
    model = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"\x1b[2Jred": np.ones((2, 2), np.float32)}, model)
    for call in (
        ["info"],
        ["sweep", "--each", "--dtype", "int8"],
        ["quantize", "--config", "fp16", "-o", tmp_path / "o.npz"],
    ):
        ran = run(call[0], model, *call[1:])
        assert ran.code == 0
        assert "\x1b" not in ran.out + ran.err
    assert "\\x1b[2Jred" in run("info", model).out


def test_a_file_whose_name_is_no_text_is_read_and_written_like_any_other(run, tmp_path):
    source, out = (Path(os.fsdecode(bytes(tmp_path) + name)) for name in (b"/\xff.npy", b"/\xfe.safetensors"))
    np.save(source, np.ones((4, 8), np.float32))
    for call in (
        ["info", source],
        ["sweep", source, "--csv", "-"],
        ["quantize", source, "--config", "fp16", "-o", out],
    ):
        assert run(*call).code == 0
    assert (
        run("verify", out, "--source", source, "--json").json["tensors"][0]["tensor"] == "\N{REPLACEMENT CHARACTER}" * 3
    )


@pytest.mark.parametrize(
    "call",
    [
        [], ["unknown"], ["info"], ["sweep", "FILE", "--dtype", "int9"], ["sweep", "FILE", "--workers", "0"],
        ["sweep", "FILE", "--parquet", "-"], ["sweep", "FILE", "--csv", "a", "--json", "b"],
        ["sweep", "FILE", "--dtype", "int16", "--calibration", "entropy"],
        ["quantize", "FILE", "--config", "int44", "-o", "x.npz"],
        ["quantize", "FILE", "--config", "fp16"], ["quantize", "FILE", "--config", "fp16", "-o", "x.bin"],
        ["quantize", "FILE", "-o", "x.npz"], ["export", "FILE", "--config", "*=", "-o", "x.npz"],
        ["export", "FILE", "--config", "fp16", "-o", "x.npz", "--format", "zip"],
        ["export", "FILE", "--config", "=fp16", "-o", "x.npz"], ["info", "FILE", "--tensors", ""],
        ["quantize", "FILE", "--config", "fp16", "--skip", "", "-o", "x.npz"],
        ["sweep", "FILE", "--config", ""], ["sweep", "FILE", "--calibration", ","],
    ],
)  # fmt: skip
def test_wrong_usage_is_told_with_the_usage(run, model, call):
    ran = run(*(model if word == "FILE" else word for word in call))
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("usage: quantlab")
    assert ran.err.splitlines()[-1].startswith("quantlab")
    assert "Traceback" not in ran.err


def test_help_teaches_the_words_of_every_registry(run):
    text = " ".join(run("--help").out.split())
    for name in (*DTYPES, *CALIBRATIONS, *PRESETS, *COMMANDS):
        assert name in text
    assert all(f"{mapping.token} ({mapping.name}" in text for mapping in MAPPINGS.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples_that_parse(run, command):
    ran = run(command, "--help")
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 110
    examples = [line.split("quantlab ", 1)[1] for line in ran.out.splitlines() if line.startswith("  quantlab ")]
    assert len(examples) >= 2
    for example in examples:
        words = [word.strip("'") for word in example.split(" > ")[0].split()]
        assert cli.parser().parse_args(words).command == command


def test_the_version_is_the_packages(run):
    assert run("--version").out == f"quantlab {quantlab.__version__}\n"


def test_an_interruption_is_said_in_one_line(run, model, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("quantlab.cli.info.open_checkpoint", interrupted)
    ran = run("info", model)
    assert (ran.code, ran.err.count("\n")) == (130, 1)


def test_too_little_memory_is_said_in_one_line(run, model, monkeypatch):
    def exhausted(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("quantlab.cli.sweep.stream", exhausted)
    ran = run("sweep", model)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "memory" in ran.err


def test_no_progress_bar_where_nobody_watches(run, model):
    assert "%|" not in run("sweep", model).err
    assert "\r" not in run("sweep", model).err


def test_a_progress_bar_where_somebody_does(model, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    watched = Terminal()
    monkeypatch.setattr(sys, "stderr", watched)
    assert cli.main(["sweep", str(model), "--csv", str(model.parent / "missing" / "out.csv")]) == 1  # before any work
    assert "\r" not in watched.getvalue()
    assert cli.main(["sweep", str(model), "--csv", str(model.with_suffix(".csv"))]) == 0
    assert "\r" in watched.getvalue()


def started(*arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "quantlab", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_it_runs_as_a_module_in_any_encoding(tmp_path):
    np.savez(tmp_path / "model.npz", **{"größe\u2603": np.ones((2, 2), np.float32)})
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for flags in ([], ["--json"], ["--csv"]):
        process = started("info", tmp_path / "model.npz", *flags, env=environment)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b"")
        assert out


def test_damaged_files_of_compiled_kernels_are_compiled_anew(model, tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("NUMBA_DISABLE_JIT", None)

    def swept() -> tuple[int, bytes, bytes]:
        process = started("sweep", model, "--config", "fp16", "--json", "-", env=environment)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    whole = swept()
    assert whole[0] == 0
    for file in (tmp_path / "cache").rglob("*.nbc"):
        file.write_bytes(file.read_bytes()[:5])
    code, out, err = swept()
    assert (code, out) == (0, whole[1])
    assert b"were damaged" in err
    assert swept() == whole


def test_a_reader_that_has_seen_enough_is_no_error(model):
    process = started("sweep", model, "--csv", "-")
    process.stdout.close()
    assert process.wait(60) == 141
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("call", [["info"], ["info", "--csv"], ["sweep"], ["sweep", "--csv", "-"]], ids=" ".join)
def test_a_disk_that_is_full_is_said_in_one_line(model, call):
    command = [sys.executable, "-m", "quantlab", call[0], str(model), *call[1:]]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "quantlab: cannot write to stdout: no space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_streams_that_are_closed_are_no_error(model, tmp_path, closed):
    shell = f'"{sys.executable}" -m quantlab quantize "{model}" --config fp16 -o "{tmp_path}/out.npz" {closed}'
    done = subprocess.run(["sh", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert (tmp_path / "out.npz").exists()


@pytest.fixture
def large(tmp_path):
    """A model that takes a second or more to write."""
    path = tmp_path / "large.npy"
    np.save(path, np.random.default_rng(0).standard_normal((1500, 4096), dtype=np.float32))
    return path


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_command_that_is_stopped_leaves_nothing_under_the_final_name(large, tmp_path, sent, code):
    out = tmp_path / "folder" / "out.npz"
    out.parent.mkdir()
    process = started("quantize", large, "--config", "int8-sym-g32-mse", "-o", out)
    deadline = time.monotonic() + 60
    # Stopped while the file is being written, which is when there is something to leave behind.
    while process.poll() is None and not list(out.parent.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was faster than the signal")
    assert process.returncode == code
    assert not out.exists()
    assert b"Traceback" not in err
    if sent != signal.SIGKILL:
        assert list(out.parent.iterdir()) == []
