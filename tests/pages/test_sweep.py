"""The Sweep page: what it will take, a job that is found again, results to look at, and every way it can end."""

import json
import re
import time
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantlab.core.config import QuantConfig, grid
from quantlab.errors import Cancelled, CheckpointError
from quantlab.plots.damage import Figures
from quantlab.sweeping.sweep import check_grid, sweep
from quantlab.sweeping.tables import total
from quantlab.ui import cache, jobs, state, sweep_form, sweep_job, sweep_map, sweep_plan, sweep_table, sweep_views
from quantlab.ui.sweep_map import Clicked
from quantlab.ui.sweep_results import Results
from tests.pages.app import job_of, page, said
from tests.pages.sweeping import CONFIGS, HOSTILE, SMALL, TABS, run_button, swept


def linked(job, **url):
    """The page as a second tab opens it, with the job in the link."""
    return page("sweep", **(SMALL | url), job=job.id)


def begin(fn, file="sample"):
    """A sweep's job that runs `fn(progress, cancel)`."""
    return jobs.start("sweep", "4 configurations × 15 tensors", fn)


def results(file="sample", names=None):
    key, checkpoint = cache.checkpoint(file)
    frame = sweep(checkpoint, CONFIGS, names)
    found = Figures.of(frame, frame.attrs["refused"], checkpoint.names, [config.slug for config in CONFIGS])
    return Results(key, "Silero VAD", tuple(checkpoint.names), found, lambda: frame, frame["tensor"].nunique())


def test_before_a_run_the_page_says_how_much_and_how_long():
    at = page("sweep", **SMALL)
    assert not at.exception and not at.error
    # int4 per tensor and per channel, and fp16 once, which has no granularity.
    assert "8 weights of Silero VAD" in said(at) and "left alone: 7 of fewer than two dimensions" in said(at)
    assert "3 configurations × 8 tensors of 308 k weights" in said(at)
    assert "on this computer, longer where it has other work" in said(at) and re.search(r"\d [MG]B of memory", said(at))
    assert "Run the sweep" in said(at)
    assert not run_button(at).disabled


def test_combinations_that_cannot_be_are_counted_and_explained():
    at = page("sweep", **(SMALL | {"dtypes": ["int8", "int16"], "calibrations": ["minmax", "entropy100"]}))
    assert not at.exception
    assert any("left out" in expander.label for expander in at.expander)
    assert "cannot serve 16-bit codes" in said(at)


def test_a_grid_beyond_the_limit_is_refused_with_the_number_and_the_way_out(monkeypatch):
    monkeypatch.setattr(sweep_plan, "check_grid", partial(check_grid, max_rows=23))
    at = page("sweep", **SMALL)
    assert "3 configurations x 8 tensors are 24 rows, past the limit of 23: choose fewer" in said(at)
    assert run_button(at).disabled and not at.exception


@pytest.mark.parametrize("without", [name for name in SMALL if name != "popular"])
def test_nothing_chosen_cannot_be_run_and_says_so(without):
    at = page("sweep", **SMALL)
    next(field for field in at.multiselect if field.key == without).set_value([]).run()
    assert not at.exception
    assert run_button(at).disabled
    assert "Choose at least" in said(at)


def test_a_sweep_runs_as_a_job_in_the_link_and_shows_its_results():
    at = swept()
    assert not at.exception and not at.error
    job = job_of(at)
    assert job.state == "done"
    shown = at.dataframe[0].value
    expected = total(job.result.frame).set_index("config")
    for slug, sqnr in zip(shown["config"], shown["sqnr_db"], strict=True):
        assert sqnr == expected.loc[slug, "sqnr_db"]
    assert list(shown["front"]).count("★") >= 1


@pytest.mark.parametrize("view", TABS)
@pytest.mark.parametrize("metric", ["sqnr_db", "max_abs_error"])
def test_every_view_is_drawn_and_only_the_open_one(view, metric):
    at = swept(view=view, metric=metric)
    assert not at.exception and not at.error
    drawn = [len(at.get("plotly_chart")), len(at.dataframe), len(at.get("bidi_component"))]
    assert drawn == {"Table": [0, 1, 0], "Tensors": [0, 0, 1]}.get(view, [1, 0, 0])


