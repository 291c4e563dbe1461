"""Figures of a plan: what every budget buys, and what each unit of the model gets.

Sizes are bytes of the whole file. Damage is what is minimised, of whatever objective: it is predicted from weights.
"""

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from .labels import name_points
from .scales import log_ticks
from .style import BLUE, GREY, OCHRE, ORANGE, figure
from .sweep import TOOLBAR, pareto_front

FRONT = 320  # pixels: with a slider and what a plan comes to, a screen of 768
ACROSS, UP = 600, 240  # steps across a figure: points of the front within one of them are drawn once
MARKED = 60  # a front of fewer plans shows each
CELL = 26  # pixels: height of a row of the map of units
LABELLED = 200  # a map of more cells says bits on hover only
BITS = (1, 2, 3, 4, 6, 8, 16, 32)  # of the map's legend
NAMED = 7  # uniform configurations with a name beside them, at most one more
UNIFORM = "one configuration for all"
SHADES = [[0, "#dcebf5"], [1 / 3, "#9ccae6"], [2 / 3, "#3f9bd0"], [1, "#25ab88"]]  # of 2, 4, 8 and 16 bits
INK = "#0e1a24"  # on all of them, in both themes
LETTERS = 28  # of a row's name

Bits = Callable[[int], float]


def front_figure(
    nbytes: ArrayLike,
    damage: ArrayLike,
    uniform: pd.DataFrame,
    *,
    most: int | None = None,
    bits: Bits | None = None,
    meaning: str = "damage",
    height: int = FRONT,
) -> go.Figure:
    """Predicted damage against bytes: the curve below which no plan is, uniform configurations as dots above it.

    Parameters
    ----------
    nbytes, damage : [P] of every plan of the front, of the smallest first.
    uniform : columns `config`, `nbytes`, `damage`, of the plans in which every unit gets the same.
    most : bytes that are shown at most. bits : bytes of a file -> its bits per weight, to tell them too.
    meaning : of damage, for the axis: "relative error by role".
    """
    sizes, damages = np.asarray(nbytes, np.float64), np.asarray(damage, np.float64)
    # No configuration need fit every unit, and the columns of a frame without rows are objects.
    uniform = uniform.astype({"nbytes": np.float64, "damage": np.float64})
    if most is not None:
        sizes, damages = sizes[sizes <= most], damages[sizes <= most]
        uniform = uniform[uniform["nbytes"] <= most]
    kept = thinned(sizes, damages)
    sizes, damages = sizes[kept], damages[kept]
    uniform = uniform[np.isfinite(uniform["damage"])]
    least = _least(np.append(damages, uniform["damage"]))
    traces = [_curve(sizes, damages, least, bits), _dots(uniform, least, bits)]
    fig = figure(traces, "Size of the file", f"Predicted {meaning}", height=height)
    _name_uniform(fig, uniform, least)
    at = np.concatenate([trace.y for trace in traces])
    fig.update_yaxes(**log_ticks(at), fixedrange=True)
    fig.update_xaxes(tickformat="~s", ticksuffix="B", fixedrange=True)
    return fig.update_layout(dragmode=False, margin_t=TOOLBAR)


