"""An audited file: what each tensor takes and lost, beside what its program would have loaded instead."""

import html

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..planning.auditing import COMPARED, DOMINATED, IDENTICAL, KEPT, UNJUDGED
from .style import BLUE, GREEN, GREY, ORANGE, PURPLE, faded, figure

COLORS = {DOMINATED: ORANGE, KEPT: BLUE, COMPARED: GREEN, UNJUDGED: PURPLE}
SYMBOLS = {DOMINATED: "x", KEPT: "circle", COMPARED: "diamond", UNJUDGED: "circle-open"}
CLOUD = 4_000  # points of what was measured besides; of more, every other one or fewer are drawn
HEIGHT = 380


def figures_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a place in the figure: those with a finite error, which nothing identical has."""
    return frame[np.isfinite(frame["sqnr_db"].astype(float)) & (frame["verdict"] != IDENTICAL)]


def scatter(frame: pd.DataFrame, rivals: pd.DataFrame) -> go.Figure:
    """Bits per weight and SQNR of every tensor, by verdict; what was measured of the source as a cloud behind.

    A dominated tensor has a line to what dominates it. Points of tensors carry `customdata`: their name.
    """
    rows = figures_of(frame)
    groups = {verdict: rows[rows["verdict"] == verdict] for verdict in COLORS}
    traces = [_cloud(rivals)] if len(rivals) else []
    traces += [_lines(groups[DOMINATED])] if len(groups[DOMINATED]) else []
    traces += [_points(group, verdict) for verdict, group in groups.items() if len(group)]
    return figure(traces, "Bits per weight in the file", "SQNR (dB), more is better", HEIGHT)


def _cloud(rivals: pd.DataFrame) -> go.Scatter:
    shown = rivals.iloc[:: max(1, -(-len(rivals) // CLOUD))]
    return go.Scatter(
        x=shown["bits_per_weight"], y=shown["sqnr_db"], mode="markers", name="measured on the source",
        marker={"color": faded(GREY, 0.35), "size": 5},
        text=[_figured(r["tensor"], r["config"], r["sqnr_db"], r["nbytes"]) for r in shown.to_dict("records")],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _lines(found: pd.DataFrame) -> go.Scatter:
    """A line from every dominated tensor to what dominates it; None between two lines lifts the pen."""
    bits = found["bits_per_weight"] * found["better_nbytes"] / found["nbytes"]
    return go.Scatter(
        x=_joined(found["bits_per_weight"], bits), y=_joined(found["sqnr_db"], found["better_sqnr_db"]), mode="lines",
        line={"color": faded(ORANGE, 0.7), "width": 1.5}, hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def _joined(begin: pd.Series, end: pd.Series) -> list[float | None]:
    finite = end.astype(float).replace(np.inf, np.nan)
    return [value for a, b in zip(begin, finite, strict=True) for value in (a, b, None)]


def _points(rows: pd.DataFrame, verdict: str) -> go.Scatter:
    return go.Scatter(
        x=rows["bits_per_weight"], y=rows["sqnr_db"], mode="markers", name=verdict,
        marker={"color": COLORS[verdict], "symbol": SYMBOLS[verdict], "size": 9},
        customdata=rows[["tensor"]], text=_hover(rows), hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _hover(rows: pd.DataFrame) -> list[str]:
    found = []
    for row in rows.to_dict("records"):
        better = f"<br>{_own(row['better'], row['better_sqnr_db'], row['better_nbytes'])}" if row["better"] else ""
        found.append(_figured(row["tensor"], row["layout"], row["sqnr_db"], row["nbytes"]) + better)
    return found


def _figured(tensor: str, what: str, sqnr_db: float, nbytes: float) -> str:
    return f"<b>{_text(tensor)}</b><br>{_own(what, sqnr_db, nbytes)}"


def _own(what: str, sqnr_db: float, nbytes: float) -> str:
    return f"{_text(what)}: {sqnr_db:.2f} dB in {nbytes:,.0f} bytes"


def _text(name: object) -> str:
    return html.escape(str(name))
