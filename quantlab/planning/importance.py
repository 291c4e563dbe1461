"""Importance files: what is known of the inputs of weights, and which of a model's tensors that is."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..core import memory
from ..core.inputs import Inputs
from ..errors import CheckpointError, QuantlabError, ShapeError
from ..formats import Checkpoint, PackedCheckpoint, open_checkpoint
from ..formats.gguf.header import MAGIC
from ..formats.gguf.read import GGUFCheckpoint
from ..formats.input import foreign
from ..formats.input.files import InputFile
from ..wording import shown
from .imatrix import DAT, Importance, check_values, is_dat, of_dat, of_gguf
from .names import Place, architecture, pairs

__all__ = ["Importance", "Matched", "match", "read_importance"]

ARRAYS = {"npz": "mean squares (.npz)", "safetensors": "mean squares (.safetensors)"}
LEGAL = "llama.cpp's imatrix (GGUF or .dat), or .npz or .safetensors of NAME: mean squares of its inputs"
WEIGHT = ".weight"


def read_importance(path: str | os.PathLike[str]) -> Importance:
    """What a file tells of the inputs of weights: llama.cpp's imatrix (GGUF or .dat), or arrays (.npz or safetensors).

    Arrays are float [inputs], or [experts, inputs], under the name of the weight, with or without ".weight". The
    content decides what the file is, never its name.

    Raises
    ------
    CheckpointError : it cannot be opened, is something else, or holds values that no mean squares have.
    LimitError, DTypeError, EmptyTensorError, NonFiniteError : as of `Checkpoint.load`.
    """
    file = InputFile(path, alone=True)
    try:
        head = bytes(file.read(0, min(64, file.size)))
        # Whatever has a magic is none: all of these are far above any number of entries.
        if is_dat(head) and not head.startswith(MAGIC):
            return of_dat(file)
    finally:
        file.close()
    if not _may_be_arrays(head):
        raise CheckpointError(f"{file} is {foreign.describe(head)}; an importance file is {LEGAL}")
    with open_checkpoint(path, alone=True) as checkpoint:
        return of_gguf(checkpoint) if isinstance(checkpoint, GGUFCheckpoint) else _of_arrays(checkpoint)


def _may_be_arrays(head: bytes) -> bool:
    """Whether a file may be GGUF, a zip archive or safetensors, whose header has less than 2^32 bytes."""
    return head.startswith((MAGIC, b"PK")) or (len(head) > 8 and head[4:8] == bytes(4))


def _of_arrays(checkpoint: Checkpoint) -> Importance:
    if checkpoint.format not in ARRAYS or isinstance(checkpoint, PackedCheckpoint):
        what = "an export of quantlab" if isinstance(checkpoint, PackedCheckpoint) else f"a {checkpoint.format} file"
        raise CheckpointError(f"{checkpoint} is {what}; an importance file is {LEGAL}")
    specs = [checkpoint.spec(name) for name in checkpoint.names]
    for spec in specs:
        if not 1 <= len(spec.shape) <= 2:
            raise CheckpointError(
                f"{shown(spec.name)} of {checkpoint} has shape {shown(list(spec.shape))}: mean squares are [inputs] "
                "or [experts, inputs]"
            )
    if not specs:
        raise CheckpointError(f"{checkpoint} has no arrays: it says nothing of any weight")
    with memory.asked(sum(4 * spec.size for spec in specs), f"the importance file {checkpoint}"):
        entries = {spec.name: checkpoint.load(spec.name) for spec in specs}
    for name, values in entries.items():
        check_values(f"{shown(name)} of {checkpoint}", values)
    return Importance(ARRAYS[checkpoint.format], entries)


@dataclass(frozen=True, eq=False)
class Matched:
    """Which of a model's tensors an importance file knows.

    Attributes
    ----------
    weights : by tensor, as `sweep` takes them: float32 [inputs], or [experts, inputs] of a stack.
    matched : by tensor, where its weights come from: entries of the file, and which of their experts.
    unmatched : entries that are no tensor's.
    without_data : by tensor, which experts have seen nothing ((0,) where there is but one matrix). In a stack they take
        the mean of the others; a tensor of which nothing has been seen has no weights.
    refused : by tensor, why what the file has under its name is not for it.
    tokens : by tensor, on how many tokens it was computed, those of all its experts; where the file tells.
    """

    weights: Mapping[str, np.ndarray]
    matched: Mapping[str, tuple[Place, ...]]
    unmatched: tuple[str, ...]
    without_data: Mapping[str, tuple[int, ...]]
    refused: Mapping[str, str]
    tokens: Mapping[str, float]


def match(importance: Importance, checkpoint: Checkpoint) -> Matched:
    """Find a model's tensors in an importance file: under their names, or as Hugging Face and GGUF name the same.

    Nothing of the model is read but names and shapes.
    """
    places = _places(checkpoint, importance.entries)
    weights, without, refused, tokens = {}, {}, {}, {}
    for name, parts in places.items():
        try:
            rows, seen = _rows_of(importance, checkpoint, name, parts)
        except QuantlabError as error:
            refused[name] = str(error)
            continue
        silent = (seen == 0) | ~rows.any(axis=1)
        if silent.any():
            without[name] = tuple(np.flatnonzero(silent).tolist())
        if importance.counts:
            tokens[name] = float(seen.sum())
        if not silent.all():
            rows[silent] = rows[~silent].mean(axis=0)
            weights[name] = rows if len(rows) > 1 else rows[0]
    matched = {name: tuple(place for _, place in parts) for name, parts in places.items() if name in weights}
    used = {place.name for parts in places.values() for _, place in parts}
    return Matched(weights, matched, tuple(e for e in importance.entries if e not in used), without, refused, tokens)


# By tensor: which of its stack (None: all of it, or a tensor that is none) is where in the file.
Parts = list[tuple[int | None, Place]]


def _places(checkpoint: Checkpoint, entries: Iterable[str]) -> dict[str, Parts]:
    """Where a checkpoint's tensors are in the file, if they are among its entries."""
    arch, own = architecture(checkpoint), {name: name for name in entries}
    # By modules, too: "fc1" is what "fc1.weight" is multiplied by.
    known = {name + WEIGHT: name for name in own if not name.endswith(WEIGHT)} | own
    found: dict[str, Parts] = {
        name: [(None, Place(known[place.name], place.expert))]
        for name, place in pairs(checkpoint.names, known, arch).items()
    }
    if found:
        return found
    stacks: dict[str, Parts] = defaultdict(list)  # of a GGUF file, from what Hugging Face keeps one by one
    for entry, place in pairs(own, checkpoint.names, arch).items():
        stacks[place.name].append((place.expert, Place(entry)))
    return {name: stacks[name] for name in checkpoint.names if name in stacks}


