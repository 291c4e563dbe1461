"""What a model wants to be fed with: the inputs of its graph, so that a snippet can call it."""

from dataclasses import dataclass
from pathlib import Path

from ...core.arrays import MAX_DIMENSIONS
from ...errors import LimitError
from ..input.files import MAX_NAME, InputFile
from .protobuf import BYTES, NUMBER, Wire
from .tensor import KINDS

MAX_INPUTS = 1000
TEXT = 8  # TensorProto's number of strings


def _key(number: int, kind: int = BYTES) -> int:
    return number << 3 | kind


_GRAPH, _INITIALIZER, _INPUT = _key(7), _key(5), _key(11)
_INITIALIZER_NAME, _NAME, _TYPE, _TENSOR = _key(8), _key(1), _key(2), _key(1)
_ELEMENT, _SHAPE, _DIM, _LENGTH, _SYMBOL = _key(1, NUMBER), _key(2), _key(1), _key(1, NUMBER), _key(2)


@dataclass(frozen=True)
class Input:
    """One input: NumPy's name of its type ("object" for text), and its shape; a free length is a name, or ""."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def inputs_of(path: Path) -> list[Input]:
    """The inputs of a model that was opened before; of those that are no tensors of a known type, none.

    Raises CheckpointError or LimitError for a file that is damaged.
    """
    file = InputFile(path)
    try:
        wire = Wire(file)
        graphs = [(a, b) for key, a, b in wire.fields(0, file.size) if key == _GRAPH]
        fields = [each for graph in graphs for each in wire.fields(*graph) if each[0] in (_INPUT, _INITIALIZER)]
        # Up to version 3 of the format every initializer is an input as well.
        held = {_text(wire, a, b, _INITIALIZER_NAME) for key, a, b in fields if key == _INITIALIZER}
        wanted = [(a, b) for key, a, b in fields if key == _INPUT and _text(wire, a, b, _NAME) not in held]
        if len(wanted) > MAX_INPUTS:
            raise LimitError(f"{file} has {len(wanted)} inputs, and quantlab lists up to {MAX_INPUTS}")
        return [found for place in wanted if (found := _input(wire, *place))]
    finally:
        file.close()


def _input(wire: Wire, first: int, end: int) -> Input | None:
    tensor = _within(wire, _within(wire, (first, end), _TYPE), _TENSOR)
    element, shape = 0, []
    for key, a, b in wire.fields(*tensor):
        if key == _ELEMENT:
            element = a
        elif key == _SHAPE:
            shape = [_length(wire, c, d) for inner, c, d in wire.fields(a, b) if inner == _DIM]
    dtype = "object" if element == TEXT else KINDS[element].dtype if element in KINDS else ""
    if not dtype or len(shape) > MAX_DIMENSIONS:
        return None
    return Input(_text(wire, first, end, _NAME), dtype, tuple(shape))


def _length(wire: Wire, first: int, end: int) -> int | str:
    found: int | str = ""
    for key, a, b in wire.fields(first, end):
        if key == _LENGTH:
            found = a
        elif key == _SYMBOL:
            found = wire.read(a, b, MAX_NAME, "a name").decode(errors="replace")
    return found


def _within(wire: Wire, place: tuple[int, int], wanted: int) -> tuple[int, int]:
    """The last field of a key in a message; an empty message without one."""
    return next(((a, b) for key, a, b in reversed(list(wire.fields(*place))) if key == wanted), (0, 0))


def _text(wire: Wire, first: int, end: int, wanted: int) -> str:
    a, b = _within(wire, (first, end), wanted)
    return wire.read(a, b, MAX_NAME, "a name").decode(errors="replace")
