"""Writing ONNX: every tensor as codes, scale and zero point that a DequantizeLinear turns into a graph output.

The output has the tensor's own name, so any runtime gives the decoded values by running the file (opset 21, IR 10).
Protobuf is simple enough to write as a stream: the length of every message is known before its bytes are, so a tensor
is quantized when its turn comes. Field numbers are those of onnx.proto.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...core import packing
from ...core.config import QuantConfig
from ...core.dtypes import MAPPINGS, SCALE_DTYPES
from ...core.granularity import PerChannel, PerGroup
from ...core.tensor import QuantizedTensor, part_specs
from ...errors import ExportError
from ...wording import shown, size_text
from ..checkpoint import Checkpoint
from ..input.files import InputFile, OnBytes
from ..output.atomic import little_endian_bytes, write_bytes
from ..output.outgoing import Outgoing, rounded
from .read import open_file

IR_VERSION = 10
AT_ONCE = 1 << 20  # values that are compared in one go
OPSET = 21
LARGEST = 2**31 - 1  # bytes of a protobuf message
# (bits, signed) -> TensorProto's number of a type.
CODE_TYPES = {(4, True): 22, (4, False): 21, (8, True): 3, (8, False): 2, (16, True): 5, (16, False): 4}
FLOAT_TYPES = {"float32": 1, "float16": 10}
COPIED_TYPES = {
    "float32": 1,
    "float16": 10,
    "bfloat16": 16,
    "float64": 11,
    "int64": 7,
    "int32": 6,
    "int8": 3,
    "uint8": 2,
}
INT64 = 7


def refuses(shape: tuple[int, ...], config: QuantConfig) -> str | None:
    """Why the format cannot hold a tensor; None if it can."""
    if config.dtype not in ("int4", "int8", "int16"):
        return f"DequantizeLinear takes int4, int8 and int16, not {config.dtype}"
    if MAPPINGS[config.mapping].has_offset:
        return "DequantizeLinear has zero points but no float offsets: use the symmetric or the affine mapping"
    if config.scale_dtype == "bf16":
        return "ONNX Runtime does not run bfloat16 scales: use fp32 or fp16"
    return None


def varint(number: int) -> bytes:
    """A non-negative number, seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: int | bytes | str) -> bytes:
    """One field of a message: a number, or bytes behind their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return head(number, len(data)) + data


def head(number: int, length: int) -> bytes:
    """What stands before the `length` bytes of a field."""
    return varint(number << 3 | 2) + varint(length)


@dataclass(frozen=True)
class Stored:
    """An initializer: everything but its data is known before it is written."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    nbytes: int

    @property
    def start(self) -> bytes:
        """The TensorProto up to its raw data, which ends it: dims, data_type, name, raw_data."""
        dims = b"".join(field(1, length) for length in self.shape)
        return dims + field(2, self.dtype) + field(8, self.name) + head(9, self.nbytes)

    @property
    def message(self) -> bytes:
        """`start` as a field of the graph."""
        return head(5, len(self.start) + self.nbytes) + self.start


def node(op: str, inputs: Sequence[str], output: str, **attributes: int) -> bytes:
    """A NodeProto with integer attributes."""
    body = b"".join(field(1, name) for name in inputs) + field(2, output) + field(3, f"{output}/{op}") + field(4, op)
    for name, value in attributes.items():
        body += field(5, field(1, name) + field(3, value) + field(20, 2))
    return field(1, body)


def value_info(name: str, dtype: int, shape: tuple[int, ...]) -> bytes:
    """A ValueInfoProto of a tensor of known shape."""
    dims = b"".join(field(1, field(1, length)) for length in shape)
    return field(1, name) + field(2, field(1, field(1, dtype) + field(2, dims)))


