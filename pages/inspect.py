"""Inspect: one tensor, what is odd about it, and how a quantization grid would lie over its values."""

import streamlit as st

from quantlab.ui import cache, inspecting, state, widgets

session = state.require_weights()

inspecting.header(session)
with widgets.boundary():
    figures = cache.tensor_statistics(session.key, session.checkpoint, session.tensor)
    axis = inspecting.main_axis(session.spec)
    channels = None
    if axis is not None:
        channels = cache.channel_statistics(session.key, session.checkpoint, session.tensor, axis)
    inspecting.figures(figures)
    inspecting.oddities(figures, channels)

    values_tab, channels_tab = st.tabs(["Values", "Channels"], key="tab", bind="query-params")
    if values_tab.open:
        with values_tab:
            inspecting.values_tab(session)
    if channels_tab.open:
        with channels_tab:
            inspecting.channels_tab(session)
    if st.button("Sweep this tensor", icon=":material/grid_on:"):
        state.go_to_sweep_of_tensor()
