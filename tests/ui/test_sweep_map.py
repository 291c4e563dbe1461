"""The map of tensors takes from the browser only what it has drawn, and nothing of a name becomes markup."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab.core.config import grid
from quantlab.plots.damage import Figures, damage_map
from quantlab.sweeping.sweep import sweep
from quantlab.ui import sweep_map, text

CONFIGS = grid(["int4", "int8"], ["symmetric"], ["tensor"], ["minmax"])


@pytest.fixture(scope="module")
def shown():
    frame = sweep({"a": np.float32([[1, 2]]), "<b>b</b>": np.float32([[1, 2]])}, CONFIGS)
    found = Figures.of(frame)
    return damage_map(found, "mse", found.names, found.configs)


def test_a_click_opens_what_is_drawn_and_nothing_else(shown):
    slug = CONFIGS[0].slug
    assert sweep_map._clicked(shown, {"tensor": "a", "config": slug}) == (slug, "a")
    assert sweep_map._clicked(shown, {"tensor": "a", "config": None}) == (None, "a")
    assert sweep_map._clicked(shown, {"tensor": None, "config": slug}) == (slug, None)
    for forged in (None, "a", [], {}, {"tensor": "c"}, {"tensor": "c", "config": slug}, {"tensor": [1], "config": {}}):
        assert sweep_map._clicked(shown, forged) is None


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
    assert told["tensors"] == ["a", "<b>b</b>"]
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
