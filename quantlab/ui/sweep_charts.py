"""The charts of a sweep's results. A click on a cell, a point or a bar opens it in Compare."""

from typing import Any

import pandas as pd
import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.plots import sweep as plots
from quantlab.plots.compare import error_histograms
from quantlab.plots.scales import FIGURED, better, title
from quantlab.sweeping import tables
from quantlab.ui import compare_data, state, text, widgets
from quantlab.ui.help import about
from quantlab.ui.sweep_table import FILTERS, open_in_compare

OVERLAID = 6  # error histograms in one figure


def heatmap(session: state.Session | None, rows: pd.DataFrame, metric: str, over: str) -> None:
    """Scheme x granularity."""
    event = widgets.chart(
        plots.heatmap(rows, metric), "heatmap", f"Heatmap of {title(metric)} by scheme and granularity",
        on_select="rerun", selection_mode="points",
    )  # fmt: skip
    several = rows["calibration"].nunique() > 1
    st.caption(
        f"{title(metric)}, {better(metric)}: stronger colours are worse."
        f"{' Each cell shows its best calibration.' if several else ''} A click on a cell opens it in Compare."
    )
    _follow(session, event, over)


def scatter(session: state.Session | None, rows: pd.DataFrame, metric: str, over: str) -> None:
    """Error against bits per weight."""
    place = st.container()
    widgets.heed("color", FILTERS)
    color = st.segmented_control(
        "Colour by", list(FILTERS), default="granularity", required=True, format_func=FILTERS.__getitem__, key="color",
        bind="query-params",
    )  # fmt: skip
    with place:
        event = widgets.chart(
            plots.error_against_size(rows, metric, color), "scatter", f"{title(metric)} against bits per weight",
            on_select="rerun", selection_mode="points",
        )  # fmt: skip
    front = plots.pareto_front(rows["bits_per_weight"], rows[metric], FIGURED[metric].higher_is_better)
    st.caption(
        f"{front.sum()} of {len(rows)} configurations are on the Pareto front, filled: no other is both smaller and "
        "better. A click on a point opens it in Compare."
    )
    _follow(session, event, over)


def histograms(session: state.Session | None, rows: pd.DataFrame, tensor: str | None) -> None:
    """Error histograms of a few configurations on one tensor; None: of several, so one of them is asked for."""
    if session is None:
        st.info("Error histograms are drawn from the weights: open the file for them.", icon=":material/folder_open:")
        return
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    slugs = rows["config"].tolist()
    widgets.heed("overlaid", slugs)
    front = plots.pareto_front(rows["bits_per_weight"], rows["sqnr_db"], True)
    best = rows[front].sort_values("bits_per_weight")["config"].tolist()
    first = list(dict.fromkeys([best[0], best[len(best) // 2], best[-1]]))
    chosen = left.multiselect(
        "Configurations", slugs, first, max_selections=OVERLAID, key="overlaid",
        bind="query-params", wrap=True, help=about("configuration"),
    )  # fmt: skip
    log = right.toggle(
        "Logarithmic", True, key="log-errors", bind="query-params", help="Shows the rare large errors too."
    )
    if tensor is None:
        tensor = session.tensor
        st.info(
            f"A histogram is of one tensor: this one of **{text.plain(tensor)}**, not of all that are chosen above. "
            "The sidebar chooses another; a point of Error and size opens all tensors side by side.",
            icon=":material/filter_1:",
        )
    if not chosen:
        st.info("Choose a configuration to see how its errors are distributed.", icon=":material/stacked_line_chart:")
        return
    with widgets.boundary():
        told = compare_data.histograms(session, tensor, [QuantConfig.parse(slug) for slug in chosen])
        widgets.chart(error_histograms(told, log), "histograms", f"Error histograms of {', '.join(chosen)} on {tensor}")


def compression(session: state.Session | None, frame: pd.DataFrame, rows: pd.DataFrame, over: str) -> None:
    """Measured compression ratios."""
    source = _source_of(session, frame)
    bars = len(plots.by_bytes(rows))
    more = f" The {plots.BARS} smallest of {bars} are drawn." if bars > plots.BARS else ""
    event = widgets.chart(
        plots.compression_bars(rows, source), "compression", "Compression ratio of every configuration",
        on_select="rerun", selection_mode="points",
    )  # fmt: skip
    st.caption(
        "Bytes of the source over bytes of the result: codes, scales, zero points and offsets, as an export writes "
        f"them. A calibration changes no bytes: configurations that differ in nothing else share a bar, and a click on "
        f"it opens the best of them in Compare.{more}"
    )
    _follow(session, event, over)


def _source_of(session: state.Session | None, frame: pd.DataFrame) -> str:
    """The source's own number formats; of a file that is not open, its bits per weight."""
    rows = tables.measured(frame)
    if session is None:
        return f"{(rows['compression_ratio'] * rows['bits_per_weight']).median():.3g} bits per weight"
    return ", ".join(sorted({session.checkpoint.spec(name).dtype for name in rows["tensor"].unique()}))


def _follow(session: state.Session | None, event: Any, over: str) -> None:
    """Open the configuration that was clicked."""
    points = event["selection"].get("points") if event else None
    if points:
        open_in_compare(session, [points[0]["customdata"][0]], over)
