"""Where a checkpoint may come from: the sample, an upload, or a path under the allowed folders.

A source is written as one word, which is also what the URL holds (`?file=`):

- ``sample``                 the model that ships with quantlab
- ``upload-<digest>``        a file somebody uploaded, kept on disk until the server stops
- anything else              a path on the computer that runs the server

Which folders may be read says one setting, the environment variable ``QUANTLAB_ROOTS`` (separated as in ``PATH``).
Without it, a server that only its own computer reaches (see `audience`) reads its user's home and Hugging Face's cache;
one that faces others, the folder in which it was started. The model that ``QUANTLAB_MODEL`` names may always be read,
and is open first. Links are followed first and checked after.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from quantlab.errors import CheckpointError, LimitError
from quantlab.formats import FORMATS
from quantlab.formats.output.orphans import Claim, machine, sweep_folders
from quantlab.samples import SAMPLE_NAME, sample_path
from quantlab.ui import audience
from quantlab.wording import called

SAMPLE = "sample"
SUFFIXES = tuple(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
UPLOAD_BUDGET = 4 * 2**30  # bytes of uploads kept on disk; the oldest go first
LISTED, VISITED = 500, 2000  # files shown of one folder, and folders looked into for them
UPLOADS = "quantlab-uploads-"  # how the names of servers' folders of uploads begin
_claim = Claim()
_UPLOAD = re.compile(r"upload-[0-9a-f]{32}\Z")


def roots() -> tuple[Path, ...]:
    """The folders whose files may be opened by path, links resolved."""
    setting = os.environ.get("QUANTLAB_ROOTS", "")
    folders = [part for part in setting.split(os.pathsep) if part.strip()]
    if not folders:
        folders = [os.curdir, *(_own() if audience.alone() else ())]
    resolved = (Path(folder).expanduser().resolve() for folder in folders)
    return tuple(dict.fromkeys(resolved))


def _own() -> Iterator[str]:
    """The user's home, and where Hugging Face keeps models if that is elsewhere."""
    home = Path.home()
    if home != Path(home.anchor):  # some containers have no home but the root of everything
        yield str(home)
    yield from filter(None, (os.environ.get("HF_HOME"), os.environ.get("HF_HUB_CACHE")))


def first() -> str:
    """The source that is open at the start: the model that the server was started for, or the sample."""
    model = os.environ.get("QUANTLAB_MODEL", "").strip()
    return str(Path(model).expanduser().absolute()) if model else SAMPLE


def resolve_path(text: str) -> Path:
    """The file or folder that `text` names, links followed; CheckpointError unless it is under an allowed folder."""
    try:
        path = Path(text.strip()).expanduser()
        path = (path if path.is_absolute() else roots()[0] / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a link loop, a NUL, a name that is too long
        raise CheckpointError(f"{_short(text)} is not a path that can be followed: give the path of a file") from error
    # Said before asking whether it exists: what lies outside is nobody's business.
    named = [Path(first()).resolve()] if first() != SAMPLE else []
    if not any(path.is_relative_to(root) for root in (*roots(), *named)):
        allowed = ", ".join(map(str, roots()))
        raise CheckpointError(
            f"{_short(text)} is outside the folders that may be read ({allowed}): move the file there, or start "
            f"quantlab with it (make app MODEL=...), or with the environment variable QUANTLAB_ROOTS naming its folder"
        )
    return path


def locate(source: str) -> Path:
    """The path on disk behind a source word; CheckpointError when there is none."""
    if source == SAMPLE:
        return sample_path()
    if _UPLOAD.match(source):
        return _find_upload(source)
    return resolve_path(source)


def is_upload(source: str) -> bool:
    """Whether a source is an uploaded file: nothing that lies beside it on disk belongs to it."""
    return _UPLOAD.match(source) is not None


def title(source: str) -> str:
    """What people call this source: the sample's name, that of the uploaded file, or that of the model at the path."""
    if source == SAMPLE:
        return f"{SAMPLE_NAME} (sample)"
    if _UPLOAD.match(source):
        return _upload_name(source)
    return "/".join(called(Path(source)))


def stem(source: str) -> str:
    """What a file made of this source is called before its own ending: without the owner, and the source's ending."""
    if source == SAMPLE:
        return SAMPLE_NAME
    name = _upload_name(source) if is_upload(source) else called(Path(source))[0].rpartition("/")[2]
    ending = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(ending)] or name


