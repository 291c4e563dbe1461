"""What the Export page shows before anything is written: what every tensor becomes, and what it comes to."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from quantlab.formats import Checkpoint
from quantlab.shipping.recipe import Assignment, Item, Rule
from quantlab.shipping.rehearsal import assigned, refusals
from quantlab.ui import exports, jobs, state, text
from quantlab.ui.cache import Key
from quantlab.ui.help import about
from quantlab.ui.sweep_job import Results, counted

CARD = 130  # pixels
TABLE_HEIGHT = 38 + 35 * 10


@dataclass(frozen=True, eq=False)
class Plan:
    """What would be written, and why the format cannot hold some of it."""

    assignment: Assignment
    refusals: list[str]


def plan(session: state.Session, rules: Sequence[Rule], format: str) -> Plan:
    """What the rules come to in a format. QuantlabError for rules that do not fit the file."""
    return _plan(session.key, tuple(map(str, rules)), format, session.checkpoint)


@st.cache_resource(max_entries=16, show_spinner=False)
def _plan(key: Key, rules: tuple[str, ...], format: str, _checkpoint: Checkpoint) -> Plan:
    assignment = assigned(_checkpoint, [Rule.parse(rule) for rule in rules], format)
    return Plan(assignment, refusals(_checkpoint, assignment, format))


def preview(found: Plan) -> None:
    """What would be written: the whole in cards, every tensor in a table, and what is left out."""
    assignment = found.assignment
    total = len(assignment.taken) + len(assignment.copied) + len(assignment.left)
    with st.container(horizontal=True, gap="small"):
        for label, value, term in (
            ("Tensors", f"{len(assignment.taken):,} of {total:,}", None),
            ("Source", text.size(assignment.source_nbytes), None),
            ("Packed", text.size(assignment.nbytes), None),
            ("Bits per weight", f"{assignment.bits_per_weight:.3f}", "bits_per_weight"),
            ("Compression", f"{assignment.compression_ratio:.2f} ×", "compression_ratio"),
        ):
            st.metric(label, value, width=CARD, help=term and about(term))
    with st.expander(f"{counted(len(assignment.taken), 'tensor')} quantized", icon=":material/table_rows:"):
        _planned(assignment.taken)
    if assignment.copied:
        label = f"{counted(len(assignment.copied), 'tensor')} copied unchanged, {text.size(assignment.copied_nbytes)}"
        with st.expander(label, icon=":material/content_copy:"):
            if any(item.reason for item in assignment.copied):
                st.caption("An ONNX model is written again as a whole: what is left out here is copied all the same.")
            _others(assignment.copied)
    if assignment.left:
        left = sum(item.spec.nbytes for item in assignment.left)
        label = f"{counted(len(assignment.left), 'tensor')} not in the file, {text.size(left)}"
        with st.expander(label, icon=":material/block:"):
            _others(assignment.left)
    if found.refusals:
        more = f" The same goes for {len(found.refusals) - 1:,} more." if len(found.refusals) > 1 else ""
        st.error(text.sentence(found.refusals[0]) + more, icon=":material/block:")


def _planned(items: Sequence[Item]) -> None:
    frame = pd.DataFrame(
        {
            "Tensor": [item.spec.name for item in items],
            "Configuration": [str(item.config) for item in items],
            "Shape": [text.shape(item.spec.shape) for item in items],
            "Type": [item.spec.dtype for item in items],
            "Source": [item.source_nbytes for item in items],
            "Packed": [item.nbytes for item in items],
            "Compression": [item.source_nbytes / item.nbytes for item in items],
        }
    )
    number = st.column_config.NumberColumn
    config = {
        "Source": number("Source (bytes)", format="localized"),
        "Packed": number("Packed (bytes)", format="localized"),
        "Compression": number(format="%.2f ×"),
    }
    st.dataframe(frame, hide_index=True, column_config=config, height=min(38 + 35 * len(frame), TABLE_HEIGHT))


def _others(items: Sequence[Item]) -> None:
    frame = pd.DataFrame(
        {
            "Tensor": [item.spec.name for item in items],
            "Shape": [text.shape(item.spec.shape) for item in items],
            "Type": [item.spec.dtype for item in items],
            "Why": [item.reason for item in items],
        }
    )
    frame = frame if frame["Why"].any() else frame.drop(columns="Why")
    st.dataframe(frame, hide_index=True, height=min(38 + 35 * len(frame), TABLE_HEIGHT))


def start(session: state.Session, found: Plan, format: str, target: tuple[str, str | None]) -> None:
    """Start the job that writes the file, and remember it."""
    results = swept(session)
    job = exports.start(
        session.checkpoint, session.key, found.assignment, format, *target, None if results is None else results.frame
    )
    state.choose_export(job.id)


def swept(session: state.Session) -> Results | None:
    """The results of the visitor's last sweep, if it was of this very file."""
    job = jobs.get(session.job)
    results = (job.result or job.partial) if job else None
    return results if results is not None and results.key == session.key else None
