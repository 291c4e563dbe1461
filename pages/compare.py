"""Compare: two to four configurations side by side, on one tensor or over all of them."""

import streamlit as st

from quantlab.ui import compare_views, compare_whole, state

st.title("Compare", anchor=False)
session = state.require_checkpoint()
left, right = st.columns([1, 2])
with left:
    compare_whole.choose_scope(session)
if session.over is None:
    state.require_weights()
    compare_views.tensor_line(session)
with right:
    configs = compare_views.choose_configs(session)

if session.over is not None:
    compare_whole.show(session, session.over, configs)
    compare_views.export_links(configs)
elif compared := compare_views.sides(session, session.tensor, configs):
    compare_views.tabs(session, session.tensor, compared)
    compare_views.export_links([side.config for side in compared])
if len(configs) < 2:
    compare_views.invitation(session)
