"""The fuzzer's loop: make a file, let another process open it, keep what led somewhere new, and report what broke.

What leads somewhere new is told by where in the code the refusal was decided: a file that is refused at a place where
none was before becomes a seed itself.
"""

import contextlib
import hashlib
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from .bytewise import damage
from .seeds import SEEDS
from .structure import MUTATORS
from .worker import IMATRIX

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"
SECONDS = 5.0  # of processor time that a file may take
PATIENCE = 60.0  # seconds after which a worker that computes nothing hangs: machines can be busy
MEGABYTES = 500  # beyond the libraries


@dataclass
class Finding:
    """A file that broke the rule, and how."""

    content: bytes
    words: str


@dataclass
class Report:
    """What a run found out."""

    format: str
    seed: int
    runs: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    places: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.format}: {self.runs:,} files in {self.seconds / 60:.1f} min (seed {self.seed}): "
            f"{self.outcomes['read']:,} read, {self.outcomes['refused']:,} refused at {len(self.places)} places, "
            f"{len(self.findings)} findings"
        )


class Worker:
    """The process that opens files. It is started again after a file that ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._errors = io.StringIO()

    def open(self, path: Path) -> tuple[str, str, str]:
        """What became of a file: "read", "refused" or "fault", where that was decided, and words."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        began, used = time.monotonic(), self._used()
        while not select.select([process.stdout], [], [], 0.5)[0]:
            if self._used() - used > SECONDS or time.monotonic() - began > PATIENCE:
                self.close()
                return "fault", "", f"no answer after {time.monotonic() - began:.0f} s"
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self._process = None
            return "fault", "", f"the process ended with {code}"
        kind, place, words = json.loads(line)
        if self._used() - used > SECONDS:
            return "fault", place, f"took {self._used() - used:.1f} s of processor time"
        return kind, place, words

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.fuzz.worker", str(MEGABYTES)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        return self._process

    def _used(self) -> float:
        """Seconds of processor time of the worker and of the children that it waited for."""
        assert self._process is not None
        with contextlib.suppress(OSError, ValueError):
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def close(self) -> None:
        """End it, and what it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


def fuzz(format: str, seconds: float, seed: int) -> Report:
    """Open damaged files of a format for so long."""
    report, rng, worker = Report(format, seed), Random(seed), Worker()
    pool = Pool([*SEEDS[format](), *(path.read_bytes() for path in corpus(format))])
    began = time.monotonic()
    try:
        with TemporaryDirectory(prefix="quantlab-fuzz-") as folder:
            worker.open(laid_out(pool.opened[0], Path(folder) / "seed", format))  # it starts before the time counts
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                content = _mutated(rng, format, pool)
                kind, place, words = worker.open(laid_out(content, Path(folder) / "file", format))
                report.runs += 1
                report.outcomes[kind] += 1
                if kind == "fault":
                    report.findings.append(Finding(content, words))
                elif place not in report.places:
                    report.places.add(place)
                    (pool.opened if kind == "read" else pool.refused).append(content)
    finally:
        worker.close()
        report.seconds = time.monotonic() - began
    return report


@dataclass
class Pool:
    """What new files are made of: files that open, and some that were refused where none had been before."""

    opened: list[bytes]
    refused: list[bytes] = field(default_factory=list)

    def choose(self, rng: Random) -> bytes:
        """Mostly one that opens: what is refused already is seldom refused later on."""
        return rng.choice(self.refused if self.refused and rng.random() < 0.15 else self.opened)


def _mutated(rng: Random, format: str, pool: Pool) -> bytes:
    content = pool.choose(rng)
    for _ in range(rng.choice((1, 1, 1, 1, 2))):
        mutate = MUTATORS[format] if rng.random() < 0.9 else damage
        content = mutate(rng, content, pool.opened)
    return content


def laid_out(content: bytes, path: Path, format: str) -> Path:
    """The file at `path`; of a folder, which is kept as an archive, its files."""
    if format == "imatrix":  # by which the worker knows
        path = path.with_suffix(IMATRIX)
    if format != "folder":
        path.write_bytes(content)
        return path
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(content)) as source:  # damage has many faces
        for info in source.infolist():
            name = info.filename
            if name and "/" not in name and "\0" not in name and name not in (".", "..") and len(name) < 200:
                (path / name).write_bytes(source.read(info))
    return path


def corpus(format: str) -> list[Path]:
    """What fuzzers found in a format, kept for good."""
    return sorted((CORPUS / format).glob("*.bin"))


def keep(format: str, finding: Finding) -> Path:
    """Put a finding into the corpus."""
    path = CORPUS / format / f"{hashlib.sha256(finding.content).hexdigest()[:12]}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(finding.content)
    return path
