"""The results of a sweep as a table: to sort, search and download, and to open rows of it in Compare."""

import zlib
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
from quantlab.sweeping.tables import OVER_TENSORS
from quantlab.ui import state, sweep_data, text
from quantlab.ui.help import about, about_metric
from quantlab.wording import counted

SHOWN = 100_000  # rows; a much longer table loses search and selection
FILTERS = {"dtype": "Number format", "mapping": "Mapping", "granularity": "Granularity", "calibration": "Calibration"}
FORMATS = {"dB": "%.2f", "bits": "%.3f", "x": "%.2f", "bytes": "localized", "share": "%.3g", "": "%.4g"}
OWN_FORMATS = {"cosine": "%.6f", "mse": "%.3e"}  # squares of small errors are smaller still


def open_in_compare(session: state.Session | None, slugs: Sequence[str], where: str) -> None:
    """Go to Compare with these configurations and, behind them, the ticked ones; with no other.

    `where` is a tensor's name, or TOTAL or a glob, over whose tensors they are compared. Without a session, that is of
    a file that is not open, say so.
    """
    if session is None:
        st.toast("Compare looks at the weights: open the file of these results first.", icon=":material/folder_open:")
        return
    chosen = [QuantConfig.parse(slug) for slug in dict.fromkeys([*slugs, *session.ticked])]
    one = where in session.checkpoint.names
    state.go_to("compare", tensor=where if one else None, over=None if one else where, compare=chosen[: state.COMPARED])


def table(session: state.Session | None, frame: pd.DataFrame, rows: pd.DataFrame, where: str) -> None:
    """The rows, to sort, search and download; a click on a cell opens its configuration, ticked rows open together."""
    everything = frame["tensor"].nunique() > 1 and st.toggle(
        "One row per tensor", key="every-tensor", bind="query-params", help="Instead of the tensor chosen above."
    )
    ordered = best_first(tables.measured(frame) if everything else rows, "sqnr_db")
    shown = ordered.head(SHOWN).reset_index(drop=True)
    front = plots.pareto_front(shown["bits_per_weight"], shown["sqnr_db"], True)
    # The table has a download button of its own, so its text must be safe for spreadsheets too.
    told = tables.without_formulas(shown)
    told[["clipped_fraction", "zeroed_fraction"]] *= 100  # percent
    told["shape"] = told["shape"].str.replace("x", " × ")
    if not everything:
        told.insert(1, "front", ["★" if best else "" for best in front])
    slugs = shown["config"].tolist()
    # Selected rows are kept by their place: in another order, or once they are cleared, it is another table.
    key = f"table-{zlib.crc32(' '.join(slugs).encode())}-{session.clears if session else 0}"
    event = st.dataframe(
        told, key=key, column_config=columns(shown), column_order=_order(told, everything), hide_index=True,
        on_select=lambda: _tick(session, slugs, key), selection_mode=["multi-row", "single-cell"],
        selection_default={"selection": {"rows": _ticked_rows(session, slugs)}},
        height=min(38 + 35 * len(shown), 560), alt=f"{len(shown)} results of the sweep",
    )  # fmt: skip
    if cells := event.selection.get("cells"):
        row = shown.iloc[cells[0][0]]
        open_in_compare(session, [row["config"]], row["tensor"] if everything else where)
    st.caption(
        "A click on a cell opens its configuration in Compare. A tick keeps it: what is ticked is opened beside it."
        + (f" The best {SHOWN:,} of {len(ordered):,} rows are shown; a download has all." * (len(shown) < len(ordered)))
    )
    ticks(session, where)
    with st.container(horizontal=True):
        for label, (suffix, mime, write) in sweep_data.DOWNLOADS.items():
            st.download_button(
                label, partial(write, frame), f"sweep.{suffix}", mime, icon=":material/download:",
                on_click="ignore", help=f"Every row that passes the filter, {counted(len(frame), 'row')}, as {label}.",
            )  # fmt: skip


def _tick(session: state.Session | None, slugs: Sequence[str], key: str) -> None:
    """Keep which configurations are ticked now."""
    if session is not None:
        session.ticked = tuple(dict.fromkeys(slugs[row] for row in st.session_state[key]["selection"]["rows"]))


def _ticked_rows(session: state.Session | None, slugs: Sequence[str]) -> list[int]:
    """Where the ticked configurations stand first."""
    return [slugs.index(slug) for slug in (session.ticked if session else ()) if slug in slugs]


def ticks(session: state.Session | None, where: str) -> None:
    """What is ticked: to compare, or to let go."""
    if session is None or not session.ticked:
        return
    count = len(session.ticked)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**Ticked** {', '.join(map(text.plain, session.ticked))}", width="content")
        if st.button(
            f"Compare {count} configurations" if count > 1 else "Compare", type="primary",
            icon=":material/compare_arrows:", disabled=not 2 <= count <= state.COMPARED,
            help=f"Tick two to {state.COMPARED} rows of different configurations.",
        ):  # fmt: skip
            open_in_compare(session, [], where)
        st.button("Clear the ticks", icon=":material/close:", on_click=_clear, args=(session,))


def _clear(session: state.Session) -> None:
    session.ticked, session.clears = (), session.clears + 1


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
