"""Writing an ONNX model again with quantized weights in it: everything else is copied byte by byte.

In the place of a weight come its codes, scales and zero points, and a DequantizeLinear whose output has the weight's
old name, before all other nodes. Models from elsewhere are written by `write`, as tensors alone.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from ...core.config import QuantConfig
from ...core.granularity import PerChannel, PerGroup
from ...errors import ExportError
from ...wording import shown, size_text
from ..checkpoint import Checkpoint
from ..input.files import InputFile, OnBytes
from ..output.outgoing import Outgoing
from . import write as onnxwrite
from .companions import Companions
from .outline import CONSTANTS_ARE_NO_INPUTS, Outline, Part, made, opset_of
from .read import open_file
from .tensor import KINDS
from .write import FLOAT_TYPES, IR_VERSION, LARGEST, Piece, check_names, check_read, field, head, value_info

NEWEST = 21  # the first opset whose DequantizeLinear takes groups, 4 and 16 bits
# Types of scales and the wider types in which every one of their values is exact.
_EXACT = {(10, 1), (10, 11), (1, 11)}


def needed_opset(config: QuantConfig) -> int:
    """The first opset whose DequantizeLinear decodes such a tensor."""
    if config.dtype != "int8" or isinstance(config.granularity, PerGroup):
        return NEWEST
    if config.scale_dtype != "fp32":
        return 19
    return 13 if isinstance(config.granularity, PerChannel) else 10


class Plan:
    """The file to be, before anything is quantized: what comes before the quantized weights, they, what comes behind.

    Raises
    ------
    ExportError : the model, or the format, cannot hold a tensor that way.
    """

    def __init__(self, tensors: Sequence[Outgoing], source: Checkpoint) -> None:
        self._source = source
        self.outline = outlined(tensors, source)
        chosen = [tensor for tensor in tensors if tensor.config is not None]
        self.pieces = [self._piece(tensor) for tensor in chosen]
        self._check_names()
        nodes = [made(b"".join(b"".join(piece.nodes) for piece in self.pieces) + self._inputs())]
        graph = [*nodes, *self.outline.graph.parts]
        size = _size(graph) + self.weight_bytes
        version = field(1, self._ir_version())
        self.before = [made(version), *self.outline.before.parts, made(head(7, size)), *graph]
        self.after = self.outline.after.parts
        self.nbytes = _size(self.before) + self.weight_bytes + _size(self.after)
        self._check_size(self.nbytes)

    @property
    def weight_bytes(self) -> int:
        """Bytes of everything that stands for quantized weights."""
        return sum(piece.nbytes for piece in self.pieces)

    def _piece(self, tensor: Outgoing) -> Piece:
        assert tensor.config is not None, "a copied tensor has no piece"
        if why := why_not(tensor, tensor.config, self.outline, self._source):
            raise ExportError(f"tensor {shown(tensor.name)} of {self._source} cannot be {tensor.config}: {why}")
        return Piece(tensor, self.outline.weights[tensor.name.encode()])

    def _check_names(self) -> None:
        check_names(self.pieces)
        for piece in self.pieces:
            for name in piece.names:
                if name.encode() in self.outline.names:
                    raise ExportError(
                        f"{self._source} has a value called {shown(name)} already, which the quantized "
                        f"{shown(piece.tensor.name)} would need: rename it"
                    )

    def _ir_version(self) -> int:
        """The source's, unless int4 needs more: whoever reads opset 21 reads the version that came with it.

        What is newer in it are types and fields; what the older ones mean has not changed since version 3.
        """
        four_bits = any(piece.tensor.config and piece.tensor.config.dtype == "int4" for piece in self.pieces)
        return max(self.outline.ir_version, IR_VERSION if four_bits else 0)

    def _inputs(self) -> bytes:
        """The new initializers as inputs, where the model's version asks for that."""
        if self._ir_version() >= CONSTANTS_ARE_NO_INPUTS:
            return b""
        stored = [stored for piece in self.pieces for stored in piece.stored]
        return b"".join(field(11, value_info(each.name, each.dtype, each.shape)) for each in stored)

    def _check_size(self, size: int) -> None:
        if size > LARGEST:
            raise ExportError(
                f"the model would have {size_text(size)} with all of its weights in it, and an ONNX file holds 2 GB: "
                f"quantize more of them, or to fewer bits"
            )


def outlined(tensors: Sequence[Outgoing], source: Checkpoint) -> Outline:
    """The source's model without the tensors to be quantized. ExportError for tensors that are not its own."""
    known = frozenset(source.names)
    for tensor in tensors:
        if tensor.name not in known:
            raise ExportError(
                f"{source} has no tensor {shown(tensor.name)}, and an ONNX model is written with its own "
                f"tensors: use their names, or export without a source"
            )
        if (shape := source.spec(tensor.name).shape) != tensor.shape:
            raise ExportError(
                f"tensor {shown(tensor.name)} has shape {shown(list(shape))} in {source}, not {list(tensor.shape)}"
            )
    companions = Companions(source.files[0])
    # Opened already, and the same as when the tensors were listed.
    companions.files = {file.name: file for file in source.files[1:]}
    return Outline(source.files[0], companions, [tensor.name.encode() for tensor in tensors if tensor.config])


