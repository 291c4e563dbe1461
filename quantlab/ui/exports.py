"""Files that were exported for download, and the job that writes one.

A download lies in a folder of this server's own, which only its user can read and which goes when the server stops; or
in a folder of its own under the one that the environment variable ``QUANTLAB_EXPORTS`` names, where it stays. It is
addressed by an id that nobody can guess. The oldest are removed when there are too many, or too many bytes.
"""

import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from quantlab.errors import Cancelled, ExportError
from quantlab.formats import FORMATS, Checkpoint
from quantlab.formats.output.orphans import Claim, machine, sweep_folders, sweep_parts
from quantlab.shipping.recipe import Assignment
from quantlab.shipping.rehearsal import source_nbytes
from quantlab.shipping.shipping import Shipment, same_figures, ship
from quantlab.ui import jobs, sources
from quantlab.ui.cache import Key
from quantlab.wording import counted

KEPT = 16  # downloads
BUDGET = 16 * 2**30  # bytes of them; the newest is kept whatever its size
ROUTE = "exports"  # the first part of a download's address
NAME_LENGTH = 100  # characters of a file's name before its suffix
EXPORTS = "quantlab-exports-"  # how the names of servers' own folders of downloads begin
_claim = Claim()
_UNSAFE, _RUNS = re.compile(r"[^A-Za-z0-9._-]"), re.compile(r"-{2,}")


@dataclass(frozen=True, eq=False)
class Written:
    """What an export's job results in: the file, of which source, and what the sweep said of it.

    `nbytes` and `source_nbytes` are those of whole files. `swept` is true where the figures to compare with are those
    of a sweep that the visitor has run; `download` is the file's id, None if it was saved to a folder. `snippet` is
    Python that reads it back.
    """

    key: Key
    shipment: Shipment
    expected: pd.DataFrame
    equal: np.ndarray
    swept: bool
    nbytes: int
    source_nbytes: int
    download: str | None
    snippet: str


