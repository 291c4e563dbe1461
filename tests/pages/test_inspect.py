"""The Inspect page: one tensor's figures, its values under a grid, its channels."""

import numpy as np
import pytest

from quantlab.core.calibration import CALIBRATIONS
from quantlab.core.config import PRESETS, QuantConfig
from quantlab.core.dtypes import DTYPES
from quantlab.core.metrics import evaluate
from quantlab.core.statistics import describe
from quantlab.ui import cache, text, widgets
from tests.pages.app import messages, page


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    """A model with one tensor for every state of the page."""
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((12, 40)).astype(np.float32)
    weight[3] = 0
    np.savez(
        tmp_path / "model.npz",
        weight=weight,
        plain=rng.standard_normal(4000).astype(np.float32),
        positive=np.float32([0.5, 1.0, 1.5]),
        scalar=np.float32(2.5),
        constant=np.full((3, 3), 0.3, np.float32),
        integers=np.arange(5),
        broken=np.float32([1, np.nan]),
        nothing=np.empty((0, 3), np.float32),
    )
    return str(tmp_path / "model.npz")


def metrics(at) -> dict[str, str]:
    return {metric.label: metric.value for metric in at.metric}


def charts(at) -> int:
    return len(at.get("plotly_chart"))


def test_figures_are_those_of_the_library():
    at = page("inspect", tensor="conv4.weight")
    assert not at.exception and not at.error
    figures = describe(cache.checkpoint("sample")[1].load("conv4.weight"))
    shown = metrics(at)
    report = evaluate(cache.checkpoint("sample")[1].load("conv4.weight"), QuantConfig())
    assert shown == {
        "SQNR": f"{report.sqnr_db:.4g} dB",
        "Bits per weight": f"{report.bits_per_weight:.4g} bits",
        "Size": text.size(report.nbytes),
        "Compression": f"{report.compression_ratio:.4g} ×",
        "Clipped": text.percent(report.clipped_fraction),
        "Zeroed": text.percent(report.zeroed_fraction),
        "Worst channel": widgets.metric_text("worst_channel_sqnr_db", report.worst_channel_sqnr_db),
        "Min": text.number(figures.minimum),
        "Max": text.number(figures.maximum),
        "Mean": text.number(figures.mean, 3),
        "Std deviation": text.number(figures.std, 3),
        "Kurtosis": text.number(figures.kurtosis, 3),
        "Zeros": text.percent(figures.zeros),
        "Outliers": text.percent(figures.outliers),
    }
    assert charts(at) == 1


def test_figures_stand_beside_those_of_the_file_and_follow_the_form(model):
    """A model in fp16: two bytes for each weight are what is saved from."""
    at = page("inspect", tensor="lstm_cell.weight_ih")
    of = {metric.label: metric.delta for metric in at.metric if metric.delta}
    assert of == {"Bits per weight": "of 32", "Size": "of 262 kB"}
    before = metrics(at)
    at.selectbox(key="grid-of-dtype").select("int4").run()
    after = metrics(at)
    changed = {label for label in before if before[label] != after[label]}
    assert changed == {"SQNR", "Worst channel", "Bits per weight", "Size", "Compression", "Zeroed"}
    assert after["Bits per weight"].startswith("4")


@pytest.mark.parametrize(
    "tensor, words",
    [
        ("weight", "Dead channels: 1 of 12 along axis 0 is"),
        ("positive", "One-sided: the values run from 0.5 to 1.5"),
        ("constant", "Every value is 0.3"),
        ("plain", "Nothing odd"),
    ],
)
def test_what_is_odd_is_said(model, tensor, words):
    assert words in messages(page("inspect", file=model, tensor=tensor))


@pytest.mark.parametrize("tensor", ["scalar", "constant", "positive", "weight", "plain"])
@pytest.mark.parametrize("tab", ["Values", "Channels"])
def test_every_shape_has_both_tabs(model, tensor, tab):
    at = page("inspect", file=model, tensor=tensor, tab=tab)
    assert not at.exception and not at.error
    assert charts(at) == (0 if (tensor, tab) == ("scalar", "Channels") else 1)


