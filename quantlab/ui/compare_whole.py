"""Compare over all tensors of a sweep, or those of a glob: the totals, how the tensors lie, and the worst of them."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.core.metrics import METRICS
from quantlab.errors import QuantlabError
from quantlab.plots import whole as plots
from quantlab.plots.scales import FIGURED, title
from quantlab.sweeping import tables
from quantlab.sweeping.tables import TOTAL, WHOLE
from quantlab.sweeping.weights import names_of_weights
from quantlab.ui import jobs, kinds, state, sweep_job, sweep_store, text, widgets
from quantlab.ui.compare_views import dot, figure_text, table_of_text
from quantlab.ui.opening import matching
from quantlab.ui.sweep_results import Results
from quantlab.wording import counted

WORST = 500  # tensors that are listed
ONE = "one tensor"


def choose_scope(session: state.Session) -> None:
    """What is compared on: the current tensor, all tensors, or those of a glob. It stands in the URL."""
    found = swept(session)
    names = list(found.names) if found else session.checkpoint.names
    now = session.over or ONE
    offered = list(dict.fromkeys([ONE, TOTAL, now, *kinds.repeated(names)]))
    asked = st.selectbox(
        "On", offered, offered.index(now), key=f"on-{now}", accept_new_options=True, format_func=text.shortened,
        help="One tensor: that of the sidebar. All tensors, a kind of layer, or a pattern such as `*.mlp.*`: those of "
        "the last sweep.",
    )  # fmt: skip
    if asked != now:
        state.choose_over(None if asked in (ONE, None) else asked)
        st.rerun()


def swept(session: state.Session) -> Results | None:
    """What the sweep of the link has measured of the open file, as far as it goes."""
    job, record = jobs.get(session.job), sweep_store.record_of(session.job)
    found: Results | None = (job.result or job.partial) if job else None
    if record is not None:
        found = sweep_store.results(session, record)
    return found if found is not None and found.key == session.key else None


def show(session: state.Session, over: str, configs: Sequence[QuantConfig]) -> None:
    """The configurations over the tensors of `over`; a way to measure those that the sweep does not have."""
    job = jobs.get(session.job)
    if job is not None and job.active:
        jobs.progress_fragment(job)
        return
    found, slugs = swept(session), [config.slug for config in configs]
    have = set(found.frame["config"]) if found and found.measured else set()
    _offer_to_measure(session, found, [slug for slug in slugs if slug not in have])
    slugs = [slug for slug in slugs if slug in have]
    if not found or not slugs:
        return
    frame = found.frame[found.frame["config"].isin(slugs)]
    names = list(found.names) if over == TOTAL else matching(found.names, over)
    frame = frame[frame["tensor"].isin(names)]
    if frame.empty:
        st.info(f"No tensor of the sweep is called like {text.plain(over)}.", icon=":material/search_off:")
        return
    st.caption(f"Over {counted(frame['tensor'].nunique(), 'tensor')} of the last sweep.")
    _tabs(session, frame, slugs)


def _offer_to_measure(session: state.Session, found: Results | None, missing: Sequence[str]) -> None:
    if not missing:
        return
    with widgets.boundary(), st.container(horizontal=True, vertical_alignment="center"):
        names = list(found.names) if found else names_of_weights(session.checkpoint)
        st.info(f"Not in the last sweep: {', '.join(map(text.plain, missing))}.", icon=":material/grid_on:")
        if st.button(f"Measure on {counted(len(names), 'tensor')}", type="primary", icon=":material/play_arrow:"):
            # With what the sweep has, which the store answers: else its results would be gone from the Sweep page.
            before = found.figures.configs if found else []
            configs = [QuantConfig.parse(slug) for slug in [*before, *missing]]
            state.choose_job(sweep_job.start(session, configs, names).id)
            st.rerun()


def _tabs(session: state.Session, frame: pd.DataFrame, slugs: list[str]) -> None:
    drawn = {
        "Figures": lambda: _figures(frame, slugs),
        "Spread": lambda: _spread(session, frame, slugs),
        "Worst tensors": lambda: _worst(session, frame, slugs),
    }
    widgets.heed("whole", drawn)
    for tab, draw in zip(st.tabs(list(drawn), key="whole", on_change="rerun", bind="query-params"), drawn, strict=True):
        if tab.open:
            with tab, widgets.boundary():
                drawn[draw]()


def _figures(frame: pd.DataFrame, slugs: list[str]) -> None:
    """Every metric over all of the tensors, the best in bold with a mark."""
    totals = tables.total(frame)
    if not totals.empty:
        rows = totals.set_index("config").reindex([slug for slug in slugs if slug in set(totals["config"])])
        shown = [name for name in ("sqnr_db", *WHOLE, *METRICS) if name in rows]
        lines = {FIGURED[name].label: _marked(name, rows[name]) for name in dict.fromkeys(shown)}
        lines["Which"] = [text.plain(text.shortened(str(name), 32)) for name in rows["worst_tensor"]]
        heads = [f"{dot(slugs.index(slug))} {text.plain(slug)}" for slug in rows.index]
        table_of_text(lines, heads, "Every metric of every configuration over all tensors")
        st.caption("**Bold with :material/trophy:**: the best of these. Nothing is marked where all are equal.")
    for reason in tables.why_no_total(frame):
        st.warning(f"Without a total: {text.sentence(reason)}", icon=":material/block:")


def _marked(name: str, values: pd.Series) -> list[str]:
    best = values.max() if FIGURED[name].higher_is_better else values.min()
    words = [figure_text(name, v) if name in METRICS else f"{text.number(v)} dB" for v in values]
    if values.nunique() < 2:
        return words
    return [f"**{word}** :material/trophy:" if v == best else word for word, v in zip(words, values, strict=True)]


def _metric() -> str:
    names = [name for name, metric in METRICS.items() if metric.unit not in ("bits", "bytes", "x")]
    widgets.heed("whole-metric", names)
    return st.selectbox("Metric", names, key="whole-metric", bind="query-params", format_func=title, width=260)


def _spread(session: state.Session, frame: pd.DataFrame, slugs: list[str]) -> None:
    """A point for every tensor under every configuration."""
    place = st.container()
    metric = _metric()
    with place:
        event = widgets.chart(
            plots.spread(tables.measured(frame), metric, slugs), "spread", f"{title(metric)} of every tensor",
            on_select="rerun", selection_mode="points",
        )  # fmt: skip
    st.caption("A point is a tensor, the larger the more weights it has; a bar stands at the median. A click opens it.")
    if points := event["selection"].get("points"):
        _open(session, points[0]["customdata"][1])


def _worst(session: state.Session, frame: pd.DataFrame, slugs: list[str]) -> None:
    """Every tensor under every configuration, the worst first."""
    rows = tables.measured(frame).pivot(index="tensor", columns="config", values="sqnr_db").reindex(columns=slugs)
    rows = rows.loc[rows.min(axis=1).sort_values(kind="stable").index].head(WORST)
    names = list(rows.index)
    number = st.column_config.NumberColumn
    told = tables.without_formulas(rows.reset_index())
    event = st.dataframe(
        told, key="worst", hide_index=True, on_select="rerun", selection_mode="single-cell", placeholder="–",
        column_config={slug: number(slug, format="%.2f", help="SQNR (dB)") for slug in slugs}
        | {"tensor": st.column_config.TextColumn("Tensor", pinned=True, width=300)},
        height=min(38 + 35 * len(rows), 480), alt=f"SQNR of {len(rows)} tensors, the lowest first",
    )  # fmt: skip
    st.caption(
        f"SQNR in dB, the lowest first{f', {WORST} of them' * (len(rows) == WORST)}. A click on a row opens the tensor."
    )
    if cells := event.selection.get("cells"):
        _open(session, names[cells[0][0]])


def _open(session: state.Session, tensor: str) -> None:
    """Compare the same on one tensor."""
    try:
        state.choose_tensor(tensor)
    except QuantlabError as error:
        st.toast(text.sentence(error), icon=":material/pin:")
        return
    state.choose_over(None)
    st.rerun()