class Store:
    """The files that can be downloaded, by id."""

    def __init__(self, folder: Path, kept: int = KEPT, budget: int = BUDGET) -> None:
        self.folder, self._kept, self._budget = folder, kept, budget
        self._files: dict[str, Path] = {}  # the oldest first
        self._lock = threading.Lock()

    def place(self, name: str) -> tuple[str, Path]:
        """A new id, and where the file of that name is to be written: in a folder of its own."""
        download = secrets.token_urlsafe(18)
        folder = self.folder / download
        folder.mkdir(mode=0o700)
        return download, folder / safe_name(name)

    def add(self, download: str, path: Path) -> None:
        """Offer a file that is whole, and make room for it."""
        with self._lock:
            self._files[download] = path
            sizes = {old: size_of(path) for old, path in self._files.items() if path.exists()}
            while len(self._files) > 1 and (len(self._files) > self._kept or sum(sizes.values()) > self._budget):
                oldest = next(iter(self._files))
                sizes.pop(oldest, None)
                self._remove(oldest)

    def find(self, download: str) -> Path | None:
        """The file of an id; None for one that is unknown or no longer kept. An id is only ever looked up."""
        path = self._files.get(download)
        return path if path is not None and path.exists() else None

    def drop(self, download: str) -> None:
        """Forget an id, and remove what was written for it."""
        with self._lock:
            self._remove(download)

    def _remove(self, download: str) -> None:
        self._files.pop(download, None)
        # Somebody who is downloading it keeps their open file to the end.
        shutil.rmtree(self.folder / download, ignore_errors=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


@st.cache_resource(show_spinner=False)
def store() -> Store:
    """The one store of this server process. ExportError if the folder that is configured cannot be used."""
    configured = os.environ.get("QUANTLAB_EXPORTS", "").strip()
    if not configured:
        folder = Path(tempfile.mkdtemp(prefix=f"{EXPORTS}{machine()}-"))
        _claim.hold(folder)
        return Store(folder)
    folder = Path(configured).expanduser().resolve()
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise ExportError(f"QUANTLAB_EXPORTS names {folder}, which is no folder that can be written to")
    return Store(folder)


def forget_exports() -> None:
    """Remove the server's own folder of downloads; called when it stops. A configured folder is left as it is."""
    if not os.environ.get("QUANTLAB_EXPORTS", "").strip():
        shutil.rmtree(store().folder, ignore_errors=True)
        _claim.release()
    store.clear()


def sweep_exports() -> None:
    """Remove what servers that were killed have left, and the exports that they had begun; called when one starts."""
    sweep_folders(Path(tempfile.gettempdir()), EXPORTS)
    if configured := os.environ.get("QUANTLAB_EXPORTS", "").strip():
        for folder in Path(configured).expanduser().glob("*/"):
            sweep_parts(folder)


def safe_name(name: str) -> str:
    r"""A file name that every system and every header takes, made of a stranger's words.

    >>> safe_name("../../Silero VAD 16 kHz (sample).npz"), safe_name("../..")
    ('Silero-VAD-16-kHz-sample.npz', 'tensors')
    """
    stem, dot, suffix = name.rpartition(".")
    known = dot + suffix if dot + suffix in {kind.suffix for kind in FORMATS.values()} else ""
    words = _RUNS.sub("-", _UNSAFE.sub("-", stem if known else name)).strip("-.")[:NAME_LENGTH].strip("-.")
    return (words or "tensors") + known


def target_in(folder: str, name: str) -> Path:
    """Where to save under a folder that may be opened. QuantlabError: it may not, or the name is taken."""
    place = sources.resolve_path(folder)
    if not place.is_dir():
        raise ExportError(f"{folder} is no folder: name one that exists")
    path = place / safe_name(name)
    if path.exists():
        raise ExportError(f"{path.name} exists already in {place}: choose another name")
    return path


def start(
    checkpoint: Checkpoint,
    key: Key,
    assignment: Assignment,
    format: str,
    name: str,
    folder: str | None = None,
    swept: pd.DataFrame | None = None,
) -> jobs.Job:
    """Write an export as a job, whose result is `Written`.

    Parameters
    ----------
    name : of the file. folder : where to save it, under an allowed folder; None for a download.
    swept : the table of a sweep of the same file, if there is one: its figures are then those to be met.
    """
    target = None if folder is None else target_in(folder, name)
    label = f"{counted(len(assignment.taken), 'tensor')} to {safe_name(name)}"

    def work(progress: jobs.Progress, cancel: Callable[[], bool]) -> Written:
        download, path = (None, target) if target else store().place(name)
        try:
            shipment = ship(checkpoint, assignment, path, format, on_progress=progress, cancel=cancel)
        except BaseException as error:
            discard(download, path, error)
            raise
        if download:
            store().add(download, path)
        return written(key, shipment, swept, download, source_nbytes(checkpoint, format))

    return jobs.start("export", label, work)


def discard(download: str | None, path: Path, error: BaseException) -> None:
    """Leave nothing of an export that did not end well, also where it was stopped after the file had its name."""
    if download:
        store().drop(download)
    elif isinstance(error, Cancelled):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def written(
    key: Key, shipment: Shipment, swept: pd.DataFrame | None, download: str | None, source_nbytes: int
) -> Written:
    """The result of a job, with the rows of an earlier sweep in place of those measured on the way."""
    expected, known = shipment.expected, False
    if swept is not None and not shipment.note:  # other values than the sweep's, and said to be so
        rows = shipment.expected[["tensor", "config"]].merge(swept, on=["tensor", "config"], how="left")
        known = len(rows) == len(expected) and bool(rows["nbytes"].notna().all())
        expected = rows[expected.columns] if known else expected
    equal = same_figures(expected, shipment.found)
    size, code = shipment.file_nbytes, snippet(shipment, download)
    return Written(key, shipment, expected, equal, known, size, source_nbytes, download, code)


def snippet(shipment: Shipment, download: str | None) -> str:
    """Python that reads an export back, from where it was saved, or from where a download is run."""
    write = FORMATS[shipment.format].snippet
    place = shipment.path if download is None else Path(shipment.path.name)
    return write(place, shipment.path) if write else ""
