"""The kinds of layers that a model repeats: globs that take in what differs in its numbers alone."""

import re
from collections import Counter
from collections.abc import Sequence

_NUMBER = re.compile(r"(?:(?<=[./])|^)\d+(?=[./])")


def kind(name: str, keep: int = 0) -> str:
    """A tensor's name with `*` in place of the numbers of layers but for the first `keep` of them.

    >>> kind("model.layers.12.mlp.up_proj.weight"), kind("fc1.weight")
    ('model.layers.*.mlp.up_proj.weight', 'fc1.weight')
    >>> kind("layers.3.experts.7.up", keep=1)
    'layers.3.experts.*.up'
    """
    kept = _NUMBER.findall(name)[:keep]
    return _NUMBER.sub(lambda _: kept.pop(0) if kept else "*", name.replace("[", "[[]"))


def numbers(name: str) -> list[int]:
    """The numbers of layers in a tensor's name.

    >>> numbers("h.2.attn.10.q"), numbers("fc1.weight")
    ([2, 10], [])
    """
    return [int(number) for number in _NUMBER.findall(name)]


def repeated(names: Sequence[str], most: int = 40) -> list[str]:
    """The kinds that more than one tensor is of, in the order in which they come; at most `most`.

    >>> repeated(["h.0.up", "h.0.down", "h.1.up", "h.1.down", "head"])
    ['h.*.up', 'h.*.down']
    """
    return [glob for glob, count in Counter(map(kind, names)).items() if count > 1][:most]


def by_depth(names: Sequence[str]) -> list[str]:
    """Names with those of a kind together, in the order in which kinds come first, by the numbers of their layers.

    >>> by_depth(["h.10.up", "h.2.up", "head", "h.2.down", "h.10.down"])
    ['h.2.up', 'h.10.up', 'head', 'h.2.down', 'h.10.down']
    """
    first = {glob: place for place, glob in reversed(list(enumerate(map(kind, names))))}
    return sorted(names, key=lambda name: (first[kind(name)], numbers(name)))
