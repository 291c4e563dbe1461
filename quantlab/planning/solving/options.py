"""What is worth choosing from: of every unit the options that no other of its options beats, checked and made flat."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...errors import BudgetError, ConfigError, DTypeError, LimitError, NonFiniteError, ShapeError

MOST_BYTES = 2.0**53  # whole numbers up to here, and their sums, are exact in float64
MOST_DAMAGE = 2.0**1022
TOP = 800  # the largest damage is brought to about 2^TOP: its product with 2^53 bytes and any number of units is finite
AT_ONCE = 1 << 18  # cells of a table, or options, in work at one time: they fit into a cache, and memory is bounded


@dataclass(frozen=True)
class Options:
    """The Pareto sets of all units, one after the other, each by ascending bytes and so by descending damage.

    Attributes
    ----------
    start : int64 [N + 1]; where a unit's options begin, and where the last one's end.
    unit, option : int32 [F]; row and column in the table.
    nbytes : float64 [F]; whole numbers.
    damage : float64 [F]; beyond the unit's least, times `scale`. So a large damage that no choice can change costs the
        others no digits, and neither 1e-300 nor 1e300 leaves the range of numbers on the way.
    corner : bool [F]; whether it is one of its unit's lower convex hull.
    scale : a power of two.
    lost : damage (not scaled) that a plan may have besides, because scaling made it 0; itself 0 unless a table spans
        hundreds of powers of ten.
    """

    start: np.ndarray
    unit: np.ndarray
    option: np.ndarray
    nbytes: np.ndarray
    damage: np.ndarray
    corner: np.ndarray
    scale: float
    lost: float

    @property
    def units(self) -> int:
        """N."""
        return len(self.start) - 1

    def least(self, damage: np.ndarray) -> np.ndarray:
        """The least damage that each unit of a table can have: float64 [N]."""
        return damage[np.arange(self.units), self.option[self.start[1:] - 1]].astype(np.float64)

    def without(self, unit: int) -> "Options":
        """All but those of one unit; units after it move up by one."""
        keep = np.ones(len(self.unit), bool)
        keep[self.start[unit] : self.start[unit + 1]] = False
        left = self.unit[keep]
        return replace(
            self,
            start=np.append(self.start[: unit + 1], self.start[unit + 2 :] - (self.start[unit + 1] - self.start[unit])),
            unit=left - (left > unit),
            option=self.option[keep],
            nbytes=self.nbytes[keep],
            damage=self.damage[keep],
            corner=self.corner[keep],
        )

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Units and their options, some at a time."""
        first = 0
        while first < self.units:
            last = max(first + 1, int(np.searchsorted(self.start, self.start[first] + AT_ONCE, "right")) - 1)
            yield slice(first, last), slice(int(self.start[first]), int(self.start[last]))
            first = last


