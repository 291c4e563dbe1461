"""Open: a file becomes a table of tensors; selecting one goes on to Inspect."""

import streamlit as st

from quantlab.ui import opening, state, text

session = state.current()

st.title("Open", anchor=False)
st.caption("Choose a file and see its tensors.")
opening.choose_source(session)

if session.opened is None:
    st.error(text.sentence(session.problem), icon=":material/folder_off:")
    st.stop()

left, right = st.columns([3, 2], vertical_alignment="bottom")
with left:
    opening.summary(session)
query = right.text_input(
    "Find tensors",
    key="find",
    placeholder="part of a name, or a pattern such as *.weight",
    type="search",
    bind="query-params",
)
if not session.checkpoint.names:
    st.info("This file holds no tensor.", icon=":material/inbox:")
else:
    opening.tensor_table(session, query)
