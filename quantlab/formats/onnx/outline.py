"""An ONNX model taken apart for writing it again: which of its bytes stay, and what is known of those that do not.

Whatever is not named here is kept as it is, byte by byte, also what this version of the format does not know yet.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from ...errors import ExportError
from ..input.files import CHUNK, MAX_NAME, InputFile, Stream
from . import tensor as onnxtensor
from .companions import Companions
from .protobuf import BYTES, NUMBER, Wire
from .tensor import Range
from .write import head


def _key(number: int, kind: int = BYTES) -> int:
    return number << 3 | kind


_IR_VERSION, _GRAPH, _OPSET, _TRAINING, _FUNCTION = _key(1, NUMBER), _key(7), _key(8), _key(20), _key(25)  # of a model
_DOMAIN, _VERSION = _key(1), _key(2, NUMBER)  # of an opset
_FUNCTION_NODE = _key(7)
_NODE, _INITIALIZER, _INPUT, _SPARSE = _key(1), _key(5), _key(11), _key(15)  # of a graph
_OUTPUT, _OPERATOR, _ATTRIBUTE = _key(2), _key(4), _key(5)  # of a node
_TENSOR, _TENSORS, _SUBGRAPHS, _SPARSE_TENSORS = _key(5), _key(10), (_key(6), _key(11)), (_key(22), _key(23))
_LONG_LISTS = (7, 8, 9)  # floats, ints and strings of an attribute
_VALUE_NAME, _SPARSE_PARTS = _key(1), (_key(1), _key(2))
_TENSOR_NAME, _TENSOR_DATA, _LOCATION = _key(8), (9, 13, 14), _key(14, NUMBER)
CONSTANTS_ARE_NO_INPUTS = 4  # the first version in which an initializer need not be an input of the graph
_EXTERNAL = 1  # the location of data in another file


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of the file to be: how many there are, and how to get them in pieces of at most `CHUNK`."""

    nbytes: int
    pieces: Callable[[], Iterable[memoryview]]


def made(data: bytes) -> Part:
    """A few bytes that are known already."""
    return Part(len(data), lambda: [memoryview(data)])


def streamed(nbytes: int, open: Callable[[], Stream]) -> Part:
    """Bytes that are read when their turn comes."""

    def pieces() -> Iterator[memoryview]:
        stream = open()
        while stream.left:
            yield memoryview(stream.read(min(CHUNK, stream.left)))
        stream.finish()

    return Part(nbytes, pieces)


class Kept:
    """What stays of a file, in its order; ranges that follow each other are one."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._parts: list[Part] = []
        self._range: Range = (0, 0)

    def keep(self, first: int, end: int) -> None:
        """The file's own bytes."""
        if first != self._range[1]:
            self.add([])
            self._range = first, first
        self._range = self._range[0], end

    def add(self, parts: Iterable[Part]) -> None:
        """Other bytes, after those that were kept so far."""
        first, end = self._range
        if end > first:
            self._parts.append(streamed(end - first, partial(Stream, self._file, first, end - first)))
        self._range = end, end
        self._parts += parts

    @property
    def parts(self) -> list[Part]:
        """All of it."""
        self.add([])
        return self._parts


def opset_of(file: InputFile) -> int:
    """The version of ONNX's own operators that a model imports, the last that it says; 0 if it imports none."""
    wire = Wire(file)
    found = [imported(wire, a, b) for key, a, b in wire.fields(0, file.size) if key == _OPSET]
    return next((version for version in reversed(found) if version), 0)


def imported(wire: Wire, first: int, end: int) -> int:
    """The version that an entry of the imports says of ONNX's own operators; 0 if it speaks of others."""
    said = {field: (a, b) for field, a, b in wire.fields(first, end)}
    domain = wire.read(*said.get(_DOMAIN, (0, 0)), MAX_NAME, "a name")
    return said.get(_VERSION, (0, 0))[0] if domain in (b"", b"ai.onnx") else 0


