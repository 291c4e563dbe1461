"""Inspect: one tensor, what is odd about it, and what a configuration makes of it."""

import streamlit as st

from quantlab.ui import cache, inspect_grid, inspecting, state, widgets

session = state.require_weights()

inspecting.header(session)
with widgets.boundary():
    figures = cache.tensor_statistics(session.key, session.checkpoint, session.tensor)
    ranges = cache.channel_ranges(session.key, session.checkpoint, session.tensor)
    inspecting.figures(figures)
    inspecting.oddities(session, figures, ranges)

    values_tab, channels_tab = st.tabs(["Values", "Channels"], key="tab", bind="query-params")
    if values_tab.open:
        with values_tab:
            inspect_grid.values_tab(session, figures)
    if channels_tab.open:
        with channels_tab:
            inspecting.channels_tab(session, ranges)
    if st.button("Sweep this tensor", icon=":material/grid_on:"):
        state.go_to_sweep(scope="This one")