def with_plan(front: go.Figure, nbytes: int, damage: float, budget: int, bits: Bits | None = None) -> go.Figure:
    """The figure of a front with a plan as a point, and its budget as a line; `front` stays as it is.

    A drag of a slider moves these alone, so that the names in the figure stay where they are.
    """
    bottom = min(float(trace.y.min()) for trace in front.data if len(trace.y))
    point = go.Scatter(
        x=[nbytes], y=[max(math.log10(damage), bottom) if damage > 0 else bottom], name="this plan", mode="markers",
        marker={"size": 13, "color": ORANGE, "line": {"width": 1.5, "color": "#ffffff"}},
        text=[f"<b>this plan</b><br>{told}" for told in _told([nbytes], [damage], bits)],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    line = {"color": ORANGE, "width": 1.5, "dash": "dash"}
    shape = go.layout.Shape(type="line", x0=budget, x1=budget, y0=0, y1=1, yref="y domain", line=line)
    return go.Figure([*front.data, point], front.layout).update_layout(shapes=[shape])


def thinned(nbytes: np.ndarray, damage: np.ndarray) -> np.ndarray:
    """Indices of the plans that a screen can tell apart: the first in each pixel, and the last of all.

    A model of experts has hundreds of thousands, and a drag of the slider sends the figure again.
    """
    if nbytes.size <= MARKED:
        return np.arange(nbytes.size)
    with np.errstate(divide="ignore"):
        height = np.log10(damage)
    height = np.where(np.isfinite(height), height, height[np.isfinite(height)].min(initial=0.0))
    cells = np.stack([_pixels(nbytes, ACROSS), _pixels(height, UP)])
    moved = np.any(cells[:, 1:] != cells[:, :-1], axis=0)
    return np.flatnonzero(np.concatenate([[True], moved | (np.arange(1, nbytes.size) == nbytes.size - 1)]))


def _pixels(values: np.ndarray, length: int) -> np.ndarray:
    span = float(np.ptp(values)) or 1.0
    return ((values - values.min()) / span * length).astype(np.int64)


def _least(every: np.ndarray) -> float:
    """The least damage that is not zero: what is lossless is drawn a little below it."""
    some = every[np.isfinite(every) & (every > 0)]
    return float(some.min()) if some.size else 1.0


def _height(damage: ArrayLike, least: float) -> np.ndarray:
    """Where damages lie on a logarithmic axis, float64."""
    return np.log10(np.maximum(np.asarray(damage, np.float64), least / 2))


def _curve(nbytes: np.ndarray, damage: np.ndarray, least: float, bits: Bits | None) -> go.Scatter:
    few = nbytes.size <= MARKED
    return go.Scatter(
        x=nbytes, y=_height(damage, least), name="the best plans", mode="lines+markers" if few else "lines",
        line={"color": BLUE, "width": 2}, marker={"size": 5},
        text=[f"the best plan of {told}" for told in _told(nbytes, damage, bits)],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _dots(uniform: pd.DataFrame, least: float, bits: Bits | None) -> go.Scatter:
    slugs, sizes = list(uniform["config"]), uniform["nbytes"]
    told = _told(sizes, uniform["damage"], bits)
    return go.Scatter(
        x=sizes, y=_height(uniform["damage"], least), name=UNIFORM, mode="markers",
        marker={"size": 8, "color": OCHRE, "symbol": "circle-open", "line": {"width": 1.6}},
        text=[f"<b>{html.escape(slug)}</b> for all<br>{words}" for slug, words in zip(slugs, told, strict=True)],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _name_uniform(fig: go.Figure, uniform: pd.DataFrame, least: float) -> None:
    """Names beside uniform configurations that no other one beats and that lie apart: as many as can be read."""
    x, y = uniform["nbytes"].to_numpy(np.float64), _height(uniform["damage"], least)
    named = _apart(x, pareto_front(x, y, False))
    names = [slug if name else "" for slug, name in zip(uniform["config"], named, strict=True)]
    for trace in fig.data:
        if trace.name != UNIFORM:  # a name must not lie on the curve, or on the plan
            x, y, names = np.append(x, trace.x), np.append(y, trace.y), [*names, *[""] * len(trace.x)]
    name_points(fig, x, y, names, falling=True)


def _apart(x: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Of the points that are wanted (bool [n]) those that lie a stretch to the right of the one before."""
    apart, last = np.zeros(x.size, bool), -np.inf
    for i in np.argsort(x, kind="stable"):
        if wanted[i] and x[i] - last >= np.ptp(x) / NAMED:
            apart[i], last = True, x[i]
    return apart


def _size(nbytes: float, bits: Bits | None) -> str:
    """Bytes with a unit, bits per weight beside it."""
    value, unit = float(nbytes), 0
    while value >= 999.5 and unit < 4:
        value, unit = value / 1000, unit + 1
    words = f"{value:.4g} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"
    return f"{words} ({bits(round(nbytes)):.3g} bits per weight)" if bits else words


def _told(nbytes: Iterable[float], damage: Iterable[float], bits: Bits | None) -> list[str]:
    """Size and damage of points, for their hover."""
    return [
        f"{_size(size, bits)}<br>damage {f'{d:.3g}'.replace('-', '−')}" for size, d in zip(nbytes, damage, strict=True)
    ]


@dataclass(frozen=True)
class Cell:
    """A unit on the map: in which row and at which depth, None: beside the blocks; what it gets, and its hover."""

    unit: str
    row: str
    depth: int | None
    bits: float
    told: str
    pinned: bool = False


def unit_map(cells: Sequence[Cell], height: int = CELL) -> go.Figure:
    """What every unit gets: depth x role, the stronger the colour the more bits per weight; pinned ones are marked.

    Units that share a cell, such as experts, are drawn as one, with the mean of their bits. Markers that take clicks
    carry `customdata`: the name of the (first) unit.
    """
    rows = list(dict.fromkeys(cell.row for cell in cells))
    depths = sorted({cell.depth for cell in cells if cell.depth is not None})
    outside = any(cell.depth is None for cell in cells)
    columns: list[int | None] = [*([None] if outside else []), *depths]
    where = {depth: place for place, depth in enumerate(columns)}
    together: dict[tuple[int, int], list[Cell]] = {}
    for cell in cells:
        together.setdefault((rows.index(cell.row), where[cell.depth]), []).append(cell)
    fig = figure(
        [_colours(together, len(rows), len(columns)), _labels(together), _targets(together, height), _pins(together)],
        "Depth" if depths else "", "", height=height * len(rows) + 60 + TOOLBAR, hoverdistance=-1,
    )  # fmt: skip
    step = max(1, math.ceil(len(columns) / 32))
    ticked = [place for place, depth in enumerate(columns) if depth is None or depth % step == 0]
    fig.update_layout(dragmode=False, margin_t=TOOLBAR)
    plain = {"showgrid": False, "zeroline": False, "fixedrange": True}
    fig.update_xaxes(
        range=[-0.5, len(columns) - 0.5], tickvals=ticked,
        ticktext=["–" if columns[place] is None else str(columns[place]) for place in ticked], **plain,
    )  # fmt: skip
    return fig.update_yaxes(
        range=[len(rows) - 0.5, -0.5], tickvals=list(range(len(rows))),
        ticktext=[html.escape(_short(row)) for row in rows], title_text=None, **plain,
    )  # fmt: skip


def _short(row: str) -> str:
    return row if len(row) <= LETTERS else f"…{row[1 - LETTERS :]}"


def _mean(cells: Sequence[Cell]) -> float:
    return sum(cell.bits for cell in cells) / len(cells)


def _colours(together: dict[tuple[int, int], list[Cell]], rows: int, columns: int) -> go.Heatmap:
    bits = np.full((rows, columns), np.nan)
    for place, cells in together.items():
        bits[place] = _mean(cells)
    # From 2 bits to 16 whatever the plan holds: a drag of the budget is seen as a change of colour.
    low, high = min(2.0, float(np.nanmin(bits))), max(16.0, float(np.nanmax(bits)))
    with np.errstate(invalid="ignore"):
        at = np.log2(bits)
    ticked = [b for b in BITS if low <= b <= high]
    return go.Heatmap(
        z=at,
        hoverinfo="skip", xgap=1, ygap=1,
        zmin=np.log2(low), zmax=np.log2(high), colorscale=SHADES,
        colorbar={
            "title": {"text": "bits per weight", "side": "right"}, "thickness": 10, "outlinewidth": 0,
            "tickvals": [math.log2(b) for b in ticked], "ticktext": [str(b) for b in ticked],
        },
    )  # fmt: skip


def _labels(together: dict[tuple[int, int], list[Cell]]) -> go.Scatter:
    """Bits in the cells, where they are few. Not by the heatmap, which takes its faint colours for strong ones."""
    few = together if len(together) <= LABELLED else {}
    return go.Scatter(
        x=[column for _, column in few], y=[row for row, _ in few], mode="text", textfont={"size": 11, "color": INK},
        text=[f"{_mean(cells):.2g}" for cells in few.values()], showlegend=False, hoverinfo="skip",
        unselected={"textfont": {"color": INK}},  # a click on a cell fades what is not selected
    )  # fmt: skip


def _targets(together: dict[tuple[int, int], list[Cell]], size: int) -> go.Scatter:
    """Invisible squares over the cells: a heatmap itself reports no clicks."""
    return go.Scatter(
        x=[column for _, column in together], y=[row for row, _ in together], mode="markers",
        marker={"symbol": "square", "size": size}, opacity=0, showlegend=False,
        customdata=[cells[0].unit for cells in together.values()],
        text=["<br>".join([*(cell.told for cell in cells[:4]), *_more(len(cells) - 4)]) for cells in together.values()],
        hovertemplate="%{text}<extra></extra>", hoverlabel={"bgcolor": GREY, "font": {"color": "#ffffff"}},
    )  # fmt: skip


def _more(count: int) -> list[str]:
    return [f"and {count:,} more"] if count > 0 else []


def _pins(together: dict[tuple[int, int], list[Cell]]) -> go.Scatter:
    pinned = [place for place, cells in together.items() if any(cell.pinned for cell in cells)]
    return go.Scatter(
        x=[column + 0.36 for _, column in pinned], y=[row - 0.28 for row, _ in pinned], mode="markers",
        marker={"symbol": "circle", "size": 7, "color": ORANGE}, showlegend=False, hoverinfo="skip",
        unselected={"marker": {"opacity": 1}},
    )  # fmt: skip
