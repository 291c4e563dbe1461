"""The parts of the Open page: where a file comes from, and the table of its tensors."""

import fnmatch
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from quantlab.core.statistics import TensorStatistics
from quantlab.errors import CheckpointError, QuantlabError
from quantlab.formats import Checkpoint
from quantlab.samples import SAMPLE_DESCRIPTION, SAMPLE_NAME
from quantlab.ui import cache, jobs, sources, state, text, widgets
from quantlab.ui.help import about
from quantlab.wording import counted

WAYS = ("Upload", "On this computer", "Sample")
CHARTED = 2000  # rows that still get a histogram: beyond, the table would be megabytes
FIRST_LOOK = 0.4  # seconds that the page waits for figures: enough for a small file to be complete at once


def choose_source(session: state.Session) -> None:
    """Upload a file, name one on this computer, or take the sample; a refusal is said in place."""
    with st.container(border=True):
        way = st.segmented_control(
            "Open a file", WAYS, default=WAYS[0], required=True, key="from", on_change=_forget, bind="query-params"
        )
        {"Upload": _upload, "On this computer": _path, "Sample": _sample}[way](session)
        if session.refusal:
            st.error(text.sentence(session.refusal), icon=":material/block:")


def summary(session: state.Session) -> None:
    """What is open, in one line."""
    checkpoint = session.checkpoint
    specs = [checkpoint.spec(name) for name in checkpoint.names]
    facts = [
        checkpoint.format,
        counted(len(specs), "tensor"),
        f"{text.count(sum(spec.size for spec in specs))} values",
        text.size(sum(spec.nbytes for spec in specs)),
        ", ".join(sorted({spec.dtype for spec in specs})),
    ]
    st.subheader(text.plain(session.title), anchor=False)
    st.caption(" · ".join(facts))


def tensor_table(session: state.Session, query: str) -> None:
    """The tensors whose names match; figures appear as they are computed. Selecting a row opens Inspect."""
    job = cache.statistics_job(session.key, session.checkpoint)
    job.finished.wait(FIRST_LOOK)
    names = matching(session.checkpoint.names, query)
    if not names:
        st.info(f"No tensor is called like {text.plain(query)}.", icon=":material/search_off:")
        return
    every = None if not job.active else 1.0 if len(names) <= CHARTED else 5.0
    st.fragment(_table, run_every=every)(session, job, names, polling=every is not None)
    st.caption("Tick a row to inspect the tensor. A click on a column's head sorts.")


def matching(names: Iterable[str], query: str) -> list[str]:
    """Names that contain `query`, whatever its case; with `*`, `?` or `[` in it, names that match it as a pattern.

    >>> matching(["a.weight", "a.bias", "b.weight"], "WEIGHT"), matching(["a.weight", "b.weight"], "a.*")
    (['a.weight', 'b.weight'], ['a.weight'])
    """
    wanted = query.strip().lower()
    if any(c in wanted for c in "*?["):
        return [name for name in names if fnmatch.fnmatchcase(name.lower(), wanted)]
    return [name for name in names if wanted in name.lower()]


def table(checkpoint: Checkpoint, names: Iterable[str], figures: dict[str, TensorStatistics | str]) -> pd.DataFrame:
    """One row per tensor; what is not known yet, or does not exist for it, is missing."""
    rows = []
    for name in names:
        spec, found = checkpoint.spec(name), figures.get(name)
        row = {"tensor": name, "shape": text.shape(spec.shape), "dtype": spec.dtype, "nbytes": spec.nbytes}
        if isinstance(found, TensorStatistics):
            row |= {
                "histogram": found.histogram.counts.tolist(),
                "minimum": found.minimum,
                "maximum": found.maximum,
                "std": found.std,
                "kurtosis": found.kurtosis,
                "zeros": 100 * found.zeros,
                "outliers": 100 * found.outliers,
            }
        notes = [spec.note, found if isinstance(found, str) else ""]
        rows.append(row | {"note": "; ".join(filter(None, notes)) or None})
    return pd.DataFrame(rows, columns=["tensor", *_COLUMNS])


def _table(session: state.Session, job: jobs.Job, names: list[str], polling: bool) -> None:
    if polling and not job.active:
        st.rerun()  # the whole page, once, which stops the polling
    with widgets.boundary():
        _draw_table(session, job, names)


def _draw_table(session: state.Session, job: jobs.Job, names: list[str]) -> None:
    if job.active:
        st.progress(job.fraction, text=f"Reading {text.plain(text.shortened(job.step.at))}")
    elif job.error:
        st.error(text.sentence(job.error), icon=":material/error:")
    frame = table(session.checkpoint, names, job.result or job.partial or {})
    if len(names) > CHARTED:
        frame = frame.drop(columns="histogram")
    noted = frame["note"].notna()
    without = int((noted & frame["std"].isna()).sum())
    if not noted.any():
        frame = frame.drop(columns="note")
    event = st.dataframe(
        frame, key="tensors", on_select="rerun", selection_mode="single-row", hide_index=True, placeholder="–",
        column_config=_column_config(names), height=min(38 + 35 * len(frame), 640),
        alt=f"The {len(frame)} tensors of {session.title} with their figures",
    )  # fmt: skip
    if event.selection.rows:
        state.go_to("inspect", tensor=names[event.selection.rows[0]])
    if without:
        st.caption(f"{counted(without, 'tensor')} without figures: the last column says why.")


