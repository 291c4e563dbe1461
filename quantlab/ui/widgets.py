"""Forms that end in a configuration or a grid of them, and the small parts that every page shares.

Everything is drawn from the registries (DTYPES, MAPPINGS, GRANULARITIES, CALIBRATIONS, PRESETS, METRICS): a new entry
there appears here. A combination that cannot be built is refused in the form, with the sentence of its ConfigError.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import streamlit as st

from quantlab.core.calibration import CALIBRATIONS
from quantlab.core.config import POPULAR, PRESETS, QuantConfig, combinations
from quantlab.core.dtypes import DTYPES, MAPPINGS, SCALE_DTYPES
from quantlab.core.granularity import GRANULARITIES
from quantlab.core.metrics import METRICS
from quantlab.errors import ConfigError, QuantlabError
from quantlab.plots.style import CONFIG
from quantlab.ui import jobs, state, text
from quantlab.ui.help import about, about_each
from quantlab.wording import shown

TOKENS = ("tensor", "ch0", "ch-1", "g32", "g64", "g128", "g256")  # granularities that a grid offers unasked
FIELD, NUMBER_FIELD = 140, 120  # pixels
STEPS = {"any": False, "powers of two": True}


@contextmanager
def boundary() -> Iterator[None]:
    """Show an error that a caller or a file caused as one sentence, here, and let the session go on."""
    try:
        yield
    except (QuantlabError, MemoryError, OSError) as error:
        st.error(text.sentence(jobs.sentence(error)), icon=":material/error:")


def chart(figure: Any, key: str, alt: str, **options: Any) -> Any:
    """A Plotly figure that fills its width, in the visitor's theme, without a button that uploads it."""
    return st.plotly_chart(figure, key=key, alt=alt, config=CONFIG, **options)


def metric_text(name: str, value: float | None) -> str:
    """A figure of an ErrorReport with its unit.

    >>> metric_text("sqnr_db", 31.456), metric_text("compression_ratio", 7.53), metric_text("nbytes", 154_000)
    ('31.46 dB', '7.53 ×', '154 kB')
    >>> metric_text("worst_channel_sqnr_db", -9.6e-16)
    '0 dB'
    """
    if value is None or math.isnan(value):
        return "–"
    unit = METRICS[name].unit
    if unit == "share":
        return text.percent(value)
    if unit == "bytes":
        return text.size(int(value))
    if unit == "dB" and abs(value) < 0.005:  # nothing is left of a channel, but for what a logarithm makes of it
        value = 0.0
    suffix = {"": "", "x": " ×"}.get(unit, f" {unit}")
    return f"{text.number(value)}{suffix}"


def config_form(key: str, value: QuantConfig, shape: tuple[int, ...] | None = None) -> QuantConfig:
    """Fields for one configuration; returns what they say.

    Parameters
    ----------
    key : of the form on its page; its widgets' keys begin with it.
    value : what the form shows. When that changes and not by the form itself (a link, another page), the fields follow.
    shape : of the tensor it is for, to refuse an axis that the tensor does not have; None to leave that open.

    Returns
    -------
    QuantConfig : `value` itself while the fields make no legal combination, under a sentence that says why. So it
        does not fit `shape` only if `value` does not (see `fits`).
    """
    forms = state.current().forms
    if value.slug not in forms.get(key, ()) or f"{key}-dtype" not in st.session_state:
        _seed(key, value)
    try:
        config = _fields(key, value)
        if shape is not None:
            config.granularity.scale_shape(shape)
    except QuantlabError as error:
        still = f" Still shown: {text.plain(value)}." if shape is None or fits(value, shape) else ""
        st.error(text.sentence(error) + still, icon=":material/block:")
        config = value
    forms[key] = (value.slug, config.slug)
    return config


def fits(config: QuantConfig, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of `shape` has the axis that the configuration's granularity asks for."""
    try:
        config.granularity.scale_shape(shape)
    except QuantlabError:
        return False
    return True


def grid_form(axes: Sequence[int] = (0,)) -> tuple[list[QuantConfig], list[str]]:
    """Fields for a grid of configurations; returns (configurations, sentences about combinations left out).

    At first the channels are those along `axes`.

    What is chosen is in the URL, and is still chosen when the visitor comes back to the page. Other granularities
    (`g48`) and calibrations with parameters (`percentile1_99`) can be typed in as in slugs.
    """
    top, bottom = st.columns(3), st.columns(3)
    dtypes = _choice(top[0], "dtypes", "Number formats", "dtype", DTYPES, ["int4", "int8"])
    mappings = _choice(top[1], "mappings", "Mappings", "mapping", MAPPINGS, ["symmetric", "affine"])
    along = [f"ch{axis}" for axis in axes]
    granularities = _typed(
        top[2], "granularities", "Granularities", "granularity", [*TOKENS, *along], ["tensor", *along, "g128"]
    )
    calibrations = _typed(bottom[0], "calibrations", "Calibrations", "calibration", CALIBRATIONS, ["minmax", "mse"])
    scale_dtypes = _choice(bottom[1], "scales", "Scales stored as", "scale_dtype", SCALE_DTYPES, ["fp32"])
    steps = _choice(bottom[2], "steps", "Scale values", "pow2_scale", STEPS, ["any"])
    popular = st.toggle(
        f"And the presets {', '.join(POPULAR)}", True, key="popular", bind="query-params", persist_state="session",
        help="What engines for LLMs are given most. Their scales are stored as fp16.",
    )  # fmt: skip
    try:
        configs, refusals = combinations(
            dtypes, mappings, granularities, calibrations, scale_dtypes, [STEPS[name] for name in steps]
        )
        return list(dict.fromkeys(configs + [PRESETS[name] for name in POPULAR if popular])), refusals
    except ConfigError as error:  # a typed token that means nothing
        st.error(text.sentence(error), icon=":material/block:")
        return [], []


def heed(key: str, options: Iterable[str]) -> None:
    """Say which values of the link a widget does not offer. To be called before it is drawn: it drops them unasked."""
    known = list(options)
    for value in st.query_params.get_all(key):
        if value and value not in known:
            state.say_of_link(
                f"The link asks for {key}={shown(value)}, which there is not: here it may be {listed(known)}"
            )


def listed(words: Sequence[str], most: int = 12) -> str:
    """Words to choose from, as a sentence has them.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c"], most=2)
    ('a, b or c', 'a, b or one of 1 more')
    """
    words = [*words[:most], f"one of {len(words) - most} more"] if len(words) > most else list(words)
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part) if words else "nothing"


