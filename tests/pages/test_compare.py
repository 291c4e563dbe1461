"""The Compare page: two to four configurations on one tensor, in the link, with the winners marked."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantlab.core.config import PRESETS, QuantConfig
from quantlab.core.dtypes import DTYPES
from quantlab.core.metrics import METRICS, evaluate
from quantlab.core.tensor import quantize
from quantlab.ui import cache, widgets
from tests.pages.app import page, said

TABS = ("Figures", "Error histograms", "Codes", "Channels", "Values", "Bytes")
CHARTS = {"Figures": 0, "Error histograms": 1, "Codes": 3, "Channels": 1, "Values": 3, "Bytes": 1}
TENSOR = "stft_conv.weight"
THREE = ["int8-sym-tensor-minmax", "int4-aff-g128-mse", "fp16"]


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    """A model with a tensor for every awkward shape."""
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    tensors = {
        "weight": np.random.default_rng(1).standard_normal((12, 40)).astype(np.float32),
        "scalar": np.array(2.5, np.float32),
        "zeros": np.zeros((3, 4), np.float32),
        "vector": np.linspace(-1, 1, 33, dtype=np.float32),
        "integers": np.arange(5),
        "broken": np.float32([1, np.nan]),
        "nothing": np.empty((0, 3), np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def rows(at) -> dict[str, list[str]]:
    """The cells of the table of figures, by the label of the row."""
    table = at.table[0].value
    return dict(zip(table.index, table.to_numpy().tolist(), strict=True))


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_is_drawn_and_only_the_open_one(tab):
    at = page("compare", compare=THREE, side=tab)
    assert not at.exception and not at.error
    assert len(at.get("plotly_chart")) == CHARTS[tab]


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("tensor", ["scalar", "zeros", "vector", "weight"])
def test_every_shape_can_be_compared(model, tensor, tab):
    slugs = ["int8-sym-tensor-minmax", "int3-uni-g16-minmax", "bf16"]
    if tensor == "scalar":
        slugs[1] = "int3-uni-tensor-minmax"
    at = page("compare", file=model, tensor=tensor, compare=slugs, side=tab)
    assert not at.exception and not at.error


def test_figures_are_those_of_the_library_and_the_best_are_marked():
    at = page("compare", tensor=TENSOR, compare=THREE)
    x = cache.checkpoint("sample")[1].load(TENSOR)
    reports = [evaluate(x, QuantConfig.parse(slug)) for slug in THREE]
    found = rows(at)
    for name, metric in METRICS.items():
        values = [getattr(report, name) for report in reports]
        best = max(values) if metric.higher_is_better else min(values)
        for cell, value in zip(found[metric.label], values, strict=True):
            if name != "cosine":
                assert widgets.metric_text(name, value) in cell
            won = value == best and len(set(values)) > 1
            assert (":material/trophy:" in cell) is won, (name, cell)


def test_levels_used_are_counted_on_the_codes():
    at = page("compare", tensor=TENSOR, compare=THREE[:2])
    x = cache.checkpoint("sample")[1].load(TENSOR)
    used = [np.unique(quantize(x, QuantConfig.parse(slug)).codes).size for slug in THREE[:2]]
    assert rows(at)["Levels used"] == [f"{used[0]} of 256", f"{used[1]} of 16"]


def test_bytes_are_split_into_the_parts_that_are_exported():
    at = page("compare", tensor=TENSOR, compare=["int4-aff-g128-mse", "int8-uni-ch0-minmax"], side="Bytes")
    x = cache.checkpoint("sample")[1].load(TENSOR)
    told = rows(at)
    for row, slug in zip(told.values(), ("int4-aff-g128-mse", "int8-uni-ch0-minmax"), strict=True):
        q = quantize(x, QuantConfig.parse(slug))
        assert row[-1] == f"{q.nbytes:,}"
        assert {f"{part.nbytes:,}" for part in q.parts.values()} <= set(row)


def test_with_nothing_to_compare_the_page_offers_something():
    at = page("compare")
    assert not at.exception
    assert "Choose two to four configurations" in said(at)
    at.button[0].click().run()
    assert not at.exception and not at.error
    assert 2 <= len(at.query_params["compare"]) <= 4
    assert "SQNR" in rows(at)


def test_one_configuration_is_shown_and_another_asked_for():
    at = page("compare", compare=["fp16"])
    assert "Choose two to four" in said(at)
    assert rows(at)["SQNR"]
    assert ":material/trophy:" not in " ".join(" ".join(cells) for cells in rows(at).values())


def test_a_configuration_can_be_typed_in_by_slug_or_by_a_presets_name():
    at = page("compare", compare=["fp16"])
    at.multiselect[0].set_value(["fp16", "int5-uni-g48-percentile1_99", "w4_g32"]).run()
    assert not at.exception and not at.error
    slugs = ["fp16", "int5-uni-g48-percentile1_99", PRESETS["w4_g32"].slug]
    assert at.query_params["compare"] == slugs
    assert len(rows(at)["SQNR"]) == 3


def test_what_is_typed_and_means_nothing_is_said_and_the_others_stay():
    at = page("compare", compare=["fp16", "bf16"])
    at.multiselect[0].set_value(["fp16", "bf16", "int44"]).run()
    assert not at.exception
    assert "int44" in said(at)
    assert at.query_params["compare"] == ["fp16", "bf16"]


def test_no_more_than_four_are_compared():
    at = page("compare", compare=[config.slug for config in list(dict.fromkeys(PRESETS.values()))[:6]])
    assert not at.exception and not at.error
    assert len(rows(at)["SQNR"]) == 4


@pytest.mark.parametrize(("tensor", "words"), [("integers", "int64"), ("broken", "1 NaN"), ("nothing", "no elements")])
def test_a_tensor_that_cannot_be_quantized_says_why(model, tensor, words):
    at = page("compare", file=model, tensor=tensor, compare=THREE)
    assert not at.exception
    assert words in said(at)
    assert len(at.error) + len(at.info) == 1  # once, and not for every configuration


def test_a_configuration_that_the_tensor_refuses_is_said_and_the_others_are_compared(model):
    at = page("compare", file=model, tensor="vector", compare=["int8-sym-ch1-minmax", "fp16", "bf16"])
    assert not at.exception
    assert "Axis 1 does not exist" in said(at)
    assert len(rows(at)["SQNR"]) == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_format_can_be_compared(dtype):
    at = page("compare", tensor="lstm_cell.weight_ih", compare=[QuantConfig(dtype=dtype).slug, "fp16"], side="Codes")
    assert not at.exception and not at.error
