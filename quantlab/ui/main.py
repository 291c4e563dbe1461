"""The entry script: navigation, and what every page has around it."""

from pathlib import Path

import streamlit as st

from quantlab.ui import sidebar, state, widgets

HERE = Path(__file__).parent
SIDEBAR = 256  # pixels
TITLES = {  # page -> title, icon
    "open": ("Open", ":material/folder_open:"),
    "inspect": ("Inspect", ":material/query_stats:"),
    "sweep": ("Sweep", ":material/grid_on:"),
    "plan": ("Plan", ":material/route:"),
    "compare": ("Compare", ":material/compare_arrows:"),
    "export": ("Export", ":material/save_alt:"),
    "audit": ("Audit", ":material/fact_check:"),
}

# A file of ours: the browser would fetch one of Streamlit's icons from Google, at every page.
# A narrow sidebar leaves a laptop's screen to the tables.
st.set_page_config(
    page_title="quantlab", page_icon=str(HERE / "icon.svg"), layout="wide", initial_sidebar_state=SIDEBAR
)
st.logo(HERE / "logo.svg", size="large")

# The links carry the whole view, so one can be copied, or opened in another tab; Streamlit's own menu would drop it.
# They have no tooltips: one lies over the links above its own, and takes their clicks.
pages = {
    name: st.Page(state.page_path(name), title=title, icon=icon, url_path=name, default=name == "open")
    for name, (title, icon) in TITLES.items()
}
page = st.navigation(list(pages.values()), position="hidden")
session = state.restore()
st.set_page_config(page_title=f"{page.title} · {session.title} · quantlab")
sidebar.draw(session, pages)
name = next(name for name, known in pages.items() if known is page)
if name != "open":
    session.refusal = None  # what was refused there is history here
above = st.container()
state.tell_notices(above)
view = state.link()
state.recall(name)
with widgets.boundary():
    page.run()
state.remember(name)
state.tell_notices(above)  # those of the page's own widgets
if state.link() != view:
    st.rerun()  # the page chose something: the links around it follow
