"""The files in which Numba keeps compiled kernels, which a crash or a full disk can damage."""

import traceback
from pathlib import Path

from . import kernels

READER = "numba.core.caching"  # the module that reads the files


def cache_folders() -> set[Path]:
    """The folders of the files; none where compilation is switched off."""
    return {Path(item.stats.cache_path) for item in vars(kernels).values() if hasattr(item, "stats")}


def cached_files(folders: set[Path]) -> list[Path]:
    """The files of compiled kernels in them."""
    patterns = ("kernels.*.nbi", "kernels.*.nbc")
    return [file for folder in folders for pattern in patterns for file in folder.glob(pattern)]


def forget_compiled() -> None:
    """Remove them: what is needed is compiled anew."""
    for file in cached_files(cache_folders()):
        file.unlink(missing_ok=True)


def is_damage(error: BaseException) -> bool:
    """Whether an error came out of reading the files: damage has many faces (EOFError, UnpicklingError and others)."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == READER for frame, _ in frames)
