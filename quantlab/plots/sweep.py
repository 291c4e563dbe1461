"""Figures of a sweep's table: heatmaps, error against size, compression.

Every function takes rows with the columns of `ql.sweep`, without refused ones. Points and cells carry
`customdata`: (configuration's slug, tensor), so that a click can open them.
"""

import html

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from ..core.config import QuantConfig
from ..core.dtypes import DTYPES
from .labels import name_points
from .scales import (
    FIGURED,
    best_first,
    better,
    coarseness,
    figures,
    granularity_label,
    position,
    scheme,
    ticks,
    title,
)
from .style import BLUE, GREY, PALETTE, faded, figure

CELL = 34  # pixels: height of a row of a heatmap whose cells show their figure
LABELLED = 160  # a heatmap of more cells shows figures on hover only
BARS = 40
PARETO = 400  # pixels: with what stands above it, a screen of 768
OWN = "format’s own"  # granularity of formats that leave no choice
TOOLBAR = 34  # pixels kept free for the toolbar, which would take the clicks on what lies under it
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross")


def pareto_front(cost: ArrayLike, value: ArrayLike, higher_is_better: bool) -> np.ndarray:
    """Which points no other point beats: bool [n].

    A point is dominated if another costs no more and is no worse, and is better in one of the two. Equal points
    dominate each other not, so all of them stay. NaN is never on the front.

    >>> pareto_front(np.array([4.0, 4.5, 8.0]), np.array([20.0, 19.0, 40.0]), True)
    array([ True, False,  True])
    """
    cost, loss = np.asarray(cost, np.float64), np.asarray(value, np.float64) * (-1 if higher_is_better else 1)
    front = np.zeros(cost.size, bool)
    known = np.flatnonzero(~np.isnan(cost) & ~np.isnan(loss))
    best_loss, best_cost = np.inf, np.nan
    for i in known[np.lexsort((loss[known], cost[known]))]:
        if loss[i] < best_loss or (loss[i] == best_loss and cost[i] == best_cost) or np.isnan(best_cost):
            front[i], best_loss, best_cost = True, loss[i], cost[i]
    return front


