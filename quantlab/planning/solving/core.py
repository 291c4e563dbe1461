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

WIDEST = 100_000  # states of one half
WORK, NARROWEST = 10_000_000, 100  # states in all, about: 2 s and 100 MB; once they are spent
MOST_AT_ONCE = 1_000_000  # states and moves to be put together at once


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


def search(moves: Moves, price: float, room: float, tolerance: float) -> Found:
    """The plan of least gap that adds at most `room` of weight, or one within `tolerance` of it.

    Where the dynamic programming meets its limits of memory and time, what they cut lowers the `bound`.
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
    halves = Halves(Core.of(moves.below(gap - tolerance)), price, room, gap, tolerance)
    halves.exhaust()
    if halves.gap < gap:
        taken, gap = halves.taken(), halves.gap
    return Found(taken, gap, max(0.0, min(gap - tolerance, halves.cut)))


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


class Half:
    """Partial plans over some units of the core: none is both no heavier and no worse than another.

    A state is a weight, a penalty and a node: where the path of its moves ends in `parents` and `last`, which grow by
    what each unit adds. Node -1 is the plan as it is.
    """

    def __init__(self) -> None:
        self.weight, self.penalty, self.node = np.zeros(1), np.zeros(1), np.full(1, -1)
        self.parents: list[np.ndarray] = []
        self.last: list[np.ndarray] = []
        self.nodes = 0

    def extend(self, weight: np.ndarray, penalty: np.ndarray, first: int, price: float, below: float) -> np.ndarray:
        """Every state as it is and with each of the moves of one unit, if its penalty is `below`.

        Returns which states are new.
        """
        few = np.flatnonzero(self.penalty < below - penalty.min())
        penalties = self.penalty[few] + penalty[:, None]
        move, which = np.nonzero(penalties < below)
        state = few[which]
        weights = np.concatenate((self.weight, self.weight[state] + weight[move]))
        both = np.concatenate((self.penalty, penalties[move, which]))
        order = undominated(weights, both, price)
        old = len(self.node)
        new = order >= old
        picked = order[new] - old
        self.parents.append(self.node[state[picked]].astype(np.int32))
        self.last.append((first + move[picked]).astype(np.int32))
        node = self.node[np.where(new, 0, order)]
        node[new] = np.arange(self.nodes, self.nodes + len(picked))
        self.nodes += len(picked)
        self.weight, self.penalty, self.node = weights[order], both[order], node
        return new

    def keep(self, keep: np.ndarray) -> None:
        """Only the states of a mask."""
        self.weight, self.penalty, self.node = self.weight[keep], self.penalty[keep], self.node[keep]

    def trail(self, node: int) -> list[int]:
        """The moves that lead to a node."""
        if node < 0:
            return []
        parents, last = np.concatenate(self.parents), np.concatenate(self.last)
        found = []
        while node >= 0:
            found.append(int(last[node]))
            node = int(parents[node])
        return found


class Halves:
    """The dynamic programming: each unit goes to one half, and a plan is a state of both.

    Two lists of partial plans that meet are far shorter than one: about the square root of it.
    """

    def __init__(self, core: Core, price: float, room: float, gap: float, tolerance: float) -> None:
        self.core, self.price, self.room = core, price, room
        self.gap, self.tolerance, self.work, self.cut = gap, tolerance, WORK, math.inf
        self.halves = Half(), Half()
        self.best = -1, -1

    def exhaust(self) -> None:
        """Take up one unit after the other until none is left that could help."""
        i, count = 0, len(self.core.start) - 1
        while i < count and self.core.least[i] < self.gap - self.tolerance:
            # The shorter half: that keeps them alike, and is the least work.
            side = int(len(self.halves[1].node) < len(self.halves[0].node))
            if not len(self.halves[side].node):
                return
            last = count if self.one_more(side, i) else i + 1
            self.extend(side, slice(self.core.start[i], self.core.start[last]))
            self.forget(side, last)
            i = last

    def one_more(self, side: int, i: int) -> bool:
        """Whether a better plan has one move at most of the units from `i` on: together they are like one unit then."""
        moves = self.core.start[-1] - self.core.start[i]
        small = moves * len(self.halves[side].node) <= MOST_AT_ONCE
        return bool(small and 2 * self.core.least[i] >= self.gap - self.tolerance)

    def extend(self, side: int, of_unit: slice) -> None:
        """Take up the moves of one unit."""
        moves, half = self.core.moves, self.halves[side]
        weight, penalty = moves.weight[of_unit], moves.penalty[of_unit]
        new = half.extend(weight, penalty, int(of_unit.start), self.price, self.gap - self.tolerance)
        self.work -= len(new)
        self.meet(side, new)

    def meet(self, side: int, new: np.ndarray) -> None:
        """The best plan of the new states of one half, each with the heaviest, so the best, of the other that fits."""
        half, other = self.halves[side], self.halves[1 - side]
        state = np.flatnonzero(new)
        partner = np.searchsorted(other.weight, self.room - half.weight[state], "right") - 1
        state, partner = state[partner >= 0], partner[partner >= 0]
        penalty, weight = half.penalty[state] + other.penalty[partner], half.weight[state] + other.weight[partner]
        gaps = penalty + self.price * (self.room - weight)
        if len(gaps) and gaps[i := int(np.argmin(gaps))] < self.gap:
            found = int(half.node[state[i]]), int(other.node[partner[i]])
            self.gap, self.best = float(gaps[i]), found if side == 0 else found[::-1]

    def forget(self, side: int, i: int) -> None:
        """Drop what leads to no better plan with the other half and the units from `i` on, and what is too much."""
        half, other = self.halves[side], self.halves[1 - side]
        heaviest, lightest = other.weight[-1] + self.core.heavier[i], other.weight[0] + self.core.lighter[i]
        least = half.penalty + self.price * np.maximum(self.room - half.weight - heaviest, 0.0)
        keep = (least < self.gap - self.tolerance) & (half.weight + lightest <= self.room)
        most = WIDEST if self.work > 0 else NARROWEST
        if np.count_nonzero(keep) > most:
            beyond = np.flatnonzero(keep)
            beyond = beyond[np.argpartition(least[beyond], most)[most:]]
            keep[beyond] = False
            self.cut = min(self.cut, float(least[beyond].min()))
        half.keep(keep)

    def taken(self) -> np.ndarray:
        """The options that the best plan has in place of others."""
        moves = [move for half, node in zip(self.halves, self.best, strict=True) for move in half.trail(node)]
        return self.core.moves.at[moves]


def undominated(weight: np.ndarray, penalty: np.ndarray, price: float) -> np.ndarray:
    """Indices, by ascending weight, of the states than which no other is both no heavier and of no more value."""
    order = np.argsort(weight, kind="stable")  # runs in order, which merging makes use of
    weight = weight[order]
    value = penalty[order] - price * weight
    keep = np.ones(len(order), bool)
    keep[1:] = value[1:] < np.minimum.accumulate(value)[:-1]
    order, weight = order[keep], weight[keep]
    return order[np.append(weight[1:] != weight[:-1], True)]
