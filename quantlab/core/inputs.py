"""Inputs of a weight: which of its values are multiplied by the same one, and how much its error counts."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DTypeError, NonFiniteError, ShapeError
from . import kernels
from .granularity import Granularity, PerChannel, PerTensor


@dataclass(frozen=True)
class Inputs:
    """The inputs of a matrix, or of a stack of matrices such as the experts of a layer.

    axis : along which they lie: the last, or the one before it where the output channels are the last.
    count : how many. stacks : how many matrices with inputs of their own; 1 for a single one.
    """

    axis: int
    count: int
    stacks: int

    @classmethod
    def of(cls, shape: tuple[int, ...], channel_axis: int = 0) -> Inputs:
        """Those of a tensor of `shape` with output channels along an axis. ShapeError if it is no matrix, nor a stack.

        >>> Inputs.of((8, 3)).count, Inputs.of((8, 3), 1).count, Inputs.of((4, 8, 3))
        (3, 8, Inputs(axis=2, count=3, stacks=4))
        """
        if len(shape) not in (2, 3):
            raise ShapeError(
                f"a tensor of shape {shape} has no inputs to weight by: give importance for matrices and stacks of them"
            )
        last = len(shape) - 1
        axis = last - 1 if channel_axis % len(shape) == last else last
        return cls(axis, shape[axis], shape[0] if len(shape) == 3 else 1)


@dataclass(frozen=True, eq=False)
class Weighting:
    """Weights of the inputs of a tensor of `shape`: float32 [stacks, inputs], finite, none below 0, not all 0."""

    weights: np.ndarray
    shape: tuple[int, ...]
    axis: int

    @classmethod
    def of(cls, weights: Any, shape: tuple[int, ...], channel_axis: int = 0, name: str = "the tensor") -> Weighting:
        """From an array [inputs], or [stacks, inputs] for a stack, of floats.

        ShapeError, DTypeError or NonFiniteError, in one sentence, for what cannot be weights of this tensor.
        """
        inputs, found = Inputs.of(shape, channel_axis), np.asarray(weights)
        if found.dtype.kind not in "fiu":
            raise DTypeError(f"the importance of {name} is {found.dtype}: give one float for each input")
        legal = [(inputs.count,), (inputs.stacks, inputs.count)]
        if found.shape not in legal:
            want = " or ".join(map(str, legal[: 1 + (inputs.stacks > 1)]))
            raise ShapeError(
                f"the importance of {name} has shape {found.shape}, and must have {want} for a tensor of shape {shape}"
            )
        with np.errstate(over="ignore"):
            found = np.array(found, np.float32)
        if not np.isfinite(found).all() or found.min() < 0 or not found.any():
            raise NonFiniteError(
                f"the importance of {name} must be finite, not below 0 and not all 0: give mean squares of its inputs"
            )
        found = np.broadcast_to(found, (inputs.stacks, inputs.count)) if found.ndim == 1 else found
        return cls(np.ascontiguousarray(found), tuple(shape), inputs.axis)

    def digest(self) -> bytes:
        """What tells these weights from others: SHA-256 of their shape and bytes."""
        little = self.weights.astype("<f4", copy=False)
        return hashlib.sha256(f"weights {little.shape}".encode() + little.tobytes()).digest()

    def taken(self, rows: Any, shape: tuple[int, ...]) -> Weighting:
        """Those of some rows, which are indices or a slice along the first axis: a tensor of `shape` by themselves."""
        if len(self.shape) == 3:
            return Weighting(np.ascontiguousarray(self.weights[rows]), shape, self.axis)
        return Weighting(
            np.ascontiguousarray(self.weights[:, rows]) if self.axis == 0 else self.weights, shape, self.axis
        )

    def spread(self, first: int, count: int, granularity: Granularity = PerTensor()) -> np.ndarray:
        """The weights of values `first` to `first` + `count`, in the order of their groups: float32 [count]."""
        order = list(range(len(self.shape)))
        if isinstance(granularity, PerChannel):
            order.insert(0, order.pop(granularity.index(self.shape)))
        run, stack_run = (math.prod(self.shape[i] for i in order[order.index(axis) + 1 :]) for axis in (self.axis, 0))
        out = np.empty(count, np.float32)
        # A single matrix has no stack to change.
        stack_run = stack_run if len(self.shape) == 3 else first + count
        kernels.weighting.spread(self.weights, first, run, stack_run, out)
        return out
