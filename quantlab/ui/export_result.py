"""How an export ended: the file, the proof that it holds what the sweep promised, and how to read it."""

import numpy as np
import pandas as pd
import streamlit as st

from quantlab.core.metrics import METRICS
from quantlab.sweeping.estimate import duration
from quantlab.ui import exports, jobs, state, text
from quantlab.ui.exports import Written
from quantlab.ui.sweep_job import counted

COMPARED = ("sqnr_db", "max_abs_error", "nbytes")  # shown twice; `equal` covers the others too
FORMAT = {"sqnr_db": "%.4f dB", "max_abs_error": "%.6g", "nbytes": "localized"}
HEIGHT = 38 + 35 * 12
DOWNLOAD_HELP = "Streamed from the server's disk, whatever its size. Kept until newer files need the room."
EQUAL_HELP = (
    "**Sweep**, or **before**: measured while quantizing. **File**: the file's bytes, decoded, against the original. "
    "✓ covers MSE, RMSE, MAE, bits per weight and compression too. Bytes and the largest error agree exactly, sums of "
    "errors up to the rounding of another order."
)


def outcome(job: jobs.Job) -> Written | None:
    """How the job ended, in a sentence; its result if there is one."""
    if job.state == "failed":
        st.error(f"Nothing was written: {text.sentence(job.error)}", icon=":material/error:")
    elif job.state == "cancelled":
        st.warning(
            f"The export was cancelled after {duration(job.seconds)}. Nothing was written.",
            icon=":material/cancel:",
        )
    return job.result


def show(session: state.Session, result: Written) -> None:
    """The file, the proof, and how to read it; a word where they belong to another file than the open one."""
    if result.key != session.key:
        st.info("The last export was of another file, or of this one before it changed.", icon=":material/history:")
        return
    st.subheader("Written", anchor=False)
    file(result)
    proof(result)
    snippet(result)


def file(result: Written) -> None:
    """The file: where it is, how large, and the way to it."""
    shipment = result.shipment
    with st.container(horizontal=True, vertical_alignment="center"):
        ratio = f"the source has {text.size(result.source_nbytes)}, {result.source_nbytes / result.nbytes:.2f} ×"
        if result.download is None:
            st.markdown(f"Saved as **{text.plain(shipment.path)}** · {text.size(result.nbytes)}; {ratio}")
        elif exports.store().find(result.download) is None:
            st.info(
                "This download is no longer kept: newer ones took its place. Write it again.", icon=":material/history:"
            )
        else:
            label = f"Download {text.size(result.nbytes)}"
            url = f"{exports.ROUTE}/{result.download}"
            st.link_button(label, url, type="primary", icon=":material/download:", help=DOWNLOAD_HELP)
            name = f"{shipment.path.name}.zip" if shipment.path.is_dir() else shipment.path.name
            st.markdown(f"{text.plain(name)}; {ratio}")


def proof(result: Written) -> None:
    """What the sweep measured beside what the file, read back, measures."""
    found, expected, equal = result.shipment.found, result.expected, result.equal
    note = result.shipment.note
    origin = "those of your sweep" if result.swept else "those that a sweep shows"
    if note:
        origin = f"those that the format's readers see ({text.plain(note)})"
    if equal.all():
        st.success(
            f"Read back and measured again, {counted(len(found), 'tensor')}: the figures are {origin}.",
            icon=":material/verified:",
        )
    else:
        st.error(
            f"{counted(int((~equal).sum()), 'tensor')} measured differently once read back: do not use this file, and "
            "please report it.",
            icon=":material/error:",
        )  # fmt: skip
    with st.expander("Figure by figure", icon=":material/balance:", expanded=not equal.all() or len(found) <= 20):
        st.caption(EQUAL_HELP)
        _figures(expected, found, equal, "before" if note else "sweep")


def _figures(expected: pd.DataFrame, found: pd.DataFrame, equal: np.ndarray, before: str) -> None:
    columns = {
        "Equal": ["✓" if same else "✗" for same in equal],
        "Tensor": found["tensor"],
        "Configuration": found["config"],
    }
    config = {}
    for name in COMPARED:
        for label, frame in ((before, expected), ("file", found)):
            title = f"{'Bytes' if name == 'nbytes' else METRICS[name].label}, {label}"
            columns[title], config[title] = frame[name], st.column_config.NumberColumn(format=FORMAT[name])
    config["Tensor"] = st.column_config.TextColumn(pinned=True)
    config["Equal"] = st.column_config.TextColumn(pinned=True, width=60, alignment="center")
    st.dataframe(
        pd.DataFrame(columns), hide_index=True, column_config=config, height=min(38 + 35 * len(found), HEIGHT),
        alt="Figures of every tensor, as the sweep and as the file has them",
    )  # fmt: skip


def snippet(result: Written) -> None:
    """How to read the file back."""
    if result.snippet:
        with st.expander("Read it back in Python", icon=":material/code:"):
            st.code(result.snippet, language="python")
