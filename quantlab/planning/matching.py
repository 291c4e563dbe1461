"""Which tensor of one checkpoint is which of another: by name, or by the two names that llama.cpp's converter knows."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import CheckpointError
from ..formats.gguf.read import GGUFCheckpoint
from ..wording import counted, shown
from . import names as naming
from .roles import role_of
from .stored import Pair, Stored

# A module's own weight, under the names that layouts give to its codes; a copy among an ONNX file's tensors.
_WEIGHT = re.compile(r"\.(weight|weight_packed|qweight|W_q)$|_value$|_quantized$")
# What wraps a model in one program and not in another.
_WRAPPERS = re.compile(r"^(?:(?:module|model|_orig_mod|base_model|language_model|transformer|bert|roberta)\.)+")
PROBED = 64  # rows of a head that are compared with the embedding's


@dataclass(frozen=True)
class Matching:
    """The tensors of two checkpoints, side by side.

    Attributes
    ----------
    pairs : in the order of the checkpoint that is audited.
    alone, missing : tensors that only it has, and that only the source has.
    tied : heads that only one of them has, and that are, or were, the embedding: nothing is amiss.
    how : in what ways names were matched that are not the same, in words; "" where all are.
    """

    pairs: tuple[Pair, ...]
    alone: tuple[str, ...]
    missing: tuple[str, ...]
    tied: tuple[str, ...]
    how: str


Found = dict[str, Pair]
Way = Callable[[Sequence[str], Sequence[str]], Found]


def bare(name: str) -> str:
    """A tensor's name without what its layout adds to it.

    >>> bare("fc.weight"), bare("fc.qweight"), bare("fc.bias")
    ('fc', 'fc', 'fc.bias')
    """
    return _WEIGHT.sub("", name)


def unwrapped(name: str) -> str:
    """The same without what wraps the model.

    >>> unwrapped("model.language_model.layers.0.fc.weight")
    'layers.0.fc'
    """
    return _WRAPPERS.sub("", bare(name))


def match(stored: Stored, source: Stored) -> Matching:
    """Pairs of the tensors of two checkpoints. CheckpointError, with a name of either, where nothing matches."""
    found, how = _paired(stored, source)
    taken = {name for pair in found.values() for name in pair.sources}
    alone = [name for name in stored.names if name not in found]
    missing = [name for name in source.names if name not in taken]
    found |= {name: pair for name in alone if (pair := _as_embedding(stored, source, name))}
    tied = [name for name in alone if name in found]
    tied += [name for name in missing if _is_tied(source, name)]
    if not found:
        raise CheckpointError(
            f"{stored.checkpoint} and {source.checkpoint} have no tensor of one name: {_first(stored)} in the one, "
            f"{_first(source)} in the other; give the model that it was made of"
        )
    rest = set(tied)
    return Matching(
        tuple(found[name] for name in stored.names if name in found),
        tuple(name for name in alone if name not in rest),
        tuple(name for name in missing if name not in rest),
        tuple(tied),
        "; ".join(how),
    )


def _first(stored: Stored) -> str:
    return shown(stored.names[0]) if stored.names else "nothing"


def _paired(stored: Stored, source: Stored) -> tuple[Found, list[str]]:
    """What every way of matching finds among the names that those before it left."""
    found: Found = {}
    how = []
    for words, way in _ways(stored, source):
        taken = {name for pair in found.values() for name in pair.sources}
        left = [name for name in stored.names if name not in found]
        new = way(left, [name for name in source.names if name not in taken])
        if new and words:
            how.append(f"{counted(len(new), 'tensor')} {words}")
        found |= new
    return found, how


def _ways(stored: Stored, source: Stored) -> Iterable[tuple[str, Way]]:
    yield "", _by_key(lambda name: name)
    yield "", _by_key(bare)  # two layouts' names of one weight
    if isinstance(stored.checkpoint, GGUFCheckpoint) != isinstance(source.checkpoint, GGUFCheckpoint):
        yield "by gguf-py's table of names", lambda names, known: _by_table(stored, source, names, known)
    yield "by names without what wraps the model", _by_key(unwrapped)


def _by_key(key: Callable[[str], str]) -> Way:
    def way(names: Sequence[str], known: Sequence[str]) -> Found:
        there = _unique(known, key)
        return {name: Pair(name, (there[own],)) for own, name in _unique(names, key).items() if own in there}

    return way


def _unique(names: Sequence[str], key: Callable[[str], str]) -> dict[str, str]:
    """Key -> name, of those keys that only one name has."""
    keys = [key(name) for name in names]
    counts = Counter(keys)
    return {own: name for own, name in zip(keys, names, strict=True) if counts[own] == 1}


def _by_table(stored: Stored, source: Stored, names: Sequence[str], known: Sequence[str]) -> Found:
    """Hugging Face's names among GGUF's, whichever of the two is the source."""
    arch = naming.architecture(stored.checkpoint) or naming.architecture(source.checkpoint)
    if not isinstance(stored.checkpoint, GGUFCheckpoint):
        places = naming.pairs(_weights(names), known, arch)
        return {name: Pair(name, (place.name,), place.expert) for name, place in _renamed(names, places).items()}
    stacks: dict[str, dict[int, str]] = {}
    for name, place in _renamed(known, naming.pairs(_weights(known), names, arch)).items():
        stacks.setdefault(place.name, {})[place.expert or 0] = name
    whole = {name: experts for name, experts in stacks.items() if sorted(experts) == list(range(len(experts)))}
    return {name: Pair(name, tuple(experts[i] for i in sorted(experts))) for name, experts in whole.items()}


def _weights(names: Sequence[str]) -> list[str]:
    """Names as the table has them: X.weight of X.qweight."""
    return [re.sub(r"\.(qweight|weight_packed|W_q)$", ".weight", name) for name in names]


def _renamed(names: Sequence[str], places: Mapping[str, naming.Place]) -> dict[str, naming.Place]:
    return {name: places[own] for name, own in zip(names, _weights(names), strict=True) if own in places}


def _embedding(stored: Stored) -> str | None:
    """The embedding of the words; of several, none is."""
    found = [name for name in stored.names if role_of(name).kind == "embedding" and len(stored.shape(name)) == 2]
    by_name = [name for name in found if re.search(r"embed_tokens|token_embd|wte|word_embeddings|tok_embeddings", name)]
    return by_name[0] if len(by_name) == 1 else None


def _as_embedding(stored: Stored, source: Stored, name: str) -> Pair | None:
    """The source of a head that its model takes from the embedding, and this file has by itself."""
    other = _embedding(source) if role_of(name).kind == "head" else None
    return Pair(name, (other,)) if other and source.shape(other) == stored.shape(name) else None


def _is_tied(source: Stored, name: str) -> bool:
    """Whether a head is the embedding, value by value, as far as its first rows tell."""
    other = _embedding(source) if role_of(name).kind == "head" else None
    if other is None or source.shape(other) != source.shape(name) or not {name, other} <= set(source.checkpoint.names):
        return False
    head, embedding = (source.checkpoint.raw_rows(each, 0, PROBED) for each in (name, other))
    return np.array_equal(head, embedding)
