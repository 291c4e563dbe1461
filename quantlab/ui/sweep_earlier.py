"""The list of earlier sweeps on the Sweep page: open one, resume one that is not complete, delete one."""

import math
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.core.dtypes import DTYPES
from quantlab.errors import QuantlabError
from quantlab.sweeping.store import ResultStore, SweepRecord
from quantlab.ui import state, sweep_job, sweep_store, text, widgets
from quantlab.wording import counted

LISTED = 8  # sweeps on a page of the list


def head(session: state.Session) -> None:
    """The page's title, with a switch beside it that shows the list of kept sweeps below."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.title("Sweep", anchor=False, width="stretch")
        wanted = st.toggle("Earlier sweeps", key="earlier", bind="query-params")
    if wanted:
        with st.container(border=True), widgets.boundary():
            _list(session)


def _list(session: state.Session) -> None:
    store, problem = sweep_store.reach()
    if store is None:
        st.warning(f"{text.sentence(problem)} Until then sweeps run, and are not kept.", icon=":material/cloud_off:")
        return
    records = store.sweeps()
    if not records:
        st.info("No sweep is kept yet. Each one is, tensor by tensor, while it runs.", icon=":material/inbox:")
        return
    pages = math.ceil(len(records) / LISTED)
    page = (st.pagination(pages, key="earlier-page") or 1) if pages > 1 else 1
    for record in records[LISTED * (page - 1) : LISTED * page]:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            _entry(session, store, record)
    st.caption(f"Kept in {text.plain(store.path)}; the environment variable QUANTLAB\\_STORE names another folder.")


def _entry(session: state.Session, store: ResultStore, record: SweepRecord) -> None:
    shown = session.job == sweep_store.word(record)
    st.markdown(
        f"**{text.plain(record.title)}** · {described(record)}  \n:small[{_grid(record)} · {_place(record)}]",
        width="stretch",
    )
    with st.container(horizontal=True, width="content"):
        if not record.complete or not record.current:
            again = "Resume" if record.current else "Run again"
            why = "Measures what is missing." if record.current else "Measured by another version of the engine."
            if st.button(again, key=f"resume-{record.id}", help=why):
                resume(store, record)
        if st.button("Shown below" if shown else "Open", key=f"open-{record.id}", disabled=shown):
            _open(record)
        with st.popover("Delete", icon=":material/delete:"):
            st.markdown(f"Delete these {counted(record.rows_done, 'row')} for good?")
            if st.button("Delete them", key=f"delete-{record.id}", type="primary"):
                store.delete(record.id)
                if shown:
                    state.choose_job(None)
                st.rerun()


def described(record: SweepRecord) -> str:
    """When, how much, and how much of it is there."""
    rows = counted(record.rows_total, "row")
    state_ = f"all {rows}" if record.complete else f"{record.rows_done:,} of {rows}: not complete"
    return (
        f"{_when(record.updated)} · {counted(len(record.configs), 'configuration')} × "
        f"{counted(record.tensors, 'tensor')} · {state_}"
    )


def _grid(record: SweepRecord) -> str:
    """What was tried, each choice once: `int4, int8 · symmetric · tensor, g128 · minmax`."""
    configs = [QuantConfig.parse(slug) for slug in record.configs]
    parts = (
        (config.dtype, config.mapping, config.granularity.slug, config.calibration.slug, f"{config.scale_dtype} scales")
        for config in configs
        if DTYPES[config.dtype].configurable
    )
    columns = [list(dict.fromkeys(column)) for column in zip(*parts, strict=True)]
    others = [config.dtype for config in configs if not DTYPES[config.dtype].configurable]
    told = [text.shortened(", ".join(column), 60) for column in (*columns, others) if column]
    return text.plain(" · ".join(told))


def _place(record: SweepRecord) -> str:
    """Where the file is: sweeps of files of one name are told apart by it."""
    return text.plain(text.shortened(record.location, 80))


def _when(moment: datetime) -> str:
    """A moment where the visitor is."""
    try:
        zone = ZoneInfo(st.context.timezone) if st.context.timezone else None
    except (ZoneInfoNotFoundError, ValueError):  # the browser's word; without it, the server's own zone
        zone = None
    return f"{moment.astimezone(zone):%-d %b %Y, %H:%M}"


def _open(record: SweepRecord) -> None:
    """Show a kept sweep, with its file if that can be opened; the results are shown without it, too."""
    try:
        state.open_source(record.location)
    except QuantlabError as error:
        st.toast(text.sentence(error), icon=":material/folder_off:")
    state.choose_job(sweep_store.word(record))
    st.rerun()


def resume(store: ResultStore, record: SweepRecord) -> None:
    """Open the file of a kept sweep and sweep it again: what is there is not measured anew."""
    state.open_source(record.location)
    configs = [QuantConfig.parse(slug) for slug in record.configs]
    state.choose_job(sweep_job.start(state.current(), configs, store.tensors(record.id)).id)
    st.rerun()
