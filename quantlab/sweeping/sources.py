"""What a sweep reads tensors from: an array, a mapping of arrays, or a checkpoint."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import ConfigError, DTypeError, check_known
from ..formats.checkpoint import Checkpoint
from .weights import names_of_weights


class TensorSource(Protocol):
    """What a sweep needs of a checkpoint."""

    @property
    def names(self) -> list[str]:
        """Names of the tensors, in order."""

    def raw(self, name: str) -> np.ndarray:
        """The tensor in its own dtype."""

    def spec(self, name: str) -> Any:
        """Its spec: `nbytes` is what the tensor takes where it comes from, `shape` its lengths, `dtype` its type."""


Source = np.ndarray | Mapping[str, np.ndarray] | TensorSource


@dataclass(frozen=True)
class ArraySpec:
    """What a sweep needs to know of an array before it looks into it."""

    nbytes: int
    shape: tuple[int, ...]
    dtype: str


class ArraySource:
    """Arrays in memory, as a source."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays

    @property
    def names(self) -> list[str]:
        """Names of the arrays, in order."""
        return list(self._arrays)

    def raw(self, name: str) -> np.ndarray:
        """One of the arrays."""
        return self._arrays[name]

    def spec(self, name: str) -> ArraySpec:
        """Its size, shape and type; of what is no array, which the sweep will refuse, nothing."""
        x = self._arrays[name]
        return ArraySpec(getattr(x, "nbytes", 0), tuple(getattr(x, "shape", ())), str(getattr(x, "dtype", "")))


def as_source(source: Source) -> TensorSource:
    """An array, a mapping of arrays or a checkpoint as what a checkpoint is to a sweep. DTypeError for what is none."""
    if isinstance(source, Mapping):
        return ArraySource(source)
    if isinstance(source, (np.ndarray, np.floating)):
        return ArraySource({"tensor": source})
    if not hasattr(source, "raw"):
        raise DTypeError(
            f"the source is a {type(source).__name__}: give an array, a mapping of names to arrays, or a checkpoint, "
            "which open_checkpoint(path) makes of a file"
        )
    return source


def checked_names(source: TensorSource, tensors: Iterable[str] | None) -> list[str]:
    """The names to sweep, each once: unasked the weights of a checkpoint, and all of arrays that were given as such.

    ConfigError for names that are not there, and for a checkpoint without weights.
    """
    known = list(source.names)
    if tensors is None:
        return names_of_weights(source) if isinstance(source, Checkpoint) else known
    try:
        found, legal = list(dict.fromkeys([tensors] if isinstance(tensors, str) else tensors)), frozenset(known)
    except TypeError:
        raise ConfigError(f"tensors is {tensors!r}: give a list of names") from None
    for name in found:
        if name not in legal:
            check_known("tensor", name, known)
    return found