def pareto(nbytes: np.ndarray, damage: np.ndarray) -> Options:
    """Check a table, and keep of each unit what no other option beats; of equal ones the first.

    Raises
    ------
    ShapeError, DTypeError, NonFiniteError, ConfigError, LimitError : a table that is none.
    BudgetError : a unit that can have no option.
    """
    nbytes, damage = checked(nbytes, damage)
    rows = max(1, AT_ONCE // max(1, nbytes.shape[1]))
    blocks = [slice(first, first + rows) for first in range(0, max(1, len(nbytes)), rows)]
    scale = check_sums([check_block(nbytes[block], damage[block], block.start) for block in blocks])
    found = [undominated(nbytes[block], damage[block], block.start, scale) for block in blocks]
    unit, option, size, hurt, corner = (np.concatenate([part[i] for part in found]) for i in range(5))
    start = np.searchsorted(unit, np.arange(len(nbytes) + 1))
    return Options(start, unit, option, size, hurt, corner, scale, math.fsum(part[5] for part in found))


def scale_of(largest: float) -> float:
    """The power of two that brings the largest damage to about 2^TOP, or as far as there is one."""
    return 2.0 ** min(TOP - math.frexp(largest)[1], 1000) if largest else 1.0


def checked(nbytes: np.ndarray, damage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as tables of one shape [N, K], of whole numbers and of float64; copied only where they are not."""
    nbytes, damage = np.asarray(nbytes), np.asarray(damage)
    if nbytes.ndim != 2 or nbytes.shape != damage.shape:
        raise ShapeError(
            f"bytes have the shape {nbytes.shape} and damage {damage.shape}: give both as [units, options], alike"
        )
    if nbytes.dtype.kind not in "iu" or damage.dtype.kind not in "fiu":
        raise DTypeError(
            f"bytes are {nbytes.dtype} and damage is {damage.dtype}: give bytes as int64, damage as float64"
        )
    return nbytes, damage.astype(np.float64, copy=False)


def check_block(nbytes: np.ndarray, damage: np.ndarray, first: int) -> tuple[float, float, float]:
    """Check some rows, those from `first` on.

    Returns the most bytes that they can add up to, the most damage, times 2^-64, and the largest difference of damage
    within a row.
    """
    allowed = np.isfinite(damage)
    if len(nbytes) and not (allowed.size and allowed.all()):
        check_forbidden(damage, allowed, first)
    if nbytes.min(initial=0) < 0 and nbytes[allowed].min(initial=0) < 0:
        raise ConfigError("an option has less than 0 bytes: give the bytes that each takes in the file")
    size = nbytes.max(axis=1, initial=0, where=allowed).sum(dtype=np.float64)
    high = damage.max(axis=1, initial=-np.inf, where=allowed) * 2.0**-64
    low = damage.min(axis=1, initial=np.inf, where=allowed) * 2.0**-64
    spread = min(float((high - low).max(initial=0.0)), 2.0**958) * 2.0**64
    return float(size), float(np.maximum(np.abs(high), np.abs(low)).sum()), spread


def check_forbidden(damage: np.ndarray, allowed: np.ndarray, first: int) -> None:
    """Refuse what is neither a number nor infinity, and units that can have nothing."""
    wrong = ~allowed & (damage != np.inf)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise NonFiniteError(
            f"the damage of option {column} for unit {first + row} is {damage[row, column]}: "
            "give numbers, and infinity for what a unit cannot have"
        )
    if not (some := allowed.any(axis=1)).all():
        raise BudgetError(
            f"unit {first + int(np.argmin(some))} can have none of its {damage.shape[1]} options: allow one, "
            "or leave the unit out",
            math.inf,
        )


def check_sums(most: list[tuple[float, float, float]]) -> float:
    """Refuse tables whose sums could leave the range in which they are exact, or finite; their scale."""
    size, hurt, spread = sum(row[0] for row in most), sum(row[1] for row in most), max(row[2] for row in most)
    if size > MOST_BYTES:
        raise LimitError(f"the options add up to {size:.3g} bytes: at most {MOST_BYTES:.3g} are counted exactly")
    if hurt > MOST_DAMAGE * 2.0**-64:
        raise LimitError(
            f"the damage of all units adds up to more than {MOST_DAMAGE:.3g}: divide all of it by a number"
        )
    return scale_of(spread)


def undominated(
    nbytes: np.ndarray, damage: np.ndarray, first: int, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """The Pareto sets of some rows, those from `first` on: `unit` to `corner` of `Options`, and `lost`."""
    if not nbytes.size:
        no = np.zeros(0)
        return no.astype(np.int32), no.astype(np.int32), no, no, no.astype(bool), 0.0
    size = np.where(np.isfinite(damage), nbytes, np.iinfo(nbytes.dtype).max)
    order = np.argsort(size, axis=1, kind="stable")
    hurt = np.take_along_axis(damage, order, axis=1)
    least = np.minimum.accumulate(hurt, axis=1)
    less = np.isfinite(hurt)
    less[:, 1:] &= hurt[:, 1:] < least[:, :-1]
    unit, at = np.nonzero(less)
    option = order[unit, at]
    found, above = size[unit, option].astype(np.float64), hurt[unit, at] - least[unit, -1]
    # Of options of equal bytes the sort may bring a worse one first: it is beaten by the next.
    kept = np.append((unit[1:] != unit[:-1]) | (found[1:] != found[:-1]), True)
    unit, option, found, above = unit[kept], option[kept], found[kept], above[kept]
    scaled = above * scale
    lost = math.fsum(np.abs(above - scaled / scale)) if scale < 1 else 0.0
    return (unit + first).astype(np.int32), option.astype(np.int32), found, scaled, corners(unit, found, scaled), lost


def corners(unit: np.ndarray, nbytes: np.ndarray, damage: np.ndarray) -> np.ndarray:
    """Which options are corners of their unit's lower convex hull: bool [F].

    A point that lies above the line between any two others of its unit is no corner, so all that lie above the line
    between their neighbours can go at once, round by round, until none does.
    """
    left = np.arange(len(unit))
    while True:
        across, down = np.diff(nbytes[left]), np.diff(damage[left])
        inside = unit[left[2:]] == unit[left[:-2]]
        above = inside & (down[:-1] * across[1:] >= down[1:] * across[:-1])
        if not above.any():
            break
        left = left[np.concatenate(([True], ~above, [True]))]
    found = np.zeros(len(unit), bool)
    found[left] = True
    return found


def dominated(nbytes: np.ndarray, damage: np.ndarray) -> np.ndarray:
    """Whether no unit would ever take an option, since another is no larger and no worse: bool [K]."""
    options = pareto(nbytes, damage)
    never = np.ones(np.shape(nbytes)[1], bool)
    never[options.option] = False
    return never
