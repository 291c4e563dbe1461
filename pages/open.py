"""Open: a file becomes a table of tensors; a click on one goes on to Inspect."""

import streamlit as st

from quantlab.ui import open_findings, open_table, opening, state, text

session = state.current()

st.title("Open", anchor=False)
st.caption(
    "quantlab decides how to quantize a model's weights. **1** Open a model. **2** Plan: say which program will load "
    "it and in what size, and every tensor gets the configuration that is best there. **3** Export a file of that "
    "size. Inspect, Sweep and Compare show what every choice costs and hurts."
)
opening.choose_source(session)

if session.opened is None:
    st.error(text.sentence(session.problem), icon=":material/folder_off:")
    st.stop()

opening.summary(session)
if not session.checkpoint.names:
    st.info("This file holds no tensor.", icon=":material/inbox:")
else:
    open_findings.panel(session)
    open_table.tensor_table(session)
