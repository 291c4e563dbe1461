"""What is being written, and whose it is: so that what a killed process has left is removed, and nothing else.

Who writes a file that is not finished holds a lock on it, which the system takes back when the process ends, however it
ends. The name says on which computer, since start, that lock can be seen; what comes from another, or lies where there
are no locks, such as on some network disks, is removed when nobody has written to it for a day.
"""

import contextlib
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import time
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FRESH = 2.0  # seconds: a file that was just made may not be locked yet
ABANDONED = 24 * 3600.0  # seconds without a change, where no lock tells
_PART = re.compile(r"\.quantlab-([0-9a-f]{8})?[0-9a-f]{16}\.part")
_READ = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC if fcntl else 0


@cache
def machine() -> str:
    """Eight hexadecimal digits, the same for processes that see each other's locks: one computer, since it started."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        name = platform.node()
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def part_beside(final: Path) -> Path:
    """Where to write what will be `final`: a name that nobody knows, in the same folder."""
    return final.with_name(f".quantlab-{machine()}{secrets.token_hex(8)}.part")


class Claim:
    """Says that a file or a folder is being written, until it is released or the process ends."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def hold(self, place: int | Path) -> None:
        """Claim an open file, or a folder that is there. Where there are no locks its age protects it.

        FileNotFoundError if another process took it for abandoned: it was stopped, for seconds, between two steps.
        """
        self._descriptor = os.dup(place) if isinstance(place, int) else os.open(place, os.O_RDONLY | _READ)
        if fcntl is None:
            return
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # waits for somebody who is looking at it
        if os.fstat(self._descriptor).st_nlink == 0:
            raise FileNotFoundError(2, "another program has removed the unfinished file: try again")

    def release(self) -> None:
        """It is finished, or gone."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def sweep_parts(folder: Path) -> None:
    """Remove what killed processes have left unfinished in a folder. What cannot be removed stays, without a word."""
    for entry in _entries(folder):
        if named := _PART.fullmatch(entry.name):
            _remove_abandoned(entry, named[1] == machine(), ABANDONED)


def sweep_folders(folder: Path, prefix: str) -> None:
    """Remove the folders that killed servers have left in `folder`: those named `prefix`, `machine()` and more."""
    for entry in _entries(folder):
        if entry.name.startswith(f"{prefix}{machine()}-"):
            _remove_abandoned(entry, True, float("inf"))  # a server may well do nothing for a day


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _remove_abandoned(entry: os.DirEntry[str], ours: bool, abandoned: float) -> None:
    """Remove a file or a folder of this user that nobody holds, or nobody has changed for `abandoned` seconds."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        about = entry.stat(follow_symlinks=False)
        is_folder = stat.S_ISDIR(about.st_mode)
        mine = not hasattr(os, "getuid") or about.st_uid == os.getuid()
        if not mine or not (is_folder or stat.S_ISREG(about.st_mode)):
            return
        age = time.time() - _last_change(entry, about)
        if age < FRESH:
            return
        if fcntl is not None:
            # A network disk gives an exclusive lock only to those who may write.
            descriptor = os.open(entry.path, _READ | (os.O_RDONLY if is_folder else os.O_RDWR))
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # it is being written
            except OSError:
                ours = False
        if (ours and fcntl is not None) or age >= abandoned:
            shutil.rmtree(entry.path) if is_folder else os.unlink(entry.path)


def _last_change(entry: os.DirEntry[str], about: os.stat_result) -> float:
    """When a file, or what lies in a folder, was last written to."""
    inside = _entries(Path(entry.path)) if stat.S_ISDIR(about.st_mode) else []
    return max([about.st_mtime, *(found.stat(follow_symlinks=False).st_mtime for found in inside)])
