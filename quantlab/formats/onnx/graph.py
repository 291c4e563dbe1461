"""The tensors in an ONNX model's graphs, and what its nodes do with them, found in one walk over the file.

Layout: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, messages ModelProto, GraphProto, NodeProto.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from ...errors import CheckpointError, LimitError
from ...wording import shown
from ..input.files import MAX_NAME, MAX_TENSORS
from ..prequantized import PARTS, QUANTIZED
from . import tensor as onnxtensor
from .protobuf import BYTES, NUMBER, Wire
from .tensor import Proto, Range
from .use import CODES, arriving_order, channel_axis, is_other_form, quantized_part

MAX_DEPTH = 16  # graphs within graphs
MAX_PARTS = 4096  # attributes of one node, and inputs that are weights
MAX_NUMBERS = 100  # of one attribute: more of them say nothing about weights
LONGEST_LABEL = 60  # characters of a node's name in a note
NAMED = 3  # nodes that a note names; the others are counted


def _key(number: int, kind: int = BYTES) -> int:
    return number << 3 | kind


_GRAPH, _FUNCTION = _key(7), _key(25)  # of a model
_FUNCTION_NAME, _FUNCTION_NODE = _key(1), _key(7)
_NODE, _INITIALIZERS = _key(1), (_key(5), _key(15))  # of a graph: dense and sparse ones
_INPUT, _OUTPUT, _NODE_NAME, _OPERATOR, _ATTRIBUTE = (_key(number) for number in range(1, 6))  # of a node
_ATTRIBUTE_NAME, _INTEGER, _INTEGERS = _key(1), _key(3, NUMBER), (_key(8), _key(8, NUMBER))  # of an attribute
_TENSOR, _SPARSE_TENSOR, _SUBGRAPHS, _LONG_LISTS = _key(5), _key(22), (_key(6), _key(11)), (7, 9)
_SPARSE_VALUES = _key(1)


@dataclass(slots=True)
class Found:
    """A tensor of a model: what its file says of it, and what is known of its use.

    Attributes
    ----------
    name : in its own graph; after `find_tensors`, unique in the file.
    graph : which graph it belongs to; "" for the model's own.
    axis : along which its output channels lie, if any node says so.
    users : nodes that take it, or a value that is only another form of it; the first `NAMED` of `user_count`.
    roles : what it is to nodes that take quantized numbers ("scales of DequantizeLinear_3").
    """

    proto: Proto
    name: str
    graph: str
    depth: int
    sparse: bool
    axis: int | None = None
    users: list[str] = field(default_factory=list)
    user_count: int = 0
    last_user: object = None
    roles: list[str] = field(default_factory=list)

    @property
    def note(self) -> str:
        """What is special about the tensor, for people."""
        facts = []
        if self.roles:
            codes = any(CODES in role for role in self.roles)
            facts.append(("already quantized: " if codes else "") + ", ".join(self.roles))
        if self.users:
            more = self.user_count - len(self.users)
            facts.append(f"used by {', '.join(self.users)}{f' and {more} more' if more else ''}")
        if self.axis:
            matrix = self.axis == 1 and len(self.proto.shape) == 2
            facts.append("[in, out]" if matrix else f"output channels along axis {self.axis}")
        if self.sparse:
            facts.append("the values that a sparse tensor stores")
        if self.graph:
            facts.append(f"in {self.graph}")
        return "; ".join(facts)

    @property
    def aside(self) -> str:
        """What it is in place of a weight of the model's own graph; "" if it may be one."""
        if self.graph:
            return "inside a branch or function of the graph"
        if any(CODES in role for role in self.roles):
            return QUANTIZED
        return PARTS if self.roles else ""


class _Flow(NamedTuple):
    """A tensor, or a value that is the tensor in another form, its axes in another order."""

    found: Found
    order: tuple[int, ...]


class _Graph(NamedTuple):
    """A graph that is being walked: the values known in it and around it, innermost last, and what it is called."""

    scopes: tuple[dict[bytes, _Flow], ...]
    path: str

    def inner(self, name: str) -> "_Graph":
        """A graph within this one."""
        return _Graph((*self.scopes, {}), f"{self.path}/{name}" if self.path else name)

    def flow(self, name: bytes) -> _Flow | None:
        """What is known of a value."""
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)


