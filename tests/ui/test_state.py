"""One tab's view is in its URL: a link, a refresh or a second tab shows the same thing."""

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from quantlab.core.config import PRESETS, QuantConfig
from quantlab.errors import ConfigError
from quantlab.ui import cache, state
from tests.pages.app import MAIN, page, started

SAMPLE_TENSORS = 15


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A small model in an allowed folder."""
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    path = tmp_path / "model.npz"
    np.savez(path, small=np.ones(4, np.float32), large=np.ones((8, 16), np.float16), counts=np.arange(500))
    return path


def session(at: AppTest) -> state.Session:
    return at.session_state["quantlab"]


def test_the_sample_is_open_at_the_start():
    at = started()
    assert session(at).source == "sample"
    assert len(session(at).checkpoint.names) == SAMPLE_TENSORS
    assert at.query_params["file"] == "sample"
    assert at.query_params["tensor"] == session(at).tensor


def test_a_link_restores_the_whole_view(model):
    view = {
        "file": str(model), "tensor": "small", "config": "int4-aff-g32-mse",
        "compare": ["int8-sym-tensor-minmax", "int4-sym-ch0-mse"], "job": "abc",
    }  # fmt: skip
    at = started(**view)
    now = session(at)
    assert (now.source, now.tensor, now.job) == (str(model), "small", "abc")
    assert now.config == QuantConfig.parse("int4-aff-g32-mse")
    assert [config.slug for config in now.compare] == view["compare"]
    assert not now.notices
    assert dict(at.query_params) == view


def test_what_is_shown_becomes_the_link_of_a_second_tab(model):
    first = started(file=str(model), config="w4_g32", tensor="large")
    second = started(**first.query_params)
    assert session(second).config == session(first).config == PRESETS["w4_g32"]
    assert session(second).tensor == session(first).tensor
    assert second.query_params == first.query_params


def test_what_the_link_leaves_out_stays_as_it_is(model):
    at = started(file=str(model), tensor="small")
    at.query_params.clear()
    at.run()
    assert (session(at).source, session(at).tensor) == (str(model), "small")
    assert at.query_params["tensor"] == "small"


def test_the_first_tensor_is_the_largest_that_can_be_quantized(model):
    assert session(started(file=str(model))).tensor == "large"


@pytest.mark.parametrize(
    "wrong, word",
    [({"tensor": "nope"}, "no tensor 'nope'"), ({"config": "int44"}, "int44"), ({"compare": ["fp16", "x-y"]}, "x-y")],
)
def test_a_name_in_the_link_that_means_nothing_is_said_and_the_view_goes_on(wrong, word):
    at = started(**wrong)
    assert not at.exception
    assert word in at.warning[0].value.replace("\\", "")
    assert session(at).tensor in session(at).checkpoint.names
    at.run()
    assert not any(
        word in warning.value.replace("\\", "") for warning in at.warning
    )  # once: the link has been put right


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "../../etc/passwd", "upload-" + "0" * 32, "no-such-file.npy", "\0", "a" * 5000]
)
def test_a_file_that_cannot_be_opened_leaves_a_session_that_goes_on(file, model):
    at = page("inspect", file=file)
    assert not at.exception
    assert at.error and session(at).opened is None
    at.query_params["file"] = "sample"
    at.run()
    assert not at.error and len(session(at).checkpoint.names) == SAMPLE_TENSORS


def test_a_file_that_changes_on_disk_is_read_again(model):
    at = started(file=str(model))
    np.savez(model, other=np.zeros(9, np.float32))
    at.query_params.clear()
    at.run()
    assert session(at).checkpoint.names == ["other"]
    assert session(at).tensor == "other"


def test_a_file_that_disappears_is_missed_in_a_sentence(model):
    at = page("inspect", file=str(model))
    model.unlink()
    at.run()
    assert not at.exception
    assert "not there any more" in at.error[0].value


def test_another_file_forgets_the_job(model):
    at = started(job="abc")
    at.query_params["file"] = str(model)
    del at.query_params["job"]
    at.run()
    assert session(at).job is None
    assert "job" not in at.query_params


def test_only_the_pages_have_paths():
    assert state.page_path("sweep").name == "sweep.py"
    with pytest.raises(ConfigError, match="open, inspect, sweep, plan, compare, export"):
        state.page_path("../secrets")


def script_of_choices():
    """Run as a script: every way to change the view."""
    import streamlit as st

    from quantlab.core.config import QuantConfig
    from quantlab.errors import ConfigError
    from quantlab.ui import state

    state.restore()
    slugs = ["int2-sym-tensor-mse", "int3-sym-tensor-mse", "int3-sym-tensor-mse", "fp16", "bf16", "int8-sym-tensor-mse"]
    state.choose_tensor("conv1.bias")
    state.choose_config(QuantConfig(dtype="int3"))
    state.choose_compare(map(QuantConfig.parse, slugs))
    state.choose_job("j1")
    st.write(state.link(job="j2", compare=[]))
    try:
        state.choose_tensor("nope")
    except ConfigError as error:
        st.error(str(error))


def test_every_choice_is_in_the_url_and_a_refused_one_changes_nothing():
    at = AppTest.from_function(script_of_choices, default_timeout=30).run()
    assert not at.exception
    assert at.query_params == {
        "file": "sample", "tensor": "conv1.bias", "config": "int3-sym-tensor-minmax", "job": "j1",
        "compare": ["int2-sym-tensor-mse", "int3-sym-tensor-mse", "fp16", "bf16"],
    }  # fmt: skip
    assert "'nope'" in at.error[0].value
    assert session(at).tensor == "conv1.bias"


def test_the_sidebar_links_carry_the_view(model):
    at = started(file=str(model), config="fp16", tensor="small")
    links = [element.proto for element in at.sidebar if element.type == "page_link"]
    assert len(links) == len(state.PAGES)
    assert all("tensor=small" in link.query_string and "config=fp16" in link.query_string for link in links)


def test_the_sidebar_changes_the_tensor(model):
    at = started(file=str(model))
    at.sidebar.selectbox[0].select("small").run()
    assert session(at).tensor == at.query_params["tensor"] == "small"


def test_another_file_and_a_tensor_of_the_old_one_in_one_rerun_do_no_harm(model):
    """The selector's change and an upload may arrive together: the callback finds the new file open."""
    at = started(file=str(model), tensor="small")
    at.sidebar.selectbox[0].select("large")
    state._set(session(at), "sample", cache.checkpoint("sample"))  # as the callback of an upload does
    at.query_params.clear()
    at.run()
    assert not at.exception
    assert session(at).tensor in session(at).checkpoint.names


