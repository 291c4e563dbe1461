"""How a checkpoint stores its tensors, whatever the layout: in how many bytes, as what, and which values that means."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.arrays import FLOATS, as_float32
from ..core.slices import VALUES, slices
from ..core.tensor import QuantizedTensor
from ..errors import CheckpointError, ExportError
from ..formats import FORMATS, Checkpoint, PackedCheckpoint
from ..formats.checkpoint import TensorSpec
from ..formats.gguf.read import GGUFCheckpoint
from ..formats.gguf.write import TYPES, values_of
from ..formats.output.layout import Layout
from ..formats.output.outgoing import Outgoing
from ..formats.prequantized import PARTS, QUANTIZED
from ..formats.safetensors.beside import own_config
from ..shipping.verifying import described_by
from ..wording import shown

Parts = Iterator[tuple[slice, np.ndarray]]
_KINDS = {kind: slug for slug, kind in TYPES.items()}
# What lies beside the codes of somebody else's quantized weight, and is no tensor of the model by itself.
_BESIDE = re.compile(
    r".*\.(qzeros|g_idx|weight_g_idx|weight_shape|weight_zero_point|weight_global_scale|(in|out)put_scale|SCB)"
)
_ONNX_PAIR, _OTHER = re.compile(r"(.*)_(scale|zero_point)"), {"scale": "zero_point", "zero_point": "scale"}
_CODES = (".qweight", "_quantized")  # how the names of codes end that no layout describes
_ONNX_PARTS = ("_quantized", "_scale", "_zero_point", "_shape")


@dataclass(frozen=True)
class Pair:
    """A tensor and its source.

    Attributes
    ----------
    sources : names of the source; several where the tensor stacks what the source keeps expert by expert.
    expert : which of the experts that the source stacks; None: all of it.
    """

    name: str
    sources: tuple[str, ...]
    expert: int | None = None

    @property
    def source(self) -> str:
        """The source's name: the first of several."""
        return self.sources[0]


@dataclass(frozen=True, eq=False)
class Reading:
    """One tensor as it is stored.

    Attributes
    ----------
    label : in a word: "q4_0", "int4-sym-g32-sfp16", "bfloat16".
    shape : of its values. nbytes : in the file, scales and all.
    parts : its values, float32, in slices of the C order, anew at each call.
    quantized : its codes and scales, where they are quantlab's to read; None elsewhere.
    unrounded : the same values before the program rounds them to its own dtype; None where it does not.
    """

    label: str
    shape: tuple[int, ...]
    nbytes: int
    parts: Callable[[], Parts]
    quantized: QuantizedTensor | None = None
    unrounded: Callable[[], Parts] | None = None


