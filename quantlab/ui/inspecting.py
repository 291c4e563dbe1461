"""The parts of the Inspect page: a tensor's figures, its values under a quantization grid, its channels."""

from typing import Literal

import numpy as np
import pandas as pd
import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.core.dtypes import DTYPES
from quantlab.core.statistics import ChannelStatistics, Histogram, TensorStatistics, findings
from quantlab.formats import TensorSpec
from quantlab.plots import tensor as plots
from quantlab.plots.levels import WHICH, Levels
from quantlab.ui import cache, state, text, widgets
from quantlab.ui.help import about

WORST = 10
WORST_BY: dict[str, Literal["range", "crest"]] = {"Range": "range", "Crest factor": "crest"}
RANGES = ("All", "Central 99 %")
CARD = 120  # pixels: seven cards in a row beside the sidebar, two on a phone


def header(session: state.Session) -> None:
    """The tensor's name, and what the file says about it."""
    spec = session.spec
    st.title(text.plain(session.tensor), anchor=False)
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


def oddities(found: TensorStatistics, channels: ChannelStatistics | None) -> None:
    """What is odd, in sentences; or that nothing is."""
    sentences = findings(found, channels)
    if not sentences:
        st.success("Nothing odd: no outliers, no dead channels, no lopsided range.", icon=":material/check_circle:")
        return
    # The words before the colon are the finding's name.
    parts = (text.minus(sentence).partition(": ") for sentence in sentences)
    lines = [f"**{name}:** {text.plain(rest)}" if rest else text.plain(name) for name, _, rest in parts]
    st.warning("\n\n".join(lines), icon=":material/troubleshoot:")


def values_tab(session: state.Session) -> None:
    """The value histogram under the grid of a chosen configuration."""
    shape = session.spec.shape
    with st.expander(f"Quantization grid of {text.plain(session.config)}", icon=":material/tune:", expanded=True):
        config = widgets.config_form("grid-of", session.config, shape)
    if config != session.config:
        state.choose_config(config)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        show = st.segmented_control(
            "Values", ("All", "Central 99 %"), default="All", required=True, key="range", bind="query-params"
        )
        group = _group_choice(config, shape)
        log = st.toggle("Logarithmic counts", value=True, key="log", bind="query-params")
    levels, histogram = _levels(session, config, group or "widest")
    if group is None or histogram is None:
        histogram = cache.value_histogram(session.key, session.checkpoint, session.tensor, show != RANGES[0])
    widgets.chart(
        plots.value_histogram(histogram, levels, log), "values", f"Histogram of the values of {session.tensor}"
    )
    st.caption(_legend(config, levels, group, histogram), help=about("levels"))


def channels_tab(session: state.Session) -> None:
    """The range of every channel along an axis, and the channels that are hardest to quantize."""
    shape = session.spec.shape
    if not shape:
        st.info("A scalar has no channels.", icon=":material/inbox:")
        return
    own = session.spec.channel_axis
    with st.container(horizontal=True, vertical_alignment="bottom"):
        axis = st.selectbox(
            "Channels along", range(len(shape)), format_func=lambda i: f"axis {i} ({shape[i]:,} channels)",
            # Tensors of the other kind begin with their own axis, not with the one that was chosen for these.
            key=f"axis{own}" if own else "axis",
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


def main_axis(spec: TensorSpec) -> int | None:
    """The axis whose channels the findings are about: that of the output, where there is more than one dimension."""
    return spec.channel_axis if len(spec.shape) > 1 else None


def _group_choice(config: QuantConfig, shape: tuple[int, ...]) -> str | None:
    """Which group's values to show; None for the whole tensor."""
    if not _has_grid(config, shape) or not config.granularity.scale_shape(shape):
        return None
    options = {"Whole tensor": None} | {f"{name.capitalize()} group": name for name in WHICH}
    chosen = st.segmented_control(
        "Of", list(options), default="Whole tensor", required=True, key="of", bind="query-params", wrap=True
    )
    return options[chosen]


def _has_grid(config: QuantConfig, shape: tuple[int, ...]) -> bool:
    return DTYPES[config.dtype].has_scale and widgets.fits(config, shape)


def _levels(session: state.Session, config: QuantConfig, which: str) -> tuple[Levels | None, Histogram | None]:
    """The grid and the values of one group; nothing where there is no grid, or where it is refused, which is said."""
    if _has_grid(config, session.spec.shape):
        with widgets.boundary():
            return cache.group_levels(session.key, session.checkpoint, session.tensor, config, which)
    return None, None


def _legend(config: QuantConfig, levels: Levels | None, group: str | None, shown: Histogram) -> str:
    """What the figure shows, in words with numbers."""
    if not DTYPES[config.dtype].has_scale:
        return f"{config} is a float format: its levels lie closer the nearer to 0, so no grid is drawn."
    if levels is None:
        return f"No grid is drawn: {config} does not go with this tensor."
    low, high = text.number(float(levels.values[0])), text.number(float(levels.values[-1]))
    told = f"{levels.values.size:,} levels from {low} to {high}, a step of {text.number(levels.step)} apart."
    if plots.clipped_ranges(shown, levels):
        told += " What lies on grey is clipped to the outermost level."
    if levels.groups == 1:
        return told
    whose = f"Group {levels.group:,} of {levels.groups:,}, the {group or 'widest'} range"
    return f"{whose}: {told}" + ("" if group else " Every other group has finer steps of its own.")


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