@pytest.mark.parametrize("view", [tab for tab in TABS if tab != "Tensors"])
def test_one_tensor_has_every_view_but_the_map_of_tensors(model, view):
    at = swept(file=model, tensor="encoder.1.weight", scope="This one", view=view)
    assert not at.exception and not at.error
    assert [tab.label for tab in at.tabs] == list(TABS[:-1])
    assert set(job_of(at).result.frame["tensor"]) == {"encoder.1.weight"}


def test_patterns_choose_tensors_and_what_matches_nothing_is_said(model):
    at = page("sweep", **SMALL, file=model, scope="Some", names=["encoder.*", "decoder.*"])
    assert "No tensor is called like decoder.*" in said(at)
    assert "2 tensors of 3.07 k weights" in said(at) or "2 tensors of 3,072 weights" in said(at)
    run_button(at).click().run()
    job = job_of(at)
    assert job.finished.wait(60)
    assert set(job.result.frame["tensor"]) == {"encoder.0.weight", "encoder.1.weight"}


def test_tensors_that_hold_no_floats_are_left_out_and_counted(model):
    at = page("sweep", **SMALL, file=model, scope="All")
    assert re.search(r"4 tensors of \S*model.safetensors; 2 others without float values left out", said(at))


def test_a_tensor_that_is_refused_is_listed_with_its_reason(model):
    at = swept(file=model, scope="All")
    assert not at.exception
    assert any("without figures" in expander.label for expander in at.expander)
    assert "1 NaN" in said(at)
    assert "broken" not in set(job_of(at).result.frame.dropna(subset="mse")["tensor"])


def test_a_hostile_name_is_shown_as_text_and_cannot_start_a_formula(model):
    at = swept(file=model, scope="All", **{"every-tensor": "true"})
    assert not at.exception
    assert f"'{HOSTILE}" in set(at.dataframe[0].value["tensor"])
    markup = [element.value for kind in (at.markdown, at.caption) for element in kind]
    assert not any("[x](" in text for text in markup)


def test_a_refresh_and_a_second_tab_find_the_job(model):
    first = swept(file=model)
    second = page("sweep", **first.query_params)
    assert second.dataframe[0].value.equals(first.dataframe[0].value)


def held_up(done, *step):
    """A job that has published some results, and goes on until it is cancelled."""

    def work(progress, cancel):
        if step:
            progress(*step)
        progress.publish(done)
        while not cancel():
            time.sleep(0.01)
        raise Cancelled()

    job = begin(work)
    while job.active and job.partial is None:
        time.sleep(0.01)
    return job


def test_a_running_sweep_shows_progress_and_rows_and_the_page_answers():
    done = results(names=["conv1.weight", "conv1.bias"])

    job = held_up(done, 30, 100, "conv2.weight: calibrating int4-sym-ch0-minmax")
    try:
        at = linked(job)
        assert not at.exception
        bar = at.get("progress")[0].proto
        assert bar.value == 30
        assert "conv2.weight" in bar.text.replace("\\", "")
        assert "2 of 15 tensors measured" in said(at)
        states = [set(row) for row in drawn_map(at)["cells"]]
        assert ["waiting" in row for row in states] == [False] * 2 + [True] * 13
        assert run_button(at).disabled
        next(field for field in at.multiselect if field.key == "dtypes").set_value(["int8"]).run()
        assert not at.exception and job.state == "running"
    finally:
        job.cancel()
    assert job.finished.wait(5)


def test_cancel_ends_the_sweep_and_keeps_what_was_measured():
    done = results(names=["conv1.weight", "conv1.bias"])

    job = held_up(done)
    at = linked(job)
    next(button for button in at.button if button.label == "Cancel").click().run()
    assert job.finished.wait(30)
    at.run()
    assert "was cancelled" in said(at) and "2 of 15 tensors" in said(at)
    assert not at.exception and len(at.dataframe) == 1
    assert not run_button(at).disabled


def test_a_failed_sweep_says_why_and_can_be_run_again():
    def work(progress, cancel):
        raise CheckpointError("model.safetensors was changed while it was read: open it again")

    job = begin(work)
    assert job.finished.wait(5)
    at = linked(job)
    assert not at.exception
    assert "The sweep failed: Model.safetensors was changed" in said(at) or "model.safetensors was changed" in said(at)
    assert not run_button(at).disabled and not at.dataframe


def test_a_sweep_that_is_no_longer_kept_is_said():
    at = page("sweep", **SMALL, job="long-gone")
    assert not at.exception
    assert "no longer keeps" in said(at)


