"""Compare over all tensors: what the sweep measured, side by side, and from there to one tensor."""

import pytest

from quantlab.plots import whole as plots
from quantlab.sweeping.tables import total
from quantlab.ui import widgets
from tests.pages.app import job_of, page, said
from tests.pages.sweeping import swept

PAIR = ["int4-sym-ch0-minmax", "fp16"]
TABS = ("Figures", "Spread", "Worst tensors")


def over(model, tensors="all tensors", **url):
    """(the sweep's table, the page that compares over its tensors)"""
    before = swept(file=model)
    frame = job_of(before).result.frame
    job = before.query_params["job"]
    return frame, page(
        "compare", **({"file": model, "compare": PAIR, "config": "fp16", "job": job, "over": tensors} | url)
    )


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_is_drawn_and_only_the_open_one(model, tab):
    _, at = over(model, whole=tab)
    assert not at.exception and not at.error
    drawn = [len(at.table), len(at.get("plotly_chart")), len(at.dataframe)]
    assert drawn == {"Figures": [1, 0, 0], "Spread": [0, 1, 0], "Worst tensors": [0, 0, 1]}[tab]


def test_the_figures_are_the_totals_of_the_sweep(model):
    frame, at = over(model, "encoder.*")
    encoder = frame[frame["tensor"].str.startswith("encoder.") & frame["config"].isin(PAIR)]
    expected = total(encoder).set_index("config").loc[PAIR]
    told = dict(zip(at.table[0].value.index, at.table[0].value.to_numpy().tolist(), strict=True))
    for cell, sqnr in zip(told["SQNR"], expected["sqnr_db"], strict=True):
        assert widgets.metric_text("sqnr_db", sqnr) in cell
    for cell, name in zip(told["Which"], expected["worst_tensor"], strict=True):
        assert cell.replace("\\", "") == name
    assert "Over 2 tensors" in said(at)


def test_the_worst_tensors_come_first_and_every_tensor_is_there(model):
    frame, at = over(model, whole="Worst tensors")
    shown = at.dataframe[0].value
    lowest = shown[PAIR].min(axis=1)
    assert list(lowest) == sorted(lowest)
    assert len(shown) == frame[frame["nbytes"].notna()]["tensor"].nunique()


def test_what_the_sweep_does_not_have_is_measured_beside_what_it_has(model):
    frame, at = over(model, compare=["fp16", "int3-sym-tensor-minmax"])
    assert "Not in the last sweep: int3-sym-tensor-minmax" in said(at)
    next(button for button in at.button if button.label.startswith("Measure on")).click().run()
    job = job_of(at)
    assert job.finished.wait(60)
    at.run()
    assert not at.exception and "Not in the last sweep" not in said(at)
    assert set(job.result.frame["config"]) == set(frame["config"]) | {"int3-sym-tensor-minmax"}


def test_without_a_sweep_the_weights_are_offered_to_be_measured(model):
    at = page("compare", file=model, config="fp16", compare=PAIR, over="all tensors")
    assert not at.exception and "Not in the last sweep: int4-sym-ch0-minmax, fp16" in said(at)


def test_a_glob_that_no_tensor_has_is_said(model):
    _, at = over(model, "decoder.*")
    assert not at.exception and "No tensor of the sweep is called like decoder.*" in said(at)


def test_a_link_without_it_is_about_one_tensor(model):
    _, at = over(model)
    assert at.query_params["over"] in ("all tensors", ["all tensors"])
    at = page("compare", file=model, compare=PAIR, config="fp16")
    assert "over" not in at.query_params and "On encoder.0.weight" in said(at)


def test_every_tensor_has_a_point_under_every_configuration_that_opens_it(model):
    frame, _ = over(model)
    rows = frame[frame["config"].isin(PAIR) & frame["nbytes"].notna()]
    fig = plots.spread(rows, "sqnr_db", PAIR)
    points = {tuple(pair) for trace in fig.data for pair in trace.customdata}
    assert points == set(zip(rows["config"], rows["tensor"], strict=True))
    assert not any("<b>[x]" in text or "<img" in text for trace in fig.data for text in trace.text)
