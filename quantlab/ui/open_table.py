"""The table of a file's tensors on the Open page, what is odd among them, and where a click leads."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd
import streamlit as st

from quantlab.formats import Checkpoint
from quantlab.ui import cache, jobs, open_findings, state, text, widgets
from quantlab.ui.help import about
from quantlab.ui.open_findings import Looks
from quantlab.ui.opening import matching
from quantlab.wording import counted

CHARTED = 2000  # rows that still get a histogram, and figures written out: beyond, the table would be megabytes
SWEPT = 50  # ticked tensors that a link to Sweep can hold
SHOWN = ("Floats", "Odd", "All")


def tensor_table(session: state.Session) -> None:
    """The tensors that are looked for; figures appear as they are computed."""
    checkpoint = session.checkpoint
    floats = any(state.holds_weights(checkpoint.spec(name)) for name in checkpoint.names)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        query = st.text_input(
            "Find tensors", key="find", placeholder="part of a name, or *.weight", type="search", bind="query-params",
            width=320,
        )  # fmt: skip
        show = st.segmented_control(
            "Show", SHOWN, default=SHOWN[0] if floats else "All", required=True, bind="query-params",
            key="show" if floats else "show-all", help="Only floats are quantized. Odd are those named below.",
        )  # fmt: skip
    job = cache.statistics_job(session.key, checkpoint)
    every = None if not job.active else 1.0 if len(checkpoint.names) <= CHARTED else 5.0
    st.fragment(_table, run_every=every)(session, job, query, show, polling=every is not None)


def table(checkpoint: Checkpoint, names: Iterable[str], looks: Looks, words: Mapping[str, str]) -> pd.DataFrame:
    """One row per tensor; what is not known yet, or does not exist for it, is missing."""
    rows = []
    for name in names:
        spec, look = checkpoint.spec(name), looks.get(name)
        row: dict[str, Any] = {
            "tensor": name, "odd": words.get(name), "shape": text.shape(spec.shape), "dtype": spec.dtype,
            "nbytes": spec.nbytes,
        }  # fmt: skip
        if look and (found := look.figures):
            row |= {
                "histogram": found.histogram.counts.tolist(),
                "minimum": found.minimum,
                "maximum": found.maximum,
                "std": found.std,
                "kurtosis": found.kurtosis,
                "zeros": found.zeros,
                "outliers": found.outliers,
            }
        notes = [spec.note, look.fault if look else ""]
        rows.append(row | {"note": "; ".join(filter(None, notes)) or None})
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _table(session: state.Session, job: jobs.Job, query: str, show: str, polling: bool) -> None:
    if polling and not job.active:
        st.rerun()  # the whole page, once, which stops the polling
    if job.active:
        st.progress(job.fraction, text=f"Reading {text.plain(text.shortened(job.step.at))}")
    elif job.error:
        st.error(text.sentence(job.error), icon=":material/error:")
    with widgets.boundary():
        looks = job.result or job.partial or {}
        words = open_findings.words(open_findings.odd(session.checkpoint, looks))
        names = _chosen(session, query, show, words)
        if names:
            _draw(session, table(session.checkpoint, names, looks, words), names)


def _chosen(session: state.Session, query: str, show: str, words: Mapping[str, str]) -> list[str]:
    """The names that are listed; what is not, and why."""
    checkpoint = session.checkpoint
    every = matching(checkpoint.names, query)
    floats = [name for name in every if state.holds_weights(checkpoint.spec(name))]
    names = {"Floats": floats, "Odd": [name for name in every if name in words], "All": every}[show]
    if not every:
        st.info(f"No tensor is called like {text.plain(query)}.", icon=":material/search_off:")
    elif not names:
        st.info("Nothing looks odd." if show == "Odd" else "None of them holds floats.", icon=":material/filter_list:")
    elif show == "Floats" and len(floats) < len(every):
        left = len(every) - len(floats)
        are = "is not listed: All shows it" if left == 1 else "are not listed: All shows them"
        st.caption(f"{counted(left, 'tensor')} without float values {are}.")
    return names


def _draw(session: state.Session, frame: pd.DataFrame, names: list[str]) -> None:
    frame = _without_empty(frame)
    ticked = st.container()
    event = st.dataframe(
        _written(frame), key="tensors", on_select="rerun", selection_mode=["single-cell", "multi-row"], hide_index=True,
        placeholder="–", height=min(38 + 35 * len(frame), 640),
        column_config=_column_config(frame),
        alt=f"The {len(frame)} tensors of {session.title} with their figures",
    )  # fmt: skip
    st.caption("A click on a row opens the tensor in Inspect; a tick chooses it for a sweep. A column's head sorts.")
    if event.selection.cells:
        state.go_to("inspect", tensor=names[event.selection.cells[0][0]])
    if event.selection.rows:
        _sweep_button(ticked, [names[row] for row in event.selection.rows])


def _sweep_button(place: Any, names: list[str]) -> None:
    label = f"Sweep {'this tensor' if len(names) == 1 else f'these {len(names)} tensors'}"
    too_many = f"Tick up to {SWEPT}, or choose by a pattern on the Sweep page." if len(names) > SWEPT else None
    if place.button(label, icon=":material/grid_on:", disabled=bool(too_many), help=too_many):
        state.go_to_sweep(scope="Some", names=names)


def _without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Without columns that say nothing here: the place is dear."""
    idle = [name for name in ("odd", "note") if frame[name].isna().all()]
    idle += ["dtype"] * (frame["dtype"].nunique() == 1) + ["zeros"] * bool((frame["zeros"] == 0).all())
    return frame.drop(columns=idle + ["histogram"] * (len(frame) > CHARTED))