def test_results_of_another_file_are_not_shown_as_of_this_one(model):
    job = begin(lambda progress, cancel: results())
    assert job.finished.wait(30)
    at = linked(job, file=model)
    assert "results of another file, Silero VAD" in said(at) and not at.exception
    assert "310 k" not in said(at) and len(at.dataframe) == 1


def test_filters_narrow_every_view(model):
    at = swept(file=model, **{"only-dtype": "fp16"})
    assert set(at.dataframe[0].value["config"]) == {"fp16"}


def drawn_map(at) -> dict:
    """What the browser is told to draw."""
    return json.loads(at.get("bidi_component")[0].proto.json)


def test_the_map_shows_every_tensor_and_configuration_the_worst_on_top(model):
    at = swept(file=model, scope="All", view="Tensors", metric="mse")
    shown, frame = drawn_map(at), job_of(at).result.frame
    assert set(shown["rows"]) == set(frame["tensor"]) and set(shown["columns"]) == set(frame["config"])
    shades = [[0 if cell == "exact" else cell for cell in row if cell != "refused"] for row in shown["cells"]]
    means = [np.mean(row or [-1]) for row in shades]
    assert means == sorted(means, reverse=True)
    assert shown["cells"][shown["rows"].index("broken")] == ["refused"] * len(shown["columns"])
    assert shown["rows"][-1] == "broken" and "1 NaN" in shown["texts"][-1][0]


def test_the_map_is_narrowed_by_a_pattern_and_ordered_by_a_configuration(model):
    at = swept(file=model, scope="All", view="Tensors", like="encoder.*", **{"worst-by": "int4-sym-tensor-minmax"})
    assert sorted(drawn_map(at)["rows"]) == ["encoder.0.weight", "encoder.1.weight"]
    assert "2 tensors of 4" in said(at) and "by int4-sym-tensor-minmax" in said(at)
    next(field for field in at.text_input if field.key == "like").set_value("decoder").run()
    assert "No tensor is called like decoder" in said(at) and not at.get("bidi_component")