_COLUMNS = (
    "histogram",
    "shape",
    "dtype",
    "nbytes",
    "minimum",
    "maximum",
    "std",
    "kurtosis",
    "zeros",
    "outliers",
    "note",
)


def _column_config(names: list[str]) -> dict[str, Any]:
    column = st.column_config
    longest = max(map(len, names[:CHARTED]))
    return {
        # Wide enough for the names: they share their beginnings, and differ at the end.
        "tensor": column.TextColumn("Tensor", pinned=True, width=min(max(30 + 7 * longest, 100), 320)),
        "histogram": column.BarChartColumn("Histogram", help=about("histogram"), width=110),
        "shape": column.TextColumn("Shape", width=96),
        "dtype": column.TextColumn("Type", width=64),
        "nbytes": column.NumberColumn("Bytes", format="localized", help="In the file's own type.", width=88),
        "minimum": column.NumberColumn("Min", format="%.4g", width=76),
        "maximum": column.NumberColumn("Max", format="%.4g", width=76),
        "std": column.NumberColumn("Std", format="%.3g", help=about("std"), width=72),
        "kurtosis": column.NumberColumn("Kurtosis", format="%.4g", help=about("kurtosis"), width=74),
        "zeros": column.NumberColumn("Zeros", format="%.3g %%", help=about("zeros"), width=96),
        "outliers": column.NumberColumn("Outliers", format="%.3g %%", help=about("outliers"), width=88),
        "note": column.TextColumn("Note", width=300),
    }


def _upload(session: state.Session) -> None:
    key = f"upload-{session.uploads}"

    def opened() -> None:
        file = st.session_state[key]
        if file is not None and _try(lambda: state.open_upload(file.name, file.getbuffer())):
            # A fresh uploader lets go of the bytes, which are on disk now.
            session.uploads += 1

    st.file_uploader(
        "A checkpoint or an array", type=[suffix[1:] for suffix in sources.SUFFIXES], key=key, on_change=opened,
        help="Nothing in the file is executed. It is kept on the server's disk until the server stops.",
    )  # fmt: skip
    st.caption(f"What is larger opens by its path: choose {WAYS[1]}.")


def _path(session: state.Session) -> None:
    def named() -> None:
        session.folder = None
        _try(lambda: _open_or_list(session, st.session_state["path"]))

    allowed = ", ".join(map(text.plain, sources.roots()))
    st.text_input(
        "Path of a file or a folder",
        key="path",
        on_change=named,
        placeholder=str(sources.roots()[0] / "model.safetensors"),
        help=f"Under {allowed}. For other folders start quantlab with the environment variable QUANTLAB\\_ROOTS.",
    )
    if session.folder is not None:
        _files_of(Path(session.folder))


def _files_of(folder: Path) -> None:
    files = {str(path.relative_to(folder)): path for path in sources.candidates(folder)}
    chosen = st.selectbox(
        f"{len(files):,} files", list(files), index=None, placeholder="Choose one", key="file-in-folder"
    )
    if chosen and st.button("Open", type="primary") and _try(lambda: state.open_path(str(files[chosen]))):
        st.rerun()


def _open_or_list(session: state.Session, path: str) -> None:
    """Open a file, or a folder that is one model; list the files of any other folder."""
    if not path.strip():
        return
    try:
        state.open_path(path)
    except CheckpointError:
        found = sources.resolve_path(path)
        if not (found.is_dir() and sources.candidates(found)):
            raise
        session.folder = str(found)
        if any(found.glob("*.index.json")):  # it is meant to be one model, so what is wrong with it matters
            raise


def _sample(session: state.Session) -> None:
    st.markdown(f"**{SAMPLE_NAME}.** {SAMPLE_DESCRIPTION}")
    is_open = session.source == sources.SAMPLE and session.opened is not None
    label = "The sample is open" if is_open else "Open the sample"
    st.button(label, disabled=is_open, icon=":material/deployed_code:", on_click=_open_sample)


def _forget() -> None:
    state.current().refusal = None


def _open_sample() -> None:
    _try(state.open_sample)


def _try(action: Callable[[], None]) -> bool:
    """Whether `action` succeeded; its refusal is kept for the page to show."""
    session = state.current()
    session.refusal = None
    try:
        action()
    except (QuantlabError, OSError, MemoryError) as error:
        session.refusal = jobs.sentence(error)
    return session.refusal is None