def _written(frame: pd.DataFrame) -> Any:
    """The frame with figures as people write them; sorting goes by the values.

    A format of the column would write -0.00004103, and the cell lose the minus.
    """
    if len(frame) > CHARTED:
        return frame
    writers = {name: writer for name, writer in _WRITERS.items() if name in frame}
    names = list(frame["tensor"])
    writers["tensor"] = dict(zip(names, text.labels(names, _letters(frame)), strict=True)).__getitem__
    return frame.style.format(writers, na_rep="–")  # type: ignore[arg-type]  # a mapping's values are invariant


def _size(value: float) -> str:
    return text.size(int(value))


def _type(name: str) -> str:
    return {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(name, name)


# Pixels. Together the columns are no wider than a laptop's screen leaves beside the sidebar: a figure that is cut at
# the edge is another figure. The names take what the others leave.
ROOM, TICK, LETTER = 1050, 38, 7.3
WIDTHS = {
    "odd": 84, "histogram": 80, "dtype": 52, "nbytes": 70, "minimum": 78, "maximum": 78, "std": 74, "kurtosis": 76,
    "zeros": 74, "outliers": 78,
}  # fmt: skip
_COLUMNS = (
    "tensor",
    "odd",
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
_WRITERS: dict[str, Callable[[Any], str]] = {
    "dtype": _type,
    "nbytes": _size,
    **dict.fromkeys(("minimum", "maximum", "std", "kurtosis"), text.figure),
    **dict.fromkeys(("zeros", "outliers"), text.share),
}


def _letters(frame: pd.DataFrame) -> int:
    """How many letters of a name there is room for."""
    others = TICK + _shape_width(frame) + sum(width for name, width in WIDTHS.items() if name in frame)
    return max(int((ROOM - others - 20) / LETTER), 24)


def _shape_width(frame: pd.DataFrame) -> int:
    return min(max(int(LETTER * frame["shape"].str.len().max()) + 18, 64), 140)


def _column_config(frame: pd.DataFrame) -> dict[str, Any]:
    column = st.column_config
    number, share = ("%.3e", "percent") if len(frame) > CHARTED else (None, None)
    letters = min(int(frame["tensor"].str.len().max()), _letters(frame))
    return {
        "tensor": column.TextColumn("Tensor", pinned=True, width=max(int(LETTER * letters) + 20, 100)),
        "odd": column.TextColumn("Odd", help=about("odd"), width=WIDTHS["odd"]),
        "histogram": column.BarChartColumn("Histogram", help=about("histogram"), width=WIDTHS["histogram"]),
        "shape": column.TextColumn("Shape", width=_shape_width(frame)),
        "dtype": column.TextColumn("Type", width=WIDTHS["dtype"]),
        "nbytes": column.NumberColumn("Size", help="In the file's own type.", width=WIDTHS["nbytes"]),
        **{
            name: column.NumberColumn(label, help=about(name), format=form, width=WIDTHS[name])
            for name, label, form in (
                ("minimum", "Min", number),
                ("maximum", "Max", number),
                ("std", "Std", number),
                ("kurtosis", "Kurtosis", number),
                ("zeros", "Zeros", share),
                ("outliers", "Outliers", share),
            )
        },
        "note": column.TextColumn("Note", width=300),
    }
