"""The process that libhdf5 runs in: whatever a file does to it, quantlab says one sentence and goes on."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from quantlab.core import pool
from quantlab.errors import Cancelled, CheckpointError
from quantlab.formats import open_checkpoint
from quantlab.formats.hdf5 import process

from ...fuzz.lookup3 import checksummed, lookup3
from ...fuzz.run import CORPUS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def many_links(tmp_path_factory) -> bytes:
    """A file whose root keeps its links in a fractal heap and a B-tree."""
    path = tmp_path_factory.mktemp("links") / "f.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(40):
            file[f"tensor {number}"] = np.float32([number])
    return path.read_bytes()


def patched(content: bytes, signature: bytes, offset: int, new: bytes) -> bytes:
    """Other bytes in the first structure of this signature, and the checksum that goes with them."""
    begin, end = next(found for found in checksummed(content) if content.startswith(signature, found[0]))
    data = bytearray(content)
    data[begin + offset : begin + offset + len(new)] = new
    data[end : end + 4] = lookup3(bytes(data[begin:end])).to_bytes(4, "little")
    return bytes(data)


# What a field of 2.0.0's structures does to libhdf5: (structure, place in it, its bytes, a word of the sentence)
KILLERS = {
    "records of no bytes": (b"BTHD", 10, b"\0\0", "crashed on it (SIGFPE)"),
    "a tree of libhdf5's own tests": (b"BTHD", 5, b"\0", "crashed on it (SIGSEGV)"),
    "a heap of no width": (b"FRHP", 110, b"\0\0", "crashed on it (SIG"),
    "more records than the tree has": (b"BTHD", 26, b"\xff", "damaged HDF5 file"),
    "nodes of 4 GB": (b"BTHD", 9, b"\xff", "memory allocation failed"),
}


@pytest.mark.parametrize("case", KILLERS)
def test_what_kills_libhdf5_is_one_sentence(case, many_links, tmp_path):
    structure, offset, new, word = KILLERS[case]
    (tmp_path / "f.h5").write_bytes(patched(many_links, structure, offset, new))
    with pytest.raises(CheckpointError, match=r"'f\.h5' is a damaged HDF5 file") as refusal:
        open_checkpoint(tmp_path / "f.h5")
    assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("path", sorted((CORPUS / "hdf5").glob("*.bin")), ids=lambda path: path.stem)
def test_what_was_found_takes_no_memory_and_says_nothing_of_its_own(path, tmp_path):
    """Of this process and the largest that it waited for; libhdf5 prints on the standard error of its own accord."""
    code = """
        import resource, sys, quantlab as ql
        from tests.peak import peak
        def both(): return peak() + (resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)
        before = peak()
        try: ql.open_checkpoint(sys.argv[1])
        except ql.QuantlabError: pass
        print(both() - before)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), path], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert int(run.stdout) < 500 << 20
    assert run.stderr == ""


