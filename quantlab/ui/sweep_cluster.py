"""Where a sweep runs: on this computer, or on the Dask cluster that the server was started with.

The address comes from one setting, the environment variable ``QUANTLAB_CLUSTER``, and never from a visitor: a cluster's
answers are trusted.
"""

import os

import streamlit as st

from quantlab.errors import QuantlabError
from quantlab.sweeping.cluster import ClusterRunner
from quantlab.sweeping.sweep import Runner, stream
from quantlab.ui import text, widgets

VARIABLE = "QUANTLAB_CLUSTER"
HERE, CLUSTER = "This computer", "Cluster"


def address() -> str:
    """The scheduler's address as the server was given it; "" without one."""
    return os.environ.get(VARIABLE, "").strip()


def choose() -> Runner | None:
    """What measures; asked where there is a cluster. None if that cannot be used, under a sentence that says why."""
    if not address():
        return stream
    widgets.heed("on", (HERE, CLUSTER))
    where = st.segmented_control(
        "Measure on", (HERE, CLUSTER), default=HERE, required=True, key="on", bind="query-params",
        help="A cluster's workers read the file themselves, by the same path or URL, and send back the rows. The time "
        "and memory above are those of this computer.",
    )  # fmt: skip
    if where == HERE:
        return stream
    st.caption(f"The Dask cluster at {text.plain(address())}")
    try:
        return ClusterRunner(address()).stream
    except QuantlabError as error:  # no address, or Dask is not installed
        st.error(text.sentence(error), icon=":material/block:")
        return None
