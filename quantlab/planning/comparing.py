"""How far a stored tensor is from its source: sums per input channel, of which every figure of an audit is made.

With x the source, y what is stored and e = x - y, sums of x^2, x e and e^2 over the outputs tell the error as it is,
weighted by input channels, and after any rescaling of them, without another pass over the values.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..core import pool
from ..core.arrays import as_float32
from ..core.metrics import decibels
from ..wording import counted
from .stored import Parts

BLOCK = 1 << 16  # values that are summed up at a time: in float64 they stay in the cache


@dataclass(frozen=True, eq=False)
class Comparison:
    """Sums over the values of a tensor.

    Attributes
    ----------
    power, cross, error : sums of x^2, x e and e^2 of every input channel: float64 [experts, inputs].
    rows : output channels that each sum goes over.
    size : values. equal : of these, how many are the same.
    bad, worse : values that are NaN or infinite, of the source and of what is stored.
    """

    power: np.ndarray
    cross: np.ndarray
    error: np.ndarray
    rows: int
    size: int
    equal: int
    bad: int = 0
    worse: int = 0

    @property
    def relative(self) -> float:
        """Sum e^2 / sum x^2: 0 if nothing was lost, inf where there was no signal."""
        return _ratio(float(self.error.sum()), float(self.power.sum()))

    @property
    def sqnr_db(self) -> float:
        """10 log10(sum x^2 / sum e^2)."""
        return to_db(self.relative)

    def weighted(self, weights: np.ndarray) -> float:
        """Sum w e^2 / sum w x^2 with w of every input channel: [inputs] or [experts, inputs]."""
        return _ratio(float((weights * self.error).sum()), float((weights * self.power).sum()))

    def undone(self, scales: np.ndarray) -> float:
        """The relative error of y / scales: [inputs], not 0."""
        b, d, e = self.power, self.cross, self.error
        left = b * (1 - 1 / scales) ** 2 + 2 * d * (1 - 1 / scales) / scales + e / scales**2
        return _ratio(float(left.sum()), float(b.sum()))

    def fitted(self) -> float:
        """The relative error of y / s with s = <y, x> / <x, x> of every column: the scales of least squares."""
        b, d, e = self.power, self.cross, self.error
        with np.errstate(divide="ignore", invalid="ignore"):
            left = np.where(b == d, e, b * np.maximum(e * b - d * d, 0) / (b - d) ** 2)
        return _ratio(float(np.minimum(left, np.where(b > 0, left, e)).sum()), float(b.sum()))

    @property
    def faults(self) -> str:
        """Which values are NaN or infinite, in words; "" where none is."""
        parts = [
            f"{counted(n, 'value')} of {whose}"
            for n, whose in ((self.worse, "its own"), (self.bad, "its source's"))
            if n
        ]
        return f"{' and '.join(parts)} NaN or infinite" if parts else ""


def _ratio(error: float, power: float) -> float:
    return 0.0 if error == 0 else error / power if power else math.inf


def to_db(relative: float) -> float:
    """A relative squared error as an SQNR."""
    return decibels(1.0, relative) if math.isfinite(relative) else -math.inf


def compare(x: np.ndarray, parts: Parts, channel_axis: int = 0) -> Comparison:
    """The sums of a tensor x and its stored values, which come slice by slice.

    Input channels are the last axis of a tensor [..., out, in]; of a matrix whose outputs lie along axis 1 the first. A
    tensor of three dimensions is one of experts. Raises NonFiniteError for float64 values beyond float32.
    """
    flat = x.reshape(-1)
    plan = _Inputs.of(x.shape, channel_axis)
    sums, equal, bad, worse = np.zeros((3, plan.experts, plan.count)), 0, 0, 0
    for at, stored in parts:
        values = as_float32(flat[at])

        def block(cut: _Block, values: np.ndarray = values, stored: np.ndarray = stored) -> "_BlockSums":
            return _block_sums(values[cut.at].reshape(cut.shape), stored[cut.at].reshape(cut.shape), plan.axis)

        cuts = list(plan.blocks(at))
        for cut, found in zip(cuts, pool.run(block, cuts), strict=True):
            sums[:, cut.expert, cut.inputs] += found.sums
            equal, bad, worse = equal + found.equal, bad + found.bad, worse + found.worse
    power, cross, error = sums
    return Comparison(power, cross, error, plan.rows, x.size, equal, bad, worse)


@dataclass(frozen=True)
class _Block:
    """A rectangle of values: where it lies in a slice, its shape, and which sums are its."""

    at: slice
    shape: tuple[int, int]
    expert: int
    inputs: slice


@dataclass(frozen=True)
class _BlockSums:
    sums: np.ndarray
    equal: int
    bad: int
    worse: int


@dataclass(frozen=True)
class _Inputs:
    """Where the input channels of a tensor lie: it is seen as [experts, rows per expert, columns]."""

    experts: int
    per_expert: int
    columns: int
    axis: int  # that is summed over: 0, outputs are rows; 1, they are columns

    @classmethod
    def of(cls, shape: tuple[int, ...], channel_axis: int) -> "_Inputs":
        columns = shape[-1] if shape else 1
        experts = shape[0] if len(shape) == 3 else 1
        turned = len(shape) == 2 and channel_axis % 2 == 1
        return cls(experts, math.prod(shape) // columns // experts, columns, int(turned))

    @property
    def count(self) -> int:
        return self.per_expert if self.axis else self.columns

    @property
    def rows(self) -> int:
        return self.columns if self.axis else self.per_expert

    def blocks(self, at: slice) -> Iterator[_Block]:
        """The values of a slice in rectangles of about `BLOCK`, none of which goes through two experts."""
        position = at.start
        while position < at.stop:
            row, column = divmod(position, self.columns)
            expert, own = divmod(row, self.per_expert)
            room = at.stop - position
            width = min(self.columns - column, room, BLOCK)
            height = 1
            if width == self.columns:
                height = max(1, min(room // width, BLOCK // width, self.per_expert - own))
            inputs = slice(own, own + height) if self.axis else slice(column, column + width)
            start = position - at.start
            yield _Block(slice(start, start + height * width), (height, width), expert, inputs)
            position += height * width


def _block_sums(x: np.ndarray, y: np.ndarray, axis: int) -> _BlockSums:
    wide, form = x.astype(np.float64), "ij,ij->i" if axis else "ij,ij->j"
    with np.errstate(invalid="ignore"):  # infinite less infinite: counted below
        e = wide - y
    sums = np.stack([np.einsum(form, a, b) for a, b in ((wide, wide), (wide, e), (e, e))])
    equal = int(np.count_nonzero(x == y))
    if np.isfinite(sums).all():
        return _BlockSums(sums, equal, 0, 0)
    return _BlockSums(sums, equal, *(int(np.count_nonzero(~np.isfinite(values))) for values in (x, y)))
