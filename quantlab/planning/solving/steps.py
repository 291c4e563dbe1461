"""What lies around a plan: how long each unit stays as it is, what it would take next, and what a pin costs."""

import math
from dataclasses import dataclass

import numpy as np

from ...errors import BudgetError, check_integer
from .front import Front, front_of
from .front import front as front_of_table
from .solve import Solution, optimum, total_damage


@dataclass(frozen=True)
class Steps:
    """Of each unit of a plan, all arrays [N].

    Attributes
    ----------
    low, high : int64; the budgets from which and up to which the unit has this option along the front, the plan's own
        size included: -1 where there is no end. Both are the plan's size for an option that is not on the front: the
        plan has it only to fill its budget.
    up, down : int64; the next option on the unit's hull, of more bytes and of fewer; -1 where there is none.
    up_bytes, down_bytes : int64; by how much the bytes change with it; 0 where there is none.
    up_damage, down_damage : float64; by how much the damage changes with it; NaN where there is none.
    """

    low: np.ndarray
    high: np.ndarray
    up: np.ndarray
    up_bytes: np.ndarray
    up_damage: np.ndarray
    down: np.ndarray
    down_bytes: np.ndarray
    down_damage: np.ndarray


def steps(nbytes: np.ndarray, damage: np.ndarray, solution: Solution, front: Front | None = None) -> Steps:
    """The surroundings of a plan; `front` is that of the same table, where it is known."""
    known = front if front is not None else front_of_table(nbytes, damage)
    nbytes, damage = np.asarray(nbytes), np.asarray(damage)
    corners = Corners.of(known)
    size = nbytes[np.arange(len(solution.chosen)), solution.chosen].astype(np.float64)
    sizes = known.options.nbytes[corners.at]
    # Each unit's corners stand by ascending bytes: how many of them are smaller, and whether the next is the option.
    first = corners.first[:-1]
    last = corners.first[1:] - 1
    below = first + np.add.reduceat(sizes < size[corners.unit], first) if len(first) else first
    here = np.minimum(below, last)
    on = (below <= last) & (sizes[here] == size)
    low = np.where(on, corners.begin[here], solution.nbytes)
    high = np.where(on, corners.end[here], solution.nbytes)
    up = np.where(below + on <= last, below + on, -1)
    down = np.where(below > first, below - 1, -1)
    return Steps(
        np.where(low < 0, -1, np.minimum(low, solution.nbytes)),
        np.where(high < 0, -1, np.maximum(high, solution.nbytes)),
        *changes(nbytes, damage, solution.chosen, known.options.option[corners.at], up),
        *changes(nbytes, damage, solution.chosen, known.options.option[corners.at], down),
    )


@dataclass(frozen=True)
class Corners:
    """Every option that a plan of the front has, unit by unit, by ascending bytes.

    Attributes
    ----------
    at : int64 [C]; index into the front's options.
    unit : int64 [C].
    first : int64 [N + 1]; where a unit's corners begin.
    begin, end : int64 [C]; bytes of the first plan that has it, and those up to which it stays; -1: no end.
    """

    at: np.ndarray
    unit: np.ndarray
    first: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    @classmethod
    def of(cls, front: Front) -> "Corners":
        """Those of a front."""
        at = np.append(front.first, front.steps)
        begin = np.append(np.full(len(front.first), -1), front.nbytes[1:])
        order = np.argsort(at, kind="stable")
        at, begin = at[order], begin[order]
        unit = front.options.unit[at]
        # A unit keeps an option until the next one's plan fits; the last of each unit it keeps for good.
        stays = np.append(unit[1:] == unit[:-1], False)[: len(at)]
        end = np.where(stays, np.append(begin[1:], 0)[: len(at)] - 1, -1)
        return cls(at, unit, np.searchsorted(unit, np.arange(len(front.first) + 1)), begin, end)


def changes(
    nbytes: np.ndarray, damage: np.ndarray, chosen: np.ndarray, options: np.ndarray, to: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Option, change of bytes and of damage of a step of each unit to `options[to]`, where `to` is one."""
    units, there = np.arange(len(chosen)), to >= 0
    option = np.where(there, options[np.maximum(to, 0)], chosen) if len(chosen) else chosen
    more = nbytes[units, option].astype(np.int64) - nbytes[units, chosen].astype(np.int64)
    worse = damage[units, option] - damage[units, chosen]
    return np.where(there, option, -1), np.where(there, more, 0), np.where(there, worse, np.nan)


def pin_costs(
    nbytes: np.ndarray,
    damage: np.ndarray,
    solution: Solution,
    unit: int,
    front: Front | None = None,
    tolerance: float | None = None,
) -> np.ndarray:
    """By how much a plan's damage would change if a unit had to have each of its options, at the same budget.

    Every other unit is then chosen anew, as well as `solve` would, or up to a `tolerance`, as a share of the damage:
    1e-5 takes a fraction of the time. float64 [K]: 0.0 for the option that the unit has, infinity for one that it
    cannot have or that leaves the others too few bytes.
    """
    known = front if front is not None else front_of_table(nbytes, damage)
    unit = check_integer("the unit", unit, 0, len(solution.chosen) - 1)
    nbytes, damage = np.asarray(nbytes), np.asarray(damage)
    options = known.options.without(unit)
    units = np.delete(np.arange(len(solution.chosen)), unit)
    rest = front_of(options, options.least(damage[units]))
    left = {
        size: rest_damage(rest, damage[units], solution.budget - size, tolerance) for size in set(nbytes[unit].tolist())
    }
    costs = np.array(
        [
            math.fsum([own, left[size], -solution.damage]) if math.isfinite(own) else math.inf
            for size, own in zip(nbytes[unit].tolist(), damage[unit].tolist(), strict=True)
        ]
    )
    costs[solution.chosen[unit]] = 0.0
    return costs


def rest_damage(front: Front, damage: np.ndarray, budget: int, tolerance: float | None) -> float:
    """The least damage of the units of a front within a budget; infinity if it is too small."""
    try:
        best = optimum(front, budget, tolerance)
    except BudgetError:
        return math.inf
    return total_damage(damage, front.options.option[best.taken])
