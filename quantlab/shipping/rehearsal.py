"""What an export would be, and why it would be refused, before a single value is read."""

from collections.abc import Sequence

import numpy as np

from ..errors import QuantlabError
from ..formats import FORMATS, Checkpoint
from ..formats.output.layout import refused
from ..formats.output.outgoing import Outgoing
from ..formats.writing import check_held
from .recipe import Assignment, Item, Rule, assign


def assigned(source: Checkpoint, rules: Sequence[Rule], format: str) -> Assignment:
    """What the rules make of every tensor in a file of a format. Raises as `assign` does."""
    found = assign(source, rules)
    return found.keeping_all() if keeps_all(source, format) else found


def keeps_all(source: Checkpoint, format: str) -> bool:
    """Whether what no rule takes is in the file all the same: an ONNX model is written again as a whole."""
    layout = FORMATS[format].layout
    return layout is not None and layout.keeps(source)


def refusals(source: Checkpoint, assignment: Assignment, format: str) -> list[str]:
    """Why an export would be refused, a sentence each; nothing is read but what is known of the tensors.

    First comes what the format cannot hold of single tensors; only without that, what it makes of all together.
    """
    layout = FORMATS[format].layout
    if layout is None:
        return []
    tensors = [
        Outgoing(item.spec.name, item.spec.shape, item.spec.dtype, item.config, _unread) for item in assignment.taken
    ]
    if found := list(refused(tensors, format, layout)):
        return found
    try:
        check_held(tensors + [copied(source, item) for item in assignment.copied], format, layout, source)
    except QuantlabError as error:
        return [str(error)]
    return []


def refusal(item: Item, format: str) -> str | None:
    """Why a file format cannot hold a tensor that is to be quantized so, in a sentence; None if it can."""
    return FORMATS[format].why_not(item.spec.shape, item.config) if item.config else None


def copied(source: Checkpoint, item: Item) -> Outgoing:
    """A tensor that goes into the export as it is."""
    name = item.spec.name
    return Outgoing(name, item.spec.shape, item.spec.dtype, None, lambda: source.raw(name))


def _unread() -> np.ndarray:
    raise AssertionError("nothing is read before an export begins")
