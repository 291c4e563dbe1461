"""Granularity: which values share a scale?

Every granularity turns a tensor into `Groups`: a float32 matrix whose rows are cut into groups of `size` values. The
last group of a row may be short, so nothing is padded, copied or masked: per tensor is one row that is one group, per
channel one row per channel, per group `[shape[0], rest]` cut every `group_size` values.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, ShapeError, check_integer
from . import kernels, memory, pool
from .arrays import raise_non_finite, transposed, widened

# Values that one task works on: 2 MiB, which stay near from one configuration to the next. With smaller pieces threads
# wait for each other between kernels, where Python runs; with larger ones every configuration reads from memory again.
PIECE = 1 << 19
STREAM = 1 << 20  # values of a task that makes one pass over them: its time should outweigh the Python around it
MAX_GROUP_SIZE = 2**31 - 1


def row_step(shape: tuple[int, ...]) -> int:
    """Rows that share a piece: a tensor cut at multiples of it has, part by part, the pieces of the whole."""
    return max(1, PIECE // max(1, math.prod(shape[1:])))


class Piece(NamedTuple):
    """A part of the matrix for one task: whole groups, or a part of a single group."""

    rows: slice
    cols: slice
    groups: slice
    first: int  # position of the part within its group, and the group's length: both 0 for whole groups
    total: int

    @property
    def at(self) -> tuple[slice, slice]:
        """Index of the piece's groups in an array [rows, groups, ...]."""
        return self.rows, self.groups


EVERYTHING = Piece(slice(None), slice(None), slice(None), 0, 0)