@pytest.mark.parametrize("tensor, words", [("integers", "int64"), ("broken", "1 NaN"), ("nothing", "no elements")])
def test_a_tensor_that_cannot_be_quantized_says_why_and_the_session_goes_on(model, tensor, words):
    at = page("inspect", file=model, tensor=tensor)
    assert not at.exception
    assert words in messages(at)
    at.sidebar.selectbox[0].select("weight").run()
    assert not at.error and charts(at) == 1


@pytest.mark.parametrize("slug", [*DTYPES][-2:] + [config.slug for config in PRESETS.values()])
def test_every_preset_has_its_picture(slug):
    at = page("inspect", tensor="lstm_cell.weight_ih", config=slug)
    assert not at.exception and not at.error
    assert charts(at) == 1
    assert at.query_params["config"] == slug


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_a_choice_in_the_form_is_in_the_url(calibration):
    at = page("inspect", tensor="lstm_cell.weight_ih")
    at.selectbox(key="grid-of-dtype").select("int4").run()
    at.selectbox(key="grid-of-calibration").select(calibration).run()
    assert not at.exception and not at.error
    assert at.query_params["config"] == f"int4-sym-tensor-{calibration}"


def test_the_links_around_the_page_follow_a_choice():
    at = page("inspect", tensor="lstm_cell.weight_ih")
    at.selectbox(key="grid-of-dtype").select("int4").run()
    links = [element.proto.query_string for element in at.sidebar if element.type == "page_link"]
    assert links and all("config=int4-sym-tensor-minmax" in link for link in links)
    assert at.expander[0].label.replace("\\", "") == "Quantization grid of int4-sym-tensor-minmax"


def test_parameters_of_a_choice_have_fields():
    at = page("inspect", tensor="lstm_cell.weight_ih")
    at.selectbox(key="grid-of-granularity").select("group").run()
    at.number_input(key="grid-of-group-group_size").set_value(48).run()
    at.selectbox(key="grid-of-calibration").select("percentile").run()
    at.number_input(key="grid-of-percentile-lower").set_value(1.5).run()
    assert at.query_params["config"] == "int8-sym-g48-percentile1.5_99.9"


def test_a_preset_fills_in_the_fields():
    at = page("inspect", tensor="lstm_cell.weight_ih")
    at.selectbox(key="grid-of-preset").select("w4_g128").run()
    assert at.query_params["config"] == PRESETS["w4_g128"].slug
    assert at.selectbox(key="grid-of-dtype").value == "int4"
    assert at.number_input(key="grid-of-group-group_size").value == 128
    at.selectbox(key="grid-of-dtype").select("int5").run()
    assert at.selectbox(key="grid-of-preset").value is None  # it is nobody's any more


def test_the_form_follows_a_link():
    at = page("inspect", config="int3-uni-ch1-ema0.5_8-sbf16-pow2")
    assert at.selectbox(key="grid-of-mapping").value == "uniform"
    assert at.number_input(key="grid-of-channel-axis").value == 1
    assert at.number_input(key="grid-of-ema-factor").value == 0.5
    assert at.toggle(key="grid-of-pow2_scale").value
    at.query_params["config"] = "int8-sym-tensor-minmax"
    at.run()
    assert at.selectbox(key="grid-of-dtype").value == "int8"


def test_a_combination_that_cannot_be_built_is_refused_in_the_form():
    at = page("inspect", config="int8-sym-tensor-entropy")
    at.selectbox(key="grid-of-dtype").select("int16").run()
    assert not at.exception
    assert "cannot serve 16-bit codes" in messages(at)
    assert "Still shown: int8-sym-tensor-entropy" in messages(at)
    assert at.query_params["config"] == "int8-sym-tensor-entropy" and charts(at) == 1
    at.selectbox(key="grid-of-dtype").select("int4").run()
    assert not at.error and at.query_params["config"] == "int4-sym-tensor-entropy"


def test_an_axis_that_the_tensor_lacks_is_said_once_and_the_histogram_stays(model):
    at = page("inspect", file=model, tensor="plain", config="int8-sym-ch1-minmax")
    assert not at.exception
    assert len(at.error) == 1 and "Axis 1 does not exist" in messages(at)
    assert charts(at) == 1


def test_a_calibration_that_this_tensor_is_too_small_for_is_said(model):
    at = page("inspect", file=model, tensor="positive", config="int8-sym-tensor-entropy")
    assert not at.exception
    assert "at least 512 values" in messages(at)
    assert charts(at) == 1


