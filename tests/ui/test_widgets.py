"""Forms are drawn from the registries, and end in a configuration, a grid, or a sentence."""

import math

import pytest
from streamlit.testing.v1 import AppTest

from quantlab.core.calibration import CALIBRATIONS
from quantlab.core.config import POPULAR, PRESETS, grid
from quantlab.core.dtypes import DTYPES, MAPPINGS, SCALE_DTYPES
from quantlab.core.granularity import GRANULARITIES
from quantlab.core.metrics import METRICS
from quantlab.ui.help import TERMS, about_each
from quantlab.ui.text import number, percent, plain, sentence, size
from quantlab.ui.widgets import fits, metric_text


def form() -> None:
    import streamlit as st

    from quantlab.core.config import QuantConfig
    from quantlab.ui import widgets

    value = QuantConfig.parse(st.query_params.get("value", "int8-sym-tensor-minmax"))
    st.text(widgets.config_form("form", value, (4, 64)).slug)


def grid_script() -> None:
    import streamlit as st

    from quantlab.ui import widgets

    configs, refusals = widgets.grid_form()
    st.text(" ".join(map(str, configs)))
    for refusal in refusals:
        st.warning(refusal)


def run(function, **url) -> AppTest:
    at = AppTest.from_function(function, default_timeout=30)
    for name, value in url.items():
        at.query_params[name] = value
    return at.run()


ALL = grid(DTYPES, MAPPINGS, ["tensor", "ch0", "ch-1", "g1", "g48"], CALIBRATIONS, SCALE_DTYPES, [False, True])


@pytest.mark.parametrize("config", ALL[:: len(ALL) // 30], ids=str)
def test_the_form_shows_what_it_is_given(config):
    at = run(form, value=config.slug)
    assert not at.exception and not at.error
    assert at.text[0].value == config.slug


def test_the_form_offers_every_entry_of_the_registries():
    at = run(form)
    for name, registry in {
        "dtype": DTYPES, "mapping": MAPPINGS, "granularity": GRANULARITIES, "calibration": CALIBRATIONS,
        "scale_dtype": SCALE_DTYPES, "preset": PRESETS,
    }.items():  # fmt: skip
        assert at.selectbox(key=f"form-{name}").options == list(registry)


def test_a_float_format_leaves_nothing_to_choose():
    at = run(form, value="bf16")
    assert at.text[0].value == "bf16"
    assert at.selectbox(key="form-mapping").disabled and at.toggle(key="form-pow2_scale").disabled


@pytest.mark.parametrize(
    "field, wrong, words",
    [("channel-axis", 7, "xis 7"), ("group-group_size", 0, "0"), ("percentile-lower", 60.0, "60")],
)
def test_a_wrong_number_is_refused_with_what_is_legal(field, wrong, words):
    option = field.split("-")[0]
    at = run(form)
    at.selectbox(key=f"form-{'granularity' if option in GRANULARITIES else 'calibration'}").select(option).run()
    before = at.text[0].value
    at.number_input(key=f"form-{field}").set_value(wrong).run()
    assert not at.exception
    assert words in at.error[0].value
    assert at.text[0].value == "int8-sym-tensor-minmax" != before
    at.number_input(key=f"form-{field}").set_value(1).run()
    assert not at.error


def test_the_grid_is_that_of_the_library():
    at = run(grid_script)
    expected = grid(["int4", "int8"], ["symmetric", "affine"], ["tensor", "ch0", "g128"], ["minmax", "mse"])
    popular = [PRESETS[name].slug for name in POPULAR]
    assert at.text[0].value.split() == [config.slug for config in expected] + popular
    at.toggle(key="popular").set_value(False).run()
    assert at.text[0].value.split() == [config.slug for config in expected]


def test_a_grid_comes_with_a_link():
    view = {"dtypes": ["int3", "fp16"], "granularities": ["g48"], "calibrations": ["percentile1_99"], "scales": "bf16"}
    view["popular"] = "false"
    slugs = run(grid_script, **view).text[0].value.split()
    assert slugs == ["int3-sym-g48-percentile1_99-sbf16", "int3-aff-g48-percentile1_99-sbf16", "fp16"]


def test_what_is_left_out_of_a_grid_is_said():
    at = run(grid_script, dtypes=["int16", "int8"], calibrations="entropy", popular="false")
    assert "16-bit" in at.warning[0].value
    assert all(slug.startswith("int8") for slug in at.text[0].value.split())


def test_a_typed_token_that_means_nothing_is_refused():
    at = run(grid_script, granularities=["g48", "groups"])
    assert not at.exception
    assert "groups" in at.error[0].value and at.text[0].value == ""


def test_nothing_chosen_is_an_empty_grid():
    at = run(grid_script, popular="false")
    at.multiselect(key="dtypes").set_value([]).run()
    assert not at.exception and at.text[0].value == ""


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_a_text(name):
    assert metric_text(name, 12.5)
    assert metric_text(name, None) == metric_text(name, math.nan) == "–"


def test_units_and_limits_of_figures():
    assert metric_text("sqnr_db", math.inf) == "∞ dB"
    assert metric_text("nbytes", 1_238_532) == "1.24 MB"
    assert metric_text("clipped_fraction", 1e-7) == "< 0.0001 %"
    assert number(-0.0) in {"0", "\N{MINUS SIGN}0"} and number(1e-30) == "1e\N{MINUS SIGN}30"
    assert percent(1.0) == "100 %" and size(0) == "0 B"


@pytest.mark.parametrize(
    "parts",
    [[*DTYPES][:0], ["dtype", "mapping", "granularity", "calibration", "scale_dtype", "pow2_scale"], [*CALIBRATIONS]],
)
def test_every_choice_has_its_explanation(parts):
    assert not [part for part in parts if part not in TERMS]


def test_the_help_of_a_choice_explains_what_can_be_chosen():
    told = about_each("calibration", CALIBRATIONS)
    assert told is not None and all(TERMS[name] in told for name in ["calibration", *CALIBRATIONS])
    assert about_each("mapping", MAPPINGS) == TERMS["mapping"]


def test_a_strangers_text_is_never_markup():
    assert plain("![x](http://a) :red[b] $x$ `c`") == r"\!\[x\]\(http\://a\) \:red\[b\] \$x\$ \`c\`"
    assert plain("a\nb\x00") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


def test_a_name_keeps_its_case_at_the_start_of_a_sentence():
    assert sentence("model.safetensors is cut off") == r"model.safetensors is cut off."
    assert sentence("tensor w is empty") == "Tensor w is empty."


def test_fits_asks_for_the_axis_alone():
    assert fits(PRESETS["per_channel_affine"], (3,)) and not fits(PRESETS["per_channel_affine"], ())
