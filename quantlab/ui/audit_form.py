"""What the Audit page asks for: the other checkpoint, and which of the two is the source."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import streamlit as st

from quantlab.errors import ConfigError, QuantlabError
from quantlab.formats import Checkpoint
from quantlab.planning.audit import Audit, audit
from quantlab.planning.importance import match, read_importance
from quantlab.ui import cache, jobs, sources, state, text
from quantlab.wording import shown

QUANTIZED, SOURCE = "Quantized", "Its source"
HELP = {
    QUANTIZED: "A GGUF, an ONNX model, a folder for vLLM or MLX, or another version of this model.",
    SOURCE: "The model that the open file was made of.",
}
IMPORTANCE_HELP = "llama.cpp's imatrix, or .npz or .safetensors of mean squares: errors are weighted by their inputs."
REFUSED = "beside-refused"


@dataclass(frozen=True, eq=False)
class Audited:
    """What the job results in, and which two files it is of, in the order of the audit."""

    keys: tuple[cache.Key, cache.Key]
    found: Audit


@dataclass(frozen=True)
class Asked:
    """What was asked for: the other file and an importance file, "" for none; and which of the two the other is."""

    other: str
    side: str
    importance: str


def choose(job: jobs.Job | None) -> Asked | None:
    """The two that are to be compared, once somebody asks for it; None while nobody does."""
    running = job is not None and job.active
    # Folded once there is something to see: results stand above the fold of a laptop.
    with st.expander(text.plain(job.label) if job else "The two files", expanded=job is None, icon=":material/tune:"):
        left, right = st.columns([2, 3], gap="medium")
        side = left.segmented_control(
            "The other file is", (QUANTIZED, SOURCE), default=QUANTIZED, required=True, key="side", bind="query-params"
        )
        with right:
            with st.container(horizontal=True, vertical_alignment="bottom"):
                other = st.text_input(
                    "Path of the other file or folder", key="beside", bind="query-params",
                    placeholder=str(sources.roots()[0] / "model-q4.gguf"), help=HELP[side],
                )  # fmt: skip
                with st.popover("Upload", icon=":material/upload:"):
                    _upload()
            importance = st.text_input(
                "Path of an importance file, if there is one", key="imatrix", bind="query-params", help=IMPORTANCE_HELP
            )
        if refusal := st.session_state.pop(REFUSED, ""):
            st.error(text.sentence(refusal), icon=":material/block:")
        label, icon = "Compare the two", ":material/fact_check:"
        # Never disabled for want of a path: the first click is what ends typing it.
        asked = left.button(label, type="primary", icon=icon, disabled=running)
    return Asked(other.strip(), side, importance.strip()) if asked else None


def _upload() -> None:
    session = state.current()
    key = f"beside-{session.uploads}"

    def opened() -> None:
        file = st.session_state[key]
        if file is None:
            return
        try:
            st.session_state["beside"] = sources.keep_upload(file.name, file.getbuffer())
            session.uploads += 1  # a fresh uploader lets go of the bytes, which are on disk now
        except (QuantlabError, OSError) as error:
            st.session_state[REFUSED] = jobs.sentence(error)

    suffixes = [suffix[1:] for suffix in sources.SUFFIXES]
    st.file_uploader("The other checkpoint", type=suffixes, key=key, on_change=opened)


def start(session: state.Session, asked: Asked) -> None:
    """Start the job that compares the two, and remember it. QuantlabError where a file cannot be opened."""
    if not asked.other:
        raise ConfigError("no other file is named: give the path of a file or folder, or upload one")
    pair = [(session.key, session.checkpoint), cache.checkpoint(asked.other)]
    (first, quantized), (second, source) = pair if asked.side == SOURCE else pair[::-1]
    weights = _weights(asked.importance, source) if asked.importance else None

    def work(progress: jobs.Progress, cancel: Callable[[], bool]) -> Audited:
        found = audit(quantized, source, importance=weights, on_progress=progress, cancel=cancel)
        return Audited((first, second), found)

    state.choose_audit(jobs.start("audit", f"{quantized.title} beside {source.title}", work).id)


def _weights(path: str, source: Checkpoint) -> Mapping[str, np.ndarray]:
    """What an importance file knows of a model's inputs. ConfigError for a file of another model."""
    found = match(read_importance(sources.locate(path)), source)
    if found.refused:
        name, why = next(iter(found.refused.items()))
        raise ConfigError(f"the importance file does not fit {shown(name)}: {why}; give the file of this model")
    if not found.weights:
        raise ConfigError("the importance file knows none of the tensors of the source: give that of this model")
    return found.weights
