"""The datasets in an HDF5 file, as a process of its own tells them (`process`), and checked: its word is a stranger's.

Values are read and decompressed here, by what libhdf5 said of where they lie.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from ...errors import CheckpointError, LimitError, QuantlabError
from ...wording import shown
from ..checkpoint import Entry, TensorSpec, shape_fault
from ..input.files import InputFile, Stream
from .libhdf5.frames import FEW, MAX_DEPTH, MAX_NAME, MAX_OBJECTS
from .process import Section, out_of_memory, rows
from .rows import Row, nonsense, text_of
from .values import Ledger

_ELSEWHERE = "save the values themselves, all in one file"

AxisOf = Callable[[list[str], int], int]  # (the parts of a path, how many dimensions) -> axis


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
    tree = _Tree(section, axis_of)
    with closing(rows(section)) as found:
        for row, data in found:
            if "fault" in row:
                raise _refusal(section.file, row)
            tree.take(row, data)
    tree.ledger.check()
    return tree.entries


@dataclass
class _Tree:
    """The entries so far."""

    section: Section
    axis_of: AxisOf

    def __post_init__(self) -> None:
        self.file = self.section.file
        self.ledger = Ledger(self.file, self.section.start, self.section.size)
        self.entries: dict[str, Entry] = {}
        self.characters = FEW + self.section.size

    def take(self, row: dict, data: bytearray) -> None:
        """Take in a row: a dataset, or another name of one."""
        path = text_of(row, "path", self.file, MAX_NAME)
        self.characters -= len(path)
        if not path or path in self.entries or self.characters < 0 or len(self.entries) == MAX_OBJECTS:
            raise nonsense(self.file)
        self.entries[path] = (
            self.alias(path, row) if "first" in row else self.dataset(Row.parsed(path, row, self.file), data)
        )

    def alias(self, path: str, row: dict) -> Entry:
        """A dataset that was seen under another name."""
        first = self.entries.get(text_of(row, "first", self.file, MAX_NAME))
        if first is None:
            raise nonsense(self.file)
        note, axis = f"the same values as {shown(first.spec.name)}", self.axis(path, len(first.spec.shape))
        return replace(first, spec=replace(first.spec, name=path, note=note, channel_axis=axis))

    def dataset(self, row: Row, data: bytearray) -> Entry:
        """A dataset; its values are not read."""
        where = f"tensor {shown(row.path)} of {self.file}"
        if fault := shape_fault(row.shape, 8 * row.itemsize):
            raise CheckpointError(f"{where} {fault}")
        spec = TensorSpec(row.path, row.shape, row.kind, row.nbytes, "", self.axis(row.path, len(row.shape)))
        opened: Callable[[], Stream] = partial(Stream, self.file, 0, 0)
        if row.dtype is not None and spec.size:
            opened = self.ledger.opener(row, data, where)
        return Entry(spec, row.dtype, opened)

    def axis(self, path: str, rank: int) -> int:
        return self.axis_of(path.split("/"), rank)


_FAULTS: dict[str, tuple[type[QuantlabError], str]] = {
    "depth": (LimitError, f"{{file}} has groups nested more than {MAX_DEPTH} deep"),
    "objects": (LimitError, f"{{file}} has more than {MAX_OBJECTS} groups and datasets: convert it to safetensors"),
    "paths": (LimitError, f"{{file}} has paths of more than {MAX_NAME} characters, or many almost as long"),
    "name": (CheckpointError, "{file} has a name that is not UTF-8: {path}"),
    "soft": (CheckpointError, f"{{path}} of {{file}} is a soft link: {_ELSEWHERE}"),
    "external": (CheckpointError, f"{{path}} of {{file}} is a link to another file: {_ELSEWHERE}"),
    "link": (CheckpointError, f"{{path}} of {{file}} is a link of an unknown kind: {_ELSEWHERE}"),
    "object": (CheckpointError, "{path} of {file} is neither a dataset nor a group of its own"),
    "elsewhere": (CheckpointError, f"tensor {{path}} of {{file}} takes its values from other files: {_ELSEWHERE}"),
    "said": (CheckpointError, "{file} is a damaged HDF5 file: {said}"),
}


def _refusal(file: InputFile, row: dict) -> QuantlabError:
    """The sentence for a walk that was given up."""
    if row["fault"] == "memory":
        return out_of_memory(file)
    if row["fault"] not in list(_FAULTS):  # what is no text is in no list either
        return nonsense(file)
    kind, sentence = _FAULTS[row["fault"]]
    path, said = shown(str(row.get("path", ""))), shown(str(row.get("said", "")), 200)
    return kind(sentence.format(file=file, path=path, said=said))
