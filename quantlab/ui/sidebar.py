"""The sidebar: the five pages, and what is open."""

from collections.abc import Iterable

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from quantlab.ui import state, text

_CHOICES = 2000  # names that a drop-down still handles; beyond, the Open page's search is the way


def draw(session: state.Session, pages: Iterable[StreamlitPage]) -> None:
    """Links to the pages, each carrying the present view; below them the open file and the current tensor."""
    with st.sidebar:
        for page in pages:
            st.page_link(page, query_params=state.link(), width="stretch")
        st.space("small")
        if session.opened is None:
            st.caption("No file is open")
            return
        count = len(session.checkpoint.names)
        st.caption(f"{text.plain(session.title)} · {count:,} tensor{'' if count == 1 else 's'}")
        if session.chosen is not None:
            _tensor(session)


def _tensor(session: state.Session) -> None:
    names, spec = session.checkpoint.names, session.spec
    if 1 < len(names) <= _CHOICES:
        st.session_state["sidebar-tensor"] = session.tensor
        st.selectbox("Tensor", names, key="sidebar-tensor", on_change=_choose, filter_mode="contains")
    else:
        st.markdown(text.plain(text.shortened(session.tensor)))
    st.caption(f"{text.shape(spec.shape)} · {spec.dtype} · {text.size(spec.nbytes)}")


def _choose() -> None:
    state.choose_tensor(st.session_state["sidebar-tensor"])