class Outline:
    """A model without some of its weights.

    Parameters
    ----------
    wanted : names of initializers and constants of the model's own graph that are left out.

    Attributes
    ----------
    ir_version, opset : of the file, and of ONNX's own operators; 0 if it says none.
    names : of all values of all graphs.
    weights : TensorProto's number of the type of everything wanted that was found.
    overridable : what is wanted and an input too, so that a caller of the model may give it other values.
    spared : bytes that everything wanted would take in the graph if it stayed.
    before, graph, after : what stays of the model before its graph, of the graph's content, and of the model behind it.
        The version is in none of them; data from other files are in `graph`.

    Raises
    ------
    ExportError : the model holds something that a rewritten one could not keep right.
    """

    def __init__(self, file: InputFile, companions: Companions, wanted: Collection[bytes]) -> None:
        self._wire, self._companions, self._wanted = Wire(file), companions, frozenset(wanted)
        self.ir_version = self.opset = 0
        self.names: set[bytes] = set()
        self.weights: dict[bytes, int] = {}
        self.overridable: list[bytes] = []
        self.spared: dict[bytes, int] = {}
        self.before, self.graph, self.after = (Kept(file) for _ in range(3))
        self._walk_model()

    def _walk_model(self) -> None:
        at, kept = 0, self.before
        for key, a, b in self._wire.fields(0, self._wire.file.size):
            if key == _GRAPH:
                self._walk_graph(a, b)
                kept = self.after
            elif key == _IR_VERSION:
                self.ir_version = a
            else:
                self._note(key, a, b)
                kept.keep(at, b)
            at = b

    def _note(self, key: int, a: int, b: int) -> None:
        """A field of the model that stays."""
        if key == _OPSET:
            self.opset = imported(self._wire, a, b) or self.opset
        elif key == _FUNCTION:
            for inner, first, end in self._wire.fields(a, b):
                if inner == _FUNCTION_NODE:
                    self._node(first, end)
        elif key == _TRAINING:
            raise ExportError(
                f"{self._wire.file} says how to train it, which quantized weights do not allow: save it for inference"
            )

    def _walk_graph(self, first: int, end: int) -> None:
        at = first
        for key, a, b in self._wire.fields(first, end):
            if not self._gives_way(key, at, a, b):
                self.graph.keep(at, b)
            at = b

    def _gives_way(self, key: int, at: int, a: int, b: int) -> bool:
        """Look at a field of the graph that begins at `at`; whether it is left out, or put in another form."""
        if key == _INITIALIZER:
            return self._initializer(at, a, b)
        if key == _NODE:
            operator, output, tensor = self._node(a, b)
            if operator != b"Constant" or output not in self._wanted or tensor is None:
                return False
            self.weights[output] = onnxtensor.read(self._wire, *tensor).code
            self._spare(output, b - at)
            return True
        if key == _INPUT and (name := self._named(a, b, _VALUE_NAME)) in self._wanted:
            self._spare(name, b - at)
            self.overridable += [name] if self.ir_version >= CONSTANTS_ARE_NO_INPUTS else []
            return True
        if key == _SPARSE:
            self._sparse(a, b)
        return False

    def _spare(self, name: bytes, nbytes: int) -> None:
        self.spared[name] = self.spared.get(name, 0) + nbytes

    def _initializer(self, at: int, a: int, b: int) -> bool:
        proto, parts = onnxtensor.read(self._wire, a, b), []
        self.names.add(proto.name)
        if proto.external:
            parts = self._inlined(a, b, *onnxtensor.external_data(proto, self._wire, self._companions))
        if proto.name in self._wanted:
            self.weights[proto.name] = proto.code
            self._spare(proto.name, sum(part.nbytes for part in parts) if parts else b - at)
        elif parts:
            self.graph.add(parts)
        return proto.external or proto.name in self._wanted

    def _inlined(self, first: int, end: int, nbytes: int, open: Callable[[], Stream]) -> list[Part]:
        """A TensorProto that has its data in another file, as one that has them itself."""
        about, at = Kept(self._wire.file), first
        for key, _, b in self._wire.fields(first, end):
            if key >> 3 not in _TENSOR_DATA:
                about.keep(at, b)
            at = b
        parts = [*about.parts, made(head(9, nbytes)), streamed(nbytes, open)]
        return [made(head(5, sum(part.nbytes for part in parts))), *parts]

    def _node(self, first: int, end: int) -> tuple[bytes, bytes, Range | None]:
        """Look at a node and the graphs in it: its operator, first output, and the tensor that it holds."""
        operator, outputs, held = b"", [], None
        for key, a, b in self._wire.fields(first, end):
            if key == _OUTPUT:
                outputs.append(self._text(a, b))
            elif key == _OPERATOR:
                operator = self._text(a, b)
            elif key == _ATTRIBUTE:
                held = self._attribute(a, b) or held
        self.names.update(outputs)
        return operator, outputs[0] if outputs else b"", held

    def _attribute(self, first: int, end: int) -> Range | None:
        """Look at an attribute; the tensor that it is."""
        held = None
        for key, a, b in self._wire.fields(first, end):
            if key in (_TENSOR, _TENSORS):
                self._inner_tensor(a, b)
                held = (a, b) if key == _TENSOR else held
            elif key in _SUBGRAPHS:
                self._inner_graph(a, b)
            elif key in _SPARSE_TENSORS:
                self._sparse(a, b)
            elif key >> 3 in _LONG_LISTS:
                break  # an attribute is one thing, and this one is a list
        return held

    def _inner_graph(self, first: int, end: int) -> None:
        for key, a, b in self._wire.fields(first, end):
            if key == _NODE:
                self._node(a, b)
            elif key == _INPUT:
                self._named(a, b, _VALUE_NAME)
            elif key == _INITIALIZER:
                self._inner_tensor(a, b)
            elif key == _SPARSE:
                self._sparse(a, b)

    def _inner_tensor(self, first: int, end: int) -> None:
        """A tensor that cannot change its length: everything around it would."""
        self._named(first, end, _TENSOR_NAME)
        if any(key == _LOCATION and a == _EXTERNAL for key, a, _ in self._wire.fields(first, end)):
            raise ExportError(
                f"{self._wire.file} keeps tensors of its nodes or inner graphs in another file: save it as one file"
            )

    def _sparse(self, first: int, end: int) -> None:
        for key, a, b in self._wire.fields(first, end):
            if key in _SPARSE_PARTS:
                self._inner_tensor(a, b)

    def _named(self, first: int, end: int, key_of_name: int) -> bytes:
        """The name of a value; it is taken from here on."""
        names = [self._text(a, b) for key, a, b in self._wire.fields(first, end) if key == key_of_name]
        self.names.update(names)
        return names[-1] if names else b""

    def _text(self, first: int, end: int) -> bytes:
        return self._wire.read(first, end, MAX_NAME, "a name")
