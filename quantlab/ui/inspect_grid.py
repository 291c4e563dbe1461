"""The values of a tensor under the grid of a configuration, and what that configuration does to the tensor."""

import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.core.dtypes import DTYPES
from quantlab.core.metrics import METRICS
from quantlab.core.statistics import Histogram, TensorStatistics
from quantlab.errors import QuantlabError
from quantlab.plots import tensor as plots
from quantlab.plots.levels import WHICH, Levels
from quantlab.ui import cache, state, text, widgets
from quantlab.ui.help import about, about_metric

RANGES = ("All", "Central 99 %")
SHOWN = (
    "sqnr_db", "worst_channel_sqnr_db", "bits_per_weight", "nbytes", "compression_ratio", "clipped_fraction",
    "zeroed_fraction",
)  # fmt: skip
CARD = 126  # pixels: all of them in a row beside the sidebar, two on a phone
WHOLE = "Whole tensor"


def values_tab(session: state.Session, found: TensorStatistics) -> None:
    """A configuration, what it makes of the tensor, and the value histogram under its grid."""
    shape = session.spec.shape
    measured = st.container()  # above the form: it follows every change there
    with st.expander(f"Quantization grid of {text.plain(session.config)}", icon=":material/tune:", expanded=True):
        config = widgets.config_form("grid-of", session.config, shape)
    if config != session.config:
        state.choose_config(config)
    if widgets.fits(config, shape):
        with measured, widgets.boundary():
            _measured(session, config)
    if found.amax == 0:
        st.info("Every value is 0: there is nothing to draw, and whatever the scale, nothing is lost.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        group = _group_choice(config, shape)
        show = RANGES[0]
        if group is None:
            show = st.segmented_control(
                "Values", RANGES, default=RANGES[0], required=True, key="range", bind="query-params"
            )
        log = st.toggle("Logarithmic counts", value=True, key="log", bind="query-params")
    levels, histogram = _levels(session, config, group)
    if histogram is None:
        histogram = cache.value_histogram(session.key, session.checkpoint, session.tensor, show != RANGES[0])
    widgets.chart(
        plots.value_histogram(histogram, levels, log), "values", f"Histogram of the values of {session.tensor}"
    )
    st.caption(_legend(config, levels, group, histogram, shape), help=about("levels"))


def _measured(session: state.Session, config: QuantConfig) -> None:
    """Error and size of the tensor under the configuration, as a sweep measures them, beside the size in the file."""
    report, spec = cache.report(session.key, session.checkpoint, session.tensor, config), session.spec
    source = {
        "bits_per_weight": f"of {text.number(8 * spec.nbytes / spec.size)}",
        "nbytes": f"of {text.size(spec.nbytes)}",
    }
    with st.container(horizontal=True, gap="small"):
        for name in SHOWN:
            value = widgets.metric_text(name, getattr(report, name))
            st.metric(
                METRICS[name].label, value, source.get(name), "off", delta_arrow="off", help=about_metric(name),
                width=CARD,
            )  # fmt: skip


def _group_choice(config: QuantConfig, shape: tuple[int, ...]) -> str | None:
    """Which group's values and grid to show; None for the values of the whole tensor."""
    if not _has_groups(config, shape):
        return None
    # First the typical one: in the widest group the steps are the coarsest that there are.
    options = {f"{name.capitalize()} group": name for name in ("median", *(n for n in WHICH if n != "median"))}
    chosen = st.segmented_control(
        "Of", [*options, WHOLE], default="Median group", required=True, key="of", bind="query-params", wrap=True,
        help="Every group has a grid of its own. They are ranked by the width of their ranges; groups of zeros are "
        "left out.",
    )  # fmt: skip
    return options.get(chosen)


def _has_grid(config: QuantConfig, shape: tuple[int, ...]) -> bool:
    return DTYPES[config.dtype].has_scale and widgets.fits(config, shape)


def _has_groups(config: QuantConfig, shape: tuple[int, ...]) -> bool:
    return _has_grid(config, shape) and bool(config.granularity.scale_shape(shape))


def _levels(session: state.Session, config: QuantConfig, group: str | None) -> tuple[Levels | None, Histogram | None]:
    """The grid and the values of one group; of a tensor with one scale, its grid alone.

    Nothing where there is no grid, or more than one: over all values together, none of them would mean anything.
    """
    shape = session.spec.shape
    if not _has_grid(config, shape) or (group is None and _has_groups(config, shape)):
        return None, None
    # What is refused is said above, where its figures would stand.
    try:
        found = cache.group_levels(session.key, session.checkpoint, session.tensor, config, group or "widest")
    except QuantlabError:
        return None, None
    return found if group else (found[0], None)


def _legend(
    config: QuantConfig, levels: Levels | None, group: str | None, shown: Histogram, shape: tuple[int, ...]
) -> str:
    """What the figure shows, in words with numbers."""
    if not DTYPES[config.dtype].has_scale:
        return f"{config} is a float format: its levels lie closer the nearer to 0, so no grid is drawn."
    if levels is None and group is None and _has_groups(config, shape):
        return "All values. Every group has a grid of its own: choose one to see it over its values."
    if levels is None:
        return f"No grid is drawn: {config} does not go with this tensor."
    low, high = text.number(float(levels.values[0])), text.number(float(levels.values[-1]))
    told = f"{levels.values.size:,} levels from {low} to {high}, a step of {text.number(levels.step)} apart."
    if plots.clipped_ranges(shown, levels):
        told += " What lies on grey is clipped to the outermost level."
    if group is None:
        return told
    return f"Group {levels.group:,} of {levels.groups:,}, the {group} range: {told} Every other group has its own."
