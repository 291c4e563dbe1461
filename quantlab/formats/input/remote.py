"""Files behind a URL: only the bytes that are asked for, and as an `InputFile`. What is no web server, fsspec reads.

So every format opens from every place, with the same checks. The URL is the caller's own, never one that a file names;
what the place answers is a stranger's word all the same, and is held to its length.
"""

import re
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from ...core import pool
from ...errors import CheckpointError, QuantlabError
from ...wording import as_text, shown
from . import web
from .files import InputFile

# Places that hold bytes. fsspec knows more: some of them follow what is written in a file, or run a program.
PLACES = (
    "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "hf", "ftp", "sftp", "ssh", "smb", "hdfs",
    "webhdfs", "memory",
)  # fmt: skip
INSTALL = "install them with: pip install -c constraints.txt -r requirements-cluster.txt"

BLOCK = 1 << 18  # bytes fetched for a smaller read, and kept: headers are read number by number
BLOCKS = 16  # blocks kept per file
TOGETHER = 8  # requests at a time
PAUSES = (0.3, 1.0)  # seconds before a request that failed is made again
FINAL = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotImplementedError,
    ImportError,
    web.Refused,
)

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# What tells one version of a file from the next, by the names that fsspec's places give it.
_VERSION = (
    "ETag",
    "etag",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "Content-MD5",
    "created",
)

Result = TypeVar("Result")


def is_url(path: object) -> bool:
    """Whether this is a URL rather than a path.

    >>> is_url("s3://bucket/model.safetensors"), is_url("/data/model.safetensors")
    (True, False)
    """
    return isinstance(path, str) and _URL.match(path) is not None


def local_path(url: str) -> Path | None:
    """The path that a file:// URL names; None for a URL of any other kind.

    >>> local_path("file:///data/a%20b.npy").as_posix()
    '/data/a b.npy'
    """
    if url.partition("://")[0].lower() != "file":
        return None
    try:
        return Path(url2pathname(urlsplit(url).path))
    except ValueError as error:
        raise CheckpointError(f"cannot open {shown(url, 200)}: it is no URL of a file") from error


def public(url: str) -> str:
    """A URL without what may be secret in it: user, password, query. A path is as it was.

    >>> public("https://me:secret@host/model.npy?signature=secret"), public("/data/what?.npy")
    ('https://host/model.npy', '/data/what?.npy')
    """
    if not is_url(url):
        return url
    scheme, _, rest = re.split(r"[?#]", url)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def beside(url: str, name: str) -> str:
    """The URL of another file in the same folder; a query, such as a token, is kept.

    >>> beside("https://host/model/index.json?token=1", "part 1.safetensors")
    'https://host/model/part 1.safetensors?token=1'
    """
    path, mark, query = url.partition("?")
    return f"{path.rpartition('/')[0]}/{name}{mark}{query}"


