"""Configurations over all tensors of a model: how far the tensors lie apart under each."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .compare import color
from .scales import FIGURED, better, figures, position, ticks, title
from .style import GREY, figure

ROW = 90  # pixels of a configuration
SPREAD = 0.3  # half the height over which points are strewn, of a row: apart, equal ones can be told from one


def spread(rows: pd.DataFrame, metric: str, slugs: Sequence[str]) -> go.Figure:
    """A point for every tensor, a row for every configuration, a bar at the median; larger tensors as larger points.

    `rows` are measured ones of a sweep. Points carry `customdata` (configuration's slug, tensor).
    """
    at = pd.Series(position(metric, rows[metric]), index=rows.index)
    traces = [_points(rows[rows["config"] == slug], at, metric, i) for i, slug in enumerate(slugs)]
    fig = figure(traces, f"{title(metric)} of a tensor, {better(metric)}", "", height=ROW * len(slugs) + 90)
    for i, slug in enumerate(slugs):
        if len(here := at[rows["config"] == slug].dropna()):
            middle = float(here.median())
            line = {"color": GREY, "width": 3}
            fig.add_shape(type="line", x0=middle, x1=middle, y0=i - 0.4, y1=i + 0.4, line=line, layer="below")
    fig.update_yaxes(
        tickvals=list(range(len(slugs))), ticktext=list(slugs), range=[len(slugs) - 0.5, -0.5], showgrid=False
    )
    return fig.update_xaxes(**ticks(metric, at.to_numpy()))


def _points(rows: pd.DataFrame, at: pd.Series, metric: str, index: int) -> go.Scatter:
    values = 8 * rows["nbytes"] / rows["bits_per_weight"]
    # Strewn by the names: a tensor keeps its height from one configuration to the next.
    height = pd.util.hash_array(rows["tensor"].to_numpy(object)) % 1000 / 999 * 2 - 1
    return go.Scatter(
        x=at[rows.index],
        y=index + SPREAD * height,
        mode="markers",
        marker={"color": color(index), "size": np.clip(2 * np.log10(values) - 2, 5, 14), "opacity": 0.75},
        showlegend=False,
        customdata=rows[["config", "tensor"]],
        text=_hover(rows, metric),
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(rows: pd.DataFrame, metric: str) -> list[str]:
    return [
        f"<b>{_text(tensor)}</b><br>{slug}<br>{FIGURED[metric].label}: {value}"
        for tensor, slug, value in zip(rows["tensor"], rows["config"], figures(metric, rows[metric]), strict=True)
    ]


def _text(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;")
