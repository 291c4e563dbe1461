"""The results of a sweep: how it ended, what of it is looked at, and the figures."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import pandas as pd
import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.core.metrics import METRICS
from quantlab.plots import sweep as plots
from quantlab.plots.compare import error_histograms
from quantlab.plots.scales import FIGURED, better, title
from quantlab.sweeping import tables
from quantlab.sweeping.estimate import duration
from quantlab.sweeping.sweep import COLUMNS
from quantlab.sweeping.tables import TOTAL, WHOLE
from quantlab.ui import compare_data, jobs, state, sweep_data, sweep_map, sweep_table, text, widgets
from quantlab.ui.help import about, about_metric
from quantlab.ui.sweep_results import Results
from quantlab.ui.sweep_table import FILTERS
from quantlab.wording import counted

OVERLAID = 6  # error histograms in one figure
LISTED = 2000  # tensors in a drop-down
REASONS = 20  # that are spelled out


def outcome(job: jobs.Job) -> Results | None:
    """How a job ended, in a sentence; its results, whole or as far as they go, if there are any."""
    results: Results | None = job.result or job.partial
    kept = (
        f" Below is what was measured until then: {results.measured} of {counted(len(results.names), 'tensor')}."
        if results and results.measured
        else ""
    )
    if job.state == "failed":
        st.error(f"The sweep failed: {text.sentence(job.error)}{kept}", icon=":material/error:")
    elif job.state == "cancelled":
        more = " Run it again to go on from there." if kept and results and not results.unsaved else ""
        st.warning(f"The sweep was cancelled after {duration(job.seconds)}.{kept}{more}", icon=":material/cancel:")
    elif results:
        st.caption(f"{text.plain(job.label)}, {_taken(results, job.seconds)}")
    return results if results and results.measured else None


def _taken(results: Results, seconds: float) -> str:
    """Where the rows of a complete sweep come from."""
    rows = len(results.frame)
    if results.held == rows:
        return f"all {counted(rows, 'row')} taken from the store: nothing had to be measured"
    taken = f"; {results.held:,} of {counted(rows, 'row')} were taken from the store" if results.held else ""
    return f"measured in {duration(seconds)}{taken}"


def provenance(session: state.Session, results: Results) -> state.Session | None:
    """Say what the results are of where that is not plain; the session, if they are of its open file as it is."""
    if results.unsaved:
        st.warning(f"These results are not kept on disk: {text.sentence(results.unsaved)}", icon=":material/cloud_off:")
    if session.opened is not None and results.key == session.key:
        return session
    st.warning(
        f"These are results of another file, {text.plain(results.title)}, or of this one before it changed. To look at "
        "its weights, in Compare or as error histograms, open it and run again.",
        icon=":material/folder_off:",
    )
    return None


def refused(results: Results) -> None:
    """Which combinations have no figures and why, the same reasons together."""
    reasons = Counter(entry["reason"] for entry in results.refused)
    if reasons:
        with st.expander(f"{counted(len(results.refused), 'row')} without figures", icon=":material/block:"):
            st.markdown(
                "\n".join(
                    f"- {text.sentence(reason)} ({counted(n, 'row')})" for reason, n in reasons.most_common(REASONS)
                )
            )


def choose_view(session: state.Session | None, results: Results) -> tuple[pd.DataFrame, str, str]:
    """What of the results is looked at: (rows of all tensors, after the filters; tensor or TOTAL; metric)."""
    left, middle, right = st.columns([3, 2, 1], vertical_alignment="bottom")
    measured = tables.measured(results.frame)["tensor"].unique()
    tensors = _tensors_to_choose(session, list(measured))
    tensor = left.selectbox(
        "Results of", tensors, key="of", format_func=text.shortened,
        help="All tensors: the mean of their relative squared errors, in dB, each weighted by its number of values; "
        "beside it the worst tensor, the 5th percentile and the median. For one tensor, choose it in the sidebar.",
    )  # fmt: skip
    return _filters(right, results.frame), tensor, _metric(middle, WHOLE if tensor == TOTAL else ())


def _tensors_to_choose(session: state.Session | None, measured: list[str]) -> list[str]:
    """All together, and the current tensor; of a file that is not open, each one."""
    if len(measured) == 1:
        return measured
    if session is None:
        return [TOTAL, *measured[:LISTED]]
    return [TOTAL, *([session.tensor] if session.chosen in measured else [])]


def _metric(place: Any, more: Iterable[str] = (), width: Literal["stretch"] | int = "stretch") -> str:
    offered = [name for name in METRICS if name in COLUMNS]
    return place.selectbox(
        "Metric", [*offered[:1], *more, *offered[1:]], key="metric", bind="query-params",
        format_func=title, help=metrics_help(), width=width,
    )  # fmt: skip


def filling(session: state.Session, results: Results) -> None:
    """What a sweep that still runs has measured: the map of tensors, as it fills."""
    file = provenance(session, results)
    st.caption(f"{results.figures.measured} of {counted(len(results.names), 'tensor')} measured")
    if results.measured:
        metric = partial(_metric, width=200)
        _open(file, sweep_map.draw(results.figures, results.figures.configs, metric))


def metrics_help() -> str:
    """Every metric in a line."""
    return "\n".join(f"- **{metric.label}**: {about_metric(name)}" for name, metric in FIGURED.items())


def _filters(place: Any, frame: pd.DataFrame) -> pd.DataFrame:
    wanted = {}
    with place.popover("Filter", icon=":material/filter_list:", width="stretch"):
        for column, label in FILTERS.items():
            values = [value for value in frame[column].unique() if value != "-"]
            if len(values) > 1:
                chosen = st.pills(label, values, selection_mode="multi", key=f"only-{column}", bind="query-params")
                # Formats without a scale have none of the others: "-" passes.
                wanted[column] = [*chosen, "-"] if chosen and column != "dtype" else chosen
        st.caption("Nothing chosen means everything.")
    return sweep_data.filtered(frame, **wanted)


def views(session: state.Session | None, results: Results, frame: pd.DataFrame, tensor: str, metric: str) -> None:
    """The results in tabs; only the open one is drawn. A click on a row, point or cell opens Compare."""
    rows = sweep_data.of_tensor(frame, tensor)
    if tensor == TOTAL:
        _say_no_total(frame)
    if rows.empty:
        told = (
            "every configuration refuses some tensor. Sweep fewer tensors, or choose one"
            if tensor == TOTAL
            else "widen the filter"
        )
        st.info(f"There is nothing to show: {told}.", icon=":material/filter_list_off:")
        return
    drawn: dict[str, Callable[[], Any]] = {
        "Table": lambda: sweep_table.table(session, frame, rows),
        "Heatmap": lambda: heatmap(rows, metric),
        "Error and size": lambda: scatter(rows, metric),
        "Error histograms": lambda: histograms(session, rows, tensor),
        "Compression": lambda: compression(session, frame, rows),
    }
    if len(results.names) > 1:
        configs = list(frame["config"].unique())
        of_each = "sqnr_db" if metric in WHOLE else metric
        drawn["Tensors"] = lambda: _open(session, sweep_map.draw(results.figures, configs, lambda _: of_each))
    tabs = st.tabs(list(drawn), key="view", on_change="rerun", bind="query-params")
    for tab, draw in zip(tabs, drawn.values(), strict=True):
        if tab.open:
            with tab:
                _follow(session, draw())


def _say_no_total(frame: pd.DataFrame) -> None:
    """Which configurations have no total, and why: they are in none of the views of all tensors."""
    if reasons := tables.why_no_total(frame):
        count = len(tables.scope(frame).refusing)
        label = f"{counted(count, 'configuration')} not among the totals: each refuses some tensors"
        with st.expander(label, icon=":material/block:"):
            st.markdown("\n".join(f"- {text.sentence(reason)}" for reason in reasons[:REASONS]))


def _follow(session: state.Session | None, event: Any) -> None:
    """Open the configuration that was clicked, beside those compared before."""
    points = event["selection"].get("points") if event else None
    if points:
        slug, tensor = points[0]["customdata"][:2]
        sweep_table.open_in_compare(session, [slug], tensor)


def _open(session: state.Session | None, cell: tuple[str, str] | None) -> None:
    """Open the cell of the map that was clicked, (configuration, tensor)."""
    if cell:
        sweep_table.open_in_compare(session, [cell[0]], cell[1])


def heatmap(rows: pd.DataFrame, metric: str) -> Any:
    """Scheme x granularity."""
    several = rows["calibration"].nunique() > 1
    st.caption(
        f"{title(metric)}, {better(metric)}: stronger colours are better."
        f"{' Each cell shows its best calibration.' if several else ''} A click on a cell opens it in Compare."
    )
    return widgets.chart(
        plots.heatmap(rows, metric), "heatmap", f"Heatmap of {title(metric)} by scheme and granularity",
        on_select="rerun", selection_mode="points",
    )  # fmt: skip


def scatter(rows: pd.DataFrame, metric: str) -> Any:
    """Error against bits per weight."""
    color = st.segmented_control(
        "Colour by", list(FILTERS), default="granularity", required=True, format_func=FILTERS.__getitem__, key="color",
        bind="query-params",
    )  # fmt: skip
    front = plots.pareto_front(rows["bits_per_weight"], rows[metric], FIGURED[metric].higher_is_better)
    st.caption(
        f"{front.sum()} of {len(rows)} configurations are on the Pareto front: no other is both smaller and better. "
        "A click on a point opens it in Compare."
    )
    return widgets.chart(
        plots.error_against_size(rows, metric, color), "scatter", f"{title(metric)} against bits per weight",
        on_select="rerun", selection_mode="points",
    )  # fmt: skip


def histograms(session: state.Session | None, rows: pd.DataFrame, tensor: str) -> None:
    """Error histograms of a few configurations on one tensor."""
    if session is None:
        st.info("Error histograms are drawn from the weights: open the file for them.", icon=":material/folder_open:")
        return
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    slugs = rows["config"].tolist()
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
    if tensor == TOTAL:
        tensor = session.tensor
        st.caption(f"Of the tensor {text.plain(tensor)}: choose another in the sidebar.")
    if not chosen:
        st.info("Choose a configuration to see how its errors are distributed.", icon=":material/stacked_line_chart:")
        return
    with widgets.boundary():
        told = compare_data.histograms(session, tensor, [QuantConfig.parse(slug) for slug in chosen])
        widgets.chart(error_histograms(told, log), "histograms", f"Error histograms of {', '.join(chosen)}")


def _source_of(session: state.Session | None, frame: pd.DataFrame) -> str:
    """The source's own number formats; of a file that is not open, its bits per weight."""
    rows = tables.measured(frame)
    if session is None:
        return f"{(rows['compression_ratio'] * rows['bits_per_weight']).median():.3g} bits per weight"
    return ", ".join(sorted({session.checkpoint.spec(name).dtype for name in rows["tensor"].unique()}))


def compression(session: state.Session | None, frame: pd.DataFrame, rows: pd.DataFrame) -> Any:
    """Measured compression ratios."""
    source = _source_of(session, frame)
    more = f" The {plots.BARS} smallest of {len(rows)} are drawn." if len(rows) > plots.BARS else ""
    st.caption(
        f"Bytes of the source over bytes of the result: codes, scales, zero points and offsets, as an export writes "
        f"them.{more} A click on a bar opens it in Compare."
    )
    return widgets.chart(
        plots.compression_bars(rows, source), "compression", "Compression ratio of every configuration",
        on_select="rerun", selection_mode="points",
    )  # fmt: skip
