"""Pins set by clicking say what was clicked, and nothing else, whatever was pinned before."""

import pytest
from hypothesis import given as cases
from hypothesis import strategies as st

from quantlab.errors import LimitError
from quantlab.planning.wishes import parse_pin
from quantlab.ui.pinning import MOST, given, said, toggled

NAMES = [f"layers.{i}.{role}.weight" for i in range(4) for role in ("q_proj", "up_proj")] + ["head[0]", "head0"]
WORDS = ("fp16", "copy", "int4-sym-g32-mse")


@cases(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(WORDS)))
def test_what_is_said_is_what_was_chosen(choices):
    assert given(said(choices, NAMES), NAMES) == {name: choices[name] for name in NAMES if name in choices}


@cases(
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(WORDS)),
    st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
    st.sampled_from(WORDS),
)
def test_a_click_pins_and_the_same_click_lets_go(before, chosen, word):
    pins = toggled(said(before, NAMES), NAMES, chosen, word)
    after = given(pins, NAMES)
    others = {name: word for name, word in before.items() if name not in chosen}
    had = all(before.get(name) == word for name in chosen)
    assert after == {
        name: (others | ({} if had else dict.fromkeys(chosen, word)))[name]
        for name in NAMES
        if name in others or (name in chosen and not had)
    }
    if not had:
        assert given(toggled(pins, NAMES, chosen, word), NAMES) == given(said(others, NAMES), NAMES)


def test_a_whole_kind_is_one_glob_and_one_of_it_a_name():
    up = [name for name in NAMES if "up_proj" in name]
    assert [str(pin) for pin in toggled([], NAMES, up, "fp16")] == ["layers.*.up_proj.weight=fp16"]
    pins = toggled([parse_pin("layers.*.up_proj.weight=fp16")], NAMES, up[:1], "copy")
    assert [str(pin) for pin in pins] == ["layers.0.up_proj.weight=copy", *(f"{name}=fp16" for name in up[1:])]


@pytest.mark.parametrize("name", ["head[0]", "head0"])
def test_brackets_in_a_name_are_no_glob(name):
    assert given(toggled([], NAMES, [name], "copy"), NAMES) == {name: "copy"}


def test_pins_of_other_tensors_stay():
    """Such as those of a model that was open before, which a plan will refuse by name."""
    elsewhere = parse_pin("vision.*=copy")
    assert elsewhere in toggled([elsewhere], NAMES, NAMES[:1], "fp16")


def test_experts_of_a_layer_are_one_glob_and_too_many_pins_for_a_link_are_refused():
    names = [f"layers.{i}.experts.{j}.up.weight" for i in range(3) for j in range(MOST + 9)]
    layer = [name for name in names if ".1." in name[:10]]
    assert [str(pin) for pin in toggled([], names, layer, "fp16")] == ["layers.1.experts.*.up.weight=fp16"]
    every = toggled([], names, names, "fp16")
    assert [str(pin) for pin in every] == ["layers.*.experts.*.up.weight=fp16"]
    assert [str(pin) for pin in toggled(every, names, layer, "fp16")] == [
        f"layers.{i}.experts.*.up.weight=fp16" for i in (0, 2)
    ]
    with pytest.raises(LimitError, match=f"that would be {MOST + 10} pins, and a link holds {MOST}"):
        toggled(every, names, layer[:1], "fp16")
