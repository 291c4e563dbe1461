"""The search for the best plan beside one of the front, with its proof.

At a price p for a byte, an option's *penalty* is by how much its damage + p x bytes exceeds the least that its unit can
have. No plan within a budget B is better than the bound, sum of least - p x B, and any plan lies above it by exactly

    gap = sum of penalties + p x (B - bytes used).

So a better plan than one of gap g has only options of penalty below g. Near the optimum few are left: the core, which
dynamic programming exhausts (Pisinger, A minimal algorithm for the multiple-choice knapsack problem, 1995).

Everything here is float64 about two quantities, a *weight* that is limited and a *value* that is minimised: bytes and
damage for a budget, damage and bytes for a quality.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moves:
    """Options other than those that the plan has.

    Attributes
    ----------
    unit : int64 [M]; ascending.
    at : int64 [M]; index into the options.
    weight : float64 [M]; how much more the unit weighs with it.
    penalty : float64 [M]; at least 0.
    """

    unit: np.ndarray
    at: np.ndarray
    weight: np.ndarray
    penalty: np.ndarray

    def below(self, gap: float) -> "Moves":
        """Those that a plan of less than `gap` can have."""
        return self.where(self.penalty < gap)

    def where(self, keep: np.ndarray) -> "Moves":
        """Those of a mask, or in an order."""
        return Moves(self.unit[keep], self.at[keep], self.weight[keep], self.penalty[keep])


@dataclass(frozen=True)
class Found:
    """What the search came to.

    Attributes
    ----------
    taken : int64; options that take the place of the plan's.
    gap : of the plan that this makes.
    bound : no plan has less gap than this.
    """

    taken: np.ndarray
    gap: float
    bound: float


def search(moves: Moves, price: float, room: float, tolerance: float, most_states: int) -> Found:
    """The plan of least gap that adds at most `room` of weight, or one within `tolerance` of it.

    `most_states` limits memory and time of the dynamic programming: what it cuts lowers the `bound`.
    """
    taken, gap = moves.at[:0], price * room
    if gap <= tolerance:
        return Found(taken, gap, 0.0)
    moves = moves.below(gap - tolerance)
    pair, filled = best_pair(moves, price, room)
    if filled < gap:
        taken, gap = moves.at[pair], filled
    if gap <= tolerance:
        return Found(taken, gap, 0.0)
    states = States(Core.of(moves.below(gap - tolerance)), price, room, gap, tolerance, most_states)
    states.exhaust()
    if states.gap < gap:
        taken, gap = states.moves.at[states.trail()], states.gap
    return Found(taken, gap, max(0.0, min(gap - tolerance, states.cut)))


def best_pair(moves: Moves, price: float, room: float) -> tuple[np.ndarray, float]:
    """One or two of the moves, of two units, that fit into the room, and the gap that they leave."""
    order = np.argsort(moves.weight, kind="stable")
    unit, weight = moves.unit[order], moves.weight[order]
    value = moves.penalty[order] - price * weight
    best = first_least(value)
    fit = np.searchsorted(weight, room - weight, "right") - 1
    partner = best[np.maximum(fit, 0)] if len(best) else fit
    other = (fit >= 0) & (unit[partner] != unit)
    pairs = np.where(other, value + value[partner], np.inf)
    alone = np.where(weight <= room, value, np.inf)
    if not len(pairs) or min(pairs.min(), alone.min()) >= 0:
        return order[:0], price * room
    i = int(np.argmin(np.minimum(pairs, alone)))
    both = order[[i, partner[i]] if pairs[i] < alone[i] else [i]]
    return both, gap_of(moves.penalty[both].sum(), moves.weight[both].sum(), price, room)


def first_least(values: np.ndarray) -> np.ndarray:
    """For every prefix of `values` where its least one is."""
    least = np.minimum.accumulate(values)
    new = np.ones(len(values), bool)
    new[1:] = least[1:] < least[:-1]
    return np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))


def gap_of(penalty: float, weight: float, price: float, room: float) -> float:
    """The gap of a plan."""
    return float(penalty + price * (room - weight))


@dataclass(frozen=True)
class Core:
    """Moves in the order in which the search takes their units up: those of the least penalty first.

    Attributes
    ----------
    moves : unit by unit.
    start : int64 [C + 1]; where the moves of each unit begin.
    least : float64 [C + 1]; least penalty of a unit and of those after it; infinity at the end.
    lighter, heavier : float64 [C + 1]; by how much the units from here on can change the weight.
    """

    moves: Moves
    start: np.ndarray
    least: np.ndarray
    lighter: np.ndarray
    heavier: np.ndarray

    @classmethod
    def of(cls, moves: Moves) -> "Core":
        """Put the moves in order."""
        if not len(moves.unit):
            nothing = np.zeros(1)
            return cls(moves, np.zeros(1, np.int64), np.full(1, np.inf), nothing, nothing)
        first = np.flatnonzero(np.append(True, moves.unit[1:] != moves.unit[:-1]))
        count = np.diff(np.append(first, len(moves.unit)))
        least = np.minimum.reduceat(moves.penalty, first)
        turn = np.argsort(least, kind="stable")
        rank = np.empty_like(turn)
        rank[turn] = np.arange(len(turn))
        ordered = moves.where(np.argsort(np.repeat(rank, count), kind="stable"))
        start = np.append(0, np.cumsum(count[turn]))
        lighter = np.minimum(np.minimum.reduceat(ordered.weight, start[:-1]), 0.0)
        heavier = np.maximum(np.maximum.reduceat(ordered.weight, start[:-1]), 0.0)
        return cls(ordered, start, np.append(least[turn], np.inf), from_here(lighter), from_here(heavier))


def from_here(values: np.ndarray) -> np.ndarray:
    """Sums of all values from each place on: [C + 1]."""
    return np.append(np.cumsum(values[::-1])[::-1], 0.0)


class States:
    """The dynamic programming: partial plans, of which none is both lighter and better than another.

    A state is a weight, a penalty and a node: where the path of its moves ends in `parents` and `last`, which grow by
    what each unit adds. Node -1 is the plan as it is.
    """

    def __init__(self, core: Core, price: float, room: float, gap: float, tolerance: float, most: int) -> None:
        self.core, self.moves, self.price, self.room = core, core.moves, price, room
        self.gap, self.tolerance, self.most = gap, tolerance, most
        self.weight, self.penalty, self.node = np.zeros(1), np.zeros(1), np.full(1, -1)
        self.parents: list[np.ndarray] = []
        self.last: list[np.ndarray] = []
        self.nodes, self.best, self.cut = 0, -1, math.inf

    def exhaust(self) -> None:
        """Take up one unit after the other until none is left that could help."""
        for i in range(len(self.core.start) - 1):
            if not len(self.weight) or self.core.least[i] >= self.gap - self.tolerance:
                return
            self.extend(np.arange(self.core.start[i], self.core.start[i + 1]))
            self.note_best()
            self.forget(i + 1)

    def extend(self, moves: np.ndarray) -> None:
        """Every state as it is and with each of the moves of one unit; what is no better than another goes."""
        weight, penalty, parents, last = self.grown(moves)
        old = len(self.node)
        weight, penalty = np.concatenate((self.weight, weight)), np.concatenate((self.penalty, penalty))
        order = undominated(weight, penalty, self.price)
        made = order >= old
        picked = order[made] - old
        self.parents.append(parents[picked])
        self.last.append(last[picked])
        node = self.node[np.where(made, 0, order)]
        node[made] = np.arange(self.nodes, self.nodes + len(picked))
        self.nodes += len(picked)
        self.weight, self.penalty, self.node = weight[order], penalty[order], node

    def grown(self, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Weight, penalty, parent and last move of the states that the moves make, if they can be of use."""
        penalty = self.penalty + self.moves.penalty[moves][:, None]
        move, state = np.nonzero(penalty < self.gap - self.tolerance)
        weight = self.weight[state] + self.moves.weight[moves[move]]
        return weight, penalty[move, state], self.node[state], moves[move]

    def note_best(self) -> None:
        """The best plan so far: a state with the rest of the units as they are."""
        fit = int(np.searchsorted(self.weight, self.room, "right"))
        gaps = self.penalty[:fit] + self.price * (self.room - self.weight[:fit])
        if fit and gaps[i := int(np.argmin(gaps))] < self.gap:
            self.gap, self.best = float(gaps[i]), int(self.node[i])

    def forget(self, i: int) -> None:
        """Drop the states from which the units from `i` on lead to no better plan, and those beyond the limit."""
        unfilled = np.maximum(self.room - self.weight - self.core.heavier[i], 0.0)
        least = self.penalty + self.price * unfilled
        keep = (least < self.gap - self.tolerance) & (self.weight + self.core.lighter[i] <= self.room)
        if np.count_nonzero(keep) > self.most:
            beyond = np.flatnonzero(keep)
            beyond = beyond[np.argpartition(least[beyond], self.most)[self.most :]]
            keep[beyond] = False
            self.cut = min(self.cut, float(least[beyond].min()))
        self.weight, self.penalty, self.node = self.weight[keep], self.penalty[keep], self.node[keep]

    def trail(self) -> np.ndarray:
        """The moves of the best plan."""
        if self.best < 0:
            return np.zeros(0, np.int64)
        parents, last = np.concatenate(self.parents), np.concatenate(self.last)
        found, node = [], self.best
        while node >= 0:
            found.append(last[node])
            node = int(parents[node])
        return np.array(found)


def undominated(weight: np.ndarray, penalty: np.ndarray, price: float) -> np.ndarray:
    """Indices, by ascending weight, of the states than which no other is both no heavier and of no more value."""
    order = np.argsort(weight, kind="stable")  # runs in order, which merging makes use of
    weight = weight[order]
    value = penalty[order] - price * weight
    keep = np.ones(len(order), bool)
    keep[1:] = value[1:] < np.minimum.accumulate(value)[:-1]
    order, weight = order[keep], weight[keep]
    return order[np.append(weight[1:] != weight[:-1], True)]
