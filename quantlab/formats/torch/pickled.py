"""A pickle read as data: an interpreter of the few opcodes that saved tensors are made of.

Python's own unpickler imports what a file names and calls it. This one imports nothing and calls nothing of a file's
choice: a name is looked up in a closed vocabulary, what it stands for is a function of quantlab, and all that can come
out are containers, plain values and what those functions make. Whatever else a file asks for is refused by its name.

Opcodes, containers, depth and lengths are bounded: no pickle takes more than about 64 MB of Python objects.
"""

import pickletools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ...errors import LimitError
from ...wording import shown

MAX_OPCODES = 1_000_000  # a tensor takes about 40, and a million less than a second
MAX_CONTAINERS = 100_000  # lists, dictionaries, tuples and what calls make: a tensor takes 7
BYTES_PER_CONTAINER = 8  # of pickle, beyond the first few thousand containers; a tensor has about 15
FEW = 5_000
MAX_DEPTH = 64  # of containers in each other
MAX_STRING = 1 << 18  # characters


class Refusal(Exception):
    """What a pickle does that is not allowed, to follow the file's name."""


@dataclass(frozen=True, slots=True)
class Name:
    """A name that a pickle may use, as it stands on the stack: nothing but a name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Container:
    """A list or a dictionary, of which only what is not plain is kept: (key or index, value)."""

    count: int = 0
    kept: list[tuple[object, object]] | None = None  # None: most are empty, and a list is twice as large as the rest

    def add(self, key: object, value: object) -> None:
        """Count a value, and keep it unless it is plain. Nothing is hashed: a file may choose keys that collide."""
        if not is_plain(value):
            self.kept = self.kept or []
            self.kept.append((key, value))
        self.count += 1


_PLAIN = (str, bytes, int, float, type(None), Name)


def is_plain(value: object) -> bool:
    """Whether a value is a number, a text or a name, which cannot hold anything."""
    return isinstance(value, _PLAIN)


def malformed() -> NoReturn:
    """Raise the refusal of a pickle that is not put together as its writer does."""
    raise Refusal("is damaged, or was not written by PyTorch")


@dataclass(frozen=True)
class Vocabulary:
    """What a pickle may say.

    Attributes
    ----------
    names : every name that it may use.
    calls : what calling one of them with a tuple of arguments makes; others may be used and not called.
    persistent : what a persistent id stands for.
    """

    names: Mapping[tuple[str, str], Name]
    calls: Mapping[Name, Callable[[tuple], object]]
    persistent: Callable[[object], object]


def read(data: bytes, vocabulary: Vocabulary) -> object:
    """The value that a pickle leaves behind.

    Raises
    ------
    Refusal : it uses anything but the vocabulary and the opcodes below, or is damaged.
    LimitError : it exceeds a budget above.
    """
    try:
        return _Machine(vocabulary, min(MAX_CONTAINERS, FEW + len(data) // BYTES_PER_CONTAINER)).run(data)
    except LimitError:
        raise
    # What genops raises on damage; an empty stack; an index outside the memo.
    except (ValueError, IndexError, DeprecationWarning):  # the last of escapes in names, where warnings are errors
        malformed()


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"})
_TEXTS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "SHORT_BINSTRING"})


class _Machine:
    """The stack, the marks and the memo of a pickle."""

    def __init__(self, vocabulary: Vocabulary, containers: int) -> None:
        self.vocabulary = vocabulary
        self.containers = self.most = containers  # that may still be made, and in all
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: list[Any] = []

    def run(self, data: bytes) -> object:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_OPCODES:
                raise LimitError(f"has more than {MAX_OPCODES} opcodes")
            name = opcode.name
            if name in _NUMBERS:
                self.stack.append(arg)
            elif name in _TEXTS:
                self.text(arg)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _STEPS:
                _STEPS[name](self, arg)
            elif name == "STOP":
                return self.stack.pop()
            else:
                raise Refusal(f"uses the opcode {name}, which no saved tensor needs")
        malformed()

    def text(self, arg: Any) -> None:
        if len(arg) > MAX_STRING:
            raise LimitError(f"has a text of more than {MAX_STRING} characters")
        self.stack.append(arg)

    def push(self, value: object) -> None:
        """Push something new that is not a literal."""
        self.containers -= 1
        if self.containers < 0:
            raise LimitError(f"has more than {self.most} lists, dictionaries and tuples")
        self.stack.append(value)

    def pop(self, kind: type) -> Any:
        """The topmost value, which must be of a kind, taken off the stack."""
        value = self.stack.pop()
        return value if isinstance(value, kind) else malformed()

    def container(self) -> Container:
        """The list or dictionary on top of the stack, which stays there."""
        value = self.stack[-1]
        return value if isinstance(value, Container) else malformed()

    def mark(self) -> None:
        if len(self.marked) > 4 * MAX_DEPTH:
            raise LimitError(f"has containers nested more than {MAX_DEPTH} deep")
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """What was pushed since the last mark, taken off the stack."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    def last(self, count: int) -> list[Any]:
        """The topmost values, taken off the stack."""
        items = self.stack[-count:]
        if len(items) < count:
            malformed()
        del self.stack[-count:]
        return items

    def append(self, values: Sequence[object]) -> None:
        target = self.container()
        for value in values:
            target.add(target.count, value)

    def set_items(self, pairs: Sequence[object]) -> None:
        target = self.container()
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target.add(key, value)

    def put(self, index: int | None) -> None:
        # Picklers number the memo from 0 on; a list cannot be made large by an index, nor slow by colliding ones.
        if index is not None and index != len(self.memo):
            malformed()
        self.memo.append(self.stack[-1])

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            malformed()
        known = self.vocabulary.names.get((module, name))
        if known is None:
            raise Refusal(
                f"asks for {shown(f'{module[:200]}.{name[:200]}')}, which is more than tensors and their names"
            )
        self.stack.append(known)

    def call(self) -> None:
        args, function = self.pop(tuple), self.pop(Name)
        if function not in self.vocabulary.calls:
            raise Refusal(f"calls {function}, which is no function")
        self.push(self.vocabulary.calls[function](args))

    def attributes(self) -> None:
        """Attributes, such as the version numbers in an OrderedDict's _metadata, are not among its items."""
        self.stack.pop()
        self.container()