def test_neighbours_are_those_of_the_file_that_hold_weights(model):
    at = started(file=str(model), tensor="small")
    assert state.neighbour(session(at), 1) == "large"
    assert state.neighbour(session(at), -1) is None
    at = started(file=str(model), tensor="large")
    assert (state.neighbour(session(at), -1), state.neighbour(session(at), 1)) == ("small", None)
    assert state.neighbour(session(started(file=str(model), tensor="counts")), -1) == "large"


def test_the_model_that_the_server_was_started_for_is_open_first(model, monkeypatch):
    monkeypatch.setenv("QUANTLAB_MODEL", str(model))
    at = started()
    assert session(at).source == at.query_params["file"] == str(model)
    monkeypatch.setenv("QUANTLAB_MODEL", str(model) + "x")
    at = started()
    assert not at.exception and "There is no" in at.error[0].value


def test_main_is_the_script_that_the_server_runs():
    assert MAIN.is_file()


def test_pins_of_a_link_are_read_written_back_and_refused_in_a_sentence():
    at = started(pin=["*.weight=fp16", "conv1*=copy", "conv1*=int8-sym-ch0-minmax"])
    assert [str(pin) for pin in session(at).pins][:1] == ["*.weight=fp16"]
    assert "pin=" in next(element.proto for element in at.sidebar if element.type == "page_link").query_string
    at = started(pin="conv1*")
    assert not at.exception and session(at).pins == ()
    assert "names a pin that cannot be read" in at.warning[0].value.replace("\\", "")


def script_of_pins():
    """Run as a script: pins of one pattern."""
    from quantlab.planning.wishes import parse_pin
    from quantlab.ui import state

    state.restore()
    state.choose_pins(map(parse_pin, ["a=fp16", "b=copy", "a=copy"]))


def test_of_two_pins_of_one_pattern_the_later_counts():
    at = AppTest.from_function(script_of_pins, default_timeout=30).run()
    assert at.query_params["pin"] == ["a=copy", "b=copy"]


def test_another_file_forgets_the_pins(model):
    at = started(pin="conv1*=copy")
    at.query_params["file"] = str(model)
    del at.query_params["pin"]
    at.run()
    assert session(at).pins == () and "pin" not in at.query_params
