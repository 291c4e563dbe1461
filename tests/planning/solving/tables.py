"""Tables to solve, and every plan of a small one."""

import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from benchmarks import solver

DAMAGES = (
    st.integers(0, 6).map(float),  # ties, and zeros
    st.floats(0, 10),
    st.floats(-5, 5),
    st.sampled_from([0.0, 1e-300, 3e-300, 1e-9, 1.0, 1e300, 3e300]),
)
SIZES = st.integers(0, 7), st.integers(0, 5000), st.integers(0, 1 << 48), st.integers(0, 60).map(lambda size: 64 * size)


@dataclass(frozen=True)
class Table:
    nbytes: np.ndarray
    damage: np.ndarray

    @property
    def rounding(self) -> Fraction:
        """What the docstring of `Solution` leaves to rounding."""
        finite = self.damage[np.isfinite(self.damage)]
        return len(self.damage) * Fraction(1, 1 << 50) * Fraction(float(np.abs(finite).max(initial=0)))


@dataclass(frozen=True)
class Plan:
    chosen: tuple[int, ...]
    nbytes: int
    damage: Fraction
    worst: float


@st.composite
def tables(draw: st.DrawFn, most_units: int = 4, most_options: int = 5) -> Table:
    """Small tables in which every unit can have an option."""
    units, options = draw(st.integers(1, most_units)), draw(st.integers(1, most_options))
    size, hurt = draw(st.sampled_from(SIZES)), draw(st.sampled_from(DAMAGES))
    cells = units * options
    nbytes = np.array(draw(st.lists(size, min_size=cells, max_size=cells)), np.int64).reshape(units, options)
    damage = np.array(draw(st.lists(hurt, min_size=cells, max_size=cells))).reshape(units, options)
    kept = draw(st.lists(st.integers(0, options - 1), min_size=units, max_size=units))
    forbidden = np.array(draw(st.lists(st.booleans(), min_size=cells, max_size=cells))).reshape(units, options)
    forbidden &= draw(st.booleans())
    forbidden[np.arange(units), kept] = False
    return Table(nbytes, np.where(forbidden, np.inf, damage))


def plans(table: Table) -> list[Plan]:
    """All of them, their damage exact."""
    found = []
    for chosen in itertools.product(range(table.nbytes.shape[1]), repeat=len(table.nbytes)):
        hurt = [float(row[option]) for row, option in zip(table.damage, chosen, strict=True)]
        if np.isfinite(hurt).all():
            nbytes = sum(int(row[option]) for row, option in zip(table.nbytes, chosen, strict=True))
            found.append(Plan(chosen, nbytes, sum(map(Fraction, hurt), Fraction(0)), max(hurt)))
    return found


def of(table: Table, chosen: np.ndarray) -> tuple[int, Fraction]:
    """Bytes and damage of a plan, exact."""
    units = range(len(chosen))
    return (
        sum(int(table.nbytes[i, chosen[i]]) for i in units),
        sum((Fraction(float(table.damage[i, chosen[i]])) for i in units), Fraction(0)),
    )


def model(units: int, options: int, seed: int) -> Table:
    """A table like a language model's."""
    return Table(*solver.model(units, options, seed))
