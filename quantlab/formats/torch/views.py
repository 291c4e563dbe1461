"""The state dict in a PyTorch checkpoint: what its pickle may say, and the tensors that it describes by name.

torch writes a tensor as a call of ``torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, ...)``, and a
storage as the persistent id ``("storage", torch.FloatStorage, key, device, length)``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.arrays import MAX_DIMENSIONS
from ...errors import CheckpointError, LimitError
from ...wording import shown
from ..input.files import MAX_NAME
from .pickled import MAX_DEPTH, MAX_OPCODES, Container, Name, Refusal, Vocabulary, is_plain, malformed, read

MAX_TENSORS = 20_000  # twice the records that an archive may have
FEW = 100_000  # steps of the walk, and characters of names, that every pickle may take; longer ones in proportion
FLOAT4_PAIRS = "float4_e2m1fn_x2"  # torch's type of two values to a byte

WAY_OUT = (
    "convert it to safetensors: where you trust it, read it with torch.load and write its state dict with "
    "safetensors.torch.save_file"
)


@dataclass(frozen=True, slots=True)
class Storage:
    """A record of numbers: the type that the pickle gives it (None: bytes), its key, and how many there are."""

    dtype: str | None
    key: str
    length: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: `shape` values of a storage, from `offset` on, `strides` apart. Counted in values, unchecked."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_views(data: bytes, what: str, alone: str) -> dict[str, View]:
    """The tensors that a pickle describes, by the keys that lead to them joined with "."; plain values are left out.

    Parameters
    ----------
    data : the pickle.
    what : what to call it in messages.
    alone : the name of a tensor that is not in any container.

    Raises
    ------
    CheckpointError : it asks for anything but tensors, is damaged, or gives two tensors one name.
    LimitError : it exceeds a budget.
    """
    try:
        root = read(data, _VOCABULARY)
        return {alone: root} if isinstance(root, View) else _Walk(len(data)).of(root)
    except Refusal as refusal:
        raise CheckpointError(f"{what} {refusal}: {WAY_OUT}") from None
    except LimitError as error:
        raise LimitError(f"{what} {error}: {WAY_OUT}") from None


class _Walk:
    """The tensors in nested containers, and what the walk over them may still cost.

    A container may stand in several others, or in itself: a short pickle can describe a tree without end. And the name
    of a container is part of the names of all tensors in it.
    """

    def __init__(self, length: int) -> None:
        self.found: dict[str, View] = {}
        self.steps = min(MAX_OPCODES, FEW + 10 * length)
        self.characters = FEW + 4 * length

    def of(self, root: object) -> dict[str, View]:
        if not is_plain(root):
            self.visit(root, "", 0)
        return self.found

    def visit(self, value: Any, name: str, depth: int) -> None:
        self.spend(10, len(name))
        if isinstance(value, View):
            self.add(name, value)
        elif isinstance(value, Storage):
            raise Refusal("has a storage that is not part of a tensor")
        elif depth > MAX_DEPTH:
            raise LimitError(f"has containers nested more than {MAX_DEPTH} deep")
        else:
            for key, child in self.children(value):
                self.visit(child, f"{name}.{_text(key)}" if depth else _text(key), depth + 1)

    def children(self, value: Container | tuple) -> Iterable[tuple[object, object]]:
        """(key or index, value) of everything in a list, dictionary or tuple that is not plain."""
        for key, child in enumerate(value) if isinstance(value, tuple) else value.kept or ():
            self.spend(1, 0)
            if not is_plain(child):
                yield key, child

    def spend(self, steps: int, characters: int) -> None:
        self.steps -= steps
        self.characters -= characters
        if self.steps < 0:
            raise LimitError("has the same containers in others so often that its tensors cannot be listed")
        if self.characters < 0 or characters > MAX_NAME:
            raise LimitError(f"has names of more than {MAX_NAME} characters, or too many that are almost as long")

    def add(self, name: str, view: View) -> None:
        if name in self.found:
            raise Refusal(f"gives two tensors the name {shown(name)}")
        if len(self.found) == MAX_TENSORS:
            raise LimitError(f"has more than {MAX_TENSORS} tensors")
        self.found[name] = view


def _text(key: object) -> str:
    """A key as a part of a name."""
    if key == "" or not isinstance(key, (str, int, float, type(None))):
        raise Refusal("has keys that are neither text nor numbers")
    try:
        str(key).encode()
    except UnicodeEncodeError:
        raise Refusal(f"has a key that is not UTF-8: {shown(key)}") from None
    return str(key)


# -- what names stand for


def _storage(identity: object) -> Storage:
    match identity:
        case ("storage", Name() as kind, str(key), str(), int(length)) if kind in _STORAGE_TYPES:
            return Storage(_STORAGE_TYPES[kind], key, int(length))
    return malformed()


def _ordered_dict(args: tuple) -> Container:
    """An empty one: its items follow."""
    return malformed() if args else Container()


def _plain(args: tuple) -> None:
    """A device, a layout, bytes: nothing of it is weights."""


def _size(args: tuple) -> tuple[int, ...]:
    return _integers(args[0]) if len(args) == 1 else malformed()


def _tensor(args: tuple) -> View:
    """(storage, offset, shape, strides[, requires_grad, hooks[, metadata]])."""
    match args:
        case (Storage() as storage, int(offset), shape, strides, *rest) if len(rest) in (0, 2, 3):
            return _view(storage, storage.dtype or "uint8", offset, shape, strides, rest[2:])
    return malformed()


def _typed_tensor(args: tuple) -> View:
    """(storage, offset, shape, strides, requires_grad, hooks, dtype[, metadata])."""
    match args:
        case (Storage() as storage, int(offset), shape, strides, _, _, Name() as kind, *rest) if kind in _TYPES:
            return _view(storage, _TYPES[kind], offset, shape, strides, rest)
    return malformed()


def _view(
    storage: Storage, dtype: str, offset: int, shape: object, strides: object, metadata: Sequence[object]
) -> View:
    # The bits that torch keeps there say that the values are to be negated or conjugated.
    if any(not isinstance(part, Container) or part.count for part in metadata):
        raise Refusal("has a tensor that is to be negated or conjugated when it is read")
    view = View(storage, dtype, int(offset), _integers(shape), _integers(strides))
    return view if len(view.shape) == len(view.strides) else malformed()


def _parameter(args: tuple) -> View:
    """(tensor, requires_grad, hooks[, attributes])."""
    match args:
        case (View() as view, _, _) | (View() as view, _, _, _):
            return view
    return malformed()


def _integers(values: object) -> tuple[int, ...]:
    # The length first: one long tuple may be named a hundred thousand times.
    if not isinstance(values, tuple) or len(values) > MAX_DIMENSIONS or any(type(n) is not int for n in values):
        malformed()
    return values


# What a storage class of torch is called in NumPy.
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_STORAGE_TYPES: dict[Name, str | None] = {
    **{Name("torch", name): dtype for name, dtype in _STORAGES.items()},
    **{Name("torch.storage", name): None for name in ("UntypedStorage", "_UntypedStorage")},
}
# Types that have no storage class of their own; torch calls them as NumPy and ml_dtypes do.
_UNTYPED = ["uint16", "uint32", "uint64", FLOAT4_PAIRS]
_UNTYPED += ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
_TYPES = {Name("torch", dtype): dtype for dtype in [*_STORAGES.values(), *_UNTYPED]}
_CALLS = {
    Name("collections", "OrderedDict"): _ordered_dict,
    Name("torch", "Size"): _size,
    Name("torch", "device"): _plain,
    Name("torch.serialization", "_get_layout"): _plain,
    Name("_codecs", "encode"): _plain,  # how protocol 2 writes bytes
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}
_VOCABULARY = Vocabulary(
    {(name.module, name.name): name for name in [*_CALLS, *_STORAGE_TYPES, *_TYPES]}, _CALLS, _storage
)
