"""Files of named arrays in the layouts of other programs: one tensor at a time, whatever the size of the model.

A `Layout` says how one quantized tensor becomes arrays of a safetensors file and back. The rest is the same for all:
the header is known before anything is quantized, each tensor is quantized when its turn comes, and the written file is
read back, compared and only then given its name; a folder appears whole or not at all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...core.arrays import as_float32
from ...core.config import QuantConfig
from ...core.metrics import ErrorReport, measure
from ...core.slices import measure_parts, measure_slices
from ...core.tensor import PartSpec, QuantizedTensor
from ...errors import ExportError
from ...wording import shown
from ..checkpoint import Checkpoint
from ..input.files import OnBytes
from .described import Described, nothing
from .outgoing import Outgoing
from .packed import same_bits

WriteFile = Callable[[BinaryIO, Sequence[Outgoing], Checkpoint | None, OnBytes], None]
VerifyFile = Callable[[Path, Sequence[Outgoing], Checkpoint | None, OnBytes], None]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How another program stores a quantized tensor: as arrays of a safetensors file, or in a file of its own kind.

    Attributes
    ----------
    refuses : (shape, configuration) -> why it cannot be held, in one sentence; None if it can.
    write_file, verify_file : write the whole file, and prove it by reading it back; None for a safetensors file, which
        the rest describes. file_nbytes : how many bytes the first would write.
    specs : the arrays of a tensor, by their names in the file, before it is quantized.
    arrays : (name, quantized tensor) -> the same arrays, filled.
    restore : the inverse, from the arrays that a reader found; None where values alone are stored.
    decoded : the values that the other program computes from them, float32.
    read_back : (export, tensor) -> the quantized tensor that an export that was opened again holds; by default from its
        arrays. read_parts : where that cannot be told, the values themselves, slice by slice.
    described : (export that was opened again) -> the quantized tensors that it says it has, by name; {} for a file that
        is none of this layout, or says nothing.
    check : (all tensors, source) -> ExportError for what no single tensor tells: names that meet, a model's own limits.
    keeps : (source) -> whether all of a source goes into the file, whatever is left out: a model written again.
    remarks : (tensors with what rules give them, source) -> what is to be known of the file beforehand, in sentences.
    limits : (source) -> what a source's own file keeps the format from holding, in a sentence; "" where nothing.
    note : how these values differ from `dequantize()`, in a sentence; "" where they never do.
    rounds : (configuration, source's dtype) -> whether they do for such a tensor.
    settings : (all tensors, the model's own config.json) -> entries to add to it; None for a single file without one.
    unfit : (all tensors, source) -> name -> why the other program cannot load it quantized out of this source.
    stored : (configuration, source's dtype) -> the configuration as it is written, where the program has its own way.
    bound : (layout, source) -> the layout for tensors of a source, where the program's values depend on it.
    """

    refuses: Callable[[tuple[int, ...], QuantConfig], str | None]
    decoded: Callable[[QuantizedTensor], np.ndarray]
    write_file: WriteFile | None = None
    verify_file: VerifyFile | None = None
    file_nbytes: Callable[[Sequence[Outgoing], Checkpoint | None], int] | None = None
    specs: Callable[[Outgoing], dict[str, PartSpec]] = lambda tensor: {}
    arrays: Callable[[str, QuantizedTensor], dict[str, np.ndarray]] = lambda name, q: {}
    restore: Callable[[Outgoing, dict[str, np.ndarray]], QuantizedTensor] | None = None
    settings: Callable[[list[Outgoing], dict[str, Any]], dict[str, Any]] | None = None
    read_back: Callable[[Checkpoint, Outgoing], QuantizedTensor] | None = None
    read_parts: Callable[[Checkpoint, Outgoing], Iterator[tuple[slice, np.ndarray]]] | None = None
    described: Callable[[Checkpoint], dict[str, Described]] = nothing
    check: Callable[[Sequence[Outgoing], Checkpoint | None], object] = lambda tensors, source: None
    keeps: Callable[[Checkpoint | None], bool] = lambda source: False
    unfit: Callable[[Sequence[Outgoing], Checkpoint | None], Mapping[str, str]] = lambda tensors, source: {}
    stored: Callable[[QuantConfig, str], QuantConfig] = lambda config, source_dtype: config
    bound: Callable[["Layout", Checkpoint], "Layout"] = lambda layout, source: layout
    remarks: Callable[[Sequence[Outgoing], Checkpoint], Sequence[str]] = lambda tensors, source: ()
    limits: Callable[[Checkpoint], str] = lambda source: ""
    note: str = ""
    rounds: Callable[[QuantConfig, str], bool] = lambda config, source_dtype: config.scale_dtype != "fp32"

    def measured(self, export: Checkpoint, tensor: Outgoing, x: np.ndarray, channel_axis: int = 0) -> ErrorReport:
        """What the values that the other program computes from an export are off from the original x."""
        if self.read_parts is not None:
            return measure_parts(x, self.read_parts(export, tensor), channel_axis)
        found = self.read(export, tensor)
        if isinstance(found, QuantizedTensor):
            return measure_slices(x, found, self.decoded, channel_axis=channel_axis)
        return measure(as_float32(x), found, channel_axis)

    def read(self, export: Checkpoint, tensor: Outgoing) -> np.ndarray | QuantizedTensor:
        """A tensor of an export that was opened again: its codes and scales; its values where these are stored."""
        if self.read_back is not None:
            return self.read_back(export, tensor)
        found = {name: export.raw(name) for name in self.specs(tensor)}
        return self.restore(tensor, found) if self.restore else found[tensor.name]


def arrays_of(tensor: Outgoing, layout: Layout) -> dict[str, np.ndarray]:
    """The arrays of a tensor, made now."""
    if tensor.config is None:
        return {tensor.name: tensor.copied()}
    return layout.arrays(tensor.name, tensor.quantized())


def check_restored(q: QuantizedTensor, restored: QuantizedTensor) -> None:
    """ExportError unless the arrays that were read give back the codes and scales that were meant."""
    if not all(same_bits(q.parts[part], restored.parts[part]) for part in q.parts):
        raise ExportError(f"a tensor of {q.config} and shape {q.shape} does not survive this format: please report it")


def refused(tensors: Sequence[Outgoing], format: str, layout: Layout, source: Checkpoint | None) -> dict[str, str]:
    """What the format cannot hold, or its program not load, of the tensors to be quantized: name -> a sentence."""
    unfit, found = layout.unfit(tensors, source), {}
    for tensor in tensors:
        if tensor.config is None:
            continue
        if why := layout.refuses(tensor.shape, tensor.config) or unfit.get(tensor.name):
            found[tensor.name] = f"tensor {shown(tensor.name)} as {tensor.config} cannot be written to {format}: {why}"
    return found
