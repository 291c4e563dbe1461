"""llama.cpp's importance matrices: the mean square of every input of a weight, as its calibration saw them.

Two formats: GGUF, as llama.cpp has written it since 2025, and the older .dat, which has no magic, no shapes and no end
of its own. Both come from strangers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..core import memory
from ..errors import CheckpointError, LimitError
from ..formats.gguf.header import Long
from ..formats.gguf.read import GGUFCheckpoint
from ..formats.input.files import MAX_NAME, MAX_TENSORS, InputFile
from ..formats.input.window import Window
from ..wording import counted, shown

GGUF, DAT = "llama.cpp imatrix (GGUF)", "llama.cpp imatrix (.dat)"
SUMS, COUNTS = ".in_sum2", ".counts"  # after the name of the weight
SMALLEST = 17  # bytes of an entry in a .dat: three numbers, a letter of its name and a value
WINDOW = 1 << 16


@dataclass(frozen=True, eq=False)
class Importance:
    """What a file tells of the inputs of weights: of input column j of a weight, w_j = E[x_j^2].

    Attributes
    ----------
    kind : what the file is, in words.
    entries : by the name of the weight: float32 [inputs], or [experts, inputs]; finite, none below 0.
    counts : how many tokens that was seen on, where the file tells: float64 [1] or [experts]. What 0 were seen on is 1
        for every input, which says nothing.
    origin : what it was computed from, in words; "" where the file does not tell.
    """

    kind: str
    entries: Mapping[str, np.ndarray]
    counts: Mapping[str, np.ndarray] = field(default_factory=dict)
    origin: str = ""


def means(where: str, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sums of squares over numbers of tokens, [n]: in place of `sums`, float32 [n, inputs]; as [inputs] if n is 1.

    CheckpointError, about what is at `where`, for values that no such sums have.
    """
    with np.errstate(all="ignore"):  # what is no number is found behind it
        np.divide(sums, np.where(counts > 0, counts, 1.0).astype(np.float32)[:, None], out=sums)
    check_values(where, sums)
    sums[counts == 0] = 1.0  # as llama.cpp has it: no preference
    return sums[0] if len(sums) == 1 else sums


def check_values(where: str, values: np.ndarray) -> None:
    """CheckpointError unless all values are finite and none is below 0."""
    if not np.isfinite(values).all():
        raise CheckpointError(f"{where} holds NaN or infinity, and mean squares are finite: compute it again")
    if values.size and values.min() < 0:
        raise CheckpointError(f"{where} holds {values.min():g}, and a mean of squares is never below 0")


# -- GGUF


def of_gguf(file: GGUFCheckpoint) -> Importance:
    """An imatrix in GGUF. CheckpointError for another kind of GGUF file, and for one that contradicts itself."""
    said = file.metadata.get("general.type")
    if said != "imatrix":
        what = "a model" if said is None else shown(said)
        raise CheckpointError(
            f"{file} is a GGUF file of {what}, not an imatrix: give the file that llama-imatrix has written"
        )
    names = [name.removesuffix(SUMS) for name in file.names if name.endswith(SUMS)]
    if not names:
        raise CheckpointError(f"{file} is an imatrix without a tensor NAME{SUMS}: it says nothing of any weight")
    entries, counts = {}, {}
    with memory.asked(sum(file.spec(name + SUMS).nbytes for name in names), f"the imatrix {file}"):
        there = frozenset(file.names)
        for name in names:
            if name + COUNTS not in there:
                raise CheckpointError(f"{file} is an imatrix without {shown(name + COUNTS)}, which it must have")
            counts[name] = _counts(file, name)
            entries[name] = means(f"{shown(name)} of {file}", _sums(file, name, counts[name].size), counts[name])
    return Importance(GGUF, entries, counts, _origin(file))


def _counts(file: GGUFCheckpoint, name: str) -> np.ndarray:
    """How many tokens each of a weight's matrices has seen: float64 [n]."""
    counts = _values(file, name, COUNTS).reshape(-1).astype(np.float64)
    where = f"{shown(name + COUNTS)} of {file}"
    check_values(where, counts)
    if not counts.size:
        raise CheckpointError(f"{where} is empty, and must have one number for each matrix of the weight")
    return counts


def _sums(file: GGUFCheckpoint, name: str, matrices: int) -> np.ndarray:
    """Sums of squares of each of a weight's matrices: float32 [n, inputs]."""
    sums = _values(file, name, SUMS)
    sums = sums[None] if sums.ndim == 1 else sums  # ggml leaves out lengths of 1 at the end
    if sums.ndim != 2 or len(sums) != matrices or not sums.size:
        raise CheckpointError(
            f"{shown(name)} of {file} has sums of shape {list(sums.shape)} and {counted(matrices, 'count')}: each "
            "count needs a row of one sum or more"
        )
    return sums


