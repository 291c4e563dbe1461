"""The damage map: every tensor under every configuration, from the figures of a sweep that may still run.

A map is data (order, shades, texts), not a figure: what draws it changes cells in place while a sweep fills it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..core.config import QuantConfig
from ..core.dtypes import DTYPES
from ..core.metrics import METRICS
from .scales import LOGARITHMIC, coarseness, figures, position

LOSSLESS_DB = 60.0  # an error of a thousandth of the typical weight: a colour for differences beyond says nothing
DECADES = 5  # and of errors, what is this far below the worst looks the same
SHADES = 100  # the damage of a cell: from 0, the least, to this
# What a cell is that has no shade.
WAITING, REFUSED, EXACT, UNDEFINED = "waiting", "refused", "exact", "undefined"
_STATES = (WAITING, REFUSED, EXACT, UNDEFINED)
MEAN, AS_IN_FILE = "mean of all configurations", "order of the file"


class Figures:
    """Every figure of a sweep, filled tensor by tensor while it runs: float64 [tensors, configurations, METRICS].

    One thread adds, any number read: a tensor counts as measured only once its figures are there.
    """

    def __init__(self, names: Sequence[str], configs: Sequence[str]) -> None:
        self.names, self.configs = list(names), list(configs)
        self.reasons: dict[tuple[int, int], str] = {}  # of refused cells
        self.known = np.zeros((len(self.names), len(self.configs)), bool)
        self._values = np.full((len(METRICS), len(self.names), len(self.configs)), np.nan)
        self._row = {name: i for i, name in enumerate(self.names)}
        self._column = {slug: i for i, slug in enumerate(self.configs)}

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        refused: Iterable[Mapping[str, str]] = (),
        names: Sequence[str] | None = None,
        configs: Sequence[str] | None = None,
    ) -> "Figures":
        """The figures of a sweep's table, and the reasons of what it refused; `names` and `configs` as asked for."""
        self = cls(
            list(frame["tensor"].unique()) if names is None else names,
            list(frame["config"].unique()) if configs is None else configs,
        )
        i, j = frame["tensor"].map(self._row).to_numpy(int), frame["config"].map(self._column).to_numpy(int)
        for metric, table in zip(METRICS, self._values, strict=True):
            if metric in frame:
                table[i, j] = frame[metric].to_numpy(np.float64)
        self.reasons = {(self._row[e["tensor"]], self._column[e["config"]]): e["reason"] for e in refused}
        self.known[i, j] = True
        return self

    def add(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """The rows of one tensor, as `quantlab.sweeping.sweep.tensor_rows` gives them."""
        i = self._row[name]
        found = {self._column[row["config"]]: row for row in rows}
        for j, row in found.items():
            self._values[:, i, j] = [row.get(metric, np.nan) for metric in METRICS]
            if row.get("reason"):
                self.reasons[i, j] = row["reason"]
        self.known[i, list(found)] = True

    @property
    def measured(self) -> int:
        """How many tensors are there."""
        return int(self.known.any(axis=1).sum())

    def of_metric(self, metric: str) -> np.ndarray:
        """float64 [tensors, configurations]; NaN where there is none."""
        return self._values[list(METRICS).index(metric)]


@dataclass(frozen=True)
class DamageMap:
    """A piece of the map: `tensors` from the worst, each with one cell per configuration."""

    metric: str
    tensors: list[str]
    configs: list[str]
    cells: list[list[int | str]]  # the shade, 0 (least damage) to SHADES, or one of WAITING, REFUSED ...
    texts: list[list[str]]  # the figure, or the reason of a refusal
    details: list[list[str]]  # SQNR and bits per weight, where they are not what is drawn
    ends: tuple[str, str]  # the figures at shade 0 and at SHADES

    @property
    def states(self) -> set[str]:
        """Which states without a shade occur."""
        return {cell for row in self.cells for cell in row if isinstance(cell, str)}


def damage_map(
    found: Figures,
    metric: str,
    tensors: Sequence[str],
    configs: Sequence[str],
    rows: slice = slice(None),
) -> DamageMap:
    """The map of `tensors` (in this order, of which `rows` are drawn) x `configs`.

    The scale of colours is that of all tensors, drawn or not, so that a page of the map can be compared with another.
    """
    i, j = [found._row[name] for name in tensors], [found._column[slug] for slug in configs]
    at = np.ix_(i, j)
    known, values = found.known[at], found.of_metric(metric)[at]
    low, high = scale(metric, values)
    shades = damage(metric, values, low, high)[rows]
    states = _states(metric, known, values, found.of_metric("mse")[at], np.isnan(found.of_metric("nbytes")[at]))[rows]
    here = np.ix_(i[rows], j)
    return DamageMap(
        metric, list(tensors)[rows], list(configs),
        [_cells(*pair) for pair in zip(shades, states, strict=True)],
        _texts(found, metric, i[rows], j), _details(found, metric, here), _ends(metric, values, low, high),
    )  # fmt: skip


def worst_first(found: Figures, metric: str, tensors: Sequence[str], configs: Sequence[str], by: str) -> list[str]:
    """The tensors by the damage under `by`: one configuration, MEAN of those given, or AS_IN_FILE.

    A mean leaves out what was refused. What has no figure yet comes last, in the order of the file.
    """
    if by == AS_IN_FILE or not configs:
        return list(tensors)
    chosen = [by] if by in configs else list(configs)
    at = np.ix_([found._row[name] for name in tensors], [found._column[slug] for slug in chosen])
    values = found.of_metric(metric)[at]
    shades = damage(metric, values, *scale(metric, values))
    there = ~np.isnan(shades)
    means = np.where(there, shades, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    order = np.argsort(np.where(there.any(axis=1), -means, np.inf), kind="stable")
    return [tensors[k] for k in order]


def in_order(configs: Iterable[str]) -> list[str]:
    """Configurations from few bits to many, and from coarse to fine: neighbours differ in little, and none moves.

    >>> in_order(["int8-sym-tensor-minmax", "int4-sym-g32-mse", "int4-sym-tensor-mse", "fp16"])
    ['int4-sym-tensor-mse', 'int4-sym-g32-mse', 'int8-sym-tensor-minmax', 'fp16']
    """
    slugs = list(configs)
    parsed = [QuantConfig.parse(slug) for slug in slugs]
    keys = [(DTYPES[c.dtype].bits, list(DTYPES).index(c.dtype), *coarseness(c.granularity)) for c in parsed]
    return [slug for _, slug in sorted(zip(keys, slugs, strict=True), key=lambda pair: pair[0])]


def scale(metric: str, values: np.ndarray) -> tuple[float, float]:
    """Positions (see `scales.position`) between which colours change, rounded outwards so that they seldom move.

    What is as good as lossless shares one colour: without that, it would leave the others next to none.
    """
    at = position(metric, values)[np.isfinite(values) & ~((values == 0) & (metric in LOGARITHMIC))]
    if not at.size:
        return 0.0, 1.0
    low, high = float(at.min()), float(at.max())
    if METRICS[metric].unit == "dB":
        high = min(10 * np.ceil(high / 10), LOSSLESS_DB)
        low = min(10 * np.floor(low / 10), high - 10)
    elif metric in LOGARITHMIC and high - low > 1:
        low, high = np.floor(low), np.ceil(high)
        low = low if METRICS[metric].higher_is_better else max(low, high - DECADES)
    return float(low), float(high) if high > low else float(low) + 1.0


def damage(metric: str, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 to 1 for every value, 1 the worst; NaN where there is none. Infinity and zero lie at their end."""
    with np.errstate(invalid="ignore"):
        share = np.clip((position(metric, values) - low) / (high - low), 0, 1)
    if METRICS[metric].higher_is_better:
        return np.where(values == np.inf, 0.0, np.where(values == -np.inf, 1.0, 1 - share))
    return np.where(values == np.inf, 1.0, np.where((values == 0) & (metric in LOGARITHMIC), 0.0, share))


def _states(
    metric: str, known: np.ndarray, values: np.ndarray, mse: np.ndarray, without_size: np.ndarray
) -> np.ndarray:
    """-1 where a cell has a shade, else the index of its state."""
    about_size = METRICS[metric].unit in ("bits", "bytes", "x")
    states = np.where((mse == 0) & (not about_size), _STATES.index(EXACT), -1)
    states = np.where(np.isnan(values), _STATES.index(UNDEFINED), states)
    states = np.where(without_size, _STATES.index(REFUSED), states)
    return np.where(known, states, _STATES.index(WAITING))


def _cells(shades: np.ndarray, states: np.ndarray) -> list[int | str]:
    return [
        _STATES[state] if state >= 0 else round(SHADES * shade) for shade, state in zip(shades, states, strict=True)
    ]


def _texts(found: Figures, metric: str, i: Sequence[int], j: Sequence[int]) -> list[list[str]]:
    values = found.of_metric(metric)
    rows = [figures(metric, values[row, j]) for row in i]
    for place, row in enumerate(i):
        for k, column in enumerate(j):
            if reason := found.reasons.get((row, column)):
                rows[place][k] = reason
    return rows


def _details(found: Figures, metric: str, at: tuple[np.ndarray, ...]) -> list[list[str]]:
    sqnr, sizes = found.of_metric("sqnr_db")[at], found.of_metric("bits_per_weight")[at]
    return [
        [", ".join(told) for told in zip(*_told(metric, row, bits), strict=True)]
        for row, bits in zip(sqnr, sizes, strict=True)
    ]


def _told(metric: str, sqnr: np.ndarray, bits: np.ndarray) -> Iterator[list[str]]:
    if metric != "sqnr_db":
        yield [f"{value} dB SQNR" for value in figures("sqnr_db", sqnr)]
    if metric != "bits_per_weight":
        yield [f"{value} bits per weight" for value in figures("bits_per_weight", bits)]


def _ends(metric: str, values: np.ndarray, low: float, high: float) -> tuple[str, str]:
    """What stands at both ends of the legend, the least damage first; `≥` where colours stop before the values do."""
    at = position(metric, values)
    at = at[~np.isnan(at)]
    back = 10.0 if metric in LOGARITHMIC else None
    factor = 100 if METRICS[metric].unit == "share" else 1

    def told(place: float) -> str:
        return figures(metric, [back**place if back else place / factor])[0]

    smallest = ("≤ " if at.size and at.min() < low else "") + told(low)
    largest = ("≥ " if at.size and at.max() > high else "") + told(high)
    return (largest, smallest) if METRICS[metric].higher_is_better else (smallest, largest)
