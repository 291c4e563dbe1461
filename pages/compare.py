"""Compare: two to four configurations on one tensor, side by side."""

import streamlit as st

from quantlab.ui import compare_views, state

st.title("Compare", anchor=False)
session = state.require_weights()
compare_views.tensor_line(session)
configs = compare_views.choose_configs(session)

if len(configs) < 2:
    compare_views.invitation(session)
if compared := compare_views.sides(session, session.tensor, configs):
    compare_views.tabs(session, session.tensor, compared)
    compare_views.export_links(compared)
