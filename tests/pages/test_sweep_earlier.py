"""Earlier sweeps: listed, opened also without their file, resumed, deleted; and what a store that fails looks like."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from quantlab.core.config import QuantConfig
from quantlab.errors import Cancelled
from quantlab.formats import open_checkpoint
from quantlab.sweeping.sweep import sweep
from quantlab.ui import sweep_store
from tests.pages.app import job_of, page, said
from tests.pages.sweeping import CONFIGS, SMALL, TABS, run_button, swept


def kept():
    """The records of the store."""
    return sweep_store.reach()[0].sweeps()


def listed(**url):
    return page("sweep", **(SMALL | url), earlier="true")


def press(at, label):
    return next(button for button in at.button if button.label == label).click().run()


@pytest.fixture
def begun(model) -> str:
    """The model, after a sweep of it was stopped when one tensor had ended."""
    with open_checkpoint(model) as checkpoint:
        names = [name for name in checkpoint.names if name.startswith("encoder")]
        ended: list[str] = []

        def one(name, rows):
            ended.append(name)

        with pytest.raises(Cancelled):
            sweep_store.reach()[0].run(
                checkpoint,
                CONFIGS,
                names,
                title="model.safetensors",
                location=model,
                on_rows=one,
                cancel=lambda: bool(ended),
            )
    return model


def test_before_the_first_sweep_the_list_says_what_it_is_for():
    at = listed()
    assert not at.exception and "No sweep is kept yet" in said(at)


def test_a_sweep_is_listed_with_what_it_was_and_opened_as_it_was_shown(model):
    before = swept(file=model)
    at = listed(file=model)
    assert "model.safetensors · " in said(at) and "3 configurations × 3 tensors · all 9 rows" in said(at)
    press(at, "Open")
    assert not at.exception and not at.error
    assert at.dataframe[0].value.equals(before.dataframe[0].value)
    assert "from the store" in said(at) and "another file" not in said(at)
    assert [button.disabled for button in at.button if button.label == "Shown below"] == [True]


def test_the_link_of_a_kept_sweep_works_in_a_new_session(model):
    before = swept(file=model)
    at = page("sweep", file=model, job=sweep_store.word(kept()[0]))
    assert not at.exception and at.dataframe[0].value.equals(before.dataframe[0].value)


@pytest.mark.parametrize("view", TABS)
def test_every_view_is_drawn_without_the_file(model, view):
    swept(file=model)
    Path(model).unlink()
    at = page("sweep", file="sample", job=sweep_store.word(kept()[0]), view=view)
    assert not at.exception and not at.error
    assert "results of another file, " in said(at) and "model.safetensors" in said(at)
    drawn = len(at.get("plotly_chart")) + len(at.dataframe) + len(at.get("bidi_component"))
    assert drawn == (0 if view == "Error histograms" else 1)


def test_without_any_file_the_page_still_shows_what_is_kept(model):
    swept(file=model)
    Path(model).unlink()
    at = page("sweep", file=model, job=sweep_store.word(kept()[0]), earlier="true")
    assert not at.exception and len(at.dataframe) == 1
    assert f"There is no {model}" in said(at)


def test_opening_a_sweep_opens_its_file_again(model):
    swept(file=model)
    at = listed()
    press(at, "Open")
    assert at.query_params["file"] in (model, [model]) and "another file" not in said(at)


def test_a_file_that_changed_since_is_said(model):
    swept(file=model)
    save_file({"other": np.ones((3, 3), np.float32)}, model)
    at = page("sweep", file=model, job=sweep_store.word(kept()[0]))
    assert not at.exception and "before it changed" in said(at)


def test_a_sweep_that_is_not_complete_says_so_and_is_resumed(begun):
    at = listed(file=begun)
    assert "3 of 6 rows: not complete" in said(at)
    press(at, "Open")
    assert not at.exception and len(at.dataframe) == 1
    press(at, "Resume")
    job = job_of(at)
    assert job.finished.wait(60)
    at.run()
    assert "3 of 6 rows were taken from the store" in said(at)
    with open_checkpoint(begun) as checkpoint:
        expected = sweep(checkpoint, CONFIGS, [name for name in checkpoint.names if name.startswith("encoder")])
    pd.testing.assert_frame_equal(job.result.frame, expected, check_dtype=False)
    [record] = kept()
    assert record.complete and not [button for button in at.button if button.label == "Resume"]


def test_the_map_of_a_sweep_that_is_not_complete_shows_what_waits(begun):
    at = page("sweep", file=begun, job=sweep_store.word(kept()[0]), view="Tensors")
    cells = json.loads(at.get("bidi_component")[0].proto.json)["cells"]
    assert [set(row) == {"waiting"} for row in cells] == [False, True]


def test_resuming_without_the_file_says_why_not(begun):
    Path(begun).unlink()
    at = listed()
    press(at, "Resume")
    assert not at.exception and f"There is no {begun}" in said(at)
    assert not kept()[0].complete


def test_the_same_sweep_again_is_answered_from_the_store_and_says_so(model):
    swept(file=model)
    at = swept(file=model)
    assert "all 9 rows taken from the store: nothing had to be measured" in said(at)


def test_a_sweep_is_deleted_after_a_second_click_and_not_shown_any_more(model):
    swept(file=model)
    at = page("sweep", file=model, job=sweep_store.word(kept()[0]), earlier="true")
    assert len(kept()) == 1 and "Delete these 9 rows for good?" in said(at)
    press(at, "Delete them")
    assert not kept() and not at.exception
    assert "No sweep is kept yet" in said(at) and not at.dataframe and "job" not in at.query_params


def test_a_link_to_a_deleted_sweep_says_so(model):
    swept(file=model)
    link = sweep_store.word(kept()[0])
    sweep_store.reach()[0].delete(kept()[0].id)
    at = page("sweep", file=model, job=link)
    assert not at.exception and "no longer keeps" in said(at)


def test_many_sweeps_are_listed_page_by_page():
    store = sweep_store.reach()[0]
    for value in range(10):
        store.run({"x": np.float32([[value, 1]])}, [QuantConfig()], title=f"model {value}", location=f"{value}")
    at = listed()
    assert len([button for button in at.button if button.label == "Open"]) == 8


def test_a_damaged_store_is_one_sentence_and_the_sweep_goes_on(model, tmp_path, monkeypatch):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "results.sqlite").write_bytes(b"not a database" * 100)
    monkeypatch.setenv("QUANTLAB_STORE", str(folder))
    at = swept(file=model, earlier="true")
    assert not at.exception and not at.error and len(at.dataframe) == 1
    assert "These results are not kept on disk" in said(at) and "sweeps run, and are not kept" in said(at)


def test_the_names_of_files_are_shown_as_text():
    store = sweep_store.reach()[0]
    store.run({"x": np.float32([[1, 2]])}, [QuantConfig()], title="[x](http://y)<b>", location="x")
    at = listed()
    assert not at.exception
    assert not any("[x](" in element.value for element in at.markdown)


def test_running_again_keeps_the_form(model):
    at = swept(file=model)
    assert run_button(at).label == "Run again"