class Stored:
    """A checkpoint by its tensors, each of which may lie in it as several arrays.

    Attributes
    ----------
    names : of the tensors, in the file's order; arrays that only belong to another tensor's are not among them.
    format : of `FORMATS`: the one whose layout the checkpoint is in.
    layout : that layout; None for plain tensors, and for a file of quantlab's own.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self._known = checkpoint, frozenset(checkpoint.names)
        model_config(checkpoint)  # said here in words of reading: what asks for it next means to write
        found, self._described = described_by(checkpoint)
        layout = FORMATS[found].layout if found else None
        self.layout: Layout | None = layout and layout.bound(layout, checkpoint)
        self.format = found or ("safetensors" if isinstance(checkpoint, PackedCheckpoint) else checkpoint.format)
        self._packed = frozenset(checkpoint.packed_names if isinstance(checkpoint, PackedCheckpoint) else ())
        owners = {array: name for name in self._described for array in self._arrays(name)}
        self.names = list(
            dict.fromkeys(owners.get(n, n) for n in checkpoint.names if n in owners or self._is_tensor(n))
        )

    def _is_tensor(self, name: str) -> bool:
        if self.checkpoint.format == "onnx" and (found := _ONNX_PAIR.fullmatch(name)):
            return f"{found[1]}_{_OTHER[found[2]]}" not in self._known  # of an activation, or of codes
        return self.checkpoint.spec(name).aside != PARTS and not _BESIDE.fullmatch(name)

    def _arrays(self, name: str) -> list[str]:
        """The arrays of the file that hold a described tensor."""
        assert self.layout is not None
        if specs := self.layout.specs(self._outgoing(name, "float32")):
            return list(specs)
        return [name + part for part in _ONNX_PARTS if name + part in self._known]

    def _outgoing(self, name: str, source_dtype: str) -> Outgoing:
        return self._described[name].outgoing(name, source_dtype)

    @property
    def is_packed(self) -> bool:
        """Whether the file is one for a program that reads codes; False for plain tensors, whoever reads them."""
        return bool(self._described or self._packed) or isinstance(self.checkpoint, GGUFCheckpoint)

    def is_quantized(self, name: str) -> bool:
        """Whether a tensor is stored as codes, rather than as floats."""
        return (
            name in self._described
            or name in self._packed
            or (isinstance(self.checkpoint, GGUFCheckpoint) and not self.checkpoint.kind(name).dtype)
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor's values."""
        return self._described[name].shape if name in self._described else self.checkpoint.spec(name).shape

    def about(self, name: str) -> TensorSpec:
        """What is known of a tensor's values: of those that are decoded, float32 and the bytes of their codes."""
        if name not in self._described:
            return self.checkpoint.spec(name)
        about = self._described[name]
        return TensorSpec(name, about.shape, "float32", about.nbytes)

    def values(self, name: str) -> np.ndarray:
        """All values of a tensor: in its own dtype, or decoded to float32."""
        if name not in self._described:
            return self.checkpoint.raw(name)
        shape = self.shape(name)
        out = np.empty(math.prod(shape), np.float32)
        for at, part in self.read(name, "float32").parts():
            out[at] = part
        return out.reshape(shape)

    def shape_of(self, pair: Pair) -> tuple[int, ...]:
        """The shape of a pair's source: of a stack of several, or of one of a stack."""
        shape = self.shape(pair.source)
        if len(pair.sources) > 1:
            return (len(pair.sources), *shape)
        return shape if pair.expert is None else shape[1:]

    def values_of(self, pair: Pair) -> np.ndarray:
        """The values of a pair's source: of a stack of several, or of one of a stack."""
        if len(pair.sources) == 1:
            whole = self.values(pair.source)
            return whole if pair.expert is None else whole[pair.expert]
        stack: np.ndarray | None = None
        for at, name in enumerate(pair.sources):  # one beside the stack at a time: there may be hundreds
            part = self.values(name)
            stack = np.empty((len(pair.sources), *part.shape), part.dtype) if stack is None else stack
            stack[at] = part
        assert stack is not None
        return stack

    def is_exact(self, name: str) -> bool:
        """Whether a tensor is of integers that are no codes of weights: positions, counters, masks."""
        if name in self._described or name in self._packed:
            return False
        spec = self.checkpoint.spec(name)
        return bool(re.fullmatch(r"u?int\d+|bool", spec.dtype)) and not spec.aside and not name.endswith(_CODES)

    def fault(self, name: str) -> str:
        """Why a tensor's values cannot be read, in words that follow its name; "" where they can."""
        if f"{name}_g_idx" in self._known:
            return f"has columns in an order of its own ({shown(f'{name}_g_idx')}), which quantlab does not decode"
        if name in self._described or name in self._packed:
            return ""
        spec = self.checkpoint.spec(name)
        if spec.aside == QUANTIZED or (name.endswith(_CODES) and spec.dtype not in FLOATS):
            return f"is stored as {spec.dtype} codes in a layout that quantlab does not decode"
        if spec.dtype not in FLOATS:
            return f"is {spec.dtype}: {spec.note or 'no floating-point values, so there is no error to measure'}"
        return "" if spec.size else "has no elements"

    def read(self, name: str, source_dtype: str) -> Reading:
        """A tensor as it is stored; its values are those that its program computes for a source of that dtype.

        Raises CheckpointError for parts that contradict each other, and what `Checkpoint.raw` raises.
        """
        if name in self._described:
            return self._read_described(name, source_dtype)
        if isinstance(self.checkpoint, PackedCheckpoint) and name in self._packed:
            q = self.checkpoint.quantized(name)
            return Reading(q.config.slug, q.shape, q.nbytes, lambda: _decoded(q, QuantizedTensor.dequantize), q)
        spec = self.checkpoint.spec(name)
        return Reading(self._kind(name), spec.shape, spec.nbytes, lambda: self._plain(name))

    def _read_described(self, name: str, source_dtype: str) -> Reading:
        about, layout = self._described[name], self.layout
        assert layout is not None
        found = layout.read(self.checkpoint, self._outgoing(name, source_dtype))
        specs = layout.specs(self._outgoing(name, source_dtype))
        nbytes = sum(part.nbytes for part in specs.values()) or about.nbytes
        if isinstance(found, QuantizedTensor):
            rounds = layout.rounds(found.config, source_dtype)
            plain = (lambda: _decoded(found, QuantizedTensor.dequantize)) if rounds else None
            return Reading(about.label, about.shape, nbytes, lambda: _decoded(found, layout.decoded), found, plain)
        return Reading(about.label, about.shape, nbytes, lambda: _cut(found))

    def _plain(self, name: str) -> Parts:
        shape = self.checkpoint.spec(name).shape
        if isinstance(self.checkpoint, GGUFCheckpoint):
            tensor = Outgoing(name, shape, "float32", None, _nothing)
            return values_of(self.checkpoint, tensor, whole_rows(shape))
        return _cut(self.checkpoint.raw(name))

    def _kind(self, name: str) -> str:
        if isinstance(self.checkpoint, GGUFCheckpoint):
            kind = self.checkpoint.kind(name)
            return _KINDS.get(kind.name, kind.dtype or kind.name.lower())
        return self.checkpoint.spec(name).dtype


def whole_rows(shape: tuple[int, ...]) -> Iterable[slice]:
    """The values of a tensor, in C order, in slices of whole rows where a row is no longer than a slice."""
    size, row = math.prod(shape), shape[-1] if shape else 1
    step = max(VALUES // row * row, VALUES if row > VALUES else row)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _decoded(q: QuantizedTensor, decode: Callable[[QuantizedTensor], np.ndarray]) -> Parts:
    return ((at, decode(part).reshape(-1)) for at, part in slices(q))


def _cut(x: np.ndarray) -> Parts:
    flat = x.reshape(-1)
    return ((at, as_float32(flat[at])) for at in whole_rows(x.shape))


def _nothing() -> np.ndarray:
    raise AssertionError("a place to read from has no values of its own")


def model_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config.json of a model; {} where there is none. CheckpointError for one that is no JSON object."""
    try:
        return own_config(checkpoint)
    except ExportError as error:
        raise CheckpointError(
            f"the config.json beside {checkpoint} cannot be read: repair it or take it away"
        ) from error
