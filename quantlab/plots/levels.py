"""The quantization grid of one group: the values that its codes can stand for."""

from dataclasses import dataclass

import numpy as np

from ..core.config import QuantConfig
from ..core.dtypes import DTYPES, MAPPINGS
from ..core.tensor import QuantizedTensor
from ..errors import ConfigError, check_known

# Which of many groups is looked at: the position in the order of their ranges, 0 the narrowest and 1 the widest.
WHICH = {"widest": 1.0, "median": 0.5, "narrowest": 0.0}


@dataclass(frozen=True, eq=False)
class Levels:
    """The levels of one group.

    Attributes
    ----------
    config : whose grid it is.
    values : float64 [levels], ascending: what the codes of the group stand for.
    step : distance between neighbours.
    group, groups : the index of the group (scales in C order), and how many there are.
    """

    config: QuantConfig
    values: np.ndarray
    step: float
    group: int
    groups: int


def levels(x: np.ndarray, q: QuantizedTensor, which: str = "widest") -> tuple[Levels, np.ndarray]:
    """The levels of one group of a quantized tensor, and the values of that group.

    Parameters
    ----------
    x : float32, the tensor that was quantized.
    q : what it became.
    which : the group with the "widest", "median" or "narrowest" range; groups of zeros are not looked at.

    Returns
    -------
    Levels, and the group's values (float32, 1-D).

    Raises
    ------
    ConfigError : a plain float format has no grid; or `which` is unknown.
    """
    check_known("group", which, WHICH)
    config, dtype = q.config, DTYPES[q.config.dtype]
    if not dtype.has_scale:
        raise ConfigError(f"{config} is a float format: its levels lie closer the nearer to 0, and it has no scale")
    groups = config.granularity.to_groups(x)
    low, high = groups.extents
    group = _ranked((high - low).reshape(-1), WHICH[which])
    assert q.scale is not None  # every format that has one stores it
    scale = float(q.scale.reshape(-1)[group])
    grid = MAPPINGS[config.mapping].grid(dtype.bits)
    zero = float(q.zero_point.reshape(-1)[group]) if q.zero_point is not None else 0.0
    offset = float(q.offset.reshape(-1)[group]) if q.offset is not None else 0.0
    codes = np.arange(grid.qmin, grid.qmax + 1)
    row, column = divmod(group, groups.shape[1])
    values = groups.matrix[row, column * groups.size : (column + 1) * groups.size]
    # A scale may be negative: the codes then count downwards.
    stands_for = np.sort(offset + (codes - zero) * scale)
    return Levels(config, stands_for, abs(scale), group, groups.shape[0] * groups.shape[1]), values


def _ranked(ranges: np.ndarray, position: float) -> int:
    """Index of the range at a position (0 to 1) in their order; ranges of no width are left out if there are others."""
    wide = np.flatnonzero(ranges > 0)
    wide = wide if wide.size else np.arange(ranges.size)
    order = np.argsort(ranges[wide], kind="stable")
    return int(wide[order[round(position * (order.size - 1))]])