class Piece:
    """One tensor's share of the graph: initializers, nodes and the output.

    Parameters
    ----------
    decodes_to : TensorProto's number of the type that the rest of the graph expects; else the scale's type is kept.
    """

    def __init__(self, tensor: Outgoing, decodes_to: int | None = None) -> None:
        self.tensor = tensor
        self.nodes: list[bytes] = []
        self.between: list[str] = []  # values that are neither stored nor the tensor itself
        self._decodes_to = decodes_to
        if tensor.config is None:
            self._copy()
        else:
            self._quantized(tensor.config)

    def _copy(self) -> None:
        tensor = self.tensor
        if tensor.source_dtype not in COPIED_TYPES:
            raise ExportError(
                f"tensor {shown(tensor.name)} is {tensor.source_dtype}, which is not written to ONNX here"
            )
        self.dtype = COPIED_TYPES[tensor.source_dtype]
        self.stored = [Stored(f"{tensor.name}_value", self.dtype, tensor.shape, tensor.nbytes)]
        self.nodes.append(node("Identity", [self.stored[0].name], tensor.name))

    def _quantized(self, config: QuantConfig) -> None:
        name, shape, specs = self.tensor.name, self.tensor.shape, part_specs(self.tensor.shape, config)
        signed = MAPPINGS[config.mapping].signed
        codes, scales = CODE_TYPES[config.codec.bits, signed], specs["scale"]
        self.dtype = FLOAT_TYPES[SCALE_DTYPES[config.scale_dtype].dtype.name]
        seen = self._seen(config)
        self.stored = [
            Stored(f"{name}_quantized", codes, seen, specs["packed"].nbytes),
            Stored(f"{name}_scale", self.dtype, scales.shape, scales.nbytes),
        ]
        if "zero_point" in specs:
            self.stored.append(Stored(f"{name}_zero_point", codes, scales.shape, specs["zero_point"].nbytes))
        steps = [("DequantizeLinear", [stored.name for stored in self.stored], axis_of(config, shape))]
        if seen != shape:
            self.stored.append(Stored(f"{name}_shape", INT64, (len(shape),), 8 * len(shape)))
            steps.append(("Reshape", [f"{name}_shape"], {}))
        if self._decodes_to not in (None, self.dtype):
            steps.append(("Cast", [], {"to": self._decodes_to or 0}))
        self._chain(steps)

    def _chain(self, steps: Sequence[tuple[str, list[str], dict[str, int]]]) -> None:
        """A node for each (operator, more inputs, attributes): each takes the one before, the last gives the tensor."""
        for i, (operator, inputs, attributes) in enumerate(steps):
            last = i == len(steps) - 1
            output = self.tensor.name if last else f"{self.tensor.name}_before_{steps[i + 1][0].lower()}"
            self.nodes.append(node(operator, [*self.between[-1:], *inputs], output, **attributes))
            self.between += [] if last else [output]

    def _seen(self, config: QuantConfig) -> tuple[int, ...]:
        """The shape that the codes are stored in: a matrix where groups run along rows of several dimensions."""
        shape = self.tensor.shape
        if not isinstance(config.granularity, PerGroup) or len(shape) == 2:
            return shape
        rows = shape[0] if len(shape) > 1 else 1
        return rows, self.tensor.size // rows

    @property
    def names(self) -> list[str]:
        """What it adds to the graph besides the tensor itself."""
        return [stored.name for stored in self.stored] + self.between

    @property
    def output(self) -> bytes:
        """The graph output, as a field of the graph."""
        return field(12, value_info(self.tensor.name, self.dtype, self.tensor.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of the initializers' fields."""
        return sum(len(stored.message) + stored.nbytes for stored in self.stored)

    def arrays(self) -> list[np.ndarray]:
        """The initializers' data, made now."""
        if self.tensor.config is None:
            return [self.tensor.copied()]
        arrays = list(self.tensor.quantized().parts.values())
        return [*arrays, np.array(self.tensor.shape, np.int64)][: len(self.stored)]

    def write(self, target: BinaryIO, on_bytes: OnBytes) -> None:
        """Write the initializers."""
        for stored, array in zip(self.stored, self.arrays(), strict=True):
            target.write(stored.message)
            write_bytes(target, little_endian_bytes(array), on_bytes)


def axis_of(config: QuantConfig, shape: tuple[int, ...]) -> dict[str, int]:
    """Attributes of DequantizeLinear: none per tensor, the axis per channel, axis and block size per group."""
    if isinstance(config.granularity, PerChannel):
        return {"axis": config.granularity.index(shape)}
    if isinstance(config.granularity, PerGroup):
        return {"axis": 1, "block_size": config.granularity.group_size}
    return {}


def write(target: BinaryIO, tensors: Sequence[Outgoing], source: Checkpoint | None, on_bytes: OnBytes) -> None:
    """Write an ONNX file whose outputs are the tensors, one tensor at a time."""
    start, pieces, after = planned(tensors)
    target.write(start)
    for piece in pieces:
        piece.write(target, on_bytes)
    target.write(after)


def planned(tensors: Sequence[Outgoing]) -> tuple[bytes, list[Piece], bytes]:
    """The file to be: what comes before the tensors, they, what comes behind. ExportError if ONNX cannot hold them."""
    pieces = [Piece(tensor) for tensor in tensors]
    check_names(pieces)
    before = b"".join(b"".join(piece.nodes) for piece in pieces) + field(2, "quantlab")
    after = b"".join(piece.output for piece in pieces)
    graph = len(before) + sum(piece.nbytes for piece in pieces) + len(after)
    model = field(1, IR_VERSION) + field(2, "quantlab") + field(8, field(1, "") + field(2, OPSET))
    if graph + len(model) > LARGEST:
        raise ExportError(f"the model would have {size_text(graph)}, and an ONNX file holds 2 GB: choose fewer tensors")
    return model + head(7, graph) + before, pieces, after


def nbytes(tensors: Sequence[Outgoing], source: Checkpoint | None) -> int:
    """Bytes of the file that `write` would write."""
    before, pieces, after = planned(tensors)
    return len(before) + sum(piece.nbytes for piece in pieces) + len(after)


def check_names(pieces: Sequence[Piece]) -> None:
    """ExportError if two values of the graph would have one name."""
    names = [piece.tensor.name for piece in pieces] + [name for piece in pieces for name in piece.names]
    if len(set(names)) < len(names):
        twice, _ = Counter(names).most_common(1)[0]
        raise ExportError(f"two values of the graph would be called {shown(twice)}: rename one of the tensors")
    if "" in names:
        raise ExportError("ONNX has no tensors without a name: give it one")


def verify(path: Path, tensors: Sequence[Outgoing], source: Checkpoint | None, on_bytes: OnBytes) -> None:
    """ExportError unless the file, read back, holds the codes, scales and zero points that were meant."""
    with open_file(InputFile(path)) as found:
        for tensor in tensors:
            check_read(found, Piece(tensor))
            on_bytes(tensor.nbytes)


def check_read(found: Checkpoint, piece: Piece) -> None:
    """ExportError unless a reader finds what was meant to be stored of a tensor."""
    for stored, values in zip(piece.stored, meant(piece.tensor), strict=False):
        if not same_values(found.raw(stored.name).reshape(-1), values.reshape(-1)):
            raise ExportError(f"{shown(stored.name)} was written, but came back different: check the disk")


def same_values(back: np.ndarray, values: np.ndarray) -> bool:
    """Whether two arrays [n] hold the same values, if the first is converted; NaN equals NaN."""
    parts = (slice(start, start + AT_ONCE) for start in range(0, values.size, AT_ONCE))
    floats = values.dtype.kind == "f"
    return back.size == values.size and all(
        np.array_equal(back[at].astype(values.dtype), values[at], equal_nan=floats) for at in parts
    )


def read_back(export: Checkpoint, tensor: Outgoing) -> QuantizedTensor:
    """The quantized tensor, from the initializers of an export that was opened again."""
    config, name = tensor.config, tensor.name
    assert config is not None
    specs = part_specs(tensor.shape, config)

    def packed(part: str) -> np.ndarray:
        # 4 bits are ml_dtypes' int4 and uint4, a byte each: the name of an array would keep both forms of the codes.
        wide = export.raw(f"{name}_{part}").astype(config.codec.code_dtype, copy=False)
        return packing.pack(wide, config.codec.bits)

    return QuantizedTensor(
        config,
        tensor.shape,
        tensor.source_dtype,
        packed("quantized"),
        export.raw(f"{name}_scale").reshape(specs["scale"].shape),
        packed("zero_point") if "zero_point" in specs else None,
    )


def meant(tensor: Outgoing) -> list[np.ndarray]:
    """Codes, scales and zero points one by one, or the values of a copy."""
    if tensor.config is None:
        return [tensor.copied()]
    q = tensor.quantized()
    parts = [q.codes, q.scale] + ([q.zero_point] if q.packed_zero_point is not None else [])
    return [part for part in parts if part is not None]


def decoded(q: QuantizedTensor) -> np.ndarray:
    """The values that DequantizeLinear computes, float32: rounded to the scale's dtype, which is the output's."""
    assert q.scale is not None
    return rounded(q.dequantize(), q.scale.dtype)
