"""What llama.cpp's converter does to tensors on their way into GGUF, to be tried where a tensor looks like another.

Which architectures it does so to is written in the converter's code and in no file, so it is tried, and named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..formats import Checkpoint
from ..formats.checkpoint import TensorSpec
from ..formats.gguf.read import GGUFCheckpoint
from .comparing import Comparison, compare
from .roles import role_of
from .stored import Pair, Reading, model_config

TRIED = 100.0  # times that a change must lower the squared error to be what was done
TRIED_FROM_NOISE = 10.0  # the same where the error was larger than the tensor: at 2 bits no more can be left of it
SHUFFLED = 0.25  # relative error of a matrix from which on its rows may be in another order


@dataclass(frozen=True)
class Change:
    """A change of a source's tensor: in words, and how it is made."""

    words: str
    make: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Heads:
    """Numbers of attention heads: of queries, and of keys; 0 where no file tells."""

    queries: int
    keys: int

    @classmethod
    def of(cls, gguf: GGUFCheckpoint, other: Checkpoint) -> Heads:
        """Those of a GGUF file's metadata, else of the config.json beside the other checkpoint."""
        arch = gguf.metadata.get("general.architecture")
        queries = _count(gguf.metadata.get(f"{arch}.attention.head_count"))
        keys = _count(gguf.metadata.get(f"{arch}.attention.head_count_kv"))
        if queries:
            return cls(queries, keys or queries)
        config = model_config(other)
        inner = config.get("text_config")
        config = inner if isinstance(inner, dict) else config
        queries = _count(config.get("num_attention_heads"))
        return cls(queries, _count(config.get("num_key_value_heads")) or queries)


def _count(said: object) -> int:
    return said if type(said) is int and 0 < said <= 1 << 16 else 0


def changes(name: str, shape: tuple[int, ...], heads: Heads, back: bool) -> list[Change]:
    """What may have been done to a tensor: `name` is GGUF's; `back` if it is GGUF's that has to become the other's."""
    kind = role_of(name).kind
    if len(shape) == 1 and "norm" in name:
        word, step = ("less", -1) if back else ("plus", 1)
        return [Change(f"{word} 1, as llama.cpp stores the norms of some models", lambda x: x + x.dtype.type(step))]
    count = {"q": heads.queries, "k": heads.keys}.get(kind, 0)
    if not count or not shape or shape[0] % (2 * count):
        return []
    return [
        Change(
            f"rows in the order that llama.cpp stores them in, {count} heads taking turns by halves",
            lambda x: turned(x, count, back),
        )
    ]


def turned(x: np.ndarray, heads: int, back: bool = False) -> np.ndarray:
    """The rows of q or k as llama.cpp has them for its rotary embedding; `back`: as Hugging Face has them."""
    half = x.shape[0] // heads // 2
    inner = (half, 2) if back else (2, half)
    return np.ascontiguousarray(x.reshape(heads, *inner, *x.shape[1:]).swapaxes(1, 2)).reshape(x.shape)


class Converted:
    """Compares tensors as they are and, between GGUF and others, as the converter may have changed them.

    Attributes
    ----------
    found : the changes that explained a difference, in words -> of how many tensors.
    """

    def __init__(self, stored: Checkpoint, origin: Checkpoint) -> None:
        self.found: dict[str, int] = {}
        self._back = not isinstance(stored, GGUFCheckpoint)
        gguf, other = (origin, stored) if self._back else (stored, origin)
        both = isinstance(gguf, GGUFCheckpoint) and not isinstance(other, GGUFCheckpoint)
        self._heads = Heads.of(gguf, other) if both and isinstance(gguf, GGUFCheckpoint) else None

    def closest(
        self, pair: Pair, spec: TensorSpec, x: np.ndarray, reading: Reading
    ) -> tuple[np.ndarray, Comparison, str]:
        """The source's values, how far what is stored is off, and the change that explains a difference, in words.

        A change is taken if the squared error is `TRIED` times lower with it.
        """
        found = compare(x, reading.parts(), spec.channel_axis)
        if self._heads is None or not found.relative or (x.ndim > 1 and found.relative < SHUFFLED):
            return x, found, ""
        for change in changes(pair.source if self._back else pair.name, x.shape, self._heads, self._back):
            other = change.make(x)
            tried = compare(other, reading.parts(), spec.channel_axis)
            if tried.relative * (TRIED_FROM_NOISE if found.relative >= 1 else TRIED) <= found.relative:
                self.found[change.words] = self.found.get(change.words, 0) + 1
                return other, tried, change.words
        return x, found, ""
