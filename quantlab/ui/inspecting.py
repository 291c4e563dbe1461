"""The parts of the Inspect page: a tensor's figures, what is odd about it, its channels."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import streamlit as st

from quantlab.core.findings import findings, most_uneven
from quantlab.core.statistics import ChannelRanges, ChannelStatistics, Histogram, TensorStatistics
from quantlab.plots import tensor as plots
from quantlab.sweeping.findings import Look, told
from quantlab.ui import cache, state, text, widgets
from quantlab.ui.help import about

WORST = 10
WORST_BY: dict[str, Literal["range", "crest"]] = {"Range": "range", "Crest factor": "crest"}
CARD = 120  # pixels: seven cards in a row beside the sidebar, two on a phone


def header(session: state.Session) -> None:
    """The tensor's name between its neighbours of the file, and what the file says about it."""
    spec = session.spec
    name, steps = st.columns([5, 1], vertical_alignment="center")
    name.title(text.plain(session.tensor), anchor=False)
    with steps.container(horizontal=True, horizontal_alignment="right", gap="xsmall"):
        _step("Previous tensor", ":material/chevron_left:", state.neighbour(session, -1))
        _step("Next tensor", ":material/chevron_right:", state.neighbour(session, 1))
    facts = [
        text.shape(spec.shape),
        spec.dtype,
        f"{text.count(spec.size)} values",
        text.size(spec.nbytes),
        session.title,
    ]
    st.caption(" · ".join(text.plain(fact) for fact in facts))
    if spec.note:
        st.caption(text.plain(spec.note))


def _step(label: str, icon: str, name: str | None) -> None:
    told = label if name is None else f"{label}: {text.plain(name)}"
    st.button("", key=label, icon=icon, help=told, disabled=name is None, on_click=state.follow_tensor, args=(name,))


def figures(found: TensorStatistics) -> None:
    """The figures as cards that wrap; all are in the tensor's own unit, or shares of its values."""
    with st.container(horizontal=True, gap="small"):
        for label, value, term in (
            ("Min", text.number(found.minimum), None),
            ("Max", text.number(found.maximum), None),
            ("Mean", text.number(found.mean, 3), None),
            ("Std deviation", text.number(found.std, 3), "std"),
            ("Kurtosis", text.number(found.kurtosis, 3), "kurtosis"),
            ("Zeros", text.percent(found.zeros), "zeros"),
            ("Outliers", text.percent(found.outliers), "outliers"),
        ):
            st.metric(label, value, help=term and about(term), width=CARD)


def oddities(session: state.Session, found: TensorStatistics, channels: Sequence[ChannelRanges]) -> None:
    """What is odd, in sentences, with the measured gain of what helps; or that nothing is."""
    odd = findings(found, channels)
    if not odd:
        st.success("Nothing odd: no outliers, no dead channels, no lopsided range.", icon=":material/check_circle:")
        return
    gains = cache.gains(session.key, session.checkpoint, session.tensor)
    lines = []
    for one in odd:
        # What was measured takes the place of advice.
        rest = f". Measured: {told(gains[one])}." if gains.get(one) else one.advice
        lines.append(f"**{text.plain(text.minus(one.name))}:** {text.plain(text.minus(one.what + rest))}")
    st.warning("\n\n".join(lines), icon=":material/troubleshoot:")


def view_of(session: state.Session, tensor: str, look: Look, axis: int | None) -> dict[str, str]:
    """What the page's widgets say in a link about a tensor, or about the channels along one of its axes."""
    if axis is None:
        return {}
    spec = session.checkpoint.spec(tensor)
    own = spec.channel_axis if look.uneven is None else look.uneven
    # What a widget says unasked must not stand in a link: Streamlit takes it out, as an entry in the browser's history.
    return {"tab": "Channels"} | ({_axis_key(own): _axis_label(spec.shape, axis)} if axis != own else {})


def _axis_key(own: int) -> str:
    # Tensors begin with the axis that their findings are about, not with the one that was chosen for others.
    return f"axis{own}" if own else "axis"


def _axis_label(shape: Sequence[int], axis: int) -> str:
    return f"axis {axis} ({shape[axis]:,} channels)"


def channels_tab(session: state.Session, ranges: Sequence[ChannelRanges]) -> None:
    """The range of every channel along an axis, and the channels that are hardest to quantize."""
    shape = session.spec.shape
    if not shape:
        st.info("A scalar has no channels.", icon=":material/inbox:")
        return
    uneven = most_uneven(ranges)
    own = uneven.axis if uneven else session.spec.channel_axis
    with st.container(horizontal=True, vertical_alignment="bottom"):
        axis = st.selectbox(
            "Channels along", range(len(shape)), format_func=lambda i: _axis_label(shape, i), key=_axis_key(own),
            help=about("axis"), width=240, bind="query-params", index=own,
        )  # fmt: skip
        by = st.segmented_control(
            "Worst by", list(WORST_BY), default="Range", required=True, key="worst", bind="query-params",
            help=about("worst"),
        )  # fmt: skip
    channels = cache.channel_statistics(session.key, session.checkpoint, session.tensor, axis)
    worst = channels.worst(WORST, WORST_BY[by])
    widgets.chart(
        plots.channel_band(channels, worst), "band", f"Range of the channels of {session.tensor} along axis {axis}"
    )
    histograms = cache.channel_histograms(session.key, session.checkpoint, session.tensor, axis, worst)
    st.markdown(f"**Worst channels**, those with the largest {by.lower()}")
    st.dataframe(_worst_table(channels, worst, histograms), hide_index=True, column_config=_WORST_COLUMNS)


def _worst_table(channels: ChannelStatistics, worst: np.ndarray, histograms: list[Histogram]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "channel": worst,
            "histogram": [histogram.counts.tolist() for histogram in histograms],
            "crest": channels.crest[worst],
            "minimum": channels.minimum[worst],
            "maximum": channels.maximum[worst],
            "std": channels.std[worst],
            "relative": channels.relative_range[worst],
        }
    )


_WORST_COLUMNS = {
    "channel": st.column_config.NumberColumn("Channel", format="%d", pinned=True),
    "histogram": st.column_config.BarChartColumn("Histogram", help=about("histogram"), width=160),
    "crest": st.column_config.NumberColumn("Crest factor", format="%.3g", help=about("crest")),
    "minimum": st.column_config.NumberColumn("Min", format="%.4g"),
    "maximum": st.column_config.NumberColumn("Max", format="%.4g"),
    "std": st.column_config.NumberColumn("Std", format="%.3g", help=about("std")),
    "relative": st.column_config.NumberColumn("Range / median", format="%.3g ×", help=about("relative_range")),
}
