"""The machine and the libraries, in words."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from quantlab.pool import core_count

LIBRARIES = ("numpy", "numba", "onnxruntime", "torch")
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