def why_not(tensor: Outgoing, config: QuantConfig, outline: Outline, source: Checkpoint) -> str:
    """Why a tensor cannot be quantized so in the model, in a sentence; "" if it can."""
    dtype = outline.weights.get(tensor.name.encode())
    if dtype is None:
        note = source.spec(tensor.name).note
        return (
            f"it is no dense initializer or constant of the model's own graph ({note or 'no node uses it'}), "
            f"and only those can be quantized in the model: leave it as it is"
        )
    if outline.opset < needed_opset(config):
        return _too_old(outline.opset, needed_opset(config))
    piece = Piece(tensor, dtype)
    if dtype != piece.dtype and (piece.dtype, dtype) not in _EXACT:
        way_out = (
            "use fp16 scales"
            if FLOAT_TYPES.get(KINDS[dtype].dtype)
            else "leave it as it is, or convert the model to float32"
        )
        return (
            f"it is {KINDS[dtype].dtype}, and what scales of {config.scale_dtype} decode to would be rounded "
            f"once more for the nodes that use it: {way_out}"
        )
    return ""


def _too_old(opset: int, needed: int) -> str:
    if not opset:
        return "the model does not import ONNX's own operators, and DequantizeLinear is one of them"
    best = best_of(opset)
    other = f", or choose {best} with fp32 scales" if best else ""
    return (
        f"the model has opset {opset}, and DequantizeLinear takes that from opset {needed} on: convert it with "
        f"onnx.version_converter.convert_version(model, {needed}){other}"
    )


def best_of(opset: int) -> str:
    """What models of an older opset can hold; "" where that is nothing, or everything."""
    instead = {10: "int8 per tensor", 13: "int8 per tensor or channel", 19: "int8 per tensor or channel"}
    return instead.get(max((first for first in instead if first <= opset), default=0), "") if opset < NEWEST else ""


def limits(source: Checkpoint) -> str:
    """What a model cannot hold because of its age, in a sentence; "" for one that can hold all that is written here."""
    opset = opset_of(source.files[0]) if rewrites(source) else NEWEST
    if opset >= NEWEST:
        return ""
    held = f"{best_of(opset)} with fp32 scales" if best_of(opset) else "nothing"
    return (
        f"the model has opset {opset}, which holds {held} quantized: for groups, 4 and 16 bits convert it first, "
        f"with onnx.version_converter.convert_version(model, {NEWEST})"
    )


def unfit(tensors: Sequence[Outgoing], source: Checkpoint | None) -> dict[str, str]:
    """The tensors that cannot be quantized in the source's model: name -> why. None where no model is rewritten."""
    if source is None or not rewrites(source):
        return {}
    outline = outlined(tensors, source)
    chosen = {t.name: t for t in tensors if t.config is not None and onnxwrite.refuses(t.shape, t.config) is None}
    found = {name: why_not(t, t.config, outline, source) for name, t in chosen.items() if t.config is not None}
    return {name: why for name, why in found.items() if why}


def remarks(tensors: Sequence[Outgoing], source: Checkpoint) -> list[str]:
    """What becomes of a model's interface, in sentences."""
    names = [name.decode() for name in outlined(tensors, source).overridable] if rewrites(source) else []
    if not names:
        return []
    more = f" and {len(names) - 1:,} more weights are inputs" if len(names) > 1 else " is an input"
    return [f"{shown(names[0])}{more} of the model, which callers may give other values: quantized, they are constants"]


def _size(parts: Iterable[Part]) -> int:
    return sum(part.nbytes for part in parts)


def rewrites(source: Checkpoint | None) -> bool:
    """Whether a source is a model that can be written again."""
    return source is not None and source.format == "onnx"


def check(tensors: Sequence[Outgoing], source: Checkpoint | None) -> None:
    """ExportError for what `write` would refuse, without reading a weight."""
    if source is not None and rewrites(source):
        Plan(tensors, source)
    else:
        onnxwrite.planned(tensors)


def nbytes(tensors: Sequence[Outgoing], source: Checkpoint | None) -> int:
    """Bytes of the file that `write` would write."""
    if source is None or not rewrites(source):
        return onnxwrite.nbytes(tensors, source)
    return Plan(tensors, source).nbytes


def write(target: BinaryIO, tensors: Sequence[Outgoing], source: Checkpoint | None, on_bytes: OnBytes) -> None:
    """Write the source's model with the tensors quantized in it; without such a source, a file of the tensors alone.

    What is not among `tensors` is copied as well: without it the model would not run.
    """
    if source is None or not rewrites(source):
        onnxwrite.write(target, tensors, source, on_bytes)
        return
    plan = Plan(tensors, source)
    _copy(plan.before, target, on_bytes)
    for piece in plan.pieces:
        piece.write(target, on_bytes)
    _copy(plan.after, target, on_bytes)


def _copy(parts: Iterable[Part], target: BinaryIO, on_bytes: OnBytes) -> None:
    for part in parts:
        for piece in part.pieces():
            target.write(piece)
            on_bytes(len(piece))


def verify(path: Path, tensors: Sequence[Outgoing], source: Checkpoint | None, on_bytes: OnBytes) -> None:
    """ExportError unless the file holds the codes and scales that were meant, and else the source's bytes."""
    if source is None or not rewrites(source):
        onnxwrite.verify(path, tensors, source, on_bytes)
        return
    plan = Plan(tensors, source)
    with open_file(InputFile(path)) as found:
        behind = _compare(plan.before, found.files[0], 0, on_bytes) + plan.weight_bytes
        if _compare(plan.after, found.files[0], behind, on_bytes) != found.files[0].size:
            raise ExportError("the model was written, but came back longer: check the disk")
        for piece in plan.pieces:
            check_read(found, piece)
            on_bytes(piece.nbytes)


def _compare(parts: Iterable[Part], file: InputFile, at: int, on_bytes: OnBytes) -> int:
    """Compare parts with a file from `at` on; returns where they end."""
    for part in parts:
        for piece in part.pieces():
            if file.read(at, len(piece)) != piece:
                raise ExportError("what is copied of the model was written, but came back different: check the disk")
            at += len(piece)
            on_bytes(len(piece))
    return at
