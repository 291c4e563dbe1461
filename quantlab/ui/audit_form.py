"""What the Audit page asks for: the other checkpoint, and which of the two is the source."""

from dataclasses import dataclass

import streamlit as st

from quantlab.errors import ConfigError, QuantlabError
from quantlab.formats import Checkpoint
from quantlab.planning.audit import Audit, audit
from quantlab.ui import cache, jobs, sources, state, text

QUANTIZED, SOURCE = "Quantized", "Its source"
HELP = {
    QUANTIZED: "A GGUF, an ONNX model, a folder for vLLM or MLX, or another version of this model.",
    SOURCE: "The model that the open file was made of.",
}


@dataclass(frozen=True, eq=False)
class Audited:
    """What the job results in, and which two files it is of, in the order of the audit."""

    keys: tuple[cache.Key, cache.Key]
    found: Audit


def choose(session: state.Session, running: bool) -> tuple[str, str, bool]:
    """(the other file's source word; what it is, `QUANTIZED` or `SOURCE`; whether the two are to be compared)."""
    with st.container(border=True):
        left, right = st.columns([2, 3], gap="medium")
        side = left.segmented_control(
            "The other file is", (QUANTIZED, SOURCE), default=QUANTIZED, required=True, key="side", bind="query-params"
        )
        with right.container(horizontal=True, vertical_alignment="bottom"):
            other = st.text_input(
                "Path of the other file or folder", key="beside", bind="query-params",
                placeholder=str(sources.roots()[0] / "model-q4.gguf"), help=HELP[side],
            )  # fmt: skip
            with st.popover("Upload", icon=":material/upload:"):
                _upload(session)
        label, icon = "Compare the two", ":material/fact_check:"
        # Never disabled for want of a path: the first click is what ends typing it.
        asked = left.button(label, type="primary", icon=icon, disabled=running)
    return other.strip(), side, asked


def _upload(session: state.Session) -> None:
    key = f"beside-{session.uploads}"

    def opened() -> None:
        file = st.session_state[key]
        if file is not None:
            try:
                st.session_state["beside"] = sources.keep_upload(file.name, file.getbuffer())
                session.uploads += 1  # a fresh uploader lets go of the bytes, which are on disk now
            except (QuantlabError, OSError) as error:
                state.say_of_link(jobs.sentence(error))

    suffixes = [suffix[1:] for suffix in sources.SUFFIXES]
    st.file_uploader("The other checkpoint", type=suffixes, key=key, on_change=opened)


def opened(other: str) -> tuple[cache.Key, Checkpoint]:
    """The other file. QuantlabError where it cannot be opened."""
    return cache.checkpoint(other)


def start(session: state.Session, other: str, side: str) -> None:
    """Start the job that compares the two, and remember it. QuantlabError where the other cannot be opened."""
    if not other:
        raise ConfigError("no other file is named: give the path of a file or folder, or upload one")
    pair = [(session.key, session.checkpoint), opened(other)]
    (first, quantized), (second, source) = pair if side == SOURCE else pair[::-1]

    def work(progress: jobs.Progress, cancel: object) -> Audited:
        return Audited((first, second), audit(quantized, source, on_progress=progress, cancel=cancel))  # type: ignore[arg-type]

    state.choose_audit(jobs.start("audit", f"{text.shortened(quantized.title)} beside its source", work).id)
