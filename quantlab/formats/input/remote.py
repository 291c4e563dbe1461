"""Files behind a URL, read through fsspec: only the bytes that are asked for, and as an `InputFile`.

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
from ...errors import CheckpointError
from ...wording import as_text, shown
from .files import InputFile

# Places that hold bytes. fsspec knows more: some of them follow what is written in a file, or run a program.
PLACES = (
    "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "hf", "ftp", "sftp", "ssh", "smb", "hdfs",
    "webhdfs", "memory",
)  # fmt: skip
INSTALL = "install them with: pip install -c constraints.txt -r requirements-cluster.txt"

BLOCK = 1 << 18  # bytes fetched for a smaller read, and kept: headers are read number by number
BLOCKS = 16  # blocks kept per file
PART = 8 << 20  # bytes per request of a large read: 0.1 s of a fast line, so that a request's latency is lost in it
TOGETHER = 8  # requests at a time
PAUSES = (0.3, 1.0)  # seconds before a request that failed is made again
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError, ImportError)

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
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme.lower() == "file" else None


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
        self._system, self._place = self._connect(url)
        self.size, *_ = self._stamp = self._look()
        self._check_parts()
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
        for start in range(0, len(out), PART * TOGETHER):
            pool.check_cancel()
            self._fetch(offset + start, out[start : start + PART * TOGETHER])
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

    def _connect(self, url: str) -> tuple[Any, str]:
        """fsspec's file system, and the place in it."""
        protocol = urlsplit(url).scheme.lower()
        if protocol not in PLACES:
            raise CheckpointError(
                f"cannot open {self._where}: quantlab reads paths, file:// and {', '.join(PLACES)} URLs"
            )
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise CheckpointError(
                f"cannot open {self._where}: URLs need fsspec and its companions; {INSTALL}"
            ) from error
        return self._asked("open", lambda: url_to_fs(url))

    def _look(self) -> tuple[Any, ...]:
        """The file's size and what tells its version, as they are now."""
        self._asked("open", lambda: self._system.invalidate_cache(self._place))
        info = self._asked("open", lambda: self._system.info(self._place))
        if info.get("type", "file") != "file":
            raise CheckpointError(f"cannot open {self._where}: it is a folder; end it in / to open the model in it")
        if not isinstance(info.get("size"), int):
            raise CheckpointError(
                f"cannot open {self._where}: the server does not say how long it is; download it first"
            )
        return (info["size"], *(str(info.get(key, "")) for key in _VERSION))

    def _check_parts(self) -> None:
        """CheckpointError unless parts of the file can be read: a plain HTTP server may always send the whole."""
        if not urlsplit(self.url).scheme.lower().startswith("http") or self.size < 2:
            return
        with self._system.open(self._place, "rb", cache_type="none", size=self.size) as file:
            file.seek(self.size - 1)
            try:
                last = file.read(1)
            except ValueError as error:  # fsspec's own check, before anything is downloaded
                raise CheckpointError(
                    f"cannot open {self._where}: the server only sends whole files (it has no HTTP ranges); "
                    f"download it first"
                ) from error
            except Exception as error:
                raise self._failure("read", error) from error
        if len(last) != 1:
            raise CheckpointError(f"{self} has {self.size} bytes by the server's word, and fewer are there")

    def _check_version(self) -> None:
        """CheckpointError if the file has changed since it was opened."""
        if self._look() != self._stamp:
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
        ends = [min(start + PART, len(out)) for start in range(0, len(out), PART)]
        starts = [0, *ends[:-1]]
        places = [self._place] * len(starts)
        first, last = ([offset + at for at in cuts] for cuts in (starts, ends))
        parts = self._asked("read", lambda: self._system.cat_ranges(places, first, last, on_error="raise"))
        for start, end, part in zip(starts, ends, parts, strict=True):
            if len(part) != end - start:
                raise CheckpointError(f"{self} was asked for {end - start} bytes, and sent {len(part)}: open it again")
            out[start:end] = part

    def _asked(self, what: str, request: Callable[[], Result]) -> Result:
        """The answer to a request, made again if it fails for a reason that may pass."""
        for pause in _pauses():
            try:
                return request()
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


def _pauses() -> Iterator[float | None]:
    yield from PAUSES
    yield None


def _one_line(error: Exception) -> str:
    """What a library says, as the end of a sentence; its kind where it says nothing. URLs in it lose their secrets."""
    words = re.sub(r"[a-z0-9+.-]+://[^\s'\"<>]+", lambda url: public(url[0]), " ".join(str(error).split()))
    return words[:200].rstrip(".") or type(error).__name__
