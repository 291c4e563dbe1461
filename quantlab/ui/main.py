"""The entry script: navigation, and what every page has around it."""

from pathlib import Path

import streamlit as st

from quantlab.ui import sidebar, state, text, widgets

TITLES = {  # page -> title, icon, what it is for
    "open": ("Open", ":material/folder_open:", "Choose a file and see its tensors."),
    "inspect": ("Inspect", ":material/query_stats:", "One tensor: its figures, its histogram, its channels."),
    "sweep": ("Sweep", ":material/grid_on:", "Measure a grid of configurations on the tensors."),
    "compare": ("Compare", ":material/compare_arrows:", "Two to four configurations side by side."),
    "export": ("Export", ":material/save_alt:", "Write packed results to a file."),
}

st.set_page_config(page_title="quantlab", page_icon=":material/stairs:", layout="wide")
st.logo(Path(__file__).with_name("logo.svg"), size="large")

# The links carry the whole view, so one can be copied, or opened in another tab; Streamlit's own menu would drop it.
pages = {
    name: st.Page(state.page_path(name), title=title, icon=icon, help=help, url_path=name, default=name == "open")
    for name, (title, icon, help) in TITLES.items()
}
page = st.navigation(list(pages.values()), position="hidden")
session = state.restore()
sidebar.draw(session, list(pages.values()))
if page is not pages["open"]:
    session.refusal = None  # what was refused there is history here
for notice in session.notices:
    st.warning(text.sentence(notice), icon=":material/link_off:")
view = state.link()
with widgets.boundary():
    page.run()
if state.link() != view:
    st.rerun()  # the page chose something: the links around it follow