class RemoteFile(InputFile):
    """A file behind a URL; its size and version are fixed at the opening.

    Parameters
    ----------
    url : PROTOCOL://..., of one of `PLACES`.
    name : what the file is called in messages and manifests (default: the last part of the URL's path).

    Raises
    ------
    CheckpointError : there is no such file, it may not be read, its length is not known, only all of it can be read,
        or the library for such URLs is not installed.
    """

    def __init__(self, url: str, name: str | None = None) -> None:
        self.url, self._open = url, True
        self.path = Path(public(url))  # for its last parts: there is no such file
        self.alone = True
        self.name = as_text(name or unquote(PurePosixPath(public(url)).name) or url)
        self._where = shown(public(url), 200)
        self._digest = None
        self._place = self._connect(url)
        self.size, *_ = self._stamp = self._look()
        self._block = lru_cache(BLOCKS)(self._fetch_block)

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out` (bytes) from `offset`; CheckpointError if the file has changed since it was opened.

        Cancelled, between two requests, as the limits of the pool say.
        """
        self._checked(offset, len(out))
        self.fileno()
        if len(out) < BLOCK:
            self._copy_blocks(offset, out)
            return
        step = web.PART * TOGETHER
        for start in range(0, len(out), step):
            pool.check_cancel()
            self._fetch(offset + start, out[start : start + step])
        self._check_version()

    @property
    def stamp(self) -> tuple[object, ...] | None:
        """Size and version, by which the file is known another day; None if the server tells no version."""
        return self._stamp if any(self._stamp[1:]) else None

    def identity(self) -> str:
        """What tells this version of the file from another one."""
        return repr(self._stamp)

    def fileno(self) -> int:
        """CheckpointError once the file is closed; it has no descriptor otherwise."""
        if not self._open:
            raise CheckpointError(f"{self} is closed: open it again")
        return -1

    def close(self) -> None:
        """Further reads raise CheckpointError."""
        self._open = False

    def _connect(self, url: str) -> "web.WebFile | StoredFile":
        """The place that is read from."""
        protocol = url.partition("://")[0].lower()
        if protocol not in PLACES:
            raise CheckpointError(
                f"cannot open {self._where}: quantlab reads paths, file:// and {', '.join(PLACES)} URLs"
            )
        if protocol in ("http", "https"):
            return web.WebFile(url)
        try:
            import fsspec  # noqa: F401
        except ImportError as error:
            raise CheckpointError(
                f"cannot open {self._where}: such URLs need fsspec and its companions; {INSTALL}"
            ) from error
        return self._asked("open", lambda: StoredFile(url))

    def _look(self) -> tuple[Any, ...]:
        """The file's size and what tells its version, as they are now."""
        info = self._asked("open", self._place.look)
        if info.get("type", "file") != "file":
            raise CheckpointError(f"cannot open {self._where}: it is a folder; end it in / to open the model in it")
        if not isinstance(info.get("size"), int):
            raise CheckpointError(
                f"cannot open {self._where}: the server does not say how long it is; download it first"
            )
        return (info["size"], *(str(info.get(key, "")) for key in _VERSION))

    def _check_version(self) -> None:
        """CheckpointError if the file has changed since it was opened."""
        if not self._place.tells_changes and self._look() != self._stamp:
            raise self._changed()

    def _copy_blocks(self, offset: int, out: memoryview) -> None:
        """A small read, from blocks that are kept."""
        done = 0
        while done < len(out):
            index, at = divmod(offset + done, BLOCK)
            part = self._block(index)[at : at + len(out) - done]
            out[done : done + len(part)] = part
            done += len(part)

    def _fetch_block(self, index: int) -> bytes:
        block = bytearray(min(BLOCK, self.size - index * BLOCK))
        self._fetch(index * BLOCK, memoryview(block))
        self._check_version()
        return bytes(block)

    def _fetch(self, offset: int, out: memoryview) -> None:
        """Fill `out` by requests that run at the same time."""
        self._asked("read", lambda: self._place.fetch(offset, out))

    def _asked(self, what: str, request: Callable[[], Result]) -> Result:
        """The answer to a request, made again if it fails for a reason that may pass."""
        for pause in _pauses():
            try:
                return request()
            except web.Changed as error:
                raise self._changed() from error
            except QuantlabError:
                raise
            # Every place has its own library, with errors of its own kind.
            except Exception as error:
                if pause is None or isinstance(error, FINAL):
                    raise self._failure(what, error) from error
                time.sleep(pause)
        raise AssertionError("the last pause is None")

    def _failure(self, what: str, error: Exception) -> CheckpointError:
        if isinstance(error, ImportError):
            return CheckpointError(f"cannot {what} {self._where}: {_one_line(error)}")
        known = {FileNotFoundError: "there is no such file", PermissionError: "permission denied"}
        why = next((words for kind, words in known.items() if isinstance(error, kind)), _one_line(error))
        return CheckpointError(f"cannot {what} {self._where}: {why}")

    __del__ = close


class StoredFile:
    """A file in a place that fsspec reads: of a cloud, or of another protocol than HTTP."""

    tells_changes = False  # only a further look does

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self._system, self._path = url_to_fs(url)

    def look(self) -> dict[str, Any]:
        """What is known of it now: "size", "type", and what tells its version."""
        self._system.invalidate_cache(self._path)
        return self._system.info(self._path)

    def fetch(self, offset: int, out: memoryview) -> None:
        """Fill `out` from `offset`, by requests that run at the same time."""
        ends = [min(start + web.PART, len(out)) for start in range(0, len(out), web.PART)]
        starts = [0, *ends[:-1]]
        first, last = ([offset + at for at in cuts] for cuts in (starts, ends))
        parts = self._system.cat_ranges([self._path] * len(starts), first, last, on_error="raise")
        for start, end, part in zip(starts, ends, parts, strict=True):
            if len(part) != end - start:
                raise ConnectionError(f"the server was asked for {end - start} bytes, and sent {len(part)}")
            out[start:end] = part


def _pauses() -> Iterator[float | None]:
    yield from PAUSES
    yield None


def _one_line(error: Exception) -> str:
    """What a library says, as the end of a sentence; its kind where it says nothing. URLs in it lose their secrets."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    words = re.sub(r"[a-z0-9+.-]+://[^\s'\"<>]+", lambda url: public(url[0]), " ".join(said.split()))
    return words[:200].rstrip(".") or type(error).__name__