def test_h5py_is_not_loaded_where_files_are_read(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("w", data=np.ones((4, 4), np.float32), chunks=(2, 2), compression="gzip", fletcher32=True)
    code = "import sys, quantlab as ql; ql.open_checkpoint(sys.argv[1]).load('w'); print('h5py' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "f.h5"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout == "False\n"


def running() -> set[str]:
    """The processes that this one has started and that have not ended."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended meanwhile
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.add(folder.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_cancel_ends_an_endless_file_and_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(
        process, "_START", "import os, struct; os.write(0, struct.pack('<BQQ', 0, 0, 0))\nwhile 1: pass"
    )
    (tmp_path / "f.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    looks = iter([False, False])
    before = running()
    with pool.limits(cancel=lambda: next(looks, True)), pytest.raises(Cancelled):
        open_checkpoint(tmp_path / "f.h5")
    assert running() <= before


def test_other_threads_go_on_while_a_file_is_read(tmp_path):
    """libhdf5 holds Python's lock while it loops: in this process nothing else would run."""
    endless = min((CORPUS / "hdf5").glob("*.bin"), key=lambda path: path.stat().st_size)
    ticks, done = [], threading.Event()
    thread = threading.Thread(target=lambda: [ticks.append(1) for _ in iter(lambda: done.wait(0.02), True)])
    thread.start()
    try:
        with pytest.raises(CheckpointError, match="of computing"):
            open_checkpoint(endless)
    finally:
        done.set()
        thread.join()
    assert len(ticks) > 20


# -- a process that an attacker has taken over


def says(*steps: str) -> str:
    """A program in the place of libhdf5's, that sends what it likes."""
    lines = ["import json, os, struct, time", "def frame(*numbers): os.write(0, struct.pack('<BQQ', *numbers))",
             "def row(fields, data=b''):",
             "    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()",
             "    frame(2, len(text), len(data)); os.write(0, text + data)",
             "frame(0, 0, 0); os.read(0, 8)"]  # fmt: skip
    return "\n".join([*lines, *steps, "time.sleep(60)"])


GOOD = {"path": "w", "shape": [2], "itemsize": 4, "kind": "float32", "order": "<", "layout": "contiguous", "address": 8}
TREASON = {
    "a frame of another kind": "frame(9, 0, 0)",
    "a row of a petabyte": "frame(2, 1 << 50, 0)",
    "data of a petabyte": "frame(2, 2, 1 << 50)",
    "what is not JSON": "row(b'{')",
    "JSON without end": "row(b'[' * 60000)",
    "no object": "row([])",
    "no path": "row({})",
    "a path that is no text": f"row({GOOD | {'path': 3}})",
    "half a character": f"row({GOOD | {'path': chr(0xD800)}})",
    "a path twice": f"row({GOOD}); row({GOOD})",
    "a long path": f"row({GOOD | {'path': 'x' * 5000}})",
    "another name of nothing": "row({'path': 'b', 'first': 'a'})",
    "an unheard-of kind": f"row({GOOD | {'kind': 'object'}})",
    "an unheard-of order": f"row({GOOD | {'order': '|'}})",
    "an unheard-of layout": f"row({GOOD | {'layout': 'virtual'}})",
    "values of another size": f"row({GOOD | {'itemsize': 8}})",
    "a negative length": f"row({GOOD | {'shape': [-1]}})",
    "a length that is no number": f"row({GOOD | {'shape': [True]}})",
    "a thousand dimensions": f"row({GOOD | {'shape': [1] * 1000}})",
    "chunks of another rank": f"row({GOOD | {'layout': 'chunked', 'chunk': [1, 1]}})",
    "chunks of nothing": f"row({GOOD | {'layout': 'chunked', 'chunk': [0]}})",
    "an index that is cut": f"row({GOOD | {'layout': 'chunked', 'chunk': [1]}}, b'1234')",
    "filters that are none": f"row({GOOD | {'layout': 'chunked', 'chunk': [1], 'filters': [1]}})",
    "a fill value of another size": f"row({GOOD | {'layout': 'absent', 'fill': '00'}})",
    "a fill value that is no number": f"row({GOOD | {'layout': 'absent', 'fill': 'zz'}})",
    "values in the header that are not there": f"row({GOOD | {'layout': 'compact'}})",
    "values that are stored nowhere": f"row({GOOD | {'layout': 'nothing'}})",
    "values beyond the file": f"row({GOOD | {'address': 1 << 40}})",
    "a question beyond the file": "frame(1, 1 << 40, 8)",
    "a fault without a name": "text = b'{\"fault\": []}'; frame(3, len(text), 0); os.write(0, text)",
    "an end in the middle": "frame(2, 10, 0); os._exit(0)",
    "silence": "os._exit(0)",
}


@pytest.mark.parametrize("case", TREASON)
def test_what_the_process_says_is_a_strangers_word(case, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_START", says(TREASON[case]))
    (tmp_path / "f.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(CheckpointError, match=r"f\.h5") as refusal:
        open_checkpoint(tmp_path / "f.h5")
    assert "\n" not in str(refusal.value)


def test_a_good_row_is_taken(tmp_path, monkeypatch):
    """So that what is refused above is refused for what is wrong with it."""
    monkeypatch.setattr(process, "_START", says(f"row({GOOD})", "frame(4, 0, 0)"))
    (tmp_path / "f.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + np.float32([1, 2]).tobytes())
    assert open_checkpoint(tmp_path / "f.h5").load("w").tolist() == [1, 2]


def test_a_process_that_waits_for_ever_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_START", says("time.sleep(600)"))
    monkeypatch.setattr(process, "PATIENCE", 0.5)
    (tmp_path / "f.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(CheckpointError, match=r"did not end within 0\.5 seconds"):
        open_checkpoint(tmp_path / "f.h5")


def test_a_process_that_cannot_start_is_told_from_a_damaged_file(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_START", "raise ImportError")
    (tmp_path / "f.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(CheckpointError, match="h5py, which reads HDF5 files, does not start"):
        open_checkpoint(tmp_path / "f.h5")


# -- what the process has given up

ATTEMPTS = {
    "opens a file": "open('/etc/passwd')",
    "writes a file": "open('/tmp/quantlab-escaped', 'w')",
    "connects": "socket.socket()",
    "starts a program": "os.posix_spawn('/bin/true', ['true'], {})",
    "takes memory": "bytes(1 << 30)",
    "runs what it wrote": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="the filter of system calls is Linux's")
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_process_cannot(attempt):
    code = f"""
        import mmap, os, socket, sys
        sys.path.append({str(ROOT / "quantlab" / "formats" / "hdf5")!r})
        from libhdf5.seal import seal
        try: {ATTEMPTS[attempt]}
        except Exception: print("not even before")
        seal()
        try: {ATTEMPTS[attempt]}
        except (OSError, MemoryError): print("refused", flush=True)
        os._exit(0)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    Path("/tmp/quantlab-escaped").unlink(missing_ok=True)
    assert run.stdout == "refused\n", run.stderr


def test_the_process_has_none_of_the_variables_of_the_one_that_asks(tmp_path, monkeypatch):
    """Nor its folder: it answers with what it sees."""
    monkeypatch.setenv("SECRET_TOKEN", "secret")
    sees = "' '.join([os.getcwd(), *sorted(os.environ)])"
    monkeypatch.setattr(process, "_START", says(f"row({GOOD} | {{'path': {sees}}})", "frame(4, 0, 0)"))
    (tmp_path / "f.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(8))
    folder, *variables = open_checkpoint(tmp_path / "f.h5").names[0].split()
    assert folder == "/"
    assert set(variables) <= {"OPENBLAS_NUM_THREADS", "LC_CTYPE", *process._KEPT}