class ChannelRows:
    """An array [before, channels, after] as a matrix [channels, before * after]; parts are copied when asked for.

    It stands for a NumPy matrix in `Groups`, and spares a copy of a whole tensor of more than two dimensions.
    """

    def __init__(self, x: np.ndarray) -> None:
        self._x = x
        self.shape = x.shape[1], x.shape[0] * x.shape[2]
        self.dtype, self.nbytes = x.dtype, x.nbytes

    def __getitem__(self, at: tuple[Any, slice]) -> np.ndarray:
        """Rows (a slice or a number) and columns (a slice) in C order."""
        rows, cols = at
        if not isinstance(rows, slice):
            return self[rows : rows + 1, cols][0]
        after = self._x.shape[2]
        start, stop, _ = cols.indices(self.shape[1])
        first = start // after
        part = self._x[first : -(-stop // after), rows].transpose(1, 0, 2)
        flat = np.ascontiguousarray(part).reshape(part.shape[0], -1)
        return np.ascontiguousarray(flat[:, start - first * after : stop - first * after])

    def copy(self) -> np.ndarray:
        """The whole matrix."""
        return self[:, :]


class Groups:
    """A matrix [rows, cols], each row cut into groups of `size` values (the last may be short).

    The matrix is float32 in C order, or something of which pieces are made so as they are worked on: a transposed view,
    channels of any axis, another float type. It may also hold codes.
    """

    def __init__(self, matrix: Any, size: int, tensor: np.ndarray | None = None) -> None:
        self.matrix = matrix  # an array, or ChannelRows
        self.tensor = matrix if tensor is None else tensor  # for messages, which name positions in the tensor
        self.size = max(1, min(size, matrix.shape[1]))
        self.memo: dict[Any, Any] = {}  # small things that a search has made of all values, for the next one
        self._extents: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, groups per row): the shape of everything there is one of per group."""
        return self.matrix.shape[0], -(-self.matrix.shape[1] // self.size)

    @property
    def lengths(self) -> np.ndarray:
        """Number of values in each group of a row: int64 [groups per row]."""
        lengths = np.full(self.shape[1], self.size)
        lengths[-1] = self.matrix.shape[1] - self.size * (self.shape[1] - 1)
        return lengths

    def pieces(self, values: int = PIECE) -> list[Piece]:
        """The matrix cut into pieces of about `values` values, in order; groups of up to PIECE values stay whole."""
        (rows, per_row), cols = self.shape, self.matrix.shape[1]
        if self.size > PIECE:
            step = max(values, PIECE)
            return [piece for r in range(rows) for j in range(per_row) for piece in self._parts_of(r, j, step)]
        if cols <= max(values, self.size):
            step = max(1, values // cols)
            return [
                Piece(slice(r, min(r + step, rows)), slice(0, cols), slice(0, per_row), 0, 0)
                for r in range(0, rows, step)
            ]
        step = max(1, values // self.size)
        starts = [*range(0, per_row, step)]
        if len(starts) > 1 and starts[-1] == per_row - 1 and cols % self.size:
            starts.pop()  # a short group alone would be taken for one of smaller groups, and perhaps found otherwise
        cuts = [slice(*ends) for ends in pairwise([*starts, per_row])]
        return [
            Piece(slice(r, r + 1), slice(c.start * self.size, min(c.stop * self.size, cols)), c, 0, 0)
            for r in range(rows)
            for c in cuts
        ]

    def _parts_of(self, r: int, j: int, step: int) -> list[Piece]:
        start, end = j * self.size, min((j + 1) * self.size, self.matrix.shape[1])
        return [
            Piece(slice(r, r + 1), slice(a, min(a + step, end)), slice(j, j + 1), a - start, end - start)
            for a in range(start, end, step)
        ]

    def block(self, piece: Piece) -> np.ndarray:
        """The values of a piece: float32 [rows, cols] in C order."""
        return widened(self.matrix[piece.rows, piece.cols])

    @property
    def is_known_finite(self) -> bool:
        """Whether the extremes, and so NaN and infinity, have been looked for."""
        return self._extents is not None

    @property
    def is_plain(self) -> bool:
        """Whether the matrix is float32 in C order, as kernels take it."""
        matrix = self.matrix
        return isinstance(matrix, np.ndarray) and matrix.dtype == np.float32 and matrix.flags.c_contiguous

    def each(self, task: Callable[[np.ndarray, int, Piece], object], values: int = PIECE) -> list:
        """`task(part of the matrix, group size, piece)` for every piece, on the pool; results in order."""
        return pool.run(lambda piece: task(self.block(piece), self.size, piece), self.pieces(values))

    def combine(self, partial: Callable, reduce: np.ufunc, out: np.ndarray) -> np.ndarray:
        """Fold `partial(part, size, at)` of every piece into `out` [rows, groups, ...] by `reduce`; returns `out`."""
        pieces = self.pieces()
        results = pool.run(lambda piece: partial(self.block(piece), self.size, piece.at), pieces)
        for piece, result in zip(pieces, results, strict=True):
            reduce(out[piece.at], result, out=out[piece.at])
        return out

    def solve(self, solver: Callable, values: int = PIECE) -> tuple[np.ndarray, ...]:
        """`solver(groups, piece)` for parts of whole groups, its arrays [..., rows, groups] put together.

        Small groups: parts of about `values` values, spread over the pool. Groups larger than a piece: one part, which
        spreads its own work by `combine`.
        """
        pieces = self.pieces(values)
        if self.size > PIECE or (len(pieces) == 1 and self.is_plain):
            return tuple(solver(self, EVERYTHING))
        parts = pool.run(lambda piece: tuple(solver(self.part(piece), piece)), pieces)
        whole = tuple(np.empty((*part.shape[:-2], *self.shape), part.dtype) for part in parts[0])
        for piece, part in zip(pieces, parts, strict=True):
            for target, values in zip(whole, part, strict=True):
                target[..., *piece.at] = values
        return whole

    def part(self, piece: Piece) -> "Groups":
        """The groups of a piece: as groups of their own, with the extremes of the whole ones where those are known."""
        part = Groups(self.block(piece), self.size, self.tensor)
        if self._extents is not None:
            lo, hi = self._extents
            part.extents = lo[piece.at], hi[piece.at]
        return part

    @property
    def extents(self) -> tuple[np.ndarray, np.ndarray]:
        """(min, max) of every group: float64 [rows, groups], found once. Raises NonFiniteError.

        Not a `cached_property`: before Python 3.12 that holds one lock for all instances, and tasks would find the
        extremes of their parts one after another.
        """
        if self._extents is None:
            lo, hi = self.batch_extents(1)
            if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
                raise_non_finite(self.tensor)
            self._extents = lo[..., 0], hi[..., 0]
        return self._extents

    @extents.setter
    def extents(self, found: tuple[np.ndarray, np.ndarray]) -> None:
        self._extents = found

    def batch_extents(self, batches: int) -> tuple[np.ndarray, np.ndarray]:
        """(min, max) of equal consecutive batches of every group: float64 [rows, groups, batches]; lo > hi if empty."""
        lo = np.full((*self.shape, batches), np.inf)
        hi = -lo
        pieces = self.pieces(STREAM)

        def extents(piece: Piece) -> tuple[np.ndarray, np.ndarray]:
            # A piece of whole groups fills its own part; of a single group several pieces see something.
            whole = piece.total == 0
            part_lo, part_hi = (ends[piece.at] if whole else np.empty((1, 1, batches)) for ends in (lo, hi))
            kernels.order.extents(self.block(piece), self.size, piece.first, piece.total, part_lo, part_hi)
            return part_lo, part_hi

        for piece, (part_lo, part_hi) in zip(pieces, pool.run(extents, pieces), strict=True):
            if piece.total:
                np.minimum(lo[piece.at], part_lo, out=lo[piece.at])
                np.maximum(hi[piece.at], part_hi, out=hi[piece.at])
        return lo, hi


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor: scale shape ()."""

    slug = "tensor"

    def by_rows(self, shape: tuple[int, ...]) -> bool:
        """Whether rows of a tensor of `shape`, on their own, have the groups that they have in the whole."""
        return False

    def to_groups(self, x: np.ndarray) -> Groups:
        """x (float32, C order) as one row that is one group; a view."""
        return Groups(x.reshape(1, -1), x.size, x)

    def from_groups(self, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The matrix of `to_groups` (of any dtype) in the tensor's shape and C order."""
        return matrix.reshape(shape)

    def shortest_group(self, shape: tuple[int, ...]) -> int:
        """Values of the shortest group of a tensor of `shape`."""
        return math.prod(shape)

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scales of a tensor of `shape`."""
        return ()


@dataclass(frozen=True)
class PerChannel:
    """One scale per index along `axis` (negative: from the end): scale shape (C,)."""

    axis: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", check_integer("axis", self.axis, -64, 63))

    @property
    def slug(self) -> str:
        """`ch0`, or `ch-1` for the last axis."""
        return f"ch{self.axis}"

    def index(self, shape: tuple[int, ...]) -> int:
        """The axis counted from the front. Raises ShapeError if a tensor of `shape` has no such axis."""
        if not -len(shape) <= self.axis < len(shape):
            legal = f"{-len(shape)} to {len(shape) - 1}" if shape else "none (a scalar): use PerTensor()"
            raise ShapeError(f"axis {self.axis} does not exist in a tensor of shape {shape}: legal are {legal}")
        return self.axis % len(shape)

    def by_rows(self, shape: tuple[int, ...]) -> bool:
        """Whether rows of a tensor of `shape`, on their own, have the groups that they have in the whole."""
        return self.axis in (0, -len(shape)) and len(shape) > 0

    def to_groups(self, x: np.ndarray) -> Groups:
        """x (C order) with a row, one group, per channel: a view, but where `transposes` says otherwise."""
        axis = self.index(x.shape)
        before, channels = math.prod(x.shape[:axis]), x.shape[axis]
        after = x.size // (before * channels)
        if before == 1:
            matrix: Any = x.reshape(channels, after)
        elif after == 1:
            rows, copies = x.reshape(before, channels), self.transposes(x.shape)
            with memory.asked(rows.nbytes if copies else 0, f"the transpose of a tensor of shape {x.shape}"):
                matrix = transposed(rows) if copies else rows.T
        else:
            matrix = ChannelRows(x.reshape(before, channels, after))
        return Groups(matrix, matrix.shape[1], x)

    def transposes(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of `shape` is written out as its transpose.

        A channel along the last axis is a column. One that does not fit a piece is read part by part, and every part
        would read all cache lines of its rows for a single value each.
        """
        return self.index(shape) == len(shape) - 1 and math.prod(shape[:-1]) > PIECE

    def from_groups(self, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The matrix of `to_groups` (of any dtype) in the tensor's shape and C order."""
        axis = self.index(shape)
        moved = matrix.reshape(shape[axis], *shape[:axis], *shape[axis + 1 :])
        return np.ascontiguousarray(np.moveaxis(moved, 0, axis))

    def shortest_group(self, shape: tuple[int, ...]) -> int:
        """Values of the shortest group of a tensor of `shape`."""
        return math.prod(shape) // max(1, shape[self.index(shape)])

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scales of a tensor of `shape`."""
        return (shape[self.index(shape)],)


@dataclass(frozen=True)
class PerGroup:
    """One scale per `group_size` consecutive values of each row of [shape[0], rest]; the last group may be short.

    A 1-D tensor is one row; a group never crosses a row. Scale shape (rows, ceil(rest / group_size)).
    """

    group_size: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "group_size", check_integer("group_size", self.group_size, 1, MAX_GROUP_SIZE))

    @property
    def slug(self) -> str:
        """`g128`."""
        return f"g{self.group_size}"

    def by_rows(self, shape: tuple[int, ...]) -> bool:
        """Whether rows of a tensor of `shape`, on their own, have the groups that they have in the whole."""
        return len(shape) > 1

    def to_groups(self, x: np.ndarray) -> Groups:
        """x (float32, C order) as [rows, rest], cut every `group_size` values; a view."""
        return Groups(x.reshape(x.shape[0] if x.ndim > 1 else 1, -1), self.group_size, x)

    def from_groups(self, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The matrix of `to_groups` (of any dtype) in the tensor's shape and C order."""
        return matrix.reshape(shape)

    def shortest_group(self, shape: tuple[int, ...]) -> int:
        """Values of the shortest group of a tensor of `shape`."""
        rest = math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
        return rest % self.group_size or min(rest, self.group_size)

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scales of a tensor of `shape`."""
        rows = shape[0] if len(shape) > 1 else 1
        rest = int(np.prod(shape, dtype=object)) // rows
        return rows, -(-rest // self.group_size)


Granularity = PerTensor | PerChannel | PerGroup

GRANULARITIES: dict[str, type[Granularity]] = {"tensor": PerTensor, "channel": PerChannel, "group": PerGroup}


def parse_granularity(token: str) -> Granularity:
    """The granularity of a slug: `tensor`, `ch0`, `ch-1`, `g128`; also `channel` for `ch0`."""
    if token == "tensor":
        return PerTensor()
    if token == "channel":
        return PerChannel()
    if match := re.fullmatch(r"(ch|g)(-?\d{1,12})", token):
        return (PerChannel if match[1] == "ch" else PerGroup)(int(match[2]))
    raise ConfigError(f"unknown granularity {token!r}: write tensor, ch0 (channels along axis 0), ch-1 or g128")
