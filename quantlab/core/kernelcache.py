"""The files in which Numba keeps compiled kernels, which a crash or a full disk can damage."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import kernels

log = logging.getLogger(__name__)


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
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def survive_damage() -> None:
    """Let every kernel be compiled anew where its file cannot be read. Numba would raise whatever reading it raises."""
    for item in vars(kernels).values():
        cache = getattr(item, "_cache", None)
        if cache is not None and hasattr(cache, "load_overload"):  # none where compilation is switched off
            cache.load_overload = _surviving(cache.load_overload)


def _surviving(load: Callable[..., Any]) -> Callable[..., Any]:
    def load_or_nothing(signature: Any, target: Any) -> Any:
        try:
            return load(signature, target)
        except Exception as error:  # EOFError, UnpicklingError, a missing attribute: damage has many faces
            log.warning("files of compiled kernels were damaged (%s): compiling anew", type(error).__name__)
            forget_compiled()
            return None

    return load_or_nothing
