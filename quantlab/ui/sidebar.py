"""The frame around a page: links to the pages, and in the sidebar what is open.

A phone shows the links above the page instead: following a link leaves its sidebar open over the page.
"""

from collections.abc import Mapping
from typing import Literal

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from quantlab.ui import state, text
from quantlab.wording import counted

_CHOICES = 2000  # names that a drop-down still handles; beyond, the Open page's search is the way
_STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding-inline: clamp(1rem, 2vw, 4rem); }
@media (min-width: 769px) {
    /* The header is empty beside a sidebar but for the menu at its right end, and lies over the top of the page. */
    [data-testid="stMainBlockContainer"] { padding-block-start: 2rem; }
    [data-testid="stHeader"] { background: transparent; }
    [data-testid="stHeader"], [data-testid="stToolbar"] { pointer-events: none; }
    [data-testid="stHeader"] button { pointer-events: auto; }
}
:has(> .st-key-links-above) { display: none; }
@media (max-width: 768px) {
    :has(> .st-key-links-above) { display: flex; }
    .st-key-links-beside { display: none; }
}
@media (max-width: 480px) { .st-key-links-above :has(> [data-testid="stIconMaterial"]) { display: none; } }
/* The end of a tensor's name says more than its beginning: what does not fit is left out there. */
[class*="st-key-sidebar-tensor"] input { font-size: 0.8125rem; }
[class*="st-key-sidebar-tensor"] input:not(:focus) { direction: rtl; text-align: left; text-overflow: ellipsis; }
[data-testid="stSidebarContent"] { padding-inline: 0.5rem; }
</style>"""


def draw(session: state.Session, pages: Mapping[str, StreamlitPage]) -> None:
    """Links to the pages, each carrying the present view; below them the open file and the current tensor."""
    st.html(_STYLE)
    with st.container(key="links-above", horizontal=True, gap="xxsmall"):
        _links(pages, "content")
    with st.sidebar:
        with st.container(key="links-beside", gap="xsmall"):
            _links(pages, "stretch")
            st.space("small")
        if session.opened is None:
            st.caption("No file is open")
            return
        count = len(session.checkpoint.names)
        st.caption(f"{text.plain(session.title)} · {counted(count, 'tensor')}")
        if session.chosen is not None:
            _tensor(session)


def _links(pages: Mapping[str, StreamlitPage], width: Literal["content", "stretch"]) -> None:
    for name, page in pages.items():
        st.page_link(page, query_params=state.remembered(name) | state.link(), width=width)


def _tensor(session: state.Session) -> None:
    names, spec = session.checkpoint.names, session.spec
    if 1 < len(names) <= _CHOICES:
        st.session_state["sidebar-tensor"] = session.tensor
        st.selectbox("Tensor", names, key="sidebar-tensor", on_change=_choose, filter_mode="contains")
    else:
        st.markdown(text.plain(text.shortened(session.tensor)))
    st.caption(f"{text.shape(spec.shape)} · {spec.dtype} · {text.size(spec.nbytes)}")


def _choose() -> None:
    state.follow_tensor(st.session_state["sidebar-tensor"])
