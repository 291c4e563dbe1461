"""The results of a sweep: what of them is looked at, in which tab, and the ticked configurations beside it."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import pandas as pd
import streamlit as st

from quantlab.core.metrics import METRICS
from quantlab.plots.scales import FIGURED, title
from quantlab.sweeping import tables
from quantlab.sweeping.sweep import COLUMNS
from quantlab.sweeping.tables import TOTAL, WHOLE
from quantlab.ui import (
    kinds,
    pinning,
    state,
    sweep_charts,
    sweep_data,
    sweep_map,
    sweep_outcome,
    sweep_table,
    text,
    widgets,
)
from quantlab.ui.help import about_metric
from quantlab.ui.opening import matching
from quantlab.ui.sweep_results import Results
from quantlab.ui.sweep_table import FILTERS
from quantlab.wording import counted

LISTED = 2000  # tensors in a drop-down
REASONS = 20  # that are spelled out
PINS = 6  # likewise


def choose_view(session: state.Session | None, results: Results) -> tuple[pd.DataFrame, str, str]:
    """What of the results is looked at: (rows of all tensors, after the filters; tensor, glob or TOTAL; metric)."""
    left, middle, right = st.columns([3, 2, 1], vertical_alignment="bottom")
    measured = list(tables.measured(results.frame)["tensor"].unique())
    typed = st.session_state.get("of") or st.query_params.get("of")
    offered = list(dict.fromkeys([*_to_choose(session, measured), *([typed] if typed else [])]))
    chosen = left.selectbox(
        "Results of", offered, key="of", format_func=text.shortened, accept_new_options=True,
        bind="query-params",
        help="All tensors: the mean of their relative squared errors, in dB, each weighted by its number of values; "
        "beside it the worst tensor, the 5th percentile and the median. For some, choose a kind of layer, or type a "
        "part of a name or a pattern such as `*.mlp.*`. For one, choose it in the sidebar, or type its name.",
    )  # fmt: skip
    chosen = chosen or TOTAL
    return _filters(right, results.frame), chosen, _metric(middle, () if chosen in measured else WHOLE)


def _to_choose(session: state.Session | None, measured: list[str]) -> list[str]:
    """All together, the current tensor, and the kinds of layers; of a file that is not open, each tensor."""
    if len(measured) == 1:
        return measured
    if session is None:
        return [TOTAL, *kinds.repeated(measured), *measured[:LISTED]]
    return [TOTAL, *([session.tensor] if session.chosen in measured else []), *kinds.repeated(measured)]


def _metric(place: Any, more: Iterable[str] = (), width: Literal["stretch"] | int = "stretch") -> str:
    names = [name for name in METRICS if name in COLUMNS]
    names[1:1] = more
    widgets.heed("metric", names)
    return place.selectbox(
        "Metric", names, key="metric", bind="query-params", format_func=title, help=metrics_help(), width=width
    )


def filling(session: state.Session, results: Results) -> None:
    """What a sweep that still runs has measured: the map of tensors, as it fills."""
    file = sweep_outcome.provenance(session, results)
    if results.measured:
        _map(file, results, results.figures.configs, partial(_metric, width=200))
    st.caption(f"{results.figures.measured} of {counted(len(results.names), 'tensor')} measured")


def metrics_help() -> str:
    """Every metric in a line."""
    return "\n".join(f"- **{metric.label}**: {about_metric(name)}" for name, metric in FIGURED.items())


def _filters(place: Any, frame: pd.DataFrame) -> pd.DataFrame:
    choices = {column: [value for value in frame[column].unique() if value != "-"] for column in FILTERS}
    choices = {f"only-{column}": values for column, values in choices.items() if len(values) > 1}
    for key, values in choices.items():
        widgets.heed(key, values)
    active = [value for key, values in choices.items() for value in _chosen(key) if value in values]
    label = f"Only {text.plain(', '.join(active))}" if active else "Filter"
    wanted = {}
    with place.popover(
        text.shortened(label, 24), icon=":material/filter_list:", width="stretch", key="filter",
        type="primary" if active else "secondary",
    ):  # fmt: skip
        for key, values in choices.items():
            column = key.removeprefix("only-")
            chosen = st.pills(FILTERS[column], values, selection_mode="multi", key=key, bind="query-params")
            # Formats without a scale have none of the others: "-" passes.
            wanted[column] = [*chosen, "-"] if chosen and column != "dtype" else chosen
        st.button("Show everything", disabled=not active, on_click=lambda: _clear(choices))
        st.caption("Nothing chosen means everything.")
    return sweep_data.filtered(frame, **wanted)


def _chosen(key: str) -> list[str]:
    """What a filter says before it is drawn: in its first run that stands in the link alone."""
    return st.session_state[key] if key in st.session_state else st.query_params.get_all(key)


def _clear(keys: Any) -> None:
    for key in keys:
        st.session_state[key] = []


def views(session: state.Session | None, results: Results, frame: pd.DataFrame, where: str, metric: str) -> None:
    """The results in tabs; only the open one is drawn. A click on a row, point, bar or cell opens Compare."""
    names = list(frame["tensor"].unique())
    one = where in results.names
    scope = frame if one or where == TOTAL else frame[frame["tensor"].isin(matching(names, where))]
    rows = sweep_data.of_tensor(scope, where if one else TOTAL)
    if not one:
        _say_no_total(scope)
    if rows.empty:
        st.info(f"There is nothing to show: {_why(scope, where, one)}.", icon=":material/filter_list_off:")
        return
    drawn: dict[str, Callable[[], None]] = {
        "Table": lambda: sweep_table.table(session, scope, rows, where),
        "Heatmap": lambda: sweep_charts.heatmap(session, rows, metric, where),
        "Error and size": lambda: sweep_charts.scatter(session, rows, metric, where),
        "Error histograms": lambda: sweep_charts.histograms(session, rows, where if one else None),
        "Compression": lambda: sweep_charts.compression(session, scope, rows, where),
    }
    if len(results.names) > 1:
        configs = list(frame["config"].unique())
        of_each = "sqnr_db" if metric in WHOLE else metric
        drawn["Tensors"] = lambda: _map(session, results, configs, lambda _: of_each)
    widgets.heed("view", drawn)
    tabs = st.tabs(list(drawn), key="view", on_change="rerun", bind="query-params")
    table = tabs[0]  # which says itself what is ticked, below: there it does not move while rows are ticked
    for tab, draw in zip(tabs, drawn.values(), strict=True):
        if tab.open:
            with tab:
                if tab is not table:
                    sweep_table.ticks(session, where)
                draw()


def _why(scope: pd.DataFrame, where: str, one: bool) -> str:
    """Why there is nothing to show."""
    if scope.empty and where != TOTAL and not one:
        return f"no tensor is called like {text.plain(where)}"
    if one or scope.empty:
        return "widen the filter"
    return "every configuration refuses some tensor. Sweep fewer tensors, or choose one"


def _say_no_total(frame: pd.DataFrame) -> None:
    """Which configurations have no total, and why: they are in none of the views of all tensors."""
    if reasons := tables.why_no_total(frame):
        count = len(tables.scope(frame).refusing)
        label = f"{counted(count, 'configuration')} not among the totals: each refuses some tensors"
        with st.expander(label, icon=":material/block:"):
            st.markdown("\n".join(f"- {text.sentence(reason)}" for reason in reasons[:REASONS]))


def _map(session: state.Session | None, results: Results, configs: list[str], metric: Callable[[Any], str]) -> None:
    """The map of tensors, and what a click there does: it opens a cell, a configuration or a tensor, or pins it."""
    clicked = sweep_map.draw(results.figures, configs, metric, pins=session is not None)
    if session is not None:
        _pins(session)
    if clicked is not None:
        _follow(session, clicked)


def _follow(session: state.Session | None, clicked: sweep_map.Clicked) -> None:
    """Open what of the map was clicked: a cell, a configuration over all tensors, or a tensor; or pin it."""
    if clicked.config and clicked.pin and session:
        with widgets.boundary():
            pins = pinning.toggled(session.pins, session.checkpoint.names, clicked.tensors, clicked.config)
            state.choose_pins(pins)
            st.rerun()
    elif clicked.config:
        sweep_table.open_in_compare(session, [clicked.config], clicked.where)
    elif session:
        state.go_to("inspect", tensor=clicked.where)


def _pins(session: state.Session) -> None:
    """What is pinned for the plan: to go there, or to let it go."""
    if not session.pins:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        told = [f"{text.plain(pin)}" for pin in session.pins[:PINS]]
        more = f" and {len(session.pins) - PINS:,} more" * (len(session.pins) > PINS)
        st.markdown(f"**Pinned for the plan** {', '.join(told)}{more}", width="content")
        if st.button("Plan", type="primary", icon=":material/route:"):
            state.go_to_plan()
        st.button("Clear the pins", icon=":material/close:", on_click=state.choose_pins, args=((),))
