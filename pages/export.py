"""Export: packed results in one file, read back, measured again, and handed over."""

import streamlit as st

from quantlab.ui import export_form, export_result, export_views, jobs, state, widgets

st.title("Export", anchor=False)
st.caption("Writes the packed result, reads it back, and measures it again.")
session = state.require_checkpoint()
job = jobs.get(session.export)
running = job is not None and job.active

with widgets.boundary():
    rules = export_form.choose_channels(session, export_form.choose_rules(session))
    overview = st.container()
    with st.container(border=True):
        format = export_form.choose_format(session)
        rules = export_form.choose_others(format) + rules
        keep = export_form.choose_refused()
        target = export_form.choose_target(session, rules, format)
        plan = export_views.plan(session, rules, format, keep)
        with overview:
            export_views.preview(session, plan, format)
        ready = not plan.refusals and not running
        if st.button("Write the file", type="primary", icon=":material/save_alt:", disabled=not ready):
            export_views.start(session, plan, format, target)
            st.rerun()

if job is None and session.export:
    st.info("The server no longer keeps the export of this link: write it again.", icon=":material/history:")
elif running:
    jobs.progress_fragment(job)
elif job is not None and (result := export_result.outcome(job)):
    export_result.show(session, result)
