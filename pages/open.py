"""Open: a file becomes a table of tensors; a click on one goes on to Inspect."""

import streamlit as st

from quantlab.ui import open_findings, open_table, opening, state, text

session = state.current()

st.title("Open", anchor=False)
st.caption(
    "quantlab shows what a model's weights lose and save in fewer bits: open a model, sweep ways to quantize it, "
    "compare the best, and export one for the program that is to load it."
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
