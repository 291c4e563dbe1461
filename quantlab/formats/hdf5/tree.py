"""The datasets in an HDF5 file, asked of libhdf5 through h5py and checked.

libhdf5 sees the structure only, by copies of bounded size that `Section` hands it, and opens no other file: external
storage, virtual datasets, soft and external links are refused, as they make any file's bytes look like weights. Values
are read and decompressed without it.

What remains: libhdf5 is a large program in C, and it parses the structure of a stranger's file in this process. A file
made for a mistake in it that nobody has found yet can crash quantlab, or worse.
"""

import math
from collections.abc import Callable
from functools import partial

import h5py
from h5py import h5d, h5g, h5l, h5o, h5s

from ...errors import CheckpointError, LimitError, QuantlabError
from ...wording import shown
from ..checkpoint import Entry, TensorSpec, shape_fault
from ..input.files import MAX_NAME, InputFile, Stream
from .types import type_of
from .values import Ledger, Values

MAX_OBJECTS = 15_000  # groups and datasets, which take a second; Keras has three per layer
MAX_DEPTH = 32  # of groups in each other
MAX_READS = 500_000  # that libhdf5 may ask for; 15,000 objects take 45,000
SMALL = 64 << 20  # bytes that may be read of any file's structure
FEW = 100_000  # characters that the paths in any file may have together; a group's is part of those in it

_LINKS = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "a link to another file"}
_ELSEWHERE = "save the values themselves, all in one file"

AxisOf = Callable[[list[str], int], int]  # (the parts of a path, how many dimensions) -> axis


class Section:
    """A part of a file, as the file object that h5py reads from. It counts: no structure is read without end."""

    def __init__(self, file: InputFile, start: int, size: int) -> None:
        self.file, self.start, self.size = file, start, size
        self._at = 0
        self._reads, self._bytes = MAX_READS, SMALL + 4 * size

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, counted from the beginning (0), from here (1) or from the end (2)."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def readinto(self, out: memoryview) -> int:
        """Fill `out` as far as the part goes."""
        count = max(0, min(len(out), self.size - self._at))
        self._reads -= 1
        self._bytes -= count
        if self._reads < 0 or self._bytes < 0:
            raise LimitError(f"{self.file} has a structure of more than {MAX_READS} pieces: it may have no end")
        self.file.read_into(self.start + self._at, memoryview(out)[:count])
        self._at += count
        return count

    def read(self, count: int = -1) -> bytes:
        """h5py looks for this method, and calls `readinto`."""
        raise NotImplementedError


def read_entries(section: Section, axis_of: AxisOf) -> dict[str, Entry]:
    """The datasets of a file by their paths, such as "layers/dense/vars/0", in the order of the paths.

    Parameters
    ----------
    section : where the file lies.
    axis_of : along which axis a tensor's output channels lie.

    Raises
    ------
    CheckpointError : it is damaged, or has datasets whose values lie elsewhere.
    LimitError : it exceeds a budget.
    """
    try:
        with h5py.File(section, "r", locking=False) as opened:
            walk = _Walk(section, axis_of)
            walk.group(h5g.open(opened.id, b"/"), "", 0)
            walk.ledger.check()
            return walk.entries
    except QuantlabError:
        raise
    # h5py turns what libhdf5 reports into errors of many kinds.
    except Exception as error:
        said = str(error.args[0] if error.args else error).partition("\n")[0]
        raise CheckpointError(f"{section.file} is a damaged HDF5 file: {shown(said, 200)}") from error


class _Walk:
    """The walk over the groups of a file."""

    def __init__(self, section: Section, axis_of: AxisOf) -> None:
        self.file, self.axis_of = section.file, axis_of
        self.ledger = Ledger(section.file, section.start, section.size)
        self.entries: dict[str, Entry] = {}
        self.paths: dict[int, str] = {}  # of the groups and datasets seen, by their address
        self.objects, self.characters = MAX_OBJECTS, FEW + section.size

    def group(self, group: h5g.GroupID, path: str, depth: int) -> None:
        """Take in everything in a group; `path` ends with "/", unless it is empty."""
        if depth > MAX_DEPTH:
            raise LimitError(f"{self.file} has groups nested more than {MAX_DEPTH} deep")
        names: list[bytes] = []

        def take(name: bytes) -> bool | None:
            names.append(name)
            return len(names) > MAX_OBJECTS or None  # whatever is not None ends the iteration

        group.links.iterate(take)
        self.objects -= len(names)
        if self.objects < 0:
            raise LimitError(f"{self.file} has more than {MAX_OBJECTS} groups and datasets: convert it to safetensors")
        for name in sorted(names, key=_natural):
            self.member(group, name, path, depth)

    def member(self, group: h5g.GroupID, name: bytes, above: str, depth: int) -> None:
        """Take in what a name in a group stands for."""
        path = above + self.text(name)
        self.characters -= len(path)
        if len(path) > MAX_NAME or self.characters < 0:
            raise LimitError(f"{self.file} has paths of more than {MAX_NAME} characters, or many almost as long")
        link = group.links.get_info(name)
        if link.type != h5l.TYPE_HARD:
            kind = _LINKS.get(link.type, "a link of an unknown kind")
            raise CheckpointError(f"{shown(path)} of {self.file} is {kind}: {_ELSEWHERE}")
        found, first = h5o.open(group, name), self.paths.setdefault(link.u, path)
        if isinstance(found, h5d.DatasetID):
            self.dataset(found, path, first)
        elif isinstance(found, h5g.GroupID) and first == path:
            self.group(found, f"{path}/", depth + 1)
        else:
            raise CheckpointError(f"{shown(path)} of {self.file} is neither a dataset nor a group of its own")

    def dataset(self, dataset: h5d.DatasetID, path: str, first: str) -> None:
        """Take in a dataset, unless its values lie elsewhere; `first` is the path where it was seen first."""
        where = f"tensor {shown(path)} of {self.file}"
        properties, kind = dataset.get_create_plist(), dataset.get_type()
        if properties.get_external_count() or properties.get_layout() == h5d.VIRTUAL:
            raise CheckpointError(f"{where} takes its values from other files: {_ELSEWHERE}")
        shape, (name, dtype) = _shape(dataset.get_space()), type_of(kind, dataset)
        if fault := shape_fault(shape, 8 * kind.get_size()):
            raise CheckpointError(f"{where} {fault}")
        note = "" if first == path else f"the same values as {shown(first)}"
        axis = self.axis_of(path.split("/"), len(shape))
        spec = TensorSpec(path, shape, name, kind.get_size() * math.prod(shape), note, axis)
        opened: Callable[[], Stream] = partial(Stream, self.file, 0, 0)
        if dtype is not None and spec.size:
            opened = self.ledger.opener(Values(dataset, properties, shape, dtype, where), shared=first != path)
        self.entries[path] = Entry(spec, dtype, opened)

    def text(self, name: bytes) -> str:
        try:
            return name.decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.file} has a name that is not UTF-8: {shown(name)}") from None


def _shape(space: h5s.SpaceID) -> tuple[int, ...]:
    """The lengths of a dataspace; one without any values is called null and gets a length of 0."""
    return (0,) if space.get_simple_extent_type() == h5s.NULL else space.get_simple_extent_dims()


def _natural(name: bytes) -> tuple[int, int, bytes]:
    """The order of names: numbers by their value, and before all others."""
    return (0, int(name), b"") if name.isdigit() and len(name) < 10 else (1, 0, name)
