"""Compiled kernels on disk: the machine code of each in a file, in a folder that no change leaves as it was.

Numba's own cache asks only whether the file that defines a kernel has changed, and would go on running the old code of
what it calls in another. Here the folder is named after a digest of every source in this package, of the versions, and
of the processor and settings that were compiled for. A checkout with the same kernels has the same folder, and starts
warm; any change begins a new one, and those not used for long are swept away.

Files are written whole or not at all, and may vanish at any time: what is missing is compiled anew. They hold code, so
they are read only from folders that nobody but this user can write to.
"""

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

log = logging.getLogger(__name__)

config: Any = numba.config
HERE = Path(__file__).parent
DIGITS, CHECK = 32, hashlib.sha256().digest_size  # of a folder's name; bytes in front of a file's content
FOLDER = re.compile(f"[0-9a-f]{{{DIGITS}}}")
KEPT, DAYS = 8, 30  # folders that are kept beside the one in use, and for how long
# What Numba can be set to that changes the code it makes.
SETTINGS = "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "ENABLE_AVX", "LOOP_VECTORIZE", "OPT", "SLP_VECTORIZE", "USING_SVML"


def sources_digest() -> str:
    """A digest of every source in this package."""
    digest = hashlib.sha256()
    for path in sorted(HERE.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


SOURCES = sources_digest()  # before the other modules are read: see `folder`


class KernelCache:
    """The files of one kernel, one for each signature: what Numba's dispatcher asks for, and tells of."""

    def __init__(self, function: Callable) -> None:
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"

    @property
    def cache_path(self) -> str | None:
        """The folder of the files."""
        where = folder()
        return None if where is None else str(where)

    def load_overload(self, signature: tuple, target: Any) -> CompileResult | None:
        """The kernel for argument types; None if there is no file, or none that can be read."""
        target.refresh()
        path = self._path(signature)
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        try:
            return rebuilt(content, signature, target)
        except Exception as error:  # EOFError, UnpicklingError, a missing attribute: damage has many faces
            log.warning("files of compiled kernels were damaged (%s): compiling anew", type(error).__name__)
            forget_compiled()  # damage seldom comes alone
            return None

    def save_overload(self, signature: tuple, compiled: CompileResult) -> None:
        """Keep a kernel. Where it cannot be written, it is compiled again another time."""
        path = self._path(signature)
        if path is None:
            return
        content = dumps(compiled._reduce())
        try:
            write_whole(path, hashlib.sha256(content).digest() + content)
        except OSError as error:
            say_once(f"compiled kernels cannot be kept ({error.strerror}): they are compiled at every start")

    def flush(self) -> None:
        """Forget the files of this kernel."""
        for path in files():
            if path.name.startswith(f"{self.name}."):
                path.unlink(missing_ok=True)

    def _path(self, signature: tuple) -> Path | None:
        types = hashlib.sha256(repr(signature).encode()).hexdigest()[:16]
        where = folder()
        return None if where is None else where / f"{self.name}.{types}.nbc"


def kept(kernel: Any) -> Any:
    """A dispatcher of Numba's whose compiled code is kept here; a plain function where compilation is switched off."""
    if compiles():
        kernel._cache = KernelCache(kernel.py_func)
    return kernel


def compiles() -> bool:
    """Whether kernels are compiled at all."""
    return not config.DISABLE_JIT


def rebuilt(content: bytes, signature: tuple, target: Any) -> CompileResult:
    """The kernel that a file holds."""
    if hashlib.sha256(content[CHECK:]).digest() != content[:CHECK]:
        raise ValueError
    found = CompileResult._rebuild(target, *pickle.loads(content[CHECK:]))
    if found.signature.args != signature:
        raise ValueError
    return found


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that others see all of it or nothing."""
    path.parent.mkdir(mode=0o700, exist_ok=True)  # another process may just have swept it away
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@functools.cache
def say_once(sentence: str) -> None:
    """Log a warning the first time only."""
    log.warning(sentence)


@functools.cache
def folder() -> Path | None:
    """The folder of the compiled kernels, made if it is not there; None where none can be.

    None, too, if a source was edited since this process began to read them: what it runs is nobody's digest.
    """
    if sources_digest() != SOURCES:
        return None
    for base, shared in bases():
        found = base / folder_name()
        with contextlib.suppress(OSError):
            new = not found.exists()
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            found.mkdir(mode=0o700, exist_ok=True)
            if shared and not (private(base) and private(found)):
                continue
            os.utime(found)  # it is in use
            if new:
                sweep(base, found)
            return found
    say_once("there is no folder to keep compiled kernels in: they are compiled at every start")
    return None


def bases() -> Iterator[tuple[Path, bool]]:
    """Where folders may lie, the best first, and whether others might write there too.

    NUMBA_CACHE_DIR if it is set; the user's own folder for caches, which all checkouts share; or beside the sources.
    """
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR, "quantlab-kernels"), False
        return
    yield Path(AppDirs("quantlab", appauthor=False).user_cache_dir, "kernels"), True
    yield HERE / "__pycache__" / "compiled", False


def folder_name() -> str:
    """A digest of what decides the compiled code: the sources, the versions, the processor, and the settings."""
    versions = sys.version, numba.__version__, version("llvmlite"), np.__version__
    processor = cpu_target.target_context.codegen().magic_tuple()
    settings = [str(getattr(config, name, None)) for name in SETTINGS]
    return hashlib.sha256(repr((SOURCES, versions, processor, settings)).encode()).hexdigest()[:DIGITS]


def private(path: Path) -> bool:
    """Whether a folder is this user's, and nobody else may write to it. Windows answers by the place alone."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return False
    return os.name == "nt" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def sweep(base: Path, used: Path) -> None:
    """Remove the folders of other sources that were not used for DAYS, and all but the KEPT that were used last.

    Whoever still runs from one loses time and nothing else: it compiles anew what it has not yet read.
    """
    others = [path for path in base.iterdir() if FOLDER.fullmatch(path.name) and path != used and not path.is_symlink()]
    last = {path: modified(path) for path in others}
    newest = sorted(others, key=lambda path: last[path], reverse=True)
    for place, path in enumerate(newest):
        if place >= KEPT or last[path] < time.time() - DAYS * 86400:
            shutil.rmtree(path, ignore_errors=True)


def modified(path: Path) -> float:
    """When a folder was last used; long ago if another process has just removed it."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def files() -> list[Path]:
    """The files of compiled kernels."""
    where = folder()
    return [] if where is None else list(where.glob("*.nbc"))


def forget_compiled() -> None:
    """Remove them: what is needed is compiled anew."""
    for file in files():
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
