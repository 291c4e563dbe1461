"""PyTorch's checkpoints since 1.6: a zip archive of a pickle and the numbers that it refers to, stored as they are.

::

    NAME/data.pkl     the state dict: names, shapes, strides, and for each tensor the key of its storage
    NAME/data/KEY     one record per storage
    NAME/byteorder    "little" or "big"; older files lack it and are little-endian
    NAME/version, NAME/.format_version, NAME/.storage_alignment, NAME/.data/...

torch is not needed, and nothing is unpickled: `views` reads the state dict as data. Several tensors may share a
storage, and a tensor may be a strided view of one; both are checked against the record's bytes before anything is read.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePath, PurePosixPath

import numpy as np

from ...core.arrays import BROADCAST_BYTES
from ...errors import CheckpointError, LimitError
from ...wording import shown, size_text
from ..checkpoint import Entry, StoredCheckpoint, TensorSpec, shape_fault
from ..input import ziparchive
from ..input.files import InputFile, Stream, as_bytes
from ..input.pieces import Pieces
from ..input.ziparchive import Member
from .views import FLOAT4_PAIRS, WAY_OUT, View, read_views

PICKLE = "data.pkl"
MAX_PICKLE = 8 << 20  # bytes; 10,000 tensors take about 2 MB
MAX_SHARED = 100  # times the file's size that its tensors may take together: layers may share their weights
SMALL = 1 << 20  # bytes that the tensors of any file may take

_PAIRS = "float4_e2m1fn, two to a byte"
_OTHERS = frozenset({PICKLE, "version", "byteorder", ".format_version", ".storage_alignment"})
_PROGRAM = ("code/", "constants.pkl", "model.json")


def accepts(file: InputFile) -> bool:
    """Whether a zip archive has a pickle where PyTorch puts one."""
    return any(PurePosixPath(name).name == PICKLE for name in ziparchive.member_names(file))


def open_file(file: InputFile) -> StoredCheckpoint:
    """Read the directory and the pickle. CheckpointError or LimitError if they lie, or are more than tensors."""
    members = _members(file)
    if "byteorder" in members and _content(members["byteorder"], 6) != b"little":
        raise CheckpointError(f"{file} was written on a big-endian machine: {WAY_OUT}")
    pickle = members[PICKLE]
    views = read_views(_content(pickle, MAX_PICKLE), str(pickle), PurePath(file.name).stem)
    if not views:
        raise CheckpointError(f"{file} holds no tensors: save a model's state_dict()")
    return StoredCheckpoint(file.path, "torch", _entries(views, members, file), [file])


def _members(file: InputFile) -> dict[str, Member]:
    """The archive's members by their names inside its one folder. Only what PyTorch writes may be there."""
    members = ziparchive.read_directory(file)
    folder = next(member.name for member in members if PurePosixPath(member.name).name == PICKLE).removesuffix(PICKLE)
    found = {member.name.removeprefix(folder): member for member in members if member.name.startswith(folder)}
    for name, member in found.items():
        if name.startswith(_PROGRAM):
            raise CheckpointError(
                f"{file} is a TorchScript program, as its {member.name} shows: convert it to safetensors: where you "
                f"trust it, read it with torch.jit.load and write its state_dict() with safetensors.torch.save_file"
            )
    others = [name for name in found if name not in _OTHERS and not name.startswith(("data/", ".data/"))]
    if others or len(found) != len(members) or folder.count("/") != 1:
        raise CheckpointError(
            f"{file} is not laid out as PyTorch writes it, one folder of data.pkl and data/: {WAY_OUT}"
        )
    return found


def _content(member: Member, most: int) -> bytes:
    """All bytes of a small member."""
    if member.size > most:
        raise LimitError(
            f"{member} takes {size_text(member.size)}, and quantlab reads up to {size_text(most)}: {WAY_OUT}"
        )
    stream = _whole(member)
    content = bytes(stream.read(member.size))
    stream.finish()
    return content


def _whole(member: Member) -> Stream:
    """A member from its first byte to its last, with its checksum, unless torch was told to write 0 for all of them."""
    if member.crc or member.deflated:
        return member.open()
    return Stream(member.file, member.start, member.size)


