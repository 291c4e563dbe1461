"""The tensors that an ONNX file holds quantized, by what its DequantizeLinear nodes say of their initializers."""

from dataclasses import dataclass, field

import numpy as np

from ...core.config import QuantConfig
from ...core.granularity import Granularity, PerChannel, PerGroup, PerTensor
from ...errors import CheckpointError
from ...wording import shown
from ..checkpoint import Checkpoint
from ..input.files import MAX_NAME
from ..output.described import Described
from .protobuf import BYTES, NUMBER, Wire
from .write import CODE_TYPES


def _key(number: int, kind: int = BYTES) -> int:
    return number << 3 | kind


_GRAPH, _NODE = _key(7), _key(1)
_INPUT, _OPERATOR, _ATTRIBUTE = _key(1), _key(4), _key(5)
_NAME, _INTEGER = _key(1), _key(3, NUMBER)
_NARROW = {"float32": "fp32", "float16": "fp16"}
_CODES = {("int" if signed else "uint") + str(bits): (bits, signed) for bits, signed in CODE_TYPES}
MAX_GROUP = 1 << 30  # values
AXIS = 1  # of a DequantizeLinear that says none


@dataclass
class Node:
    """A DequantizeLinear: the names of its inputs, and its integer attributes."""

    inputs: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)


def of_onnx(export: Checkpoint) -> dict[str, Described]:
    """The tensors X that are stored as X_quantized, X_scale and X_zero_point, by name; {} where there is none.

    Raises CheckpointError for a file that is damaged, or whose nodes and initializers contradict each other.
    """
    if export.format != "onnx":
        return {}
    found = {}
    for node in _nodes(Wire(export.files[0])):
        name = node.inputs[0].removesuffix("_quantized") if node.inputs else ""
        named = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
        if len(node.inputs) > 1 and node.inputs == named[: len(node.inputs)] and set(node.inputs) <= set(export.names):
            found[name] = _described(export, name, node)
    return found


def _described(export: Checkpoint, name: str, node: Node) -> Described:
    codes, scale = (export.spec(part) for part in node.inputs[:2])
    bits, signed = _CODES.get(codes.dtype, (0, False))
    # ONNX Runtime writes the zero points of symmetric codes, too: they are all 0.
    affine = len(node.inputs) == 3 and not (signed and not export.raw(node.inputs[2]).astype(np.int32).any())
    granularity = _granularity(node, scale.shape)
    if scale.dtype not in _NARROW or signed == affine or granularity is None or not bits:
        raise CheckpointError(f"{export} holds {shown(name)} quantized in a way that quantlab does not write")
    mapping = "affine" if affine else "symmetric"
    config = QuantConfig(dtype=f"int{bits}", mapping=mapping, granularity=granularity, scale_dtype=_NARROW[scale.dtype])
    shape = codes.shape
    if f"{name}_shape" in export.names:
        shape = tuple(int(length) for length in export.raw(f"{name}_shape").reshape(-1)[:64])
    found = Described(shape, config)
    if (
        min(shape, default=1) < 1
        or granularity.scale_shape(shape) != scale.shape
        or found.outgoing(name, "float32").size != codes.size
    ):
        raise CheckpointError(f"the scales of {shown(name)} of {export} do not fit its shape {list(shape)}")
    return found


def _granularity(node: Node, scales: tuple[int, ...]) -> Granularity | None:
    axis, size = node.numbers.get("axis", AXIS), node.numbers.get("block_size", 0)
    if len(scales) == 2 and axis == 1 and 0 < size <= MAX_GROUP:
        return PerGroup(size)
    if len(scales) == 1 and 0 <= axis < 64:
        return PerChannel(axis)
    return PerTensor() if not scales else None


def _nodes(wire: Wire) -> list[Node]:
    graphs = [(a, b) for key, a, b in wire.fields(0, wire.file.size) if key == _GRAPH]
    nodes = [(a, b) for graph in graphs for key, a, b in wire.fields(*graph) if key == _NODE]
    return [node for node in (_node(wire, a, b) for a, b in nodes) if node is not None]


def _node(wire: Wire, first: int, end: int) -> Node | None:
    """A node, if it is a DequantizeLinear."""
    node, operator = Node(), b""
    for key, a, b in wire.fields(first, end):
        if key == _INPUT:
            node.inputs.append(wire.read(a, b, MAX_NAME, "a name").decode(errors="replace"))
        elif key == _OPERATOR:
            operator = wire.read(a, b, MAX_NAME, "a name")
            if operator != b"DequantizeLinear":
                return None
        elif key == _ATTRIBUTE:
            said = {field: (x, y) for field, x, y in wire.fields(a, b) if field in (_NAME, _INTEGER)}
            if _NAME in said and _INTEGER in said:
                node.numbers[wire.read(*said[_NAME], MAX_NAME, "a name").decode(errors="replace")] = said[_INTEGER][0]
    return node if operator else None
