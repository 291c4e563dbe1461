"""Sweeps that are kept on disk: the store of this server, and what the page shows of a kept sweep.

A kept sweep is named in the URL as a job is, by `?job=stored-...`: the link works for as long as the sweep is kept.
"""

from datetime import datetime

import pandas as pd
import streamlit as st

from quantlab.errors import ConfigError, StoreError
from quantlab.plots.damage import Figures
from quantlab.sweeping.database import default_folder
from quantlab.sweeping.store import ResultStore, SweepRecord
from quantlab.ui import state
from quantlab.ui.sweep_results import Results

PREFIX = "stored-"


def reach() -> tuple[ResultStore | None, str]:
    """The store of this server, or None and the sentence of why there is none."""
    try:
        return _store(str(default_folder())), ""
    except StoreError as error:
        return None, str(error)


@st.cache_resource(max_entries=4, show_spinner=False)
def _store(folder: str) -> ResultStore:
    return ResultStore(folder)


def word(record: SweepRecord) -> str:
    """What names a kept sweep in a link."""
    return f"{PREFIX}{record.id}"


def record_of(job: str | None) -> SweepRecord | None:
    """The kept sweep that a link names; None for the link of a job, and for a sweep that is not there any more."""
    store = reach()[0]
    if store is None or job is None or not job.startswith(PREFIX):
        return None
    try:
        return store.record(job.removeprefix(PREFIX))
    except ConfigError:
        return None


def results(session: state.Session, record: SweepRecord) -> Results:
    """The rows of a kept sweep. They are of the open file, if that is the one and was not changed since."""
    names, frame, figures = _read(record.id, record.updated, record.rows_done)
    key = session.key if session.opened is not None and _is_of(record, names, session) else None
    rows = record.rows_done // len(record.configs)
    return Results(key, record.title, names, figures, lambda: frame, rows, record.rows_done)


@st.cache_resource(max_entries=8, show_spinner="Reading the results …")
def _read(id: str, updated: datetime, rows: int) -> tuple[tuple[str, ...], pd.DataFrame, Figures]:
    """Tensors asked for, rows and figures of a sweep as it was at a moment."""
    store, problem = reach()
    if store is None:
        raise StoreError(problem)
    names, frame = tuple(store.tensors(id)), store.frame(id)
    figures = Figures.of(frame, frame.attrs["refused"], names, store.record(id).configs)
    return names, frame, figures


def _is_of(record: SweepRecord, names: tuple[str, ...], session: state.Session) -> bool:
    changed = session.key[2] / 1e9  # seconds: when the file was last written
    there = set(names) <= set(session.checkpoint.names)
    return record.location == session.source and there and changed <= record.updated.timestamp()
