"""Packed results as a checkpoint: reading them back, and proving that what was written is what was meant.

A file format that holds named arrays (npz, safetensors) gives its checkpoint of arrays and the manifest's text; the
rest is here.
"""

import math

import numpy as np

from ...core.dtypes import CastCodec
from ...core.tensor import QuantizedTensor
from ...errors import CheckpointError, ExportError, NonFiniteError
from ...wording import shown, size_text
from ..checkpoint import BLOCK, Checkpoint, TensorSpec, all_finite
from ..input.files import OnBytes
from .manifest import Described, parse
from .outgoing import Outgoing, Tensors


class PackedCheckpoint(Checkpoint):
    """An export of quantlab. `raw` and `load` give the decoded values, `quantized` the codes and scales themselves.

    What was copied into it unchanged opens as it is; `packed_names` are the tensors that were quantized.
    """

    def __init__(self, arrays: Checkpoint, manifest: str | bytes | bytearray, bfloat16: str, own: str = "") -> None:
        self._arrays = arrays
        self._described = parse(manifest, str(arrays), bfloat16)
        for described in self._described.values():
            self._check_arrays(described)
        used = {array["array"] for described in self._described.values() for array in described.arrays.values()}
        copies = [name for name in arrays.names if name not in used | self._described.keys() | {own}]
        specs = {name: self._decoded_spec(described) for name, described in self._described.items()}
        specs.update({name: arrays.spec(name) for name in copies})
        super().__init__(arrays.path, f"quantlab {arrays.format}", specs, arrays.files)

    @property
    def packed_names(self) -> list[str]:
        """The tensors that were quantized, in the file's order."""
        return list(self._described)

    def quantized(self, name: str) -> QuantizedTensor:
        """One tensor as it was exported.

        Raises CheckpointError if there is no such tensor or it was only copied, NonFiniteError for scales or values
        that are not finite.
        """
        self.spec(name)
        if name not in self._described:
            raise CheckpointError(f"{self._where(name)} was copied, not quantized: read it with raw")
        described = self._described[name]
        parts = {part: self._part(array) for part, array in described.arrays.items()}
        q = QuantizedTensor(
            described.config,
            described.shape,
            described.source_dtype,
            parts["packed"],
            parts.get("scale"),
            parts.get("zero_point"),
            parts.get("offset"),
        )
        codec = q.config.codec
        floats = [q.codes.view(codec.dtype)] if isinstance(codec, CastCodec) else [q.scale, q.offset]
        if not all(values is None or all_finite(values) for values in floats):
            raise NonFiniteError(f"{self._where(name)} has scales or values that are NaN or infinite")
        return q

    def source_nbytes(self, name: str) -> int:
        """Bytes that a packed tensor took where it came from, as the manifest says."""
        return self._described[name].source_nbytes

    def raw(self, name: str) -> np.ndarray:
        """One tensor, decoded to float32; a copy in its own dtype."""
        return self.quantized(name).dequantize() if name in self._described else self._arrays.raw(name)

    def _part(self, array: dict) -> np.ndarray:
        values = self._arrays.raw(array["array"])
        return values if array["dtype"] == array["stored_as"] else values.view(array["dtype"])

    def _check_arrays(self, described: Described) -> None:
        """The arrays that the manifest speaks of must be in the file, with the types and shapes it says."""
        for array in described.arrays.values():
            found = self._arrays.spec(array["array"])
            if (found.dtype, list(found.shape)) != (array["stored_as"], array["shape"]):
                raise CheckpointError(
                    f"array {shown(array['array'])} of {self._arrays} is {found.dtype} of shape {list(found.shape)}, "
                    f"and the manifest says {array['stored_as']} of shape {array['shape']}"
                )

    def _decoded_spec(self, described: Described) -> TensorSpec:
        stored = sum(self._arrays.spec(array["array"]).nbytes for array in described.arrays.values())
        note = f"decoded from {described.config}, {size_text(stored)} in the file"
        return TensorSpec(described.name, described.shape, "float32", 4 * math.prod(described.shape), note)


def verify(found: Checkpoint, tensors: Tensors, on_bytes: OnBytes) -> None:
    """ExportError unless `found`, read back from disk, holds exactly these tensors: every bit of every part."""
    if not isinstance(found, PackedCheckpoint) or set(found.names) != {tensor.name for tensor in tensors}:
        raise ExportError("the written file does not have the tensors that were exported: try again")
    for tensor in tensors:
        if not _came_back(tensor, found):
            raise ExportError(f"tensor {shown(tensor.name)} was written, but came back different: check the disk")
        on_bytes(tensor.nbytes)


def _came_back(tensor: Outgoing, found: PackedCheckpoint) -> bool:
    """Whether the file has the tensor as it was meant, which is made once more for the comparison."""
    if tensor.config is None:
        return same_bits(found.raw(tensor.name), tensor.copied())
    q, back = tensor.quantized(), found.quantized(tensor.name)
    same = (q.config, q.shape, q.source_dtype) == (back.config, back.shape, back.source_dtype)
    return same and _same_parts(q, back)  # and so the values, which follow from these


def _same_parts(q: QuantizedTensor, back: QuantizedTensor) -> bool:
    return q.parts.keys() == back.parts.keys() and all(same_bits(q.parts[part], back.parts[part]) for part in q.parts)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same type, shape and bits (-0.0 is not 0.0)."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    flat, other = (each.reshape(-1).view(np.uint8) for each in (a, b))
    return all(np.array_equal(flat[i : i + BLOCK], other[i : i + BLOCK]) for i in range(0, flat.size, BLOCK))
