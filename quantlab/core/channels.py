"""Output channels, whatever shares a scale: which values are whose, and how much error each of them bears."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import kernels
from .granularity import Granularity, PerChannel, PerTensor, Piece
from .kernels.records import Place

# Channels up to which their errors are summed. Where each is a run of values a piece has few of them; where they take
# turns, as columns do, a piece has them all, under every configuration.
RUNS, COLUMNS = 1 << 20, 1 << 17


@dataclass(frozen=True)
class Channels:
    """Channels of values in C order: value i belongs to channel i // run % count. None are told apart if count is 0.

    turns : whether they take turns, as columns do; or each is one run of values.
    """

    run: int
    count: int
    turns: bool

    @classmethod
    def of(cls, shape: tuple[int, ...], axis: int = 0, granularity: Granularity = PerTensor()) -> "Channels":
        """The channels along an axis of a tensor of `shape`, among the values of its groups under a granularity.

        A tensor of fewer than two dimensions, and one of more channels than are summed, tells none apart. ShapeError
        for an axis that others lack.
        """
        if len(shape) < 2:
            return cls(math.prod(shape), 0, False)
        axis = PerChannel(axis).index(shape)
        order = list(range(len(shape)))
        if isinstance(granularity, PerChannel):
            order.insert(0, order.pop(granularity.index(shape)))
        at = order.index(axis)
        run, before = (math.prod(shape[i] for i in part) for part in (order[at + 1 :], order[:at]))
        turns = before > 1
        return cls(run, shape[axis] if shape[axis] <= (COLUMNS if turns else RUNS) else 0, turns)

    def place(self, first: int, size: int) -> Place:
        """Where a piece of `size` values from `first` on begins, and how many channels it has sums of."""
        if not self.count:
            return place_of(size, 0, size, 1)
        left, channel = self.run - first % self.run, first // self.run % self.count
        if self.turns:
            return place_of(left, channel, self.run, self.count)
        return place_of(left, 0, self.run, (first + size - 1) // self.run - channel + 1)

    def base(self, first: int) -> int:
        """The channel that the first sum of a piece from `first` on is of."""
        return 0 if self.turns or not self.count else first // self.run


class ChannelFigures(NamedTuple):
    """Of the relative errors, sum e^2 / sum x^2, of all channels: the largest and the mean, as SQNR in dB."""

    worst: float
    mean: float


@dataclass(frozen=True)
class ChannelSums:
    """Sums of every channel: of x^2, float64 [channels], and of e^2, float64 [configurations, channels]."""

    powers: np.ndarray
    errors: np.ndarray

    def figures(self) -> list[ChannelFigures]:
        """What the channels' relative errors amount to under every configuration.

        Channels of zeros have no signal to relate an error to, and do not count; NaN where no other is there.
        """
        heard = self.powers > 0
        if not heard.any():
            return [ChannelFigures(math.nan, math.nan)] * len(self.errors)
        relative = self.errors[:, heard] / self.powers[heard]
        with np.errstate(divide="ignore"):  # no error at all is +inf dB
            worst, mean = (-10 * np.log10(lost) for lost in (relative.max(axis=1), relative.mean(axis=1)))
        return [ChannelFigures(*pair) for pair in zip(worst.tolist(), mean.tolist(), strict=True)]


def joined(parts: Sequence[ChannelSums]) -> ChannelSums:
    """The sums of ranges of channels, in their order."""
    powers, errors = ([getattr(part, name) for part in parts] for name in ("powers", "errors"))
    return ChannelSums(np.concatenate(powers), np.concatenate(errors, axis=1))


class ChannelTotals:
    """Adds up what pieces have, in the order of the pieces, whichever is done first: sums depend on it."""

    def __init__(self, channels: Channels, configs: int) -> None:
        self.channels = channels
        self.sums = ChannelSums(np.zeros(channels.count), np.zeros((configs, channels.count)))
        self._lock, self._next = threading.Lock(), 0
        self._waiting: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}

    def add(self, number: int, base: int, powers: np.ndarray, errors: np.ndarray) -> None:
        """The sums of piece `number`: float64 [channels from `base` on], and [configurations, channels]."""
        if not self.channels.count:
            return
        with self._lock:
            self._waiting[number] = base, powers, errors
            while self._next in self._waiting:
                base, powers, errors = self._waiting.pop(self._next)
                at = slice(base, base + len(powers))
                self.sums.powers[at] += powers
                self.sums.errors[:, at] += errors
                self._next += 1


def place_of(*numbers: int) -> Place:
    """A Place from its numbers."""
    return Place(*[np.uint64(number) for number in numbers])


def first_of(piece: Piece, cols: int) -> int:
    """The place of a piece's first value among those of a matrix of so many columns."""
    return piece.rows.start * cols + piece.cols.start


def powers_of(x: np.ndarray, place: Place) -> np.ndarray:
    """Sum x^2 of the channels of a piece, in C order: float64 [place.slots]."""
    sums = np.zeros(int(place.slots))
    kernels.totals.channel_powers(x.reshape(-1), place, sums)
    return sums