def test_layers_of_a_kind_stand_together_from_the_first_to_the_last(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    names = [f"layer.{i}.{part}.weight" for i in (10, 2, 1) for part in ("up", "down")]
    save_file({name: np.eye(4, dtype=np.float32) for name in names}, tmp_path / "deep.safetensors")
    at = swept(file=str(tmp_path / "deep.safetensors"), view="Tensors", **{"worst-by": "kind of layer, then depth"})
    shown = drawn_map(at)["rows"]
    assert [name.split(".")[1] for name in shown] == ["1", "2", "10"] * 2
    assert len({name.split(".")[2] for name in shown[:3]}) == 1 and "layers of a kind together" in said(at)


@pytest.mark.parametrize(
    ("clicked", "opened"),
    [
        (
            Clicked(("conv1.weight",), "fp16", "conv1.weight"),
            ("compare", {"tensor": "conv1.weight", "over": None, "compare": ["fp16"]}),
        ),
        (Clicked(("a", "b"), "fp16"), ("compare", {"tensor": None, "over": "all tensors", "compare": ["fp16"]})),
        (Clicked(("h.0", "h.1"), "fp16", "h.*"), ("compare", {"tensor": None, "over": "h.*", "compare": ["fp16"]})),
        (Clicked(("conv1.weight",), "", "conv1.weight"), ("inspect", {"tensor": "conv1.weight"})),
    ],
)
def test_a_click_on_the_map_opens_a_cell_a_configuration_or_a_tensor(monkeypatch, clicked, opened):
    found = []
    monkeypatch.setattr(state, "go_to", lambda name, **view: found.append((name, view)))
    session = state.Session(opened=cache.checkpoint("sample"))
    sweep_views._follow(session, clicked)
    [(name, view)] = found
    view |= {"compare": list(map(str, view["compare"]))} if "compare" in view else {}
    assert (name, view) == opened


def test_the_map_in_the_order_of_the_model_is_in_the_link_and_shows_what_is_pinned(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    rng = np.random.default_rng(0)
    names = [f"layers.{i}.{role}.weight" for i in range(3) for role in ("down_proj", "q_proj")]
    save_file({name: rng.standard_normal((8, 32)).astype(np.float32) for name in names}, tmp_path / "deep.safetensors")
    pin = "layers.1.q_proj.weight=int4-sym-tensor-minmax"
    view = {"view": "Tensors", "arranged": "By layer", "as": "int4-sym-tensor-minmax"}
    at = swept(file=str(tmp_path / "deep.safetensors"), pin=pin, **view)
    shown = drawn_map(at)
    assert not at.exception and (shown["rows"], shown["columns"]) == (["q", "down"], ["0", "1", "2"])
    frame = job_of(at).result.frame.query("config == 'int4-sym-tensor-minmax'").set_index("tensor")["sqnr_db"]
    assert shown["texts"] == [
        [f"{frame[f'layers.{i}.{role}.weight']:.3g}" for i in range(3)] for role in ("q_proj", "down_proj")
    ]
    assert shown["pinned"] == [[False, True, False], [False] * 3]
    assert f"Pinned for the plan {pin}" in said(at)
    next(button for button in at.button if button.label == "Clear the pins").click().run()
    assert "Pinned" not in said(at) and "pin" not in at.query_params


def test_a_wrong_arrangement_in_the_link_is_said():
    at = swept(view="Tensors")
    again = linked(job_of(at), view="Tensors", arranged="sideways")
    assert "asks for arranged='sideways', which there is not" in said(again) and drawn_map(again)["rows"]


def test_of_very_many_tensors_a_page_is_drawn_and_what_is_not_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    tensors = {f"layer.{i}.weight": np.full((2, 2), 1.1 + i, np.float32) for i in range(sweep_map.ROWS + 3)}
    save_file(tensors, tmp_path / "deep.safetensors")
    at = swept(file=str(tmp_path / "deep.safetensors"), view="Tensors", metric="mse")
    assert len(drawn_map(at)["rows"]) == sweep_map.ROWS
    assert "Tensors 1 to 60 of 63, the others on the other pages" in said(at)


def test_a_choice_that_the_results_do_not_have_is_dropped():
    at = swept(view="Error histograms", overlaid=["int3-sym-tensor-minmax", "fp16"])
    assert not at.exception and not at.error
    assert len(at.get("plotly_chart")) == 1


def test_another_sweep_replaces_the_configurations_on_offer():
    at = swept(view="Error histograms")
    next(field for field in at.multiselect if field.key == "dtypes").set_value(["int8"]).run()
    run_button(at).click().run()
    assert job_of(at).finished.wait(60)
    at.run()
    assert not at.exception and not at.error
    offered = next(field for field in at.multiselect if field.key == "overlaid")
    assert set(offered.value) <= set(offered.options) and offered.options[0].startswith("int8")


def test_names_match_exactly_or_as_patterns():
    names = ["a.weight", "a.bias", "b[0].weight"]
    assert sweep_form.matching(names, ["*.weight"]) == ["a.weight", "b[0].weight"]
    assert sweep_form.matching(names, ["b[0].weight", "a.b?as"]) == ["a.bias", "b[0].weight"]
    assert sweep_form.matching(names, []) == []


def test_a_click_opens_what_was_clicked_and_what_is_ticked_and_nothing_else(monkeypatch):
    opened = []
    monkeypatch.setattr(state, "go_to", lambda name, **view: opened.append((name, view)))
    session = state.Session(compare=tuple(grid(["int2", "int3", "int4", "int5"])))
    session.opened = cache.checkpoint("sample")
    sweep_table.open_in_compare(session, ["int8-sym-tensor-minmax"], "conv1.weight")
    name, view = opened[0]
    assert name == "compare" and view["tensor"] == "conv1.weight" and view["over"] is None
    assert view["compare"] == [QuantConfig()]
    session.ticked = ("int8-sym-tensor-minmax", "fp16")
    sweep_table.open_in_compare(session, ["bf16"], "all tensors")
    assert opened[1][1]["tensor"] is None and opened[1][1]["over"] == "all tensors"
    assert opened[1][1]["compare"] == [QuantConfig(dtype="bf16"), QuantConfig(), QuantConfig(dtype="fp16")]


def test_what_is_ticked_is_said_in_every_view_and_can_be_let_go():
    at = swept(view="Heatmap")
    at.session_state["quantlab"].ticked = ("fp16", "int4-sym-ch0-minmax")
    at.run()
    assert "Ticked fp16, int4-sym-ch0-minmax" in said(at)
    next(button for button in at.button if button.label == "Clear the ticks").click().run()
    assert not at.exception and "Ticked" not in said(at)


def test_results_of_a_glob_are_the_total_of_its_tensors(model):
    at = swept(file=model, of="encoder.*")
    frame = job_of(at).result.frame
    expected = total(frame[frame["tensor"].str.startswith("encoder.")]).set_index("config")
    shown = at.dataframe[0].value.set_index("config")
    assert not at.exception and shown["nbytes"].to_dict() == expected["nbytes"].to_dict()
    at = page("sweep", **(dict(at.query_params) | {"of": "decoder.*"}))
    assert "no tensor is called like decoder.*" in said(at) and not at.dataframe


@pytest.mark.parametrize(
    ("name", "legal"),
    [("dtypes", "int4"), ("steps", "powers of two"), ("scope", "This one"), ("view", "Heatmap"), ("metric", "mse")],
)
def test_what_a_link_asks_for_and_is_not_there_is_said(name, legal):
    at = swept(**{name: "int99"})
    assert not at.exception
    at = page("sweep", **(dict(at.query_params) | {name: "int99"}))
    assert f"asks for {name}='int99', which there is not" in said(at) and legal in said(at)
    assert "int99" not in str(at.query_params.get(name))


def test_a_filter_that_is_active_says_what_it_leaves():
    at = swept(**{"only-dtype": "int4"})
    assert set(at.dataframe[0].value["config"]) == {"int4-sym-tensor-minmax", "int4-sym-ch0-minmax"}
    [popover] = [
        block.proto.popover for block in at.get("popover") if block.proto.popover.icon.endswith("filter_list:")
    ]
    assert popover.label == "Only int4" and popover.type == "primary"
    next(button for button in at.button if button.label == "Show everything").click().run()
    assert "fp16" in set(at.dataframe[0].value["config"])


def test_a_cancelled_sweep_is_resumed_by_a_button_beside_its_end():
    whole = results()
    job = held_up(whole)
    job.cancel()
    assert job.finished.wait(5)
    at = linked(job)
    next(button for button in at.button if button.label == "Resume").click().run()
    again = job_of(at)
    assert again.id != job.id and again.finished.wait(60)
    at.run()
    assert not at.exception and set(again.result.frame["tensor"]) == set(whole.names)


def test_the_view_that_was_left_is_in_the_links_to_the_page():
    at = swept(view="Heatmap")
    at.switch_page("../../pages/compare.py").run()
    links = {link.proto.label: link.proto.query_string for link in at.get("page_link")}
    assert "view=Heatmap" in links["Sweep"] and "view=" not in links["Export"]


def test_what_was_chosen_is_still_chosen_after_a_look_at_another_page():
    at = page("sweep")
    at.multiselect(key="dtypes").set_value(["int3"]).run()
    at.multiselect(key="granularities").set_value(["g48"]).run()
    at.switch_page("../../pages/inspect.py").run()
    at.switch_page("../../pages/sweep.py").run()
    assert at.multiselect(key="dtypes").value == ["int3"]
    assert at.multiselect(key="granularities").value == ["g48"]
    assert at.multiselect(key="mappings").value == ["symmetric", "affine"]


def test_a_run_does_not_wait_for_its_estimate(monkeypatch):
    at = page("sweep", **SMALL)
    order = []
    told, start = sweep_plan.told, sweep_job.start
    monkeypatch.setattr(sweep_plan, "told", lambda *what: order.append("estimate") or told(*what))
    monkeypatch.setattr(sweep_job, "start", lambda *what: order.append("run") or start(*what))
    run_button(at).click().run()
    assert not at.exception
    assert order[0] == "run" and "estimate" in order


def test_a_configuration_that_refuses_some_tensors_is_named_and_takes_nothing_from_the_others(model):
    at = swept(file=model, calibrations=["minmax", "entropy"], granularities=["tensor"])
    assert not at.exception
    assert any("1 configuration not among the totals" in expander.label for expander in at.expander)
    assert "int4-sym-tensor-entropy refuses 1 of 3 tensors: entropy calibration needs" in said(at)
    assert set(at.dataframe[0].value["config"]) == {"int4-sym-tensor-minmax", "fp16"}


@pytest.mark.parametrize("view", TABS)
def test_what_only_all_tensors_have_is_drawn_too(model, view):
    at = swept(file=model, view=view, metric="p5_sqnr_db")
    assert not at.exception and not at.error
    if view == "Table":
        assert set(at.dataframe[0].value["worst_tensor"].str.lstrip("'")) <= {
            HOSTILE,
            "encoder.0.weight",
            "encoder.1.weight",
        }
