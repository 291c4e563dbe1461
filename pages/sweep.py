"""Sweep: a grid of configurations over tensors, as a job; then what each costs and what it hurts."""

import streamlit as st

from quantlab.sweeping.weights import channel_axes
from quantlab.ui import (
    jobs,
    state,
    sweep_cluster,
    sweep_earlier,
    sweep_form,
    sweep_job,
    sweep_outcome,
    sweep_store,
    sweep_views,
    widgets,
)

session = state.current()
job, record = jobs.get(session.job), sweep_store.record_of(session.job)
running, possible, runner = job is not None and job.active, False, None

sweep_earlier.head(session)
if session.opened is None:
    state.say_why_none(session)
else:
    # Folded once there is something to see: results stand above the fold of a laptop.
    with st.expander(sweep_outcome.headline(job, record), expanded=not (job or record), icon=":material/tune:"):
        st.caption("Measures every configuration of a grid: its error, and the bytes that an export writes.")
        configs, refusals = widgets.grid_form(channel_axes(session.checkpoint))
        tensors = sweep_form.tensor_form(session)
        estimate = st.container()
        possible = sweep_form.check(session, configs, refusals, tensors)
        runner = sweep_cluster.choose()
        label = "Run again" if job and not running else "Run"
        ready = possible and runner is not None and not running
        if st.button(label, type="primary", icon=":material/play_arrow:", disabled=not ready) and runner:
            state.choose_job(sweep_job.start(session, configs, tensors, runner).id)
            st.rerun()

results = None
if job is not None and job.active:
    jobs.progress_fragment(job, lambda partial: sweep_views.filling(session, partial))
elif job is not None:
    results = sweep_outcome.ended(session, job, runner)
elif record is not None:
    results = sweep_outcome.kept(session, record)
elif session.job:
    st.info(
        "The server no longer keeps the sweep of this link: look among the earlier ones.", icon=":material/history:"
    )
elif session.opened is not None and possible:
    st.info("Run the sweep to see error, size and compression of every configuration here.", icon=":material/grid_on:")

if results:
    file = sweep_outcome.provenance(session, results)
    sweep_views.views(file, results, *sweep_views.choose_view(file, results))
    sweep_outcome.refused(results)

if session.opened is not None and possible:
    # Last, so that nothing waits for it: on a new installation it waits for kernels to be compiled.
    sweep_form.tell(estimate, session, configs, tensors)