def _entries(views: dict[str, View], members: dict[str, Member], file: InputFile) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    first: dict[int, str] = {}
    for name, view in views.items():
        where = f"tensor {shown(name)} of {file}"
        member = members.get(f"data/{view.storage.key}")
        if member is None:
            raise CheckpointError(f"{where} has no record {shown(view.storage.key)} in the archive: {WAY_OUT}")
        _check_storage(view, member, where)
        _check_view(view, member, where)
        # The hash of a text is keyed by Python: numbers of a file could be chosen so that they collide.
        same = first.setdefault(hash(repr(view)), name)
        entries[name] = _entry(name, view, member, same if same != name else "")
    total = sum(entry.spec.nbytes for entry in entries.values())
    if total > max(SMALL, MAX_SHARED * file.size):
        raise LimitError(
            f"{file} has tensors of {size_text(total)} in all, and at most {MAX_SHARED} times its "
            f"{size_text(file.size)} are read: {WAY_OUT}"
        )
    return entries


def _dtype(name: str) -> np.dtype:
    """NumPy's type for a type of torch."""
    return np.dtype("uint8" if name == FLOAT4_PAIRS else name)


def _check_storage(view: View, member: Member, where: str) -> None:
    """The record must hold exactly the storage that the pickle speaks of, as it is."""
    if member.deflated:
        raise CheckpointError(f"{where} is compressed in the archive, which PyTorch never does: {WAY_OUT}")
    storage = view.storage
    unit = _dtype(storage.dtype).itemsize if storage.dtype else 1
    if storage.length * unit != member.size:
        raise CheckpointError(
            f"{where} claims a storage of {shown(storage.length)} values of {unit} bytes, and its record has "
            f"{member.size} bytes"
        )


def _check_view(view: View, member: Member, where: str) -> None:
    """The storage must hold every value of the view, and not be written out many times over."""
    itemsize = _dtype(view.dtype).itemsize
    if fault := shape_fault(view.shape, 8 * itemsize):
        raise CheckpointError(f"{where} {fault}")
    if min(view.strides, default=0) < 0 or not 0 <= view.offset * itemsize <= _end(view) * itemsize <= member.size:
        raise CheckpointError(
            f"{where} (shape {list(view.shape)}, strides {shown(list(view.strides))}, offset {shown(view.offset)}) "
            f"reaches beyond the {member.size} bytes of its storage"
        )
    nbytes = itemsize * math.prod(view.shape)
    if nbytes > max(member.size, BROADCAST_BYTES):
        raise LimitError(
            f"{where} repeats {size_text(member.size)} of values until they take {size_text(nbytes)}, and up to "
            f"{size_text(BROADCAST_BYTES)} are written out: {WAY_OUT}"
        )


def _end(view: View) -> int:
    """The place after the last value of a view in its storage."""
    if not math.prod(view.shape):
        return view.offset
    return view.offset + 1 + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))


def _entry(name: str, view: View, member: Member, same: str) -> Entry:
    """The entry of a checked view: read straight from the file where its values follow each other."""
    dtype = _dtype(view.dtype)
    note = _PAIRS if view.dtype == FLOAT4_PAIRS else f"the same values as {shown(same)}" if same else ""
    spec = TensorSpec(name, view.shape, dtype.name, dtype.itemsize * math.prod(view.shape), note, same_as=same)
    place = member.start + view.offset * dtype.itemsize
    plain = not spec.size or _follow(view.shape, view.strides)
    fortran = not plain and _follow(view.shape[::-1], view.strides[::-1])
    opened: Callable[[], Stream] = partial(Stream, member.file, place, spec.nbytes)
    if not plain and not fortran:
        opened = partial(_gathered, member.file, place, view, dtype.itemsize)
    elif spec.nbytes == member.size:
        opened = partial(_whole, member)
    return Entry(spec, dtype.newbyteorder("<"), opened, fortran)


def _follow(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether values of these strides follow each other in C order, without gaps."""
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def _gathered(file: InputFile, place: int, view: View, itemsize: int) -> Stream:
    """The values of a strided view in C order."""
    nbytes = itemsize * math.prod(view.shape)
    return Pieces(file, nbytes, _gather(file, place, view, itemsize), nbytes + (_end(view) - view.offset) * itemsize)


def _gather(file: InputFile, place: int, view: View, itemsize: int) -> Iterator[memoryview]:
    """All of them in one piece, taken from the view's part of its storage when they are first asked for."""
    buffer = file.read(place, (_end(view) - view.offset) * itemsize)
    # The stride of a single index is never used, and may be too large for NumPy.
    pairs = zip(view.shape, view.strides, strict=True)
    strides = tuple(stride * itemsize if length > 1 else 0 for length, stride in pairs)
    # np.ndarray checks shape and strides against the buffer once more, which as_strided would not.
    yield as_bytes(np.ndarray(view.shape, f"V{itemsize}", buffer, 0, strides).copy(order="C"))
