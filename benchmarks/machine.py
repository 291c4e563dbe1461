"""The machine and the libraries, in words."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from quantlab.core import pool
from quantlab.core.pool import core_count

from .timing import seconds

LIBRARIES = ("numpy", "numba", "onnxruntime", "torch", "scipy")
UNITS = ("AVX-512", "avx512f"), ("AVX2", "avx2"), ("NEON", "asimd")  # name, flag in /proc/cpuinfo; the widest first


def description() -> list[str]:
    """Lines that say what the figures were measured on."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return [
        f"{processor()}, {core_count()} cores, {memory()}, {platform.system()} {platform.release()}",
        f"{python}, " + ", ".join(f"{name} {installed(name)}" for name in LIBRARIES),
    ]


def processor() -> str:
    """Model name and the widest vector unit."""
    lines = file_lines("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    unit = next((name for name, flag in UNITS if flag in flags), None)
    return (models[0] if models else platform.processor() or platform.machine()) + (f" ({unit})" if unit else "")


def memory() -> str:
    """Size of the main memory."""
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    except (ValueError, AttributeError):
        return "memory of unknown size"


def installed(name: str) -> str:
    """A library's version."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def file_lines(path: str) -> list[str]:
    """Lines of a file; none where there is no such file."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


@dataclass(frozen=True)
class Limits:
    """What the machine allows, by NumPy: bytes a second read and copied, and divisions of float32 in cache a second."""

    read: float
    copy: float
    divisions: float

    def lines(self) -> list[str]:
        """The limits in words."""
        return [
            f"memory: reads {self.read / 1e9:.0f} GB/s, copies {self.copy / 1e9:.0f} GB/s",
            f"division of float32 in cache: {self.divisions / 1e9:.1f} G/s; every value is divided once under every "
            "configuration",
        ]

    def shares(self, seconds: float, values: int, configurations: int, reads: int) -> str:
        """How much of each limit a sweep of float32 values reaches that reads them so many times."""
        divided = values * configurations / seconds / self.divisions
        return (
            f"{divided:.0%} of the limit of division, {4 * values * reads / seconds / self.read:.0%} of that of reading"
        )


def limits(x: np.ndarray, threads: int) -> Limits:
    """Measure the limits."""
    target, halves = np.empty_like(x), [slice(0, len(x) // 2), slice(len(x) // 2, None)]
    with pool.limits(workers=threads):
        read = best(lambda: pool.run(lambda half: x[half].max(), halves))
        copy = best(lambda: pool.run(lambda half: np.copyto(target[half], x[half]), halves))
        divided = best(lambda: pool.run(divide, range(threads)))
    return Limits(x.nbytes / read, x.nbytes / copy, threads * DIVIDED / divided)


DIVIDED, AT_ONCE = 1 << 27, 1 << 14


def divide(_: int) -> None:
    """DIVIDED divisions of float32 by a scalar, AT_ONCE at a time."""
    values, out = np.linspace(1, 2, AT_ONCE, dtype=np.float32), np.empty(AT_ONCE, np.float32)
    for _ in range(DIVIDED // AT_ONCE):
        np.divide(values, np.float32(3), out=out)


def best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of nine calls."""
    return min(seconds(call) for _ in range(9))
