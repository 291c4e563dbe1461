"""The tensors of a file to be: what is planned, under each of its options, and what is copied beside it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..core.config import QuantConfig
from ..core.tensor import packed_nbytes
from ..errors import QuantlabError
from ..formats.checkpoint import Checkpoint, TensorSpec
from ..formats.numpy import npz
from ..formats.output.outgoing import Outgoing
from ..formats.safetensors.model import SUFFIX
from ..shipping.recipe import Item
from ..shipping.rehearsal import copied, unquantized

STEM = "\x00"  # in place of what tells a tensor's name from others


@dataclass(frozen=True)
class Case:
    """What is known of a set of plans beside the options that they are chosen from.

    Attributes
    ----------
    used : schemes that all of them have. several : whether they have more than one.
    sharded : whether their files are cut into shards; None if it is not known.
    """

    used: frozenset[int] = frozenset()
    several: bool = False
    sharded: bool | None = None


UNKNOWN = Case()


class Choices:
    """The tensors that are planned, and their options, as they go into a file.

    Parameters
    ----------
    stored : (configuration, source's dtype) -> as the file holds it.

    Attributes
    ----------
    group : int64 [T]; tensors of one shape, dtype and kind of name are of one group, and all that a name has to do with
        their sizes is its length.
    forms : [groups][K + 1]; the outgoing tensor of each option, with `STEM` for a name; None where its shape has none.
    stems : names without what all of a group have.
    others : all other tensors of the checkpoint, copied.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        names: Sequence[str],
        configs: Sequence[QuantConfig],
        stored: Callable[[QuantConfig, str], QuantConfig],
    ) -> None:
        self.checkpoint = checkpoint
        self.specs = [checkpoint.spec(name) for name in names]
        self.planned = {name: at for at, name in enumerate(names)}
        self.others = [copied(checkpoint, Item(checkpoint.spec(n))) for n in checkpoint.names if n not in self.planned]
        keys = [(s.name.endswith(SUFFIX), s.shape, s.dtype, s.nbytes) for s in self.specs]
        order = {key: at for at, key in enumerate(dict.fromkeys(keys))}
        self.group = np.array([order[key] for key in keys], np.int64)
        self.stems = [s.name.removesuffix(SUFFIX) for s in self.specs]
        dtypes = {spec.dtype for spec in self.specs}
        self._stored = {dtype: [*(stored(config, dtype) for config in configs), None] for dtype in dtypes}
        self._made: dict[tuple[int, int], Outgoing] = {}
        first = {int(g): spec for g, spec in zip(self.group[::-1], self.specs[::-1], strict=True)}
        self.forms = [self._forms(first[g]) for g in range(len(order))]

    def _forms(self, spec: TensorSpec) -> list[Outgoing | None]:
        named = replace(spec, name=STEM + (SUFFIX if spec.name.endswith(SUFFIX) else ""))
        return [self._outgoing(named, config) for config in self._stored[spec.dtype]]

    def _outgoing(self, spec: TensorSpec, config: QuantConfig | None) -> Outgoing | None:
        if config is None:
            return copied(self.checkpoint, Item(spec))
        try:
            packed_nbytes(spec.shape, config)
        except QuantlabError:
            return None
        return unquantized(Item(spec, config))

    @cached_property
    def members(self) -> dict[str, str]:
        """What every tensor is called in an archive, which has not every name."""
        return npz.member_names(self.chosen(np.full(len(self.specs), -1)))

    @property
    def options(self) -> range:
        """All options; the last is a copy."""
        return range(len(self.forms[0]) if self.forms else 1)

    def stored(self, t: int, k: int) -> QuantConfig | None:
        """What a tensor is in the file under an option; None for a copy."""
        return self._stored[self.specs[t].dtype][k]

    def outgoing(self, t: int, k: int) -> Outgoing:
        """A tensor under an option that its shape has."""
        if (t, k) not in self._made:
            made = self._outgoing(self.specs[t], self.stored(t, k))
            assert made is not None, "only options that a tensor can have are asked for"
            self._made[t, k] = made
        return self._made[t, k]

    def chosen(self, options: np.ndarray) -> list[Outgoing]:
        """All tensors of the file, in the source's order, under one option each, int64 [T]."""
        others = {tensor.name: tensor for tensor in self.others}
        return [
            self.outgoing(self.planned[name], int(options[self.planned[name]]))
            if name in self.planned
            else others[name]
            for name in self.checkpoint.names
        ]


def spelt(texts: Sequence[Sequence[str]], choices: Choices, lengths: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Bytes of the text of every option, int64 [T, K + 1], its placeholders taking as many as `lengths` say of each."""
    table = np.array([[len(text.encode()) for text in row] for row in texts], np.int64)
    total = table.reshape(len(texts), -1)[choices.group]
    for placeholder, each in lengths.items():
        often = np.array([[text.count(placeholder) for text in row] for row in texts], np.int64)
        longer = np.array(each, np.int64)[:, None] - len(placeholder)
        total = total + often.reshape(len(texts), -1)[choices.group] * longer
    return total


def escaped(text: str) -> str:
    """A text as it stands within the quotes of a JSON that is UTF-8."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def text_length(text: str) -> int:
    """Bytes of a text in JSON that is UTF-8, without its quotes."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2