@dataclass(slots=True)
class _Node:
    """What matters of a node: its inputs that are weights, by position, and where its attributes are."""

    name: bytes = b""
    operator: bytes = b""
    output: bytes = b""
    inputs: list[tuple[int, _Flow]] = field(default_factory=list)
    attributes: list[Range] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The node as people know it: its name and, unless the name says it, its operator."""
        operator = _printable(self.operator)
        if not self.name:
            return f"a {operator} node"
        name = _printable(self.name)
        return name if operator in name else f"{name} ({operator})"


@dataclass(slots=True)
class _Attribute:
    """What matters of an attribute: a few whole numbers, a tensor, graphs."""

    name: bytes = b""
    numbers: list[int] = field(default_factory=list)
    tensor: Range | None = None
    sparse: Range | None = None
    graphs: list[Range] = field(default_factory=list)


def find_tensors(wire: Wire) -> list[Found]:
    """The initializers and constants of every graph, in the file's order.

    Raises CheckpointError if the file is no ONNX model or contradicts itself, LimitError for too much of anything.
    """
    walk, graphs, top = _Walk(wire), 0, _Graph((), "")
    for key, a, b in wire.fields(0, wire.file.size):
        if key == _GRAPH:
            graphs += 1
            walk.graph(a, b, top.inner(""))
        elif key == _FUNCTION:
            walk.nodes(a, b, _FUNCTION_NODE, top.inner(walk.function_name(a, b)))
    if graphs != 1:
        raise CheckpointError(f"{wire.file} is no ONNX model: it must have one graph, and has {graphs}")
    _make_unique(walk.found)
    return walk.found


class _Walk:
    """A walk over a model's graphs, and what it has found."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.found: list[Found] = []

    def graph(self, first: int, end: int, graph: _Graph) -> None:
        """A graph: first its initializers, so that they are known when the nodes that use them are met."""
        if len(graph.scopes) > MAX_DEPTH:
            raise LimitError(f"{self.wire.file} has graphs within graphs, more than {MAX_DEPTH} deep")
        # Counted before the slower look at each.
        self._check_count(sum(key in _INITIALIZERS for key, _, _ in self.wire.fields(first, end)))
        for key, a, b in self.wire.fields(first, end):
            if key == _INITIALIZERS[0]:
                self._add(a, b, graph)
            elif key == _INITIALIZERS[1]:
                self._add_sparse(a, b, graph)
        self.nodes(first, end, _NODE, graph)

    def nodes(self, first: int, end: int, key_of_nodes: int, graph: _Graph) -> None:
        """The nodes of a graph, in the order in which every value is made before it is used."""
        for key, a, b in self.wire.fields(first, end):
            if key == key_of_nodes:
                self._follow(self._node(a, b, graph), graph)

    def function_name(self, first: int, end: int) -> str:
        """What a function is called."""
        names = [self._text(a, b) for key, a, b in self.wire.fields(first, end) if key == _FUNCTION_NAME]
        return f"function {_printable(names[0] if names else b'')}"

    def _node(self, first: int, end: int, graph: _Graph) -> _Node:
        node, count = _Node(), 0
        for key, a, b in self.wire.fields(first, end):
            if key == _INPUT:
                if flow := graph.flow(self._text(a, b)):
                    node.inputs.append((count, flow))
                count += 1
            elif key == _OUTPUT:
                node.output = node.output or self._text(a, b)
            elif key == _ATTRIBUTE:
                node.attributes.append((a, b))
            elif key == _OPERATOR:
                node.operator = self._text(a, b)
            elif key == _NODE_NAME:
                node.name = self._text(a, b)
            if max(len(node.inputs), len(node.attributes)) > MAX_PARTS:
                raise LimitError(f"{self.wire.file} has a node of more than {MAX_PARTS} inputs or attributes")
        return node

    def _follow(self, node: _Node, graph: _Graph) -> None:
        """Add what a node holds, note what it does with weights, and walk into its graphs."""
        numbers: dict[bytes, list[int]] = {}
        for first, end in node.attributes:
            attribute = self._attribute(first, end)
            numbers[attribute.name] = attribute.numbers
            if node.operator == b"Constant" and attribute.tensor:
                self._add(*attribute.tensor, graph, node.output)
            if node.operator == b"Constant" and attribute.sparse:
                self._add_sparse(*attribute.sparse, graph, node.output)
            for inner in attribute.graphs:
                self.graph(*inner, graph.inner(f"{node.label}.{_printable(attribute.name)}"))
        single = {name: values[0] for name, values in numbers.items() if len(values) == 1}
        for at, flow in node.inputs:
            _note_use(node, at, flow, single)
            order = arriving_order(node.operator, at, flow.order, numbers.get(b"perm", []))
            if order is not None and node.output:
                graph.scopes[-1][node.output] = _Flow(flow.found, order)

    def _attribute(self, first: int, end: int) -> _Attribute:
        found = _Attribute()
        for key, a, b in self.wire.fields(first, end):
            if key == _ATTRIBUTE_NAME:
                found.name = self._text(a, b)
            elif key == _TENSOR:
                found.tensor = a, b
            elif key == _SPARSE_TENSOR:
                found.sparse = a, b
            elif key in _SUBGRAPHS:
                found.graphs.append((a, b))
            elif key == _INTEGER or (key in _INTEGERS and len(found.numbers) < MAX_NUMBERS):
                found.numbers += self.wire.numbers(key, a, b, MAX_NUMBERS)
            elif key in _INTEGERS or key >> 3 in _LONG_LISTS:
                break  # an attribute is one thing, and this one is a long list of no weights
        return found

    def _add(self, first: int, end: int, graph: _Graph, name: bytes | None = None, sparse: bool = False) -> None:
        """A tensor, known by its own name or, a constant, by that of its node's output."""
        self._check_count(1)
        proto = onnxtensor.read(self.wire, first, end)
        key = proto.name if name is None else name
        text = onnxtensor.text(key, self.wire)
        if not key or key in graph.scopes[-1]:
            which = f"two tensors called {shown(text)}" if key else "a tensor without a name"
            raise CheckpointError(f"{self.wire.file} has {which} in one graph")
        found = Found(proto, text, graph.path, len(graph.scopes), sparse)
        self.found.append(found)
        graph.scopes[-1][key] = _Flow(found, tuple(range(len(proto.shape))))

    def _add_sparse(self, first: int, end: int, graph: _Graph, name: bytes | None = None) -> None:
        for key, a, b in self.wire.fields(first, end):
            if key == _SPARSE_VALUES:
                self._add(a, b, graph, name, sparse=True)

    def _check_count(self, more: int) -> None:
        if len(self.found) + more > MAX_TENSORS:
            raise LimitError(f"{self.wire.file} has more than {MAX_TENSORS} tensors")

    def _text(self, first: int, end: int) -> bytes:
        return self.wire.read(first, end, MAX_NAME, "a name")