def _rows_of(importance: Importance, checkpoint: Checkpoint, name: str, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """(weights float32 [stacks, inputs], how much each stack has seen: float64 [stacks]) of a tensor.

    What the file does not tell has been seen once, and what it lacks never. ShapeError for a file of another shape.
    """
    spec = checkpoint.spec(name)
    if not spec.size:
        raise ShapeError(f"{shown(name)} has shape {shown(list(spec.shape))} and no elements: it has no inputs")
    inputs = Inputs.of(spec.shape, spec.channel_axis)
    rows, seen = np.ones((inputs.stacks, inputs.count), np.float32), np.zeros(inputs.stacks)
    for own, place in parts:
        values, tokens = _rows_at(importance, place, inputs.count)
        at = slice(None) if own is None else slice(own, own + 1)
        if own is None and len(values) not in (1, inputs.stacks):
            raise _misfit(importance, place, f"{shown(name)} is {inputs.stacks} matrices of {inputs.count} inputs")
        if own is not None and (own >= inputs.stacks or len(values) != 1):
            raise _misfit(importance, place, f"{shown(name)} is {inputs.stacks} matrices, each of its own entry")
        rows[at], seen[at] = values, tokens
    return rows, seen


def _rows_at(importance: Importance, place: Place, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [n, count], float64 [n]) of an entry, or of one of its experts."""
    values = importance.entries[place.name]
    # A .dat has no shapes, and llama.cpp may have one row for a whole stack.
    if not values.size or values.size % count or (values.ndim > 1 and values.shape[-1] != count and len(values) > 1):
        raise _misfit(importance, place, f"the tensor has {count} inputs")
    values = values.reshape(-1, count)
    tokens = np.broadcast_to(importance.counts.get(place.name, np.ones(1)), len(values)).copy()
    if importance.kind == DAT:
        tokens[(values == 1).all(axis=1)] = 0  # as llama.cpp has written experts that saw nothing
    if place.expert is None:
        return values, tokens
    if place.expert >= len(values):
        raise _misfit(importance, place, f"the tensor is expert {place.expert}")
    return values[place.expert :][:1], tokens[place.expert :][:1]


def _misfit(importance: Importance, place: Place, wanted: str) -> ShapeError:
    shape = list(importance.entries[place.name].shape)
    return ShapeError(f"the entry {shown(place.name)} has shape {shape}, and {wanted}: it is of another model")