def candidates(folder: Path) -> list[Path]:
    """Files below `folder` that look like checkpoints, in order of their paths; at most `LISTED`.

    Only names are looked at; what a file really is, its content tells when it is opened.
    """
    found: list[Path] = []
    # os.walk does not follow links, so a loop of links cannot hold it.
    for visited, (place, folders, files) in enumerate(os.walk(folder)):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        found += [Path(place, name) for name in sorted(files) if name.lower().endswith(SUFFIXES)]
        if len(found) >= LISTED or visited >= VISITED:
            break
    return found[:LISTED]


def keep_upload(name: str, data: bytes | memoryview) -> str:
    """Put an uploaded file on disk and return its source word; the same bytes give the same word.

    `name` is only ever shown; the file on disk has a name of ours.
    """
    if len(data) > UPLOAD_BUDGET:
        raise LimitError(
            f"{_short(name)} has {len(data):,} bytes, more than the {UPLOAD_BUDGET:,} kept for uploads: "
            f"put it into {roots()[0]} and open it by its path"
        )
    digest = hashlib.sha256(data).hexdigest()[:32]
    folder = _uploads() / digest
    if not folder.is_dir():
        _make_room(len(data))
        part = Path(tempfile.mkdtemp(dir=_uploads(), prefix="part-"))
        (part / "data").write_bytes(data)
        (part / "name.json").write_text(json.dumps(_short(Path(name.replace("\\", "/")).name)))
        try:
            part.rename(folder)  # in one step, so that no other session sees half a file
        except OSError:  # another session was first with the same bytes
            shutil.rmtree(part, ignore_errors=True)
    return f"upload-{digest}"


@cache
def _folder() -> tempfile.TemporaryDirectory:
    """This server's own folder for uploads, readable by its user alone; it goes when the server does."""
    folder = tempfile.TemporaryDirectory(prefix=f"{UPLOADS}{machine()}-", ignore_cleanup_errors=True)
    _claim.hold(Path(folder.name))
    return folder


def _uploads() -> Path:
    return Path(_folder().name)


def forget_uploads() -> None:
    """Remove every upload; called when the server stops."""
    if _folder.cache_info().currsize:
        _folder().cleanup()
        _folder.cache_clear()
        _claim.release()


def sweep_uploads() -> None:
    """Remove what servers that were killed have left; called when one starts."""
    sweep_folders(Path(tempfile.gettempdir()), UPLOADS)


def _make_room(size: int) -> None:
    kept = sorted((entry for entry in _uploads().iterdir() if len(entry.name) == 32), key=lambda e: e.stat().st_mtime)
    sizes = [(entry / "data").stat().st_size for entry in kept]
    while kept and sum(sizes) + size > UPLOAD_BUDGET:
        shutil.rmtree(kept.pop(0), ignore_errors=True)
        sizes.pop(0)


def _find_upload(source: str) -> Path:
    path = _uploads() / source.removeprefix("upload-") / "data"
    if not path.is_file():
        raise CheckpointError("this upload is no longer kept by the server: upload the file again")
    return path


def _upload_name(source: str) -> str:
    try:
        return json.loads((_find_upload(source).parent / "name.json").read_text())
    except (CheckpointError, OSError):
        return "an upload that is gone"


def _short(text: str, limit: int = 120) -> str:
    """`text` fit for a sentence: printable, and no longer than `limit`."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
