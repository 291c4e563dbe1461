"""What an audit found: in cards and sentences, in a figure, tensor by tensor, and what could have been."""

from collections import Counter
from functools import partial

import pandas as pd
import streamlit as st

from quantlab.planning.audit import Audit, told
from quantlab.planning.auditing import DOMINATED, IDENTICAL, KEPT, VERDICTS
from quantlab.planning.targets import TARGETS
from quantlab.planning.whole import NOTABLE, Whole
from quantlab.plots import audit as plots
from quantlab.sweeping import tables
from quantlab.sweeping.estimate import duration
from quantlab.ui import jobs, state, text, widgets
from quantlab.ui.audit_form import Audited

CARD = 155  # pixels
HEIGHT = 38 + 35 * 12
TITLES = {
    "tensor": "Tensor",
    "layout": "Stored as",
    "sqnr_db": "SQNR",
    "weighted_sqnr_db": "SQNR, weighted",
    "rescaled_sqnr_db": "SQNR, rescaled",
    "bits_per_weight": "Bits",
    "nbytes": "Bytes",
    "verdict": "Verdict",
    "better": "Better",
    "better_sqnr_db": "Its SQNR",
    "better_nbytes": "Its bytes",
    "note": "Why",
    "equal_fraction": "Same values",
    "source": "In the source",
}
FORMATS = {"bits_per_weight": "%.3f", "nbytes": "localized", "better_nbytes": "localized", "equal_fraction": "%.1f %%"}
HELP = {
    "sqnr_db": "The source's power over that of the difference, of the values that the program computes.",
    "rescaled_sqnr_db": "After the scales of its columns are undone, where these explain the difference.",
    "better": "No larger and no worse, and one of both for certain. The same program loads it; measured on the source.",
    "verdict": "\n\n".join(f"**{verdict}**: {text.plain(words)}" for verdict, words in VERDICTS.items()),
}


def outcome(job: jobs.Job) -> Audited | None:
    """How the job ended, in a sentence; its result if there is one."""
    if job.state == "failed":
        st.error(f"The files were not compared: {text.sentence(job.error)}", icon=":material/error:")
    elif job.state == "cancelled":
        st.warning(f"The audit was cancelled after {duration(job.seconds)}.", icon=":material/cancel:")
    return job.result


def show(session: state.Session, result: Audited) -> None:
    """All of it; a word where it is of other files than the open one."""
    if session.key not in result.keys:
        st.info("The last audit was of other files, or of these before they changed.", icon=":material/history:")
        return
    found = result.found
    cards(found)
    with st.expander("In words", icon=":material/notes:", expanded=not found.whole):
        st.markdown("\n".join(f"- {text.sentence(line)}" for line in told(found)))
    if len(plots.figures_of(found.frame)):
        alt = "SQNR over bits per weight of every tensor of the file"
        widgets.chart(plots.scatter(found.frame, found.rivals), "audit-scatter", alt)
    table(found)
    if found.whole:
        could_be(found, found.whole)


def cards(found: Audit) -> None:
    """The file in a few figures."""
    frame, judged = found.frame, found.count(DOMINATED) + found.count(KEPT)
    changed = frame[(frame["verdict"] != IDENTICAL) & frame["sqnr_db"].notna()]
    with st.container(horizontal=True, gap="small"):
        st.metric("Tensors", f"{len(frame):,}", width=CARD, help="That both files have.")
        st.metric("Identical", f"{found.count(IDENTICAL):,}", width=CARD, help=VERDICTS[IDENTICAL])
        if judged:
            st.metric("Dominated", f"{found.count(DOMINATED):,} of {judged:,}", width=CARD, help=VERDICTS[DOMINATED])
        if len(changed):
            st.metric("Worst tensor", f"{changed['sqnr_db'].min():.2f} dB", width=CARD, help=HELP["sqnr_db"])
        if found.whole:
            less, saved = _gains(found.whole)
            st.metric("Damage, same size", f"−{text.percent(less)}", width=CARD, help=_about(found.whole))
            st.metric("Size, same damage", f"−{text.percent(saved)}", width=CARD, help=_about(found.whole))