def _values(file: GGUFCheckpoint, name: str, suffix: str) -> np.ndarray:
    if (kind := file.kind(name + suffix).name) != "F32":
        raise CheckpointError(f"{file} is an imatrix whose {shown(name + suffix)} is {kind}, and must be F32")
    return file.raw(name + suffix)


def _origin(file: GGUFCheckpoint) -> str:
    """What the matrix was computed on, as far as it tells."""
    chunks, size = (file.metadata.get(f"imatrix.chunk_{key}") for key in ("count", "size"))
    texts = file.metadata.get("imatrix.datasets")
    parts = [counted(chunks, "chunk")] if isinstance(chunks, int) else []
    parts += [f"of {counted(size, 'token')}"] if parts and isinstance(size, int) else []
    said = texts if isinstance(texts, list) else [texts] if isinstance(texts, str) else []
    more = [f"{texts.count:,} texts"] if isinstance(texts, Long) else [shown(text) for text in said]
    return " ".join(parts) + (", from " if parts and more else "") + ", ".join(more[:3]) + ", ..." * (len(more) > 3)


# -- .dat


def of_dat(file: InputFile) -> Importance:
    """An imatrix as llama.cpp wrote it before GGUF. CheckpointError or LimitError if it does not hold."""
    return Dat(file).read()


def is_dat(head: bytes) -> bool:
    """Whether a file may be one, by its first bytes: a number of entries, and the length of the first one's name."""
    if len(head) < 8:
        return False
    count, length = struct.unpack("<ii", head[:8])
    return 0 < count <= MAX_TENSORS and 0 < length <= MAX_NAME


class Dat:
    """Reads a .dat, an entry at a time; nothing it claims is believed beyond the file's end."""

    def __init__(self, file: InputFile) -> None:
        self.file, self.at, self._window = file, 0, Window(file, WINDOW)

    def read(self) -> Importance:
        """All of it."""
        count = self._number("its number of entries")
        if count > MAX_TENSORS:
            raise LimitError(f"{self.file} is an imatrix of {count} entries, and quantlab reads up to {MAX_TENSORS}")
        if count < 1 or count * SMALLEST > self._left:
            raise self._fault(f"that claims {count} entries, and has {self.file.size} bytes in all")
        entries: dict[str, np.ndarray] = {}
        counts: dict[str, np.ndarray] = {}
        with memory.asked(self.file.size, f"the imatrix {self.file}"):
            for _ in range(count):
                name = self._text("the name of an entry", MAX_NAME)
                if not name or name in entries:
                    raise self._fault(f"with two entries {shown(name)}" if name else "with an entry without a name")
                entries[name], counts[name] = self._entry(name)
        return Importance(DAT, entries, counts, self._end())

    @property
    def _left(self) -> int:
        return self.file.size - self.at

    def _entry(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(means float32 [values], how often they were added to) of the next entry."""
        calls, values = (self._number(f"{what} of {shown(name)}") for what in ("the number of calls", "the length"))
        if calls < 0 or not 0 < values <= self._left // 4:
            raise self._fault(
                f"whose {shown(name)} claims {values} values of {calls} calls, with {self._left} bytes left"
            )
        found = np.empty(values, "<f4")
        self.file.read_into(self.at, found.view(np.uint8).data)
        self.at += found.nbytes
        seen = np.array([calls], np.float64)
        return means(f"{shown(name)} of {self.file}", found.astype(np.float32, copy=False)[None], seen), seen

    def _end(self) -> str:
        """What stands behind the entries: how many chunks, and of which text; older files have neither."""
        if not self._left:
            return ""
        chunks = self._number("its number of chunks")
        text = self._text("the name of its text", self.file.size) if self._left else ""
        if self._left:
            raise self._fault(f"with {self._left} bytes behind its end")
        return counted(max(chunks, 0), "chunk") + (f", from {shown(text)}" if text else "")

    def _text(self, what: str, limit: int) -> str:
        length = self._number(f"the length of {what}")
        if not 0 <= length <= min(limit, self._left):
            raise self._fault(f"that claims {length} bytes for {what}, with {self._left} left")
        data = self._take(length, what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self._fault(f"where {what} is not valid UTF-8: {shown(data)}") from error

    def _number(self, what: str) -> int:
        return struct.unpack("<i", self._take(4, what))[0]

    def _take(self, count: int, what: str) -> bytes:
        if count > self._left:
            raise self._fault(f"that ends at byte {self.file.size}, inside {what}")
        data = self._window.read(self.at, count)
        self.at += count
        return data

    def _fault(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.file} would be an imatrix (.dat) {what}: it is none, or is damaged")
