"""What is worth choosing from: of every unit the options that no other of its options beats, checked and made flat."""

import math
from dataclasses import dataclass, replace

import numpy as np

from ...errors import BudgetError, ConfigError, DTypeError, LimitError, NonFiniteError, ShapeError

MOST_BYTES = 2.0**53  # whole numbers up to here, and their sums, are exact in float64
MOST_DAMAGE = 2.0**1022
TOP = 800  # the largest damage is brought to about 2^TOP: its product with 2^53 bytes and any number of units is finite
AT_ONCE = 1 << 20  # cells of a table in work at one time, whatever its size


@dataclass(frozen=True)
class Options:
    """The Pareto sets of all units, one after the other, each by ascending bytes and so by descending damage.

    Attributes
    ----------
    start : int64 [N]; where a unit's options begin.
    unit, option : int64 [F]; row and column in the table.
    nbytes : float64 [F]; whole numbers.
    damage : float64 [F]; beyond the unit's least, times `scale`. So a large damage that no choice can change costs the
        others no digits, and neither 1e-300 nor 1e300 leaves the range of numbers on the way.
    scale : a power of two.
    lost : damage (not scaled) that a plan may have besides, because scaling made it 0; itself 0 unless a table spans
        hundreds of powers of ten.
    shape : of the table.
    """

    start: np.ndarray
    unit: np.ndarray
    option: np.ndarray
    nbytes: np.ndarray
    damage: np.ndarray
    scale: float
    lost: float
    shape: tuple[int, int]

    def where(self, keep: np.ndarray) -> "Options":
        """Only those of the mask `keep` [F], which leaves every unit one at least."""
        return self._taken(keep, self.unit[keep], self.shape)

    def without(self, unit: int) -> "Options":
        """All but those of one unit; units after it move up by one."""
        keep = self.unit != unit
        left = self.unit[keep]
        return self._taken(keep, left - (left > unit), (self.shape[0] - 1, self.shape[1]))

    def _taken(self, keep: np.ndarray, unit: np.ndarray, shape: tuple[int, int]) -> "Options":
        return replace(
            self,
            start=np.searchsorted(unit, np.arange(shape[0])),
            unit=unit,
            option=self.option[keep],
            nbytes=self.nbytes[keep],
            damage=self.damage[keep],
            shape=shape,
        )


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
    check_sums([check_block(nbytes[block], damage[block], block.start) for block in blocks])
    found = [undominated(nbytes[block], damage[block], block.start) for block in blocks]
    unit, option, size, hurt = (np.concatenate(column) for column in zip(*found, strict=True))
    start = np.searchsorted(unit, np.arange(len(nbytes)))
    above = hurt - np.repeat(hurt[ends(start, len(unit))], lengths(start, len(unit)))
    scale = scale_of(above)
    scaled = above * scale
    lost = math.fsum(np.abs(above - scaled / scale)) if scale < 1 else 0.0
    return Options(start, unit, option, size, scaled, scale, lost, (nbytes.shape[0], nbytes.shape[1]))


def ends(start: np.ndarray, count: int) -> np.ndarray:
    """Where the last option of each unit is, of `count` in all."""
    return np.append(start[1:], count)[: len(start)] - 1


def lengths(start: np.ndarray, count: int) -> np.ndarray:
    """How many options each unit has, of `count` in all."""
    return ends(start, count) + 1 - start


def scale_of(damage: np.ndarray) -> float:
    """The power of two that brings the largest to about 2^TOP, if there is one."""
    largest = float(damage.max(initial=0.0))
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


def check_block(nbytes: np.ndarray, damage: np.ndarray, first: int) -> tuple[float, float]:
    """Check some rows, those from `first` on; the most bytes and, times 2^-64, the most damage they can sum up to."""
    allowed = np.isfinite(damage)
    wrong = ~allowed & (damage != np.inf)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise NonFiniteError(
            f"the damage of option {column} for unit {first + row} is {damage[row, column]}: "
            "give numbers, and infinity for what a unit cannot have"
        )
    if len(nbytes) and not allowed.any(axis=1).all():
        row = int(np.flatnonzero(~allowed.any(axis=1))[0])
        raise BudgetError(
            f"unit {first + row} can have none of its {nbytes.shape[1]} options: allow one, or leave the unit out",
            math.inf,
        )
    if (nbytes < 0).any() and (nbytes[allowed] < 0).any():
        raise ConfigError("an option has less than 0 bytes: give each option's bytes in the file")
    size = np.where(allowed, nbytes, 0).max(axis=1, initial=0)
    hurt = np.abs(np.where(allowed, damage, 0.0)).max(axis=1, initial=0.0)
    return float(size.astype(np.float64).sum()), float((hurt * 2.0**-64).sum())


def check_sums(most: list[tuple[float, float]]) -> None:
    """Refuse tables whose sums could leave the range in which they are exact, or finite."""
    size, hurt = (sum(column) for column in zip(*most, strict=True))
    if size > MOST_BYTES:
        raise LimitError(f"the options add up to {size:.3g} bytes: at most {MOST_BYTES:.3g} are counted exactly")
    if hurt > MOST_DAMAGE * 2.0**-64:
        raise LimitError(
            f"the damage of all units adds up to more than {MOST_DAMAGE:.3g}: divide all of it by a number"
        )


def undominated(nbytes: np.ndarray, damage: np.ndarray, first: int) -> tuple[np.ndarray, ...]:
    """Unit, option, bytes and damage of the Pareto sets of some rows, those from `first` on."""
    if not nbytes.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    size = np.where(np.isfinite(damage), nbytes, np.iinfo(nbytes.dtype).max)
    order = np.argsort(size, axis=1, kind="stable")
    hurt = np.take_along_axis(damage, order, axis=1)
    less = np.isfinite(hurt)
    less[:, 1:] &= hurt[:, 1:] < np.minimum.accumulate(hurt, axis=1)[:, :-1]
    unit, at = np.nonzero(less)
    option = order[unit, at]
    found, hurts = size[unit, option].astype(np.float64), hurt[unit, at]
    # Of options of equal bytes the sort may bring a worse one first: it is beaten by the next.
    beaten = np.append((unit[1:] == unit[:-1]) & (found[1:] == found[:-1]), False)
    return unit[~beaten] + first, option[~beaten], found[~beaten], hurts[~beaten]


def dominated(nbytes: np.ndarray, damage: np.ndarray) -> np.ndarray:
    """Whether no unit would ever take an option, since another is no larger and no worse: bool [K]."""
    options = pareto(nbytes, damage)
    missing = np.ones(options.shape[1], bool)
    missing[options.option] = False
    return missing
