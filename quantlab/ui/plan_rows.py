"""The rows that a plan is made of: what there are, and the sweep of the target's menu where some are missing."""

import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.planning.targets import TARGETS, Target
from quantlab.sweeping.estimate import duration
from quantlab.sweeping.weights import weights_of, why_none
from quantlab.ui import jobs, plan_words, state, sweep_job, sweep_plan, sweep_store, text, widgets
from quantlab.ui.cache import Key
from quantlab.ui.compare_whole import swept
from quantlab.ui.sweep_results import Results
from quantlab.wording import counted


def found(session: state.Session) -> Results | None:
    """What the sweep of the view has measured of the open file, as far as it goes; None without any row."""
    results = swept(session)
    return results if results is not None and results.measured else None


@st.cache_resource(max_entries=32, show_spinner="Looking at what the program loads …")
def menu(key: Key, target: str, _session: state.Session) -> tuple[str, ...]:
    """Slugs of the configurations that are worth measuring for a target, on the file of `key`."""
    return tuple(map(str, TARGETS[target].menu(_session.checkpoint)))


def offer(session: state.Session, target: str, results: Results | None) -> None:
    """A way to measure what is missing: all of the menu, or the rest of it; and how the last attempt ended."""
    with widgets.boundary():
        _how_it_ended(session, results)
        slugs = menu(session.key, target, session)
        missing = [slug for slug in slugs if results is None or slug not in set(results.figures.configs)]
        weights = weights_of(session.checkpoint)
        if not weights.names:
            st.info(text.sentence(why_none(session.checkpoint, weights)), icon=":material/block:")
        elif not slugs:
            _none(session, TARGETS[target])
        elif missing:
            _menu(session, TARGETS[target], missing, list(weights.names), results)


def _how_it_ended(session: state.Session, results: Results | None) -> None:
    job = jobs.get(session.job)
    if job is None:
        if session.job and sweep_store.record_of(session.job) is None:
            st.info("The server no longer keeps the sweep of this link.", icon=":material/history:")
    elif job.state == "failed":
        st.error(f"The sweep failed: {text.sentence(job.error)}", icon=":material/error:")
    elif job.state == "cancelled":
        st.warning(f"The sweep was cancelled after {duration(job.seconds)}.", icon=":material/cancel:")


def _none(session: state.Session, target: Target) -> None:
    """Why there is nothing to choose from: what keeps the first weight from any configuration."""
    checkpoint = session.checkpoint
    spec = checkpoint.spec(weights_of(checkpoint).names[0])
    reasons = [
        target.never(spec, checkpoint),
        *(target.refuses(spec, c, checkpoint) for c in target.wishes(checkpoint)),
    ]
    why = next(filter(None, reasons), "it has no configuration for them")
    st.info(
        f"{target.label} loads none of these weights in fewer bits. {text.plain(spec.name)}: {text.sentence(why)} "
        "Choose another program above.",
        icon=":material/block:",
    )


def _menu(
    session: state.Session, target: Target, missing: list[str], names: list[str], results: Results | None
) -> None:
    """What there is to measure, how long that takes, and the button."""
    configs = [QuantConfig.parse(slug) for slug in missing]
    specs = [session.checkpoint.spec(name) for name in names]
    what = f"{counted(len(missing), 'configuration')} of {counted(len(names), 'weight')}"
    if results is None:
        with st.container(border=True):
            st.markdown(
                f"**A plan for {plan_words.program(target.name)} is made from measurements:** {what}. After that every "
                "budget has its plan at once."
            )
            _button(session, target, configs, names, results, "Measure them")
            st.caption(text.plain(", ".join(missing)))
            st.markdown(sweep_plan.told(configs, specs))
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            f":material/grid_on: Worth measuring for {plan_words.program(target.name)}, too: {what}.", width="stretch"
        )
        _button(session, target, configs, names, results, "Measure these too")


def _button(
    session: state.Session, target: Target, configs: list[QuantConfig], names: list[str], results: Results | None,
    label: str,
) -> None:  # fmt: skip
    first = results is None
    if not st.button(label, type="primary" if first else "secondary", icon=":material/play_arrow:", key="menu"):
        return
    # With what the sweep has, which the store answers: a plan chooses from both.
    before = [QuantConfig.parse(slug) for slug in (results.figures.configs if results else ())]
    more = [name for name in (results.names if results else ()) if name not in set(names)]
    state.choose_job(sweep_job.start(session, [*before, *configs], [*names, *more]).id)
    st.rerun()
