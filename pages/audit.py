"""Audit: a quantized checkpoint beside its source: what it lost, and what it could have been."""

import streamlit as st

from quantlab.ui import audit_form, audit_views, jobs, state, widgets

st.title("Audit", anchor=False)
st.caption("What a quantized file lost, tensor by tensor, and what its program would have loaded instead.")
session = state.require_checkpoint()
job = jobs.get(session.audit)

with widgets.boundary():
    if asked := audit_form.choose(job):
        audit_form.start(session, asked)
        st.rerun()

if job is None and session.audit:
    st.info("The server no longer keeps the audit of this link: compare again.", icon=":material/history:")
elif job is not None and job.active:
    jobs.progress_fragment(job)
elif job is not None and (result := audit_views.outcome(job)):
    audit_views.show(session, result)
elif job is None:
    st.info(
        "Name the other file: a GGUF somebody else has made, an export, or another version of this model. Tensors are "
        "found by their names, GGUF's and Hugging Face's alike.",
        icon=":material/fact_check:",
    )
