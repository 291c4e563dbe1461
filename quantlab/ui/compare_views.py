"""The parts of the Compare page: which configurations, their figures with the winners marked, and the figures drawn."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from quantlab.core.config import PRESETS, QuantConfig
from quantlab.core.dtypes import IntegerCodec
from quantlab.core.metrics import METRICS
from quantlab.errors import ConfigError, QuantlabError
from quantlab.plots import compare as plots
from quantlab.ui import cache, compare_data, jobs, state, text, widgets
from quantlab.ui.compare_data import Side
from quantlab.ui.help import about
from quantlab.ui.sweep_views import metrics_help

ORDERS = ("Worst first", "As in the tensor")
SHOWN, RANGES = ("Errors", "Decoded values"), ("Central 99 %", "All values")
SUGGESTED = ("int8_per_channel", "w4_g128", "w4_g32")


def tensor_line(session: state.Session) -> None:
    """The tensor that is compared on, in a line."""
    spec = session.checkpoint.spec(session.tensor)
    facts = (text.shape(spec.shape), spec.dtype, f"{text.count(spec.size)} weights", text.size(spec.nbytes))
    st.caption(f"On **{text.plain(session.tensor)}** · {' · '.join(facts)}")


def choose_configs(session: state.Session) -> tuple[QuantConfig, ...]:
    """The configurations side by side, in the URL; from the last sweep, the presets, or typed in."""
    now = [str(config) for config in session.compare]
    asked = st.multiselect(
        "Configurations", _offered(session), now, max_selections=state.COMPARED, accept_new_options=True,
        key=f"compared-{'+'.join(now)}", help=about("configuration"), wrap=True,
        placeholder="Choose, or type one such as int4-sym-g64-mse or w4_g128",
    )  # fmt: skip
    chosen = _parsed(asked)
    if tuple(chosen) != session.compare:
        state.choose_compare(chosen)
        st.rerun()
    return session.compare


def _offered(session: state.Session) -> list[str]:
    """Slugs to choose from: those compared, those of the last sweep, those of the presets."""
    job = jobs.get(session.job)
    results = (job.result or job.partial) if job else None
    swept = list(results.frame["config"].unique()) if results is not None else []
    return list(dict.fromkeys([*map(str, session.compare), *swept, *map(str, PRESETS.values())]))


def _parsed(asked: Sequence[str]) -> list[QuantConfig]:
    """The configurations that can be read, once each; a sentence for what was typed and cannot be."""
    configs: dict[QuantConfig, None] = {}
    for slug in asked:
        try:
            configs[QuantConfig.parse(slug.strip())] = None
        except ConfigError as error:
            st.error(text.sentence(error), icon=":material/block:")
    return list(configs)


def invitation(session: state.Session) -> None:
    """What to do while there is nothing to compare."""
    first = session.compare or (session.config,)
    st.info(
        "Choose two to four configurations to see them side by side, or click on a result of a sweep.",
        icon=":material/compare_arrows:",
    )
    suggested = dict.fromkeys([*first, *(PRESETS[name] for name in SUGGESTED)])
    label = f"Compare {', '.join(map(str, list(suggested)[: state.COMPARED]))}"
    if st.button(label, icon=":material/lightbulb:"):
        state.choose_compare(suggested)
        st.rerun()


def sides(session: state.Session, tensor: str, configs: Sequence[QuantConfig]) -> list[Side]:
    """What is known of every configuration; a sentence for those that do not go with the tensor."""
    found: list[Side] = []
    refused: dict[str, list[str]] = {}
    for config in configs:
        try:
            found.append(compare_data.side(session, tensor, config))
        except QuantlabError as error:
            refused.setdefault(text.sentence(error), []).append(text.plain(config))
    for reason, which in refused.items():
        # What all of them are refused for is a matter of the tensor.
        named = f"{', '.join(which)}: " if len(which) < len(configs) else ""
        st.error(named + reason, icon=":material/block:")
    return found


def figures_table(compared: Sequence[Side]) -> None:
    """Every metric of every configuration, the best in bold with a mark."""
    reports = [side.report for side in compared]
    lines = {"Levels used": [_used(side) for side in compared]}
    for key, metric in METRICS.items():
        values = [figure_text(key, getattr(report, key)) for report in reports]
        won = compare_data.winners(reports, key)
        lines[metric.label] = [f"**{v}** :material/trophy:" if w else v for v, w in zip(values, won, strict=True)]
    table_of_text(lines, [name(i, side) for i, side in enumerate(compared)], "Every metric of every configuration")
    st.caption(
        "**Bold with :material/trophy:**: the best of these configurations. Nothing is marked where all are equal.",
        help=metrics_help(),
    )


def export_links(configs: Sequence[QuantConfig]) -> None:
    """On to Export, with one of the configurations."""
    with st.container(horizontal=True):
        for config in configs:
            st.page_link(
                state.page_path("export"), label=f"Export {text.plain(config)}", icon=":material/save_alt:",
                query_params=state.link(config=config),
            )  # fmt: skip


def table_of_text(lines: dict[str, list[str]], head: list[str], alt: str) -> None:
    """A small table of text, which scrolls sideways where it does not fit."""
    st.table(pd.DataFrame.from_dict(lines, orient="index", columns=head), border="horizontal", width="content", alt=alt)


def name(index: int, side: Side) -> str:
    """A configuration as the head of a column, with the colour that it has in the figures."""
    return f"{dot(index)} {text.plain(side.config)}"


def dot(index: int) -> str:
    """A dot in the colour that the configuration at a place has in the figures."""
    return f':color[●]{{foreground="{plots.color(index)}"}}'


def figure_text(key: str, value: float | None) -> str:
    """A figure with its unit, with as many digits as tell configurations apart."""
    # Four digits of a cosine are 1 for every configuration that is any good.
    return f"{value:.7f}" if key == "cosine" else widgets.metric_text(key, value)


def _used(side: Side) -> str:
    return f"{text.count(side.usage.used)} of {text.count(side.usage.levels)}"


def tabs(session: state.Session, tensor: str, compared: Sequence[Side]) -> None:
    """The figures, of which only the open tab's are drawn."""
    drawn = {
        "Figures": lambda: figures_table(compared),
        "Error histograms": lambda: histograms(session, tensor, compared),
        "Codes": lambda: code_usage(session, tensor, compared),
        "Channels": lambda: channels(session, tensor, compared),
        "Values": lambda: values(session, tensor, compared),
        "Bytes": lambda: bytes_split(session, tensor, compared),
    }
    widgets.heed("side", drawn)
    for tab, draw in zip(
        st.tabs(list(drawn), key="side", on_change="rerun", bind="query-params"), drawn.values(), strict=True
    ):
        if tab.open:
            with tab:
                draw()


