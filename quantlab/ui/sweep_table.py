"""The results of a sweep as a table: to sort, search and download, and to open rows of it in Compare."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.core.metrics import METRICS
from quantlab.plots import sweep as plots
from quantlab.plots.scales import FIGURED, best_first, better, title
from quantlab.sweeping import tables
from quantlab.sweeping.tables import OVER_TENSORS, TOTAL
from quantlab.ui import state, sweep_data
from quantlab.ui.help import about, about_metric
from quantlab.wording import counted

SHOWN = 100_000  # rows; a much longer table loses search and selection
FILTERS = {"dtype": "Number format", "mapping": "Mapping", "granularity": "Granularity", "calibration": "Calibration"}
FORMATS = {"dB": "%.2f", "bits": "%.3f", "x": "%.2f", "bytes": "localized", "share": "%.3g", "": "%.4g"}
OWN_FORMATS = {"cosine": "%.6f", "mse": "%.3e"}  # squares of small errors are smaller still


def open_in_compare(session: state.Session | None, slugs: Sequence[str], tensor: str) -> None:
    """Go to Compare with these configurations; one alone joins those compared last, or the current one.

    Without a session, that is of a file that is not open, say so.
    """
    if session is None:
        st.toast("Compare looks at the weights: open the file of these results first.", icon=":material/folder_open:")
        return
    chosen = [QuantConfig.parse(slug) for slug in slugs]
    if len(chosen) == 1:
        before = [config for config in session.compare or (session.config,) if config != chosen[0]]
        chosen = [*before[-(state.COMPARED - 1) :], *chosen]
    state.go_to("compare", tensor=None if tensor == TOTAL else tensor, compare=chosen)


def table(session: state.Session | None, frame: pd.DataFrame, rows: pd.DataFrame) -> None:
    """The rows, to sort, search and download; a click on a cell opens its configuration, ticked rows open together."""
    everything = frame["tensor"].nunique() > 1 and st.toggle(
        "One row per tensor", key="every-tensor", bind="query-params", help="Instead of the tensor chosen above."
    )
    ordered = best_first(tables.measured(frame) if everything else rows, "sqnr_db")
    shown = ordered.head(SHOWN).reset_index(drop=True)
    if len(shown) < len(ordered):
        st.caption(f"The best {SHOWN:,} of {len(ordered):,} rows; a download has all.")
    front = plots.pareto_front(shown["bits_per_weight"], shown["sqnr_db"], True)
    # The table has a download button of its own, so its text must be safe for spreadsheets too.
    told = tables.without_formulas(shown)
    told["clipped_fraction"] *= 100  # percent
    told["shape"] = told["shape"].str.replace("x", " × ")
    if not everything:
        told.insert(1, "front", ["★" if best else "" for best in front])
    st.caption("A click on a cell opens its configuration in Compare. Tick two to four rows to open them together.")
    event = st.dataframe(
        told, key="table", column_config=columns(shown), column_order=_order(told, everything), hide_index=True,
        on_select="rerun", selection_mode=["multi-row", "single-cell"], height=min(38 + 35 * len(shown), 560),
        alt=f"{len(shown)} results of the sweep",
    )  # fmt: skip
    selection = event.selection
    if selection.get("cells"):
        row = shown.iloc[selection["cells"][0][0]]
        open_in_compare(session, [row["config"]], row["tensor"])
    _actions(session, frame, shown, selection["rows"])


def _actions(session: state.Session | None, frame: pd.DataFrame, shown: pd.DataFrame, ticked: list[int]) -> None:
    """Compare the ticked rows; download everything that passes the filter."""
    slugs = list(shown.iloc[ticked]["config"].unique())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        label = f"Compare {len(slugs)} configurations" if len(slugs) > 1 else "Compare"
        if st.button(
            label, type="primary", icon=":material/compare_arrows:", disabled=not 2 <= len(slugs) <= state.COMPARED,
            help=f"Tick two to {state.COMPARED} rows of different configurations.",
        ):  # fmt: skip
            open_in_compare(session, slugs, shown.iloc[ticked[0]]["tensor"])
        for label, (suffix, mime, write) in sweep_data.DOWNLOADS.items():
            st.download_button(
                label, partial(write, frame), f"sweep.{suffix}", mime, icon=":material/download:",
                on_click="ignore", help=f"Every row that passes the filter, {counted(len(frame), 'row')}, as {label}.",
            )  # fmt: skip


def columns(frame: pd.DataFrame) -> dict[str, Any]:
    """How each column of a sweep's table is headed, explained and written."""
    column = st.column_config
    config: dict[str, Any] = {
        "config": column.TextColumn("Configuration", pinned=True, width=210, help=about("configuration")),
        "front": column.TextColumn(
            "★", width=40, help="On the Pareto front of SQNR and bits: no other is both smaller and better."
        ),
        "tensor": column.TextColumn("Tensor", width=300),
        "shape": column.TextColumn("Shape"),
    }
    for name, label in FILTERS.items():
        config[name] = column.TextColumn(label, help=about(name))
    config["worst_tensor"] = column.TextColumn("Which", width=200, help="The tensor of the lowest SQNR.")
    for name, metric in FIGURED.items():
        if name in frame:
            unit = OWN_FORMATS.get(name, FORMATS[metric.unit])
            told = f"{about_metric(name)} {better(metric).capitalize()}."
            config[name] = column.NumberColumn(title(name), help=told, format=unit)
    return config


def _order(frame: pd.DataFrame, with_tensor: bool = True) -> list[str]:
    first = ["config", *(["tensor", "shape"] if with_tensor else ["front"])]
    figures = ["sqnr_db", "bits_per_weight", *OVER_TENSORS, "compression_ratio", "nbytes"]
    rest = [name for name in METRICS if name in frame and name not in figures]
    return [*first, *(name for name in figures if name in frame), *rest, *FILTERS]
