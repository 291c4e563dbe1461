"""What kernels take and return, without Numba: it takes longer to import than most commands take."""

from typing import NamedTuple

import numpy as np

FLOAT32_MAX = float(np.finfo(np.float32).max)


class Grid(NamedTuple):
    """Integer codes under one mapping, as the numbers that `fit` needs."""

    steps: float  # intervals between the lowest and the highest code that a range is spread over
    qmin: float
    qmax: float
    widest_lo: float  # the range is widened until lo <= widest_lo and hi >= -widest_lo: 0 keeps zero inside
    has_zero_point: float  # 1 or 0
    has_offset: float  # 1 or 0


class Storage(NamedTuple):
    """A float type that scales are rounded to, as the numbers that `round_to` needs."""

    epsilon: float  # distance from 1 to its upper neighbour
    smallest: float  # smallest positive subnormal
    largest: float


HARDLY = 1e-6  # an epsilon below which scales are stored so finely that the best one for given codes is, too


def moves_scales(grid: Grid, storage: Storage) -> bool:
    """Whether a search may take the best scale for the codes that a trial gave, in place of the scale tried."""
    return grid.has_offset == 0.0 and storage.epsilon < HARDLY


class Fitted(NamedTuple):
    """What turns values into codes and back: float32 arrays [rows, groups]."""

    scale: np.ndarray
    zero_point: np.ndarray
    offset: np.ndarray


class Sides(NamedTuple):
    """Codes to search a scale for: float64 arrays [S], one entry per way to lay them around 0."""

    down: np.ndarray  # codes below 0, as a count: values down to -down * scale
    up: np.ndarray
    sign: np.ndarray  # of the scale that comes of it; -1 turns the codes around
    zero_point: np.ndarray
    most: np.ndarray  # largest scale whose outermost code is finite in float32
    farthest_down: float  # the most of `down`
    farthest_up: float


class Work(NamedTuple):
    """Room for the search of one group after another, and for so many changes of codes at a time as `order` holds.

    That must be at least a group's size: then there always is a stretch with few enough changes.
    """

    times: np.ndarray  # float64 [changes + 4]: 1 / scale at which a code changes
    rises: np.ndarray  # how much its square grows, 2 k - 1 for k - 1 to k, with the sign of the value
    weights: np.ndarray  # |x|
    order: np.ndarray  # uint64 [changes]: their indices, by time
    starts: np.ndarray  # uint64 [2 * changes]: of the buckets they are sorted into
    codes: np.ndarray  # float64 [largest group]: magnitudes reached so far
    sums_xq: np.ndarray  # float64 [S]: sum x q for each of the sides, and sum q^2
    sums_qq: np.ndarray
    ends: np.ndarray  # float64 [S]: how far each is worth following


class Plan(NamedTuple):
    """Rounds of ranges to try around the best one yet."""

    ways: np.ndarray  # float64 [directions, 3]: what a share takes off, as `list_ranges` takes it
    shares: np.ndarray  # float64 [n], those of every direction from none to the most
    slices: np.ndarray  # int64 [directions, 3]: the round that each belongs to, and which shares are its own


class Place(NamedTuple):
    """Where a piece begins among the output channels: each has `run` values, then comes the next, or the first again.

    left : values until the first change of channel. slot : the sum that the first channel has, of `slots` sums.
    """

    left: np.uint64
    slot: np.uint64
    run: np.uint64
    slots: np.uint64
