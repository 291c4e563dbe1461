"""The map of a sweep in the order of the model: what tensors do, from layer to layer, under one configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantlab.planning.roles import KINDS, role_of
from quantlab.plots.damage import DamageMap
from quantlab.ui import kinds

OUTSIDE = "–"  # of the layers
Place = tuple[str, str]


@dataclass(frozen=True)
class ModelMap:
    """Where every tensor stands: `cells` has those of each (row, column), rows being roles and columns depths."""

    rows: list[str]
    columns: list[str]
    cells: dict[Place, list[str]]

    def tensors(self, row: str | None, column: str | None) -> list[str]:
        """Those of a cell; of a whole row or column, where the other is None."""
        return [
            name
            for (r, c), names in self.cells.items()
            for name in names
            if row in (None, r) and column in (None, c) and (row, column) != (None, None)
        ]

    def first_of_cells(self, names: Sequence[str]) -> list[str]:
        """Of each cell the one of its tensors that comes first in `names`, in their order."""
        place = {name: at for at, each in self.cells.items() for name in each}
        return list({place[name]: name for name in reversed(names)}.values())[::-1]


def arranged(names: Sequence[str]) -> ModelMap:
    """Where tensors stand in their model: roles as far as names tell, else the kind of layer; by the layer's number.

    >>> found = arranged(["head", "layers.0.q_proj", "layers.1.q_proj", "rnn.0.w"])
    >>> found.rows, found.columns
    (['q', 'head', 'rnn.*.w'], ['–', '0', '1'])
    """
    cells: dict[Place, list[str]] = {}
    for name in names:
        cells.setdefault(_place(name), []).append(name)
    found = dict.fromkeys(row for row, _ in cells)
    rows = [kind for kind in KINDS if kind in found] + [row for row in found if row not in KINDS]
    columns = {column for _, column in cells}
    numbers = sorted((column for column in columns if column != OUTSIDE), key=int)
    return ModelMap(rows, [OUTSIDE] * (OUTSIDE in columns) + numbers, cells)


def data(model: ModelMap, shown: DamageMap, given: Mapping[str, str], rows: slice, columns: slice) -> dict[str, Any]:
    """What sweep_map.js draws, of a map of one tensor of each cell, the worst, under one configuration.

    A cell is pinned if all of its tensors are, by `given`.
    """
    (slug,) = shown.configs
    of = {name: i for i, name in enumerate(shown.tensors)}
    drawn, across = model.rows[rows], model.columns[columns]
    at = [[model.cells.get((row, column), []) for column in across] for row in drawn]
    worst = [[next((name for name in names if name in of), None) for names in line] for line in at]

    def each(part: list[list], absent: object) -> list[list]:
        return [[absent if name is None else part[of[name]][0] for name in line] for line in worst]

    return {
        "rows": drawn,
        "columns": across,
        "groups": ["layer" if column != OUTSIDE else "" for column in across],
        "heads": across,
        "cells": each(shown.cells, "absent"),
        "texts": each(shown.texts, ""),
        "details": each(shown.details, ""),
        "tensors": [[_told(*cell) for cell in zip(*lines, strict=True)] for lines in zip(worst, at, strict=True)],
        "config": slug,
        "pinned": [[_all_pinned(names, given, slug) for names in line] for line in at],
    }


def _told(name: str | None, names: Sequence[str]) -> str | None:
    return f"{name} (the worst of {len(names)})" if len(names) > 1 else name


def _all_pinned(names: Sequence[str], given: Mapping[str, str], slug: str) -> bool:
    return bool(names) and all(given.get(name) == slug for name in names)


def _place(name: str) -> Place:
    role = role_of(name)
    depth = role.block if role.kind else next(iter(kinds.numbers(name)), None)
    return role.kind or kinds.kind(name), OUTSIDE if depth is None else str(depth)