def _note_use(node: _Node, at: int, flow: _Flow, numbers: dict[bytes, int]) -> None:
    """Remember that a node takes a tensor as its input number `at`."""
    found, part = flow.found, quantized_part(node.operator, at, numbers)
    if part and len(found.roles) < NAMED:
        found.roles.append(f"{part} of {node.label}")
    elif not part and not is_other_form(node.operator) and found.last_user is not node:
        found.last_user, found.user_count = node, found.user_count + 1
        if len(found.users) < NAMED:
            found.users.append(node.label)
    if found.axis is None:
        found.axis = channel_axis(node.operator, at, flow.order, numbers)


def _make_unique(tensors: list[Found]) -> None:
    """Graphs within graphs may use a name again: the outermost keeps it, the others are named after their graphs."""
    taken: set[str] = set()
    count: Counter[str] = Counter()
    for found in sorted(tensors, key=lambda found: found.depth):
        name = base = found.name if found.name not in taken else f"{found.graph}/{found.name}"
        while name in taken:
            count[base] += 1
            name = f"{base}#{count[base] + 1}"
        taken.add(name)
        found.name = name


def _printable(name: bytes) -> str:
    """A name from the file as it may stand in a sentence."""
    text = name.decode(errors="backslashreplace")
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= LONGEST_LABEL else f"...{text[3 - LONGEST_LABEL :]}"  # the end says more
