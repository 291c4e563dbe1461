"""A little fuzzing of every format, and everything that fuzzers found before, again."""

import os
from pathlib import Path
from random import Random

import pytest

from quantlab import open_checkpoint
from quantlab.planning.importance import read_importance

from .lookup3 import checksummed, lookup3
from .run import CORPUS, Worker, fuzz, keep, laid_out
from .seeds import SEEDS
from .structure import MUTATORS, parse, serialize

SECONDS = float(os.environ.get("QUANTLAB_FUZZ_SECONDS", "30"))
SEED = int(os.environ.get("QUANTLAB_FUZZ_SEED", "0"))  # the same files every time; `make fuzz` is for finding others


@pytest.fixture(scope="module")
def worker():
    worker = Worker()
    yield worker
    worker.close()


@pytest.mark.parametrize("format", SEEDS)
def test_damaged_files_are_read_or_refused_in_one_sentence(format):
    report = fuzz(format, SECONDS, SEED)
    kept = [f"{keep(format, finding)}: {finding.words}" for finding in report.findings]
    assert not kept, f"{report}\n" + "\n".join(kept[:5])
    assert report.runs > 0


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*.bin")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_was_found_once_does_not_come_back(path, worker, tmp_path):
    kind, _, words = worker.open(laid_out(path.read_bytes(), tmp_path / "file", path.parent.name))
    assert kind in ("read", "refused"), words


@pytest.mark.parametrize("format", SEEDS)
def test_the_seeds_are_right_and_what_is_made_of_them_is_another_file(format, tmp_path):
    rng = Random(0)
    for content in SEEDS[format]():
        path = laid_out(content, tmp_path / "file", format)
        if format == "imatrix":
            assert len(read_importance(path).entries) == 2
        else:
            with open_checkpoint(path) as checkpoint:
                assert checkpoint.names
                checkpoint.raw(checkpoint.names[0])
        made = {MUTATORS[format](rng, content, [content]) for _ in range(50)}
        assert len(made - {content}) > 25


@pytest.mark.parametrize("behaviour", ["crash", "hang", "traceback"])
def test_the_fuzzer_sees_what_breaks(behaviour, monkeypatch, tmp_path, sample_path):
    """A worker whose opening of files is broken on purpose."""
    script = {
        "crash": "import os; os.abort()",
        "hang": "while True: pass",
        "traceback": "raise ZeroDivisionError",
    }[behaviour]
    package = tmp_path / "tests" / "fuzz"
    package.mkdir(parents=True)
    source = (Path(__file__).parent / "worker.py").read_text()
    broken = source.replace("            read_all(checkpoint, refused)\n", f"            {script}\n")
    assert broken != source
    (package / "worker.py").write_text(broken)
    for folder in (package, package.parent):  # else the package of that name that is installed goes first
        (folder / "__init__.py").touch()
    monkeypatch.setattr("tests.fuzz.run.ROOT", tmp_path)
    monkeypatch.setattr("tests.fuzz.run.SECONDS", 0.5)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    worker = Worker()
    try:
        assert worker.open(sample_path)[0] == "fault"
    finally:
        worker.close()


def test_structures_are_taken_apart_and_put_together_again():
    for content in SEEDS["onnx"]():
        assert serialize(parse(content)) == content
    old, new = SEEDS["hdf5"]()
    assert checksummed(old) == []
    blocks = checksummed(new)
    assert len(blocks) > 20
    assert all(int.from_bytes(new[end : end + 4], "little") == lookup3(new[start:end]) for start, end in blocks)