def test_an_emptied_number_means_the_default():
    at = page("inspect", config="int4-sym-g32-minmax")
    at.number_input(key="grid-of-group-group_size").set_value(None).run()
    assert at.query_params["config"] == "int4-sym-g128-minmax"


def test_the_grid_of_one_group_names_the_group():
    at = page("inspect", tensor="lstm_cell.weight_ih", config="int4-sym-ch0-minmax", of="Narrowest group")
    assert any("of 512, the narrowest range" in caption.value for caption in at.caption)


def test_view_options_are_in_the_link():
    at = page("inspect", tensor="conv4.weight", range="Central 99 %", log="false")
    assert at.toggle(key="log").value is False
    assert not at.exception


def test_channels_of_another_axis():
    at = page("inspect", tensor="conv4.weight", tab="Channels")
    at.selectbox(key="axis").select(1).run()
    assert not at.exception
    assert len(at.dataframe[0].value) == 10
    assert at.dataframe[0].value["relative"].is_monotonic_decreasing
    at.segmented_control(key="worst").select("Crest factor").run()
    assert at.dataframe[0].value["crest"].is_monotonic_decreasing


def test_names_are_not_markdown(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    np.savez(tmp_path / "m.npz", **{"![x](http://a.b/c.png)": np.ones(3, np.float32)})
    at = page("inspect", file=str(tmp_path / "m.npz"))
    assert at.title[0].value.startswith("\\!\\[x\\]")


def test_the_library_parses_what_the_page_writes():
    at = page("inspect")
    assert QuantConfig.parse(at.query_params["config"]) == QuantConfig()


def test_sweep_this_tensor_sweeps_it_alone_whatever_was_chosen_there_before():
    at = page("sweep", tensor="conv1.bias", scope="All")
    at.switch_page("../../pages/inspect.py").run()
    next(button for button in at.button if button.label == "Sweep this tensor").click().run()
    assert at.segmented_control(key="scope").value == "This one"
    assert any("× 1 tensor" in element.value for element in at.markdown)


def test_a_step_to_the_next_tensor_and_back(model):
    at = page("inspect", file=model, tensor="plain")
    assert [at.button(key=label).disabled for label in ("Previous tensor", "Next tensor")] == [False, False]
    at.button(key="Next tensor").click().run()
    assert not at.exception and at.query_params["tensor"] == "positive"
    at.button(key="Previous tensor").click().run()
    at.button(key="Previous tensor").click().run()
    assert at.query_params["tensor"] == "weight"
    assert at.button(key="Previous tensor").disabled


def test_what_the_configuration_makes_of_the_tensor_follows_every_choice():
    at = page("inspect", tensor="lstm_cell.weight_ih")
    x = cache.checkpoint("sample")[1].load("lstm_cell.weight_ih")
    for dtype in ("int4", "fp16"):
        at.selectbox(key="grid-of-dtype").select(dtype).run()
        assert metrics(at)["SQNR"] == f"{evaluate(x, QuantConfig(dtype=dtype)).sqnr_db:.4g} dB"


def test_the_typical_group_is_shown_first_and_no_grid_over_all_values():
    at = page("inspect", tensor="lstm_cell.weight_ih", config="int4-sym-ch0-minmax")
    assert any("of 512, the median range" in caption.value for caption in at.caption)
    at.segmented_control(key="of").select("Whole tensor").run()
    assert any("Every group has a grid of its own" in caption.value for caption in at.caption)


def test_an_input_channel_that_stands_out_is_found_and_its_axis_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    x = np.random.default_rng(2).standard_normal((64, 256)).astype(np.float32)
    x[:, 123] *= 50
    np.savez(tmp_path / "m.npz", down_proj=x)
    at = page("inspect", file=str(tmp_path / "m.npz"), tab="Channels")
    assert "channel 123 along axis 1" in messages(at) and "Measured: scales along axis 1: +" in messages(at)
    assert at.selectbox(key="axis1").value == 1
    assert at.dataframe[0].value["channel"][0] == 123


def test_a_tensor_of_zeros_has_no_picture_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    np.savez(tmp_path / "m.npz", dead=np.zeros((4, 4), np.float32))
    at = page("inspect", file=str(tmp_path / "m.npz"))
    assert not at.exception and charts(at) == 0
    assert "Every value is 0: there is nothing to draw" in messages(at)