def _gains(whole: Whole) -> tuple[float, float]:
    less = 1 - whole.reached / whole.damage if whole.damage else 0.0
    return max(less, 0.0), max(1 - whole.smallest / whole.nbytes, 0.0)


def _about(whole: Whole) -> str:
    return f"Damage is the relative error of weights ({whole.weighting}): what a plan lessens, and no quality."


def table(found: Audit) -> None:
    """Every tensor, the worst first, to sort, search and download."""
    present = [verdict for verdict in VERDICTS if found.count(verdict)]
    default = [verdict for verdict in present if verdict != IDENTICAL] or present
    chosen = st.pills(
        "Verdicts", present, selection_mode="multi", default=default, key="verdict", bind="query-params",
        help=HELP["verdict"],
    )  # fmt: skip
    rows = found.frame[found.frame["verdict"].isin(chosen)]
    if not len(rows):
        st.info("No tensor has one of the chosen verdicts.", icon=":material/filter_alt:")
    else:
        _table(worst_first(rows))
    st.download_button(
        "CSV", partial(tables.WRITERS["csv"], found.frame), "audit.csv", "text/csv", icon=":material/download:",
        on_click="ignore", help="A row per tensor, with every figure.",
    )  # fmt: skip


def worst_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by SQNR, those without one before all others."""
    return rows.sort_values("sqnr_db", kind="stable", na_position="first").reset_index(drop=True)


def _table(rows: pd.DataFrame) -> None:
    shown = tables.without_formulas(rows)
    shown["equal_fraction"] *= 100  # percent
    order = [name for name in TITLES if name == "tensor" or _told(rows, name)]
    config = {
        name: st.column_config.NumberColumn(TITLES[name], format=FORMATS.get(name, "%.2f dB"), help=HELP.get(name))
        if pd.api.types.is_numeric_dtype(rows[name])
        else st.column_config.TextColumn(TITLES[name], pinned=name == "tensor", help=HELP.get(name))
        for name in order
    }
    st.dataframe(
        shown, column_config=config, column_order=order, hide_index=True, height=min(38 + 35 * len(shown), HEIGHT),
        alt=f"{len(shown)} tensors of the audited file",
    )  # fmt: skip


def _told(rows: pd.DataFrame, name: str) -> bool:
    """Whether a column says anything here."""
    values = rows[name]
    if name == "source":
        return bool((values != rows["tensor"]).any())
    return bool(values.notna().any()) if pd.api.types.is_numeric_dtype(values) else bool((values != "").any())


def could_be(found: Audit, whole: Whole) -> None:
    """What plans of the same bytes, and of the same damage, would have been."""
    st.subheader("What you could have at this size", anchor=False)
    less, saved = _gains(whole)
    sure = "" if whole.proved else ", as far as was searched"
    st.markdown(
        f"The {whole.tensors:,} tensors that are judged take {text.size(whole.nbytes)}. In as many bytes, a plan for "
        f"{text.plain(TARGETS[found.target].label)} has **{text.percent(less)} less damage**{sure}; the same "
        f"damage takes **{text.size(whole.smallest)}**, {text.percent(saved)} less."
        if less >= NOTABLE or saved >= NOTABLE
        else f"No plan of {text.size(whole.nbytes)} has notably less damage{sure}, and none of the same damage is "
        "notably smaller: the file is as good as its program's formats allow."
    )
    st.caption(_about(whole))
    left, right = st.columns(2)
    plans = (left, "In the same bytes", whole.choices), (right, "For the same damage", whole.smaller)
    for place, title, plan in plans:
        counts = Counter(plan.values())
        frame = pd.DataFrame({"Configuration": list(counts), "Tensors": list(counts.values())})
        with place:
            st.markdown(f"**{title}**")
            st.dataframe(frame.sort_values("Tensors", ascending=False), hide_index=True, height=38 + 35 * len(frame))
    with st.expander("Tensor by tensor", icon=":material/table_rows:"):
        names = list(whole.choices)
        frame = pd.DataFrame(
            {
                "Tensor": names,
                "In the same bytes": [whole.choices[name] for name in names],
                "For the same damage": [whole.smaller[name] for name in names],
            }
        )
        st.dataframe(tables.without_formulas(frame), hide_index=True, height=min(38 + 35 * len(frame), HEIGHT))
