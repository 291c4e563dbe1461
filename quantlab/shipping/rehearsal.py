"""What an export would be, and why it would be refused, before a single value is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..core.tensor import QuantizedTensor, source_itemsize
from ..errors import ConfigError, QuantlabError
from ..formats import FORMATS, Checkpoint
from ..formats.output.layout import Layout, refused
from ..formats.output.outgoing import Outgoing
from ..formats.safetensors.beside import companions, model_folder
from ..formats.writing import check_held, export_nbytes
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


def natural_format(source: Checkpoint) -> str:
    """The format that a source is exported to unless another is chosen: that of the program which runs it."""
    if source.format in FORMATS and FORMATS[source.format].writable and source.format not in ("npz", "safetensors"):
        return source.format
    if (folder := model_folder(source)) is not None and (folder / "config.json").is_file():
        return "compressed-tensors"
    return "safetensors" if source.format == "safetensors" else "npz"


def limits(source: Checkpoint) -> str:
    """What an export in the source's own format cannot hold, whatever is chosen, in a sentence; "" where nothing."""
    layout = FORMATS[natural_format(source)].layout
    return layout.limits(source) if layout else ""


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
    if found := refused_tensors(source, assignment, format):
        return list(found.values())
    try:
        if layout is not None:
            tensors = _outgoing(assignment.taken) + [copied(source, item) for item in assignment.copied]
            check_held(tensors, format, layout, source)
        file_nbytes(source, assignment, format)
    except QuantlabError as error:
        return [str(error)]
    return []


def file_nbytes(source: Checkpoint, assignment: Assignment, format: str) -> int:
    """Bytes of the export to be, of all its files, to the byte. Raises as the export would."""
    made = {item.spec.name: unquantized(item) for item in assignment.taken}
    return export_nbytes(in_order(source, assignment, made), FORMATS[format], source)


def source_nbytes(source: Checkpoint, format: str) -> int:
    """Bytes of the source's files; beside a folder also of what goes into it from beside the weights."""
    beside = companions(source) if FORMATS[format].folder else {}
    return sum(file.size for file in source.files) + sum(map(len, beside.values()))


def whole_sizes(source: Checkpoint, assignment: Assignment, format: str) -> tuple[int, int]:
    """Bytes of the export to be, and of the source's files."""
    return file_nbytes(source, assignment, format), source_nbytes(source, format)


def in_order(source: Checkpoint, assignment: Assignment, made: Mapping[str, Outgoing]) -> list[Outgoing]:
    """The tensors of an export as they come in the source, so that two files can be compared: `made`, and copies."""
    tensors = dict(made) | {item.spec.name: copied(source, item) for item in assignment.copied}
    return [tensors[name] for name in source.names if name in tensors]


def unquantized(item: Item, read: Callable[[], QuantizedTensor] | None = None) -> Outgoing:
    """The tensor of an item, not yet quantized."""
    spec = item.spec
    stored = None if spec.nbytes == spec.size * source_itemsize(spec.dtype) else spec.nbytes
    return Outgoing(spec.name, spec.shape, spec.dtype, item.config, read or _unread, stored)


def _outgoing(items: Sequence[Item]) -> list[Outgoing]:
    return [unquantized(item) for item in items]


def refusal(item: Item, format: str) -> str | None:
    """Why a file format cannot hold a tensor that is to be quantized so, in a sentence; None if it can."""
    return FORMATS[format].why_not(item.spec.shape, item.config) if item.config else None


def copied(source: Checkpoint, item: Item) -> Outgoing:
    """A tensor that goes into the export as it is."""
    name = item.spec.name
    return Outgoing(name, item.spec.shape, item.spec.dtype, None, lambda: source.raw(name))


def _unread() -> np.ndarray:
    raise AssertionError("nothing is read before an export begins")
