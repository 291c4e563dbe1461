"""What is odd in the open model, with the measured gain of what helps: on the Open page, filled as tensors are read."""

from collections import Counter
from collections.abc import Mapping

import pandas as pd
import streamlit as st

from quantlab.formats import Checkpoint
from quantlab.sweeping.findings import NOT_FINITE, UNREAD, Look, Oddity, beside, rank
from quantlab.ui import cache, inspecting, jobs, state, text
from quantlab.ui.help import about
from quantlab.wording import counted

Looks = Mapping[str, Look]
Odd = list[tuple[str, Oddity]]
FIRST_LOOK = 0.4  # seconds that the page waits for figures: enough for a small file to be complete at once
SHOWN = 4  # findings that are seen without scrolling
LISTED = 1000


def odd(checkpoint: Checkpoint, looks: Looks) -> Odd:
    """(tensor, what is odd about it), what cannot be quantized first, then by gain."""
    found = [(name, odd) for name in checkpoint.names if name in looks for odd in looks[name].oddities]
    return sorted(found, key=lambda pair: rank(pair[1]))


def words(found: Odd) -> dict[str, str]:
    """A word for every tensor that stands out: of what matters most about it."""
    return {name: odd.finding.word for name, odd in reversed(found)}


def headline(found: Odd, looked_at: int, done: bool) -> str:
    """How many findings there are, of what, in how many tensors.

    >>> headline([], 12, True), headline([], 12, False)
    ('Nothing odd was found in 12 tensors.', 'Nothing odd so far, in 12 tensors.')
    """
    tensors = counted(looked_at, "tensor")
    if not found:
        return f"Nothing odd was found in {tensors}." if done else f"Nothing odd so far, in {tensors}."
    kinds = Counter(odd.finding.word for _, odd in found)
    listed = ", ".join(f"{count:,} {_kind(word)}" for word, count in kinds.most_common())
    within = f"{len({name for name, _ in found}):,} of {tensors}"
    return f"{counted(len(found), 'finding')} in {within}{'' if done else ' so far'}: {listed}"


def _kind(word: str) -> str:
    return f"with outliers along {word}" if word.startswith("axis") else word


def panel(session: state.Session) -> None:
    """The findings, filled while tensors are read."""
    job = cache.statistics_job(session.key, session.checkpoint)
    job.finished.wait(FIRST_LOOK)
    st.fragment(_panel, run_every=1.0 if job.active else None)(session, job)


def _panel(session: state.Session, job: jobs.Job) -> None:
    looks = job.result or job.partial or {}
    if not looks:
        return
    found, done = odd(session.checkpoint, looks), job.state == "done"
    told = headline(found, len(looks), done)
    if not found:
        st.caption(f":material/{'check_circle' if done else 'troubleshoot'}: {told}")
        return
    _warn(found)
    with st.expander(text.plain(told), expanded=True, icon=":material/troubleshoot:"):
        event = st.dataframe(
            _frame(found[:LISTED]), key="findings", on_select="rerun", selection_mode="single-cell", hide_index=True,
            height=38 + 35 * min(len(found), SHOWN), column_config=_COLUMNS, placeholder="–",
            alt=f"{counted(len(found), 'finding')} in {session.title}, with what helps",
        )  # fmt: skip
        if len(found) > LISTED:
            st.caption(f"The first {LISTED:,} of them are listed.")
    if event.selection.cells:
        name, chosen = found[event.selection.cells[0][0]]
        if looks[name].figures is not None:
            state.go_to(
                "inspect", tensor=name, view=inspecting.view_of(session, name, looks[name], chosen.finding.axis)
            )


def _warn(found: Odd) -> None:
    """What no configuration holds: it stops an export, whatever else is odd."""
    bad = [(name, odd) for name, odd in found if odd.finding.word in (NOT_FINITE, UNREAD)]
    lines = [f"**{text.plain(name)}** {text.plain(odd.finding.what)}." for name, odd in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"and {counted(len(bad) - SHOWN, 'other')}")
    if lines:
        st.warning("  \n".join(lines), icon=":material/warning:")


def _frame(found: Odd) -> pd.DataFrame:
    names = text.labels([name for name, _ in found], 38)
    rows = [
        {
            "tensor": label,
            "odd": odd.finding.word,
            "what": text.minus(odd.finding.what),
            "remedy": odd.best.remedy.words if odd.best else odd.remedy,
            "gain": odd.best.db if odd.best else None,
            "at": odd.best.remedy.at if odd.best else None,
            "beside": text.minus(beside(odd.gains)) or None,
        }
        for label, (_, odd) in zip(names, found, strict=True)
    ]
    return pd.DataFrame(rows)


_COLUMNS = {
    "tensor": st.column_config.TextColumn("Tensor", pinned=True, width=262, help="A click opens it in Inspect."),
    "odd": st.column_config.TextColumn("Odd", help=about("odd"), width=76),
    "what": st.column_config.TextColumn("What is odd", width=280),
    "remedy": st.column_config.TextColumn("What helps", help=about("remedy"), width=200),
    "gain": st.column_config.NumberColumn("Gain", format="%+.1f dB", help=about("gain"), width=76),
    "at": st.column_config.TextColumn("At", width=78),
    "beside": st.column_config.TextColumn("Other remedies, dB", width=250),
}
