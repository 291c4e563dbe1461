"""The kinds of layers that a model repeats: globs that take in what differs in its numbers alone."""

import re
from collections import Counter
from collections.abc import Sequence

_NUMBER = re.compile(r"(?:(?<=[./])|^)\d+(?=[./])")


def kind(name: str) -> str:
    """A tensor's name with `*` in place of the numbers of layers.

    >>> kind("model.layers.12.mlp.up_proj.weight"), kind("fc1.weight")
    ('model.layers.*.mlp.up_proj.weight', 'fc1.weight')
    """
    return _NUMBER.sub("*", name.replace("[", "[[]"))


def repeated(names: Sequence[str], most: int = 40) -> list[str]:
    """The kinds that more than one tensor is of, in the order in which they come; at most `most`.

    >>> repeated(["h.0.up", "h.0.down", "h.1.up", "h.1.down", "head"])
    ['h.*.up', 'h.*.down']
    """
    return [glob for glob, count in Counter(map(kind, names)).items() if count > 1][:most]