# What an opcode does; the second argument is what genops read with it: an index, a text, or None.
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, arg: None,
    "FRAME": lambda machine, arg: None,
    "MARK": lambda machine, arg: machine.mark(),
    "EMPTY_LIST": lambda machine, arg: machine.push(Container()),
    "EMPTY_DICT": lambda machine, arg: machine.push(Container()),
    "TUPLE": lambda machine, arg: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, arg: machine.push(tuple(machine.last(1))),
    "TUPLE2": lambda machine, arg: machine.push(tuple(machine.last(2))),
    "TUPLE3": lambda machine, arg: machine.push(tuple(machine.last(3))),
    "APPEND": lambda machine, arg: machine.append(machine.last(1)),
    "APPENDS": lambda machine, arg: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, arg: machine.set_items(machine.last(2)),
    "SETITEMS": lambda machine, arg: machine.set_items(machine.since_mark()),
    "BINPUT": lambda machine, arg: machine.put(arg),
    "LONG_BINPUT": lambda machine, arg: machine.put(arg),
    "MEMOIZE": lambda machine, arg: machine.put(None),
    "BINGET": lambda machine, arg: machine.stack.append(machine.memo[arg]),
    "LONG_BINGET": lambda machine, arg: machine.stack.append(machine.memo[arg]),
    "GLOBAL": lambda machine, arg: machine.name(*arg.partition(" ")[::2]),
    "STACK_GLOBAL": lambda machine, arg: machine.name(*machine.last(2)),
    "REDUCE": lambda machine, arg: machine.call(),
    "BUILD": lambda machine, arg: machine.attributes(),
    "BINPERSID": lambda machine, arg: machine.push(machine.vocabulary.persistent(machine.stack.pop())),
}
