"""What the Export page shows before anything is written: what every tensor becomes, and what it comes to."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from quantlab.core.config import PRESETS, QuantConfig
from quantlab.errors import QuantlabError
from quantlab.formats import FORMATS, Checkpoint
from quantlab.shipping.recipe import Assignment, Item, Rule
from quantlab.shipping.rehearsal import assigned, file_nbytes, refusals, source_nbytes
from quantlab.ui import export_form, exports, jobs, state, text
from quantlab.ui.cache import Key
from quantlab.ui.help import about
from quantlab.ui.sweep_job import Results, counted

CARD = 130  # pixels
OTHERS = ("q8_0", "q4_0", "int8-uni-g64-minmax", "int4-uni-g64-mse")  # that some formats ask for, and are no presets
FILE_HELP = "What is written, to the byte: headers and padding, everything copied, and what lies beside a model."
SOURCE_HELP = "The files that the tensors come from, whole."
RATIO_HELP = "Source by file. What is copied unchanged does not get smaller."
TENSORS_HELP = "That are quantized, of those in the source."
TABLE_HEIGHT = 38 + 35 * 10


@dataclass(frozen=True, eq=False)
class Plan:
    """What would be written, and why it cannot be.

    Attributes
    ----------
    refusals : why the format cannot hold it, a sentence each.
    copyable : of these the tensors whose copy would settle the matter.
    file_nbytes, source_nbytes : of the file or folder to be, None where it is refused; and of the source.
    """

    assignment: Assignment
    refusals: list[str]
    copyable: tuple[Item, ...]
    file_nbytes: int | None
    source_nbytes: int


def plan(session: state.Session, rules: Sequence[Rule], format: str, keep: bool = False) -> Plan:
    """What the rules come to in a format; `keep` copies what is refused. QuantlabError for rules that do not fit."""
    return _plan(session.key, tuple(map(str, rules)), format, keep, session.checkpoint)


@st.cache_resource(max_entries=16, show_spinner=False)
def _plan(key: Key, rules: tuple[str, ...], format: str, keep: bool, _checkpoint: Checkpoint) -> Plan:
    parsed = [Rule.parse(rule) for rule in rules]
    try:
        assignment = assigned(_checkpoint, parsed, format, copy_refused=keep)
        reasons = refusals(_checkpoint, assignment, format)
    except QuantlabError:
        # Of shapes only the first says that it does not fit; with copies in their place all of them are known.
        if keep or not (assignment := assigned(_checkpoint, parsed, format, copy_refused=True)).refused:
            raise
        reasons = [item.reason for item in assignment.refused]
    size = None if reasons else file_nbytes(_checkpoint, assignment, format)
    copyable = () if keep or not reasons else _copyable(_checkpoint, parsed, format)
    return Plan(assignment, reasons, copyable, size, source_nbytes(_checkpoint, format))


def _copyable(checkpoint: Checkpoint, rules: list[Rule], format: str) -> tuple[Item, ...]:
    """What would be copied in place of what is refused; nothing if that would not do."""
    try:
        return assigned(checkpoint, rules, format, copy_refused=True).refused
    except QuantlabError:
        return ()


def preview(session: state.Session, found: Plan, format: str) -> None:
    """What would be written: the whole in cards, every tensor in a table, and what is left out."""
    assignment = found.assignment
    total = len(assignment.taken) + len(assignment.copied) + len(assignment.left)
    kind = "Folder" if FORMATS[format].folder else "File"
    with st.container(horizontal=True, gap="small"):
        for label, value, help in (
            (kind, "-" if found.file_nbytes is None else text.size(found.file_nbytes), FILE_HELP),
            ("Source", text.size(found.source_nbytes), SOURCE_HELP),
            ("Ratio", "-" if not found.file_nbytes else f"{found.source_nbytes / found.file_nbytes:.2f} ×", RATIO_HELP),
            ("Tensors", f"{len(assignment.taken):,} of {total:,}", TENSORS_HELP),
            ("Bits per weight", f"{assignment.bits_per_weight:.3f}", about("bits_per_weight")),
        ):
            st.metric(label, value, width=CARD, help=help)
    promised(session, assignment)
    for remark in assignment.remarks:
        st.caption(f":material/info: {text.sentence(remark)}")
    sizes = f"{text.size(assignment.source_nbytes)} in {text.size(assignment.nbytes)}"
    label = f"{counted(len(assignment.taken), 'tensor')} quantized, {sizes}: {assignment.compression_ratio:.2f} ×"
    with st.expander(label, icon=":material/table_rows:"):
        _planned(assignment.taken)
    if assignment.copied:
        label = f"{counted(len(assignment.copied), 'tensor')} copied unchanged, {text.size(assignment.copied_nbytes)}"
        with st.expander(label, icon=":material/content_copy:"):
            if any(item.reason and not item.refused for item in assignment.copied):
                st.caption("An ONNX model is written again as a whole: what is left out here is copied all the same.")
            _others(assignment.copied)
    if assignment.left:
        left = sum(item.spec.nbytes for item in assignment.left)
        label = f"{counted(len(assignment.left), 'tensor')} not in the file, {text.size(left)}"
        with st.expander(label, icon=":material/block:"):
            _others(assignment.left)
    if found.refusals:
        _refused(found, format)


def _refused(found: Plan, format: str) -> None:
    """Why nothing can be written so, and the ways out: copies, or what the format does hold."""
    more = f" {len(found.refusals) - 1:,} more cannot either." if len(found.refusals) > 1 else ""
    st.error(text.sentence(found.refusals[0]) + more, icon=":material/block:")
    with st.container(horizontal=True, vertical_alignment="center"):
        if found.copyable:
            these = "this tensor" if len(found.copyable) == 1 else f"these {len(found.copyable):,} tensors"
            st.button(f"Copy {these} unchanged", icon=":material/content_copy:", on_click=export_form.copy_refused)
            with st.popover("Which", type="tertiary"):
                _others(found.copyable)
            return
        for config in _held(format, found.assignment.taken):
            st.button(f"Use {config}", on_click=state.choose_config, args=(config,))


def _held(format: str, items: Sequence[Item]) -> list[QuantConfig]:
    """A few configurations that a format holds, where it holds none of what is chosen."""
    known = FORMATS[format]
    if not items or any(item.config and not known.why_not(item.spec.shape, item.config) for item in items):
        return []
    offered = [*PRESETS.values(), *(QuantConfig.parse(slug) for slug in OTHERS)]
    fitting = [each for each in offered if not any(known.why_not(item.spec.shape, each) for item in items)]
    return list(dict.fromkeys(each for each in fitting if each.dtype not in ("fp16", "bf16")))[:3]


def promised(session: state.Session, assignment: Assignment) -> None:
    """What the visitor's last sweep measured of the tensors as they are to be quantized."""
    results = swept(session)
    if results is None:
        return
    rows = results.frame[["tensor", "config", "sqnr_db"]].dropna()
    asked = pd.DataFrame(
        [(item.spec.name, str(item.config)) for item in assignment.taken], columns=["tensor", "config"]
    )
    known = asked.merge(rows, on=["tensor", "config"])
    if known.empty:
        return
    name, least = known.sort_values("sqnr_db")[["tensor", "sqnr_db"]].iloc[0]
    of = "" if len(known) == len(asked) else f" of {len(known):,} of the {len(asked):,} tensors"
    st.caption(
        f":material/monitoring: Your sweep{of}: median SQNR {known['sqnr_db'].median():.1f} dB, worst "
        f"{least:.1f} dB ({text.plain(name)})."
    )


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