def best_cells(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The best row of every scheme and granularity, with columns `scheme` and `column` added, the latter in order.

    Formats that set their own granularity, or have no scales, share a column of their own, the last.
    """
    rows = best_first(frame, metric).drop_duplicates("config")
    configs = [QuantConfig.parse(slug) for slug in rows["config"]]
    free = [DTYPES[config.dtype].configurable for config in configs]
    found = sorted(
        {config.granularity for config, is_free in zip(configs, free, strict=True) if is_free}, key=coarseness
    )
    words = {granularity: granularity_label(granularity.slug) for granularity in found}
    columns = [*words.values(), *([OWN] if not all(free) else [])]
    rows = rows.assign(
        scheme=[scheme(config) for config in configs],
        column=[words[config.granularity] if is_free else OWN for config, is_free in zip(configs, free, strict=True)],
    ).drop_duplicates(["scheme", "column"])
    rows["column"] = pd.Categorical(rows["column"], columns, ordered=True)
    return rows


def scheme_order(frame: pd.DataFrame) -> list[str]:
    """Schemes with the most bits first, then in the order of the table."""
    bits = {name: DTYPES[dtype].bits for name, dtype in zip(frame["scheme"], frame["dtype"], strict=True)}
    return sorted(bits, key=lambda name: (-bits[name], name))


def heatmap(frame: pd.DataFrame, metric: str) -> go.Figure:
    """Scheme x granularity, each cell with its best calibration by `metric`; the stronger the colour, the worse."""
    cells = best_cells(frame, metric)
    schemes, columns = scheme_order(cells), list(cells["column"].cat.categories)
    table = cells.pivot(index="scheme", columns="column", values=metric).reindex(index=schemes, columns=columns)
    fig = _cells(table, metric, reverse=FIGURED[metric].higher_is_better, labelled=table.size <= LABELLED)
    fig.add_trace(_targets(cells["column"].astype(str), cells["scheme"], cells, metric, CELL))
    fig.update_xaxes(title_text="one scale per")
    return fig.update_layout(height=CELL * len(schemes) + 100 + TOOLBAR)


def _cells(table: pd.DataFrame, metric: str, reverse: bool, labelled: bool) -> go.Figure:
    values = table.to_numpy(np.float64)
    at = position(metric, values.reshape(-1)).reshape(values.shape)
    trace = go.Heatmap(
        z=at,
        x=list(table.columns.astype(str)),
        y=list(table.index),
        text=[figures(metric, row) for row in values],
        texttemplate="%{text}" if labelled else None,
        hoverinfo="skip",
        reversescale=reverse,
        xgap=1,
        ygap=1,
        colorbar={
            "title": {"text": f"{title(metric)}: stronger is worse", "side": "right"},
            "thickness": 10,
            "outlinewidth": 0,
        }
        | ticks(metric, at),
    )
    fig = figure([trace], "", "", hoverdistance=-1)
    fig.update_layout(dragmode=False, margin_t=TOOLBAR)
    plain = {"type": "category", "showgrid": False, "fixedrange": True, "title_text": None}
    # Ranges of our own: the invisible markers would widen them.
    fig.update_xaxes(range=[-0.5, table.shape[1] - 0.5], **plain)
    return fig.update_yaxes(range=[table.shape[0] - 0.5, -0.5], **plain)


def _targets(x: pd.Series, y: pd.Series, rows: pd.DataFrame, metric: str, size: int) -> go.Scatter:
    """Invisible squares over the cells of a heatmap, which itself reports no clicks."""
    # WebGL only where thousands of page elements would be slow: a page bears eight WebGL charts.
    kind = go.Scattergl if len(rows) > 2000 else go.Scatter
    return kind(
        x=x,
        y=y,
        mode="markers",
        marker={"symbol": "square", "size": size},
        opacity=0,
        showlegend=False,
        customdata=rows[["config", "tensor"]],
        text=_hover(rows, metric),
        hovertemplate="%{text}<extra></extra>",
        # Plotly writes hover text on the trace's colour, which is not seen here.
        hoverlabel={"bgcolor": PALETTE[-1]},
    )


def _hover(rows: pd.DataFrame, metric: str) -> list[str]:
    told = zip(
        rows["config"],
        rows["tensor"],
        figures(metric, rows[metric]),
        figures("bits_per_weight", rows["bits_per_weight"]),
        figures("sqnr_db", rows["sqnr_db"]),
        strict=True,
    )
    extra = "" if metric in ("sqnr_db", "bits_per_weight") else "{sqnr} dB SQNR, "
    return [
        f"<b>{slug}</b><br>{html.escape(tensor)}<br>{title(metric)}: {value}<br>"
        f"{extra.format(sqnr=sqnr)}{bits} bits per weight"
        for slug, tensor, value, bits, sqnr in told
    ]


def error_against_size(frame: pd.DataFrame, metric: str, color: str = "granularity") -> go.Figure:
    """A metric against bits per weight: the Pareto front filled, stepped and named, dominated points as rings.

    `color` is the column that colours the points.
    """
    rows = frame.reset_index(drop=True)
    higher = FIGURED[metric].higher_is_better
    front = pareto_front(rows["bits_per_weight"], rows[metric], higher)
    at = position(metric, rows[metric])
    traces = [_front_line(rows["bits_per_weight"][front].to_numpy(), at[front])]
    for i, value in enumerate(rows[color].unique()):
        here = (rows[color] == value).to_numpy()
        look = {"color": PALETTE[i % len(PALETTE)], "symbol": SYMBOLS[i // len(PALETTE) % len(SYMBOLS)]}
        # The legend's own trace: its sign would otherwise be as faded as the first point.
        legend = {"name": _name(color, value), "legendgroup": value}
        traces.append(go.Scatter(x=[None], y=[None], mode="markers", marker=look | {"size": 9}, **legend))
        traces.append(_points(rows[here], at[here], front[here], metric, look).update(showlegend=False, **legend))
    fig = figure(traces, "Bits per weight, scales included", f"{title(metric)}, {better(metric)}", height=PARETO)
    name_points(fig, rows["bits_per_weight"].to_numpy(), at, rows["config"].where(front, "").tolist())
    return fig.update_yaxes(**ticks(metric, at))


def _name(column: str, value: str) -> str:
    if value == "-":
        return OWN
    return granularity_label(value) if column == "granularity" else value


def _front_line(bits: np.ndarray, at: np.ndarray) -> go.Scatter:
    """The best that a number of bits can buy: level until the next point of the front."""
    order = np.argsort(bits, kind="stable")
    line = {"color": faded(GREY, 0.8), "width": 1.5, "dash": "dot", "shape": "hv"}
    return go.Scatter(x=bits[order], y=at[order], mode="lines", name="Pareto front", line=line, hoverinfo="skip")


def _points(rows: pd.DataFrame, at: np.ndarray, front: np.ndarray, metric: str, look: dict) -> go.Scatter:
    place = np.where(front, "on the Pareto front", "dominated")
    # Rings, not faded dots: on a dark page these would be almost black on black.
    symbols = [look["symbol"] if best else f"{look['symbol']}-open" for best in front]
    sizes = {"size": np.where(front, 11, 8), "symbol": symbols, "line": {"width": 1.2}}
    return go.Scatter(
        x=rows["bits_per_weight"],
        y=at,
        mode="markers",
        marker=look | sizes,
        customdata=rows[["config", "tensor"]],
        text=[f"{words}<br>{word}" for words, word in zip(_hover(rows, metric), place, strict=True)],
        hovertemplate="%{text}<extra></extra>",
    )


def compression_bars(frame: pd.DataFrame, source: str) -> go.Figure:
    """How many times smaller each configuration is than its source, and than fp32; the smallest on top.

    Configurations that differ in their calibration alone have equal bytes, and one bar; a click on it means the best of
    them. `source` names the source's dtype ("bfloat16"). Of more than BARS bars, the smallest are drawn.
    """
    rows = by_bytes(frame).head(BARS)
    # In the order of the axis, from the bottom: the smallest comes last.
    rows = rows.iloc[::-1]
    against_fp32 = 32 / rows["bits_per_weight"]
    traces = [_bars(rows, rows["compression_ratio"], f"against the source ({source})", BLUE)]
    if not np.allclose(against_fp32, rows["compression_ratio"]):
        traces.insert(0, _bars(rows, against_fp32, "against fp32", faded(GREY, 0.55)))
    fig = figure(
        traces, "Times smaller (×)", "", barmode="group", bargap=0.25, bargroupgap=0.05,
        height=(18 + 12 * len(traces)) * len(rows) + 90,
    )  # fmt: skip
    fig.update_layout(legend_traceorder="reversed", margin_t=TOOLBAR, dragmode=False)
    fig.update_yaxes(type="category", title_text=None, showgrid=False)
    return fig.add_vline(x=1, line={"color": GREY, "width": 1})


def by_bytes(frame: pd.DataFrame) -> pd.DataFrame:
    """The best row by SQNR of those that differ in their calibration alone, the smallest first; `label` names them."""
    best = best_first(frame, "sqnr_db")
    best = best.assign(label=[_without_calibration(slug) for slug in best["config"]])
    alone = ~best["label"].duplicated(keep=False)
    return (
        best.assign(label=best["label"].where(~alone, best["config"]))
        .drop_duplicates("label")
        .sort_values("bits_per_weight", kind="stable")
    )


def _without_calibration(slug: str) -> str:
    """A configuration's slug without its calibration, which changes no bytes.

    >>> _without_calibration("int4-aff-g32-mse-sfp16"), _without_calibration("fp16")
    ('int4-aff-g32-sfp16', 'fp16')
    """
    own = QuantConfig.parse(slug).calibration.slug
    return "-".join(part for part in slug.split("-") if part != own)


def _bars(rows: pd.DataFrame, ratio: pd.Series, name: str, color: str) -> go.Bar:
    return go.Bar(
        x=ratio,
        y=rows["label"],
        orientation="h",
        name=name,
        marker={"color": color},
        customdata=rows[["config", "tensor"]],
        text=[f"{value:.2f} ×" for value in ratio],
        textposition="auto",
        textfont={"size": 11},
        constraintext="none",
        hovertext=_hover(rows, "nbytes"),
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
    )