def _choice(place: Any, name: str, label: str, term: str, options: Iterable[str], default: list[str]) -> list[str]:
    """A multiselect whose choice is in the URL as `name`, and is remembered between visits to its page."""
    options = list(options)
    heed(name, options)
    return place.multiselect(
        label, options, default, key=name, help=about(term), bind="query-params", persist_state="session",
        wrap=True,
    )  # fmt: skip


def _typed(place: Any, name: str, label: str, term: str, options: Iterable[str], default: list[str]) -> list[str]:
    """As `_choice`, for options that are not a closed list: more can be typed in, or come with a link."""
    more = [*st.session_state.get(name, []), *st.query_params.get_all(name)]
    return place.multiselect(
        label, list(dict.fromkeys([*options, *more])), default, key=name, help=about_each(term, options),
        bind="query-params", persist_state="session", wrap=True, accept_new_options=True,
        placeholder="Choose, or type one",
    )  # fmt: skip


def _fields(key: str, value: QuantConfig) -> QuantConfig:
    """Draw the fields and build what they say; ConfigError when it cannot be built."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        _preset(key, value)
        dtype = _select(key, "dtype", "Number format", DTYPES)
        cast = not DTYPES[dtype].configurable
        mapping = _select(key, "mapping", "Mapping", MAPPINGS, cast)
        granularity = _select(key, "granularity", "Granularity", GRANULARITIES, cast)
        where = _parameters(key, granularity, GRANULARITIES[granularity], cast)
        calibration = _select(key, "calibration", "Calibration", CALIBRATIONS, cast)
        which = _parameters(key, calibration, CALIBRATIONS[calibration], cast)
        scale_dtype = _select(key, "scale_dtype", "Scale stored as", SCALE_DTYPES, cast)
        pow2 = st.toggle("Power-of-two scale", key=f"{key}-pow2_scale", help=about("pow2_scale"), disabled=cast)
    return QuantConfig(
        dtype=dtype,
        mapping=mapping,
        granularity=GRANULARITIES[granularity](**where),
        calibration=CALIBRATIONS[calibration](**which),
        scale_dtype=scale_dtype,
        pow2_scale=pow2,
    )


def _select(key: str, name: str, label: str, registry: Iterable[str], disabled: bool = False) -> str:
    return st.selectbox(
        label, list(registry), key=f"{key}-{name}", help=about_each(name, registry), disabled=disabled, width=FIELD,
        filter_mode=None,
    )  # fmt: skip


def _parameters(key: str, name: str, kind: type, disabled: bool) -> dict[str, Any]:
    """Number fields for the parameters of a granularity or a calibration, whatever they are."""
    values = {}
    for field in fields(kind):
        whole = isinstance(field.default, int)
        values[field.name] = st.number_input(
            field.name.replace("_", " ").capitalize(), key=f"{key}-{name}-{field.name}", help=about(field.name),
            value=None, step=1 if whole else 0.01, format="%d" if whole else "%g", disabled=disabled,
            width=NUMBER_FIELD,
        )  # fmt: skip
    # An emptied field says nothing: the parameter keeps its default.
    return {name: value for name, value in values.items() if value is not None}


def _preset(key: str, value: QuantConfig) -> None:
    """A chooser that fills in the other fields, and shows the name of what they say where it has one."""

    def apply() -> None:
        if chosen := st.session_state[f"{key}-preset"]:
            _seed(key, PRESETS[chosen])

    names = [name for name, config in PRESETS.items() if config == value]
    if st.session_state.get(f"{key}-preset") not in names:
        st.session_state[f"{key}-preset"] = names[0] if names else None
    st.selectbox(
        "Preset", list(PRESETS), key=f"{key}-preset", help=about("preset"), on_change=apply, index=None,
        placeholder="Custom", width=FIELD + 30,
    )  # fmt: skip


def _seed(key: str, value: QuantConfig) -> None:
    """Make the fields say `value`, and every other parameter its default."""
    said: dict[str, Any] = {
        "dtype": value.dtype, "mapping": value.mapping, "scale_dtype": value.scale_dtype, "pow2_scale": value.pow2_scale
    }  # fmt: skip
    for what, registry in (("granularity", GRANULARITIES), ("calibration", CALIBRATIONS)):
        option = getattr(value, what)
        for name, kind in registry.items():
            chosen = isinstance(option, kind)
            if chosen:
                said[what] = name
            said |= {f"{name}-{f.name}": getattr(option, f.name) if chosen else f.default for f in fields(kind)}
    for name, content in said.items():
        st.session_state[f"{key}-{name}"] = content
