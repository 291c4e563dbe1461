"""How a sweep ended, what its results are of, and the way on where it did not get to its end."""

from collections import Counter

import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.sweeping.estimate import duration
from quantlab.sweeping.store import SweepRecord
from quantlab.sweeping.sweep import Runner
from quantlab.ui import jobs, state, sweep_earlier, sweep_job, sweep_store, text
from quantlab.ui.sweep_results import Results
from quantlab.wording import counted

REASONS, NAMED = 20, 3  # that are listed, and the tensors of each


def headline(job: jobs.Job | None, record: SweepRecord | None) -> str:
    """What the form says while it is folded: what was measured, and in which time."""
    if record is not None:
        return f"What to measure · {sweep_earlier.described(record)}, from the store"
    if job is None:
        return "What to measure"
    results: Results | None = job.result
    told = f", {_taken(results, job.seconds)}" if results else ""
    return f"What to measure · {text.plain(job.label)}{told}"


def _taken(results: Results, seconds: float) -> str:
    """Where the rows of a complete sweep come from."""
    rows = len(results.frame)
    if results.held == rows:
        return f"all {counted(rows, 'row')} taken from the store: nothing had to be measured"
    taken = f"; {results.held:,} of {counted(rows, 'row')} were taken from the store" if results.held else ""
    return f"measured in {duration(seconds)}{taken}"


def ended(session: state.Session, job: jobs.Job, runner: Runner | None) -> Results | None:
    """Its results, whole or as far as they go, if there are any; how it ended, if not well, and a button to go on."""
    results: Results | None = job.result or job.partial
    measured = results is not None and results.measured > 0
    if job.state in ("failed", "cancelled"):
        kept = (
            f" Below is what was measured until then: {results.measured} of {counted(len(results.names), 'tensor')}."
            if results and measured
            else ""
        )
        with st.container(horizontal=True, vertical_alignment="center"):
            if job.state == "failed":
                st.error(f"The sweep failed: {text.sentence(job.error)}{kept}", icon=":material/error:")
            else:
                st.warning(f"The sweep was cancelled after {duration(job.seconds)}.{kept}", icon=":material/cancel:")
            if results and runner:
                _again(session, results, runner)
    return results if measured else None


def _again(session: state.Session, results: Results, runner: Runner) -> None:
    """A button that sweeps the same again, if the file is still open as it was."""
    if session.opened is None or results.key != session.key:
        return
    label, why = (
        ("Run again", "") if results.unsaved else ("Resume", "What was measured is kept, and not measured anew.")
    )
    if st.button(label, key="again", type="primary", icon=":material/play_arrow:", help=why or None):
        configs = [QuantConfig.parse(slug) for slug in results.figures.configs]
        state.choose_job(sweep_job.start(session, configs, results.names, runner).id)
        st.rerun()


def kept(session: state.Session, record: SweepRecord) -> Results:
    """The results of a sweep in the store, with a button to go on if it is not complete."""
    store, _ = sweep_store.reach()
    if store is not None and not record.complete:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.warning(
                f"This sweep is not complete: {record.rows_done:,} of {counted(record.rows_total, 'row')}.",
                icon=":material/hourglass_disabled:",
            )
            if st.button("Resume", key="again", type="primary", icon=":material/play_arrow:"):
                sweep_earlier.resume(store, record)
    return sweep_store.results(session, record)


def provenance(session: state.Session, results: Results) -> state.Session | None:
    """Say what the results are of where that is not plain; the session, if they are of its open file as it is."""
    if results.unsaved:
        st.warning(f"These results are not kept on disk: {text.sentence(results.unsaved)}", icon=":material/cloud_off:")
    if session.opened is not None and results.key == session.key:
        return session
    st.warning(
        f"These are results of another file, {text.plain(results.title)}, or of this one before it changed. To look at "
        "its weights, in Compare or as error histograms, open it and run again.",
        icon=":material/folder_off:",
    )
    return None


def refused(results: Results) -> None:
    """Which combinations have no figures and why, the same reasons together, and the tensors of each."""
    reasons: dict[str, Counter[str]] = {}
    for entry in results.refused:
        reasons.setdefault(entry["reason"], Counter())[entry["tensor"]] += 1
    if not reasons:
        return
    with st.expander(f"{counted(len(results.refused), 'row')} without figures", icon=":material/block:"):
        ordered = sorted(reasons.items(), key=lambda item: -item[1].total())[:REASONS]
        st.markdown("\n".join(f"- {text.sentence(reason)} {_named(tensors)}" for reason, tensors in ordered))


def _named(tensors: Counter[str]) -> str:
    """The first tensors that were refused, and how many rows in all."""
    names = [f"**{text.plain(text.shortened(name))}**" for name in list(tensors)[:NAMED]]
    more = f" and {len(tensors) - NAMED} more" if len(tensors) > NAMED else ""
    return f"{', '.join(names)}{more} ({counted(tensors.total(), 'row')})"
