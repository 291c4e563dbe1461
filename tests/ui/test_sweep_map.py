"""The map of tensors takes from the browser only what it has drawn, and nothing of a name becomes markup."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab.core.config import grid
from quantlab.plots.damage import Figures, damage_map, worst_first
from quantlab.sweeping.sweep import sweep
from quantlab.sweeping.tables import TOTAL
from quantlab.ui import sweep_depth, sweep_map, text
from quantlab.ui.sweep_map import Clicked

CONFIGS = grid(["int4", "int8"], ["symmetric"], ["tensor"], ["minmax"])


@pytest.fixture(scope="module")
def shown():
    frame = sweep({"a": np.float32([[1, 2]]), "<b>b</b>": np.float32([[1, 2]])}, CONFIGS)
    found = Figures.of(frame)
    return damage_map(found, "mse", found.names, found.configs)


FORGED = (None, "a", [], {}, {"row": "c"}, {"row": "c", "column": "d"}, {"row": [1], "column": {}})


def test_a_click_opens_what_is_drawn_and_nothing_else(shown):
    slug, listed = CONFIGS[0].slug, ["a", "<b>b</b>", "on another page"]

    def clicked(row, column):
        return sweep_map._clicked(shown, {"row": row, "column": column}, listed)

    assert clicked("a", slug) == Clicked(("a",), slug, "a")
    assert clicked("a", None) == Clicked(("a",), "", "a")
    assert clicked(None, slug) == Clicked(tuple(listed), slug, TOTAL)
    for forged in (*FORGED, {"row": "on another page", "column": slug}):
        assert sweep_map._clicked(shown, forged, listed) is None


LAYERS = [f"layers.{i}.{role}.weight" for i in range(3) for role in ("q_proj", "down_proj")]
MODEL = ["embed", *LAYERS, "extra.1.rnn", "lm_head.weight"]


def test_in_the_order_of_the_model_roles_are_rows_and_layers_columns():
    model = sweep_depth.arranged(MODEL)
    assert model.rows == ["embedding", "q", "down", "head", "extra.*.rnn"]
    assert model.columns == ["–", "0", "1", "2"]
    assert model.tensors("q", "1") == ["layers.1.q_proj.weight"]
    assert model.tensors(None, "1") == ["layers.1.q_proj.weight", "layers.1.down_proj.weight", "extra.1.rnn"]
    assert model.tensors(None, None) == [] and model.tensors("q", "–") == []
    every = [name for row in model.rows for name in model.tensors(row, None)]
    assert sorted(every) == sorted(MODEL)


def test_a_click_in_the_order_of_the_model_stands_for_its_tensors():
    model = sweep_depth.arranged(MODEL)

    def clicked(row, column, pin):
        return sweep_map._clicked_model(model, {"row": row, "column": column}, "fp16", pin)

    assert clicked("q", "1", False) == Clicked(("layers.1.q_proj.weight",), "fp16", "layers.1.q_proj.weight")
    assert clicked("q", None, False).where == "layers.*.q_proj.weight"
    assert clicked(None, "2", False) is None  # no glob says layer 2 alone
    assert clicked(None, "2", True).tensors == ("layers.2.q_proj.weight", "layers.2.down_proj.weight")
    assert clicked("q", "–", True) is None
    for forged in FORGED:
        assert sweep_map._clicked_model(model, forged, "fp16", True) is None


def test_a_cell_of_several_tensors_shows_the_worst_and_is_pinned_if_all_are():
    rng = np.random.default_rng(0)
    names = [f"layers.0.mlp.experts.{i}.up_proj.weight" for i in range(3)]
    tensors = {name: rng.standard_normal((8, 64)).astype(np.float32) for name in names}
    tensors[names[1]][0, 0] = 100
    slug = CONFIGS[0].slug
    found = Figures.of(sweep(tensors, CONFIGS[:1]))
    model = sweep_depth.arranged(names)
    worst = model.first_of_cells(worst_first(found, "sqnr_db", names, [slug], slug))
    assert worst == names[1:2]
    shown = damage_map(found, "sqnr_db", worst, [slug])
    every = slice(None)
    told = sweep_depth.data(model, shown, {names[1]: slug}, every, every)
    assert told["rows"] == ["expert up"] and told["columns"] == ["0"]
    assert told["tensors"] == [[f"{names[1]} (the worst of 3)"]]
    assert told["texts"][0][0] == shown.texts[0][0] and told["pinned"] == [[False]]
    assert sweep_depth.data(model, shown, dict.fromkeys(names, slug), every, every)["pinned"] == [[True]]


def test_every_state_has_words_and_a_look_in_the_browser(shown):
    here = Path(sweep_map.__file__).parent
    script, style = (here / f"sweep_map.{suffix}" for suffix in ("js", "css"))
    for state in ("waiting", "refused", "exact", "undefined"):
        assert f"{state}:" in script.read_text(encoding="utf-8") and f".{state}" in style.read_text(encoding="utf-8")


def test_names_reach_the_page_as_text_alone():
    script = Path(sweep_map.__file__).with_suffix(".js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)


def test_the_browser_gets_every_cell_of_every_tensor(shown):
    told = sweep_map.data(shown)
    assert told["rows"] == ["a", "<b>b</b>"] and told["pinned"] == [[False, False]] * 2
    assert sweep_map.data(shown, {"a": CONFIGS[1].slug})["pinned"] == [[False, True], [False, False]]
    for part in ("cells", "texts", "details"):
        assert [len(row) for row in told[part]] == [len(CONFIGS)] * 2


def test_no_two_rows_have_one_label():
    """The branches of an If in ONNX have the same tensors, and names that differ at their beginning alone."""
    names = [
        f"If_0_{branch}_branch__Inlined_0__model.{name}" for branch in ("then", "else") for name in ("rnn.w", "a.b")
    ]
    names += [f"encoder.layer.{i}.attention.self.value.weight" for i in range(12)]
    found = Figures(names, ["int4-sym-tensor-minmax"])
    told = sweep_map.data(damage_map(found, "mse", names, found.configs))["labels"]
    for letters, labels in told.items():
        assert len(set(labels)) == len(names) and max(map(len, labels)) <= letters
    assert all(f"{i}." in label for i, label in enumerate(told[26][4:]))


@given(
    st.lists(st.text("ab./_1", min_size=1, max_size=80), unique=True, max_size=12), st.sampled_from(sweep_map.LETTERS)
)
def test_labels_of_any_names_are_apart_and_fit(names, letters):
    found = text.labels(names, letters)
    assert len(set(found)) == len(names)
    assert all(len(label) <= letters for label in found)
