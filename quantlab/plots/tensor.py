"""Figures of one tensor before it is quantized: its values, and the range of its channels."""

import numpy as np
import plotly.graph_objects as go

from ..core.statistics import ChannelStatistics, Histogram
from ..wording import ordinal
from .levels import Levels
from .style import BLUE, GREY, ORANGE, faded, figure

DRAWN_LEVELS = 40  # more lines are a smear on a narrow screen
DRAWN_CHANNELS = 1024


def value_histogram(histogram: Histogram, levels: Levels | None = None, log: bool = False) -> go.Figure:
    """How often values occur, with the levels of a quantization grid over them.

    The grid's lines are thinned to at most `DRAWN_LEVELS` in view, and what lies beyond the outermost level, where
    values are clipped, is shaded if there are any.
    """
    low, high = float(histogram.edges[0]), float(histogram.edges[-1])
    traces = [] if levels is None else _grid_traces(levels, low, high)
    fig = figure(
        [_bars(histogram), *traces],
        x="value",
        y="values per bin",
        bargap=0,
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    )
    fig.update_xaxes(range=[low, high])
    if levels is not None:
        for start, end in clipped_ranges(histogram, levels):
            fig.add_vrect(start, end, fillcolor=faded(GREY, 0.2), line_width=0, layer="below")
    if log:
        top = np.log10(max(histogram.counts.max(), 1))
        # From below one value, so that a bin with a single one still shows.
        fig.update_yaxes(
            type="log",
            range=[-0.3, top + 0.1],
            dtick="D2" if top < 1.5 else 1,  # between 1 and 30 the powers of ten alone leave next to no numbers
            title_text="values per bin (log)",
            selector={"overlaying": None},
        )
    return fig


def thinned(levels: np.ndarray, low: float, high: float, most: int = DRAWN_LEVELS) -> tuple[np.ndarray, int]:
    """The levels within [low, high], of which every n-th if there are more than `most`; and n."""
    seen = levels[(levels >= low) & (levels <= high)]
    every = max(1, -(-seen.size // most))
    return seen[::every], every


def clipped_ranges(histogram: Histogram, levels: Levels) -> list[tuple[float, float]]:
    """Where the histogram has bins of values that are clipped, that is more than half a step beyond the last level."""
    edges, counts = histogram.edges, histogram.counts
    low, high = float(edges[0]), float(edges[-1])
    first, last = float(levels.values[0]) - levels.step / 2, float(levels.values[-1]) + levels.step / 2
    below, above = counts[edges[1:] <= first], counts[edges[:-1] >= last]
    found = [(low, min(first, high))] if below.any() else []
    return [*found, (max(last, low), high)] if above.any() else found


def channel_band(channels: ChannelStatistics, marked: np.ndarray | None = None) -> go.Figure:
    """The range of every channel: minimum to maximum, and the 1st to 99th percentile inside it.

    More channels than `DRAWN_CHANNELS` are drawn as the envelope of neighbours. `marked` channels get a mark at their
    largest magnitude.
    """
    per = -(-channels.count // DRAWN_CHANNELS)
    starts = np.arange(0, channels.count, per)
    low, high = (np.minimum.reduceat(channels.minimum, starts), np.maximum.reduceat(channels.maximum, starts))
    p1, p99 = (np.minimum.reduceat(channels.p1, starts), np.maximum.reduceat(channels.p99, starts))
    traces = [
        *_band(starts, low, high, "minimum to maximum", faded(BLUE, 0.3)),
        *_band(starts, p1, p99, "1st to 99th percentile", faded(BLUE, 0.75)),
    ]
    if marked is not None and marked.size:
        traces.append(_marks(channels, marked))
    unit = "channel" if per == 1 else f"channel (envelope of {per} neighbours)"
    return figure(traces, x=f"{unit} along axis {channels.axis}", y="value", hovermode="x unified")


def _bars(histogram: Histogram) -> go.Bar:
    share = 100 * histogram.counts / max(histogram.counts.sum(), 1)
    return go.Bar(
        x=histogram.centers,
        y=histogram.counts,
        width=np.diff(histogram.edges),
        customdata=np.stack([histogram.edges[:-1], histogram.edges[1:], share], axis=1),
        hovertemplate="%{customdata[0]:.4g} to %{customdata[1]:.4g}<br>"
        "%{y:,} values (%{customdata[2]:.3g} %)<extra></extra>",
        marker={"color": BLUE, "line": {"width": 0}},
        opacity=0.7,
        name="values",
        showlegend=False,
    )


def _grid_traces(levels: Levels, low: float, high: float) -> list[go.Scatter]:
    drawn, every = thinned(levels.values, low, high)
    if not drawn.size:
        return []
    what = "levels" if every == 1 else f"every {ordinal(every)} level"
    return [
        go.Scatter(
            x=np.repeat(drawn, 3),
            y=np.tile([0.0, 1.0, np.nan], drawn.size),
            yaxis="y2",
            mode="lines",
            line={"color": ORANGE, "width": 1.25},
            hovertemplate="level %{x:.5g}<extra></extra>",
            name=f"{what} of {levels.config}",
        )
    ]


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray, name: str, color: str) -> list[go.Scatter]:
    """Two outlines with the space between them filled; the steps keep every channel as wide as its neighbours."""
    line = {"width": 0.5, "color": color, "shape": "hvh"}
    return [
        go.Scatter(
            x=x, y=low, mode="lines", line=line, name=name, showlegend=False, legendgroup=name,
            hovertemplate=f"%{{y:.4g}}<extra>{name.split(' to ')[0]}</extra>",
        ),
        go.Scatter(
            x=x, y=high, mode="lines", line=line, name=name, legendgroup=name, fill="tonexty", fillcolor=color,
            hovertemplate=f"%{{y:.4g}}<extra>{name.split(' to ')[1]}</extra>",
        ),
    ]  # fmt: skip


def _marks(channels: ChannelStatistics, marked: np.ndarray) -> go.Scatter:
    low, high = channels.minimum[marked], channels.maximum[marked]
    return go.Scatter(
        x=marked,
        y=np.where(-low > high, low, high),
        customdata=channels.crest[marked],
        mode="markers",
        marker={"color": ORANGE, "size": 7, "symbol": "diamond"},
        hovertemplate="crest factor %{customdata:.3g}<extra></extra>",
        name="worst channels",
    )
