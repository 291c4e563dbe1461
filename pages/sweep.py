"""Sweep: a grid of configurations over tensors, as a job; then what each costs and what it hurts."""

import streamlit as st

from quantlab.recipe import channel_axes
from quantlab.ui import jobs, state, sweep_form, sweep_job, sweep_views, widgets

session = state.require_checkpoint()
job = jobs.get(session.job)

st.title("Sweep", anchor=False)
with st.expander("What to measure", expanded=job is None, icon=":material/tune:"):
    configs, refusals = widgets.grid_form(channel_axes(session.checkpoint))
    tensors = sweep_form.tensor_form(session)
    sweep_form.plan(session, configs, refusals, tensors)
    running = job is not None and job.active
    label = "Run again" if job and not running else "Run"
    ready = bool(configs and tensors) and not running
    if st.button(label, type="primary", icon=":material/play_arrow:", disabled=not ready):
        job = sweep_job.start(session.checkpoint, session.key, configs, tensors)
        state.choose_job(job.id)
        st.rerun()

if job is None and session.job:
    st.info("The server no longer keeps the sweep of this link: run it again.", icon=":material/history:")
elif job is None:
    st.info("Run the sweep to see error, size and compression of every configuration here.", icon=":material/grid_on:")
elif job.active:
    jobs.progress_fragment(job, lambda results: sweep_views.filling(session, results))
elif results := sweep_views.outcome(job):
    if results.key != session.key:
        st.warning("These are results of another file, or of this one before it changed: run again.")
        st.stop()
    sweep_views.refused(results)
    sweep_views.views(session, results, *sweep_views.choose_view(session, results))