def histograms(session: state.Session, tensor: str, compared: Sequence[Side]) -> None:
    """Errors of all configurations on one axis."""
    log = st.toggle("Logarithmic", True, key="log-errors", bind="query-params", help="Shows the rare large errors too.")
    told = compare_data.histograms(session, tensor, [side.config for side in compared])
    widgets.chart(plots.error_histograms(told, log), "errors", f"Error histograms on {tensor}")
    widest = max(compared, key=lambda side: side.report.max_abs_error)
    st.caption(
        f"The axis reaches to the largest error of all, {text.number(widest.report.max_abs_error)} of "
        f"{text.plain(widest.config)}, in units of the weights."
    )


def code_usage(session: state.Session, tensor: str, compared: Sequence[Side]) -> None:
    """How often each code occurs, one figure per configuration."""
    for (i, side), place in zip(enumerate(compared), _grid(len(compared)), strict=True):
        with place:
            usage = side.usage
            st.markdown(
                f"{name(i, side)}  \n**{_used(side)}** codes are used; "
                f"their entropy is {usage.entropy:.2f} of {usage.bits} bits"
            )
            q = cache.quantized(session.key, session.checkpoint, tensor, side.config)
            widgets.chart(plots.code_usage(q, i), f"codes-{i}", f"How often {side.config} uses each code")
    st.caption(
        "An entropy far below the bits means codes that hardly occur: a narrower range would make better use of them."
    )


