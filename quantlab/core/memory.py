"""Memory is asked for before it is taken.

NumPy takes what it is asked for, and the system promises more than it has: whoever is first to touch it is killed. So
what is large says beforehand how much it is about to take, and is refused in one sentence where that is not there.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from ..errors import ConfigError, LimitError
from ..wording import size_text

VARIABLE = "QUANTLAB_MEMORY"  # what this process may take in all: 4000000000, 4GB, 3.5 GiB
SMALL = 64 << 20  # bytes for which nobody asks; as many are left over for those who do not

PROCESS = Path("/proc/self")
MACHINE = Path("/proc/meminfo")
CONTROL_GROUPS = Path("/sys/fs/cgroup")

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


class NoMemory(LimitError):
    """Memory that is not there; another time it may be."""


class Room(NamedTuple):
    """Bytes that may still be taken, who says so, and what can be done."""

    free: int
    whose: str
    way_out: str


class asked:
    """`with asked(nbytes, "tensor 'w' of 'x.npy'"):` around what is about to take so many bytes.

    Raises NoMemory, a LimitError, if they are not there, and in the place of a MemoryError in the block. Below `SMALL`
    the system is not looked at, which takes 0.1 ms.
    """

    def __init__(self, nbytes: int, what: str) -> None:
        self.nbytes, self.what = nbytes, what

    def __enter__(self) -> Self:
        if self.nbytes > SMALL and (room := least_room()) and self.nbytes + SMALL > room.free:
            free = size_text(max(room.free, 0))
            raise NoMemory(
                f"{self.what} takes {size_text(self.nbytes)} of memory, and {room.whose} has {free} left: "
                f"{room.way_out}, or choose a smaller tensor"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, MemoryError):
            takes = f"{size_text(self.nbytes)} of memory" if self.nbytes else "memory"
            raise NoMemory(
                f"{self.what} takes {takes} that the system did not give: close other programs, or choose a smaller "
                "tensor"
            ) from None


def least_room() -> Room | None:
    """The least of what the machine, the container, the process and the setting leave; None if nobody tells."""
    return min(_rooms(), default=None)


def resident_bytes() -> int:
    """Memory that this process takes now; where the system does not tell, the most that it has taken."""
    with suppress(OSError):
        return int((PROCESS / "statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def setting() -> int | None:
    """What `VARIABLE` says, in bytes; None if it is not set. ConfigError for what is no size.

    >>> parsed("4GB"), parsed("1.5 GiB"), parsed("1000")
    (4000000000, 1610612736, 1000)
    """
    said = os.environ.get(VARIABLE, "").strip()
    return parsed(said) if said else None


def parsed(said: str) -> int:
    """A size as people write it, in bytes: k, M, G and T are powers of 1000, and with an i of 1024."""
    match = _SIZE.fullmatch(said)
    if match is None:
        raise ConfigError(f"{VARIABLE} is {said!r}: give a number of bytes, such as 4000000000, 4GB or 3.5GiB")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(unit.lower() or " "))


def _rooms() -> Iterator[Room]:
    if (most := setting()) is not None:
        yield Room(most - resident_bytes(), f"{VARIABLE}={os.environ[VARIABLE].strip()}", "raise it")
    with suppress(OSError, ValueError, KeyError):
        yield Room(_free_of_machine(), "this machine", "close other programs")
    for free in _free_of_containers():
        yield Room(free, "its container", "give it more")
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        if soft != resource.RLIM_INFINITY:
            pages = int((PROCESS / "statm").read_text("ascii").split()[0])
            yield Room(soft - pages * os.sysconf("SC_PAGE_SIZE"), "this process", "raise its limit (ulimit -v)")


def _free_of_machine() -> int:
    """Memory and swap that can be had without another program's losing its own."""
    if not MACHINE.exists():  # macOS tells what there is, and not what is free of it
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") - resident_bytes()
    fields = dict(line.split(":") for line in MACHINE.read_text("ascii").splitlines())
    return sum(int(fields[name].split()[0]) << 10 for name in ("MemAvailable", "SwapFree"))


def _free_of_containers() -> Iterator[int]:
    """What every control group that holds this process leaves: of version 2, and of version 1."""
    with suppress(OSError, ValueError):
        for line in (PROCESS / "cgroup").read_text("ascii", errors="replace").splitlines():
            _, kinds, path = line.split(":", 2)
            if not kinds:
                yield from _free_of(CONTROL_GROUPS, path, "memory.max", "memory.current", "")
            elif "memory" in kinds.split(","):
                limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
                yield from _free_of(CONTROL_GROUPS / "memory", path, limit, usage, "total_")


def _free_of(base: Path, path: str, limit: str, usage: str, prefix: str) -> Iterator[int]:
    """The same of a group and those around it; in a container their names may be those of the world outside."""
    inner = base / path.strip("/")
    for group in (inner, *inner.parents):
        with suppress(OSError, ValueError):  # no such file, or no limit: "max"
            most, used = (int((group / name).read_text("ascii")) for name in (limit, usage))
            stat = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
            # What was read of files counts as used, and is given up when memory is wanted.
            files = (int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
            yield most - used + sum(files)
        if group == base:
            return
