"""What llama.cpp's converter does to tensors on their way into GGUF, to be tried where a tensor looks like another.

Which architectures it does so to is written in the converter's code and in no file, so it is tried, and named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..formats import Checkpoint
from ..formats.gguf.read import GGUFCheckpoint
from .roles import role_of
from .stored import model_config


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