def channels(session: state.Session, tensor: str, compared: Sequence[Side]) -> None:
    """Error of every channel."""
    spec = session.checkpoint.spec(tensor)
    shape = spec.shape
    if not shape:
        st.info("A scalar has no channels.", icon=":material/filter_1:")
        return
    axes = {f"{axis} ({length:,} channels)": axis for axis, length in enumerate(shape)}
    axis = axes[
        st.segmented_control(
            "Axis", list(axes), default=list(axes)[spec.channel_axis], required=True, help=about("axis")
        )
    ]
    widgets.heed("channel-order", ORDERS)
    order = st.segmented_control(
        "Order", ORDERS, default=ORDERS[0], required=True, key="channel-order", bind="query-params"
    )
    errors = compare_data.channel_errors(session, tensor, [side.config for side in compared], axis)
    figure = plots.channel_errors(errors, axis, ordered=order == ORDERS[0])
    widgets.chart(figure, "channels", f"Error of every channel of {tensor}")
    worst = {slug: int(found.argmax()) for slug, found in errors.items()}
    told = (f"channel {at} of {text.plain(slug)} ({text.number(errors[slug][at])})" for slug, at in worst.items())
    st.caption(f"Largest: {', '.join(told)}.")


def values(session: state.Session, tensor: str, compared: Sequence[Side]) -> None:
    """Errors, or decoded values, over original values, one figure per configuration; of most values, or of all."""
    with st.container(horizontal=True):
        for key, choices in (("shown", SHOWN), ("range", RANGES)):
            widgets.heed(key, choices)
        what = st.segmented_control("Show", SHOWN, default=SHOWN[0], required=True, key="shown", bind="query-params")
        span = st.segmented_control("Range", RANGES, default=RANGES[0], required=True, key="range", bind="query-params")
    within = None
    if span == RANGES[0]:
        edges = cache.value_histogram(session.key, session.checkpoint, tensor, True).edges
        within = (float(edges[0]), float(edges[-1])) if edges[0] < edges[-1] else None
    limit = max(plots.largest_error(*side.sample, within) for side in compared)
    for (i, side), place in zip(enumerate(compared), _grid(len(compared)), strict=True):
        with place:
            st.markdown(name(i, side))
            figure = (
                plots.error_over_original(*side.sample, i, within, limit)
                if what == SHOWN[0]
                else plots.original_and_decoded(*side.sample, i, within)
            )
            widgets.chart(figure, f"values-{i}", f"{what} over original values, {side.config}")
    st.caption(
        f"A sample of at most {compare_data.SAMPLED:,} weights, the {compare_data.EXTREMES} largest always among them. "
        "On the grey line nothing is lost. Errors run from half a step below it to half a step above; slopes at the "
        "ends are clipped values. Drag over a part to enlarge it; a double click goes back."
    )


def bytes_split(session: state.Session, tensor: str, compared: Sequence[Side]) -> None:
    """Bytes of codes, scales, zero points and offsets."""
    widgets.chart(plots.byte_split({str(side.config): side.parts for side in compared}), "bytes", "Bytes of every part")
    parts = [part for part in plots.PART_NAMES if any(part in side.parts for side in compared)]
    head = [*(plots.PART_NAMES[part] for part in parts), "total"]
    lines = {}
    for i, side in enumerate(compared):
        counts = [f"{side.parts[part]:,}" if part in side.parts else "–" for part in parts]
        lines[name(i, side)] = [*counts, f"{sum(side.parts.values()):,}"]
    table_of_text(lines, head, "Bytes of every part")
    formulas = dict.fromkeys(formula for side in compared if (formula := _formula(side.config)))
    decoded = f" A value is {' or '.join(formulas)}, q being its code." if formulas else ""
    source = session.checkpoint.spec(tensor).nbytes
    st.caption(f"Bytes of the arrays that an export writes; the source takes {source:,}.{decoded}")


def _formula(config: QuantConfig) -> str | None:
    """How a code becomes a value; None for plain floats."""
    return f"`{config.codec.mapping.formula}`" if isinstance(config.codec, IntegerCodec) else None


def _grid(count: int) -> list:
    """Places side by side, at most two to a row: they stack on a narrow screen."""
    places: list = []
    while len(places) < count:
        places += st.columns(min(2, count)) if count > 1 else [st.container()]
    return places[:count]
