"""What an export would be, and why it would be refused, before a single value is read."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import ConfigError, QuantlabError
from ..formats import FORMATS, Checkpoint
from ..formats.output.layout import Layout, refused
from ..formats.output.outgoing import Outgoing
from ..formats.writing import check_held
from .recipe import Assignment, Item, Rule, assign


def assigned(source: Checkpoint, rules: Sequence[Rule], format: str, *, copy_refused: bool = False) -> Assignment:
    """What the rules make of every tensor in a file of a format. Raises as `assign` does.

    With `copy_refused`, tensors that cannot have their configuration, or that the format cannot hold, are copied.
    """
    found = assign(source, rules, copy_refused=copy_refused)
    layout = bound(source, format)
    if layout is not None:
        stored = {item.spec.name: layout.stored(item.config, item.spec.dtype) for item in found.taken if item.config}
        asked, found = found, found.changed(stored)
    if copy_refused and (refused := refused_tensors(source, found, format)):
        found = found.copying(refused)
        if not found.taken:
            raise ConfigError(f"{format} can hold none of the tensors so: {next(iter(refused.values()))}")
    if layout is not None:
        names = {item.spec.name for item in found.taken}
        remarks = layout.remarks(_outgoing([item for item in asked.taken if item.spec.name in names]), source)
        found = replace(found, remarks=tuple(remarks))
    return found.keeping_all() if keeps_all(source, format) else found


def bound(source: Checkpoint, format: str) -> Layout | None:
    """A format's layout for tensors of a source; None for quantlab's own formats."""
    layout = FORMATS[format].layout
    return layout and layout.bound(layout, source)


def keeps_all(source: Checkpoint, format: str) -> bool:
    """Whether what no rule takes is in the file all the same: an ONNX model is written again as a whole."""
    layout = FORMATS[format].layout
    return layout is not None and layout.keeps(source)


def refused_tensors(source: Checkpoint, assignment: Assignment, format: str) -> dict[str, str]:
    """The tensors that a format cannot hold, or its program not load, as they are to be: name -> why, a sentence."""
    layout = FORMATS[format].layout
    return refused(_outgoing(assignment.taken), format, layout, source) if layout else {}


def refusals(source: Checkpoint, assignment: Assignment, format: str) -> list[str]:
    """Why an export would be refused, a sentence each; nothing is read but what is known of the tensors.

    First comes what the format cannot hold of single tensors; only without that, what it makes of all together.
    """
    layout = FORMATS[format].layout
    if layout is None:
        return []
    if found := refused_tensors(source, assignment, format):
        return list(found.values())
    try:
        tensors = _outgoing(assignment.taken) + [copied(source, item) for item in assignment.copied]
        check_held(tensors, format, layout, source)
    except QuantlabError as error:
        return [str(error)]
    return []


def _outgoing(items: Sequence[Item]) -> list[Outgoing]:
    return [Outgoing(item.spec.name, item.spec.shape, item.spec.dtype, item.config, _unread) for item in items]


def refusal(item: Item, format: str) -> str | None:
    """Why a file format cannot hold a tensor that is to be quantized so, in a sentence; None if it can."""
    return FORMATS[format].why_not(item.spec.shape, item.config) if item.config else None


def copied(source: Checkpoint, item: Item) -> Outgoing:
    """A tensor that goes into the export as it is."""
    name = item.spec.name
    return Outgoing(name, item.spec.shape, item.spec.dtype, None, lambda: source.raw(name))


def _unread() -> np.ndarray:
    raise AssertionError("nothing is read before an export begins")
