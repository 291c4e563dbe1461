"""What the nodes of an ONNX graph do with a weight: which axis its output channels lie along, and whether it is codes.

Operators: https://onnx.ai/onnx/operators and onnxruntime's ContribOperators.md.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

CODES, SCALES, ZERO_POINTS = "codes", "scales", "zero points"


class Channels(NamedTuple):
    """The axis of output channels, from the end if negative, and the attribute that swaps the last two axes."""

    axis: int
    transposed_by: bytes = b""


# (operator, input) -> where the output channels of a weight lie. All others have them along axis 0.
_CHANNELS = {
    (b"MatMul", 0): Channels(-2),
    (b"MatMul", 1): Channels(-1),  # [in, out]
    (b"MatMulInteger", 0): Channels(-2),
    (b"MatMulInteger", 1): Channels(-1),
    (b"QLinearMatMul", 0): Channels(-2),
    (b"QLinearMatMul", 3): Channels(-1),
    (b"Gemm", 0): Channels(-2, b"transA"),
    (b"Gemm", 1): Channels(-1, b"transB"),
    (b"FusedGemm", 1): Channels(-1, b"transB"),
    (b"FusedMatMul", 1): Channels(-1, b"transB"),
    (b"QGemm", 3): Channels(-1, b"transB"),
    (b"Attention", 1): Channels(-1),  # of onnxruntime: the weights of queries, keys and values side by side
    (b"Conv", 1): Channels(0),
    (b"FusedConv", 1): Channels(0),
    (b"ConvInteger", 1): Channels(0),
    (b"QLinearConv", 3): Channels(0),
    (b"ConvTranspose", 1): Channels(1),  # [in, out / group, ...]
    (b"LSTM", 1): Channels(1),  # [directions, gates * hidden, in]
    (b"LSTM", 2): Channels(1),
    (b"GRU", 1): Channels(1),
    (b"GRU", 2): Channels(1),
    (b"RNN", 1): Channels(1),
    (b"RNN", 2): Channels(1),
}

# operator -> what its inputs are, where they belong to numbers that are quantized already
_QUANTIZED = {
    b"DequantizeLinear": {0: CODES, 1: SCALES, 2: ZERO_POINTS},
    b"QuantizeLinear": {1: SCALES, 2: ZERO_POINTS},
    b"MatMulNBits": {1: CODES, 2: SCALES, 3: ZERO_POINTS},
    b"MatMulBnb4": {1: CODES, 2: SCALES},
    b"GatherBlockQuantized": {0: CODES, 2: SCALES, 3: ZERO_POINTS},
    b"QLinearMatMul": {1: SCALES, 2: ZERO_POINTS, 3: CODES, 4: SCALES, 5: ZERO_POINTS, 6: SCALES, 7: ZERO_POINTS},
    b"QLinearConv": {1: SCALES, 2: ZERO_POINTS, 3: CODES, 4: SCALES, 5: ZERO_POINTS, 6: SCALES, 7: ZERO_POINTS},
    b"QGemm": {1: SCALES, 2: ZERO_POINTS, 3: CODES, 4: SCALES, 5: ZERO_POINTS, 7: SCALES, 8: ZERO_POINTS},
    b"MatMulInteger": {1: CODES, 2: ZERO_POINTS, 3: ZERO_POINTS},
    b"ConvInteger": {1: CODES, 2: ZERO_POINTS, 3: ZERO_POINTS},
    b"DynamicQuantizeMatMul": {1: CODES, 2: SCALES, 3: ZERO_POINTS},
}  # fmt: skip

# Operators whose first output is their first input in another form: what uses the one uses the other.
_SAME_AXES = frozenset({b"Identity", b"Cast", b"QuantizeLinear", b"DequantizeLinear"})
_TRANSPOSE = b"Transpose"


def channel_axis(operator: bytes, at: int, order: Sequence[int], numbers: Mapping[bytes, int]) -> int | None:
    """The axis along which the output channels of a weight lie, or None if its operator does not say.

    Parameters
    ----------
    operator, at : who takes the weight, and as which of its inputs.
    order : the weight's own axes in the order in which they arrive there: (1, 0) after a transposition.
    numbers : the operator's integer attributes, such as transB.
    """
    channels = _CHANNELS.get((operator, at))
    if channels is None or len(order) < 2:
        return None
    axis = channels.axis
    if numbers.get(channels.transposed_by):
        axis = -3 - axis  # -1 <-> -2
    return order[axis]


def arriving_order(operator: bytes, at: int, order: tuple[int, ...], perm: Sequence[int]) -> tuple[int, ...] | None:
    """The order of a tensor's axes behind an operator; None if what comes out is not the tensor in another form.

    >>> arriving_order(b"Transpose", 0, (0, 1), [1, 0])
    (1, 0)
    """
    if at or not is_other_form(operator):
        return None
    if operator in _SAME_AXES:
        return order
    perm = perm or range(len(order))[::-1]
    return tuple(order[axis] for axis in perm) if sorted(perm) == list(range(len(order))) else None


def is_other_form(operator: bytes) -> bool:
    """Whether an operator only gives its first input another type or order of axes."""
    return operator in _SAME_AXES or operator == _TRANSPOSE


def quantized_part(operator: bytes, at: int, numbers: Mapping[bytes, int]) -> str:
    """What an input is to an operator that takes quantized numbers, such as "4-bit codes"; "" for all others."""
    part = _QUANTIZED.get(operator, {}).get(at, "")
    bits = numbers.get(b"bits")
    return f"{bits}-bit {part}" if part == CODES and bits else part
