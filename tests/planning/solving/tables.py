"""Tables to solve, and every plan of a small one."""

import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

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
def tables(draw: st.DrawFn, most_units: int = 5, most_options: int = 5) -> Table:
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
    """Sizes like those of a language model in integers of 2 to 8 bits and as it is, and errors to go with them."""
    random = np.random.default_rng(seed)
    weights = np.array([16_777_216, 4_194_304, 4_194_304, 16_777_216, 58_720_256, 58_720_256, 58_720_256])
    weights = weights[np.arange(units) % 7]
    kinds = np.arange(options - 1)
    bits, group, affine = 2 + kinds % 7, 16 << (kinds // 7 % 7), kinds // 49
    nbytes = weights[:, None] * bits // 8 + weights[:, None] // group * (2 + affine)
    relative = 4.0 ** (2.0 - bits) * (group / 128) ** 0.25 * 0.8**affine
    sensitivity = np.exp(random.normal(size=(units, 1)) * 1.2) * 1e-3
    damage = sensitivity * relative * np.exp(random.normal(size=(units, options - 1)) * 0.08)
    return Table(np.c_[nbytes, 2 * weights], np.c_[damage, np.zeros(units)])
