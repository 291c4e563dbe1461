"""A whole file against what it could have been: the best plan of its size, and the smallest of its damage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..formats import Checkpoint
from ..wording import size_text
from .auditing import Judged
from .damage import weighting
from .solving.solve import Solution, smallest, solve
from .targets import Target
from .units import Unit

AS_IT_IS = "as it is"  # in place of a slug: the tensor stays what it is in the file
NOTABLE = 0.01  # of damage or bytes; plans closer than this are the same to any proxy of quality


@dataclass(frozen=True)
class Whole:
    """All tensors of a file that are judged, together.

    Damage is the sum of weight x relative squared error of weights: what a plan minimises, and no quality of outputs.

    Attributes
    ----------
    tensors, nbytes, damage : as the file has them.
    weighting : how much each tensor's error counts, in words.
    reached : the damage of the best plan of no more bytes; choices : that plan, tensor -> slug, or `AS_IT_IS`.
    smallest : bytes of the smallest plan of no more damage; smaller : that plan.
    proved : whether no plan is better than either.
    """

    tensors: int
    nbytes: int
    damage: float
    weighting: str
    reached: float
    choices: Mapping[str, str]
    smallest: int
    smaller: Mapping[str, str]
    proved: bool

    @property
    def better_db(self) -> float:
        """By how many dB the best plan of the same size lowers the damage; inf where nothing of it is left."""
        return 0.0 if self.damage <= self.reached else math.inf if not self.reached else self._decibels()

    def _decibels(self) -> float:
        return 10 * math.log10(self.damage / self.reached)

    def told(self) -> list[str]:
        """Both comparisons, in sentences."""
        sure = "" if self.proved else ", as far as was searched"
        size, less = size_text(self.nbytes), 1 - self.reached / self.damage if self.damage else 0.0
        saved = 1 - self.smallest / self.nbytes
        better = f"a plan has {less:.1%} less damage" if less >= NOTABLE else "no plan has notably less damage"
        smaller = f"{size_text(self.smallest)}, {saved:.1%} less" if saved >= NOTABLE else "about as many bytes"
        return [
            f"in the same {size} (of what is judged), {better}{sure}",
            f"the same damage takes {smaller}{sure}",
            f"damage is the relative error of weights ({self.weighting}), and no quality of outputs",
        ]


def whole_of(judged: Sequence[Judged], target: Target, source: Checkpoint) -> Whole | None:
    """The whole of what was judged; None where nothing was."""
    found = [each for each in judged if each.judged]
    if not found:
        return None
    by_source = {each.row["source"]: each for each in found}
    units = target.ties(source, list(by_source))
    weights = weighting([each.spec for each in found if each.spec], weights=None, prior=True)
    options = _Options(units, by_source, dict(zip(by_source, weights.values.tolist(), strict=True)))
    nbytes, damage = options.tables()
    size, lost = int(nbytes[:, 0].sum()), math.fsum(damage[:, 0])
    same_size, same_damage = solve(nbytes, damage, size), smallest(nbytes, damage, lost)
    return Whole(
        len(found),
        size,
        lost,
        weights.word,
        same_size.damage,
        options.choices(same_size),
        same_damage.nbytes,
        options.choices(same_damage),
        same_size.proved and same_damage.proved,
    )


class _Options:
    """The tables that a solver takes, of units of tensors: option 0 is what the file has."""

    def __init__(self, units: Sequence[Unit], judged: Mapping[str, Judged], weights: Mapping[str, float]) -> None:
        self.units, self._judged, self._weights = units, judged, weights
        slugs = dict.fromkeys(row["config"] for each in judged.values() for row in each.rivals)
        self.slugs = [AS_IT_IS, *slugs]

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Bytes, int64 [units, options], and damage, float64; infinite where a unit cannot have an option."""
        nbytes = np.zeros((len(self.units), len(self.slugs)), np.int64)
        damage = np.zeros(nbytes.shape)
        for at, unit in enumerate(self.units):
            for name in unit.members:
                sizes, errors = self._of(name)
                nbytes[at] += sizes
                damage[at] += self._weights[name] * errors
        return nbytes, damage

    def _of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        judged, at = self._judged[name], {slug: i for i, slug in enumerate(self.slugs)}
        sizes, errors = np.zeros(len(self.slugs), np.int64), np.full(len(self.slugs), math.inf)
        own = (AS_IT_IS, judged.row["nbytes"], judged.own_db)
        rivals = [(row["config"], row["nbytes"], row[judged.column]) for row in judged.rivals]
        for slug, nbytes, level in [own, *rivals]:
            sizes[at[slug]], errors[at[slug]] = nbytes, 10 ** (-level / 10)
        return sizes, errors

    def choices(self, solution: Solution) -> dict[str, str]:
        """What every tensor becomes, under its name in the file."""
        chosen = zip(self.units, solution.chosen.tolist(), strict=True)
        return {
            self._judged[name].row["tensor"]: self.slugs[option] for unit, option in chosen for name in unit.members
        }
