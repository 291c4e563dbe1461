"""The form of the Sweep page: which tensors, and what measuring them will take."""

import fnmatch
from collections.abc import Sequence
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quantlab.core.config import QuantConfig
from quantlab.errors import LimitError
from quantlab.sweeping.weights import DEFINITION, can_be_taken, weights_of, why_none
from quantlab.ui import cache, state, sweep_plan, text, widgets
from quantlab.wording import counted

LISTED = 2000  # names offered in a list; beyond, patterns and typed names still find the others
WEIGHTS, ALL, SOME, ONE = SCOPES = ("Weights", "All", "Some", "This one")


def tensor_form(session: state.Session) -> list[str]:
    """Which tensors to sweep: the weights, all that hold floats, those of names and patterns, or the current one."""
    checkpoint = session.checkpoint
    usable = [name for name in checkpoint.names if can_be_taken(checkpoint.spec(name))]
    left, right = st.columns([1, 2], vertical_alignment="top")
    widgets.heed("scope", SCOPES)
    scope = left.segmented_control(
        "Tensors", SCOPES, default=WEIGHTS, required=True, key="scope", bind="query-params", persist_state="session",
        help=f"Weights: {DEFINITION}; an export takes the same. All: whatever holds floats. Each tensor is read once, "
        "whatever the number of configurations.",
    )  # fmt: skip
    if scope == ONE:
        right.caption(f"{text.plain(session.chosen)}, the current tensor: choose another in the sidebar")
        return [name for name in usable if name == session.chosen]
    if scope == SOME:
        return _some(right, usable)
    if scope == WEIGHTS:
        return _weights(right, session)
    other = len(checkpoint.names) - len(usable)
    without = f"; {counted(other, 'other')} without float values left out" if other else ""
    right.caption(f"{counted(len(usable), 'tensor')} of {text.plain(session.title)}{without}")
    return usable


def _weights(place: Any, session: state.Session) -> list[str]:
    """The weights, and what is left alone and why."""
    found = weights_of(session.checkpoint)
    if found.names:
        left = f"; left alone: {found.told()}" if found.left else ""
        place.caption(f"{counted(len(found.names), 'weight')} of {text.plain(session.title)}{left}")
        if limited := cache.limits_of(session.key, session.checkpoint):
            place.caption(f":material/info: Exporting: {text.plain(limited)}.")
    else:
        why = text.sentence(why_none(session.checkpoint, found))
        place.warning(f"{why} Choose {SOME} to do so.", icon=":material/block:")
    return list(found.names)


def _some(place: Any, usable: list[str]) -> list[str]:
    asked = place.multiselect(
        "Names and patterns", usable[:LISTED], key="names", accept_new_options=True, bind="query-params",
        persist_state="session", placeholder="Choose, or type a pattern such as *.weight",
        help="`*` stands for any text, `?` for one character: `encoder.layer.?.*.weight`.",
    )  # fmt: skip
    names = matching(usable, asked)
    missing = [pattern for pattern in asked if not matching(usable, [pattern])]
    if missing:
        place.warning(f"No tensor is called like {', '.join(map(text.plain, missing))}.", icon=":material/search_off:")
    elif any(set("*?[") & set(pattern) for pattern in asked):
        place.caption(
            f"{counted(len(names), 'tensor')} match: {text.plain(', '.join(names[:4]))}{' …' * (len(names) > 4)}"
        )
    return names


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that are one of the patterns or match one, in the order of `names`.

    >>> matching(["a.weight", "a.bias", "b[0]"], ["*.weight", "b[0]"])
    ['a.weight', 'b[0]']
    """
    exact = set(patterns)
    return [name for name in names if name in exact or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def check(session: state.Session, configs: list[QuantConfig], refusals: list[str], names: list[str]) -> bool:
    """Whether a sweep of this can be run; what is missing or too much, and which combinations cannot be built."""
    possible = bool(configs and names)
    if not possible:
        missing = "a configuration" if not configs else "a tensor"
        st.caption(f"Choose at least {missing}: then its time and memory are estimated here.")
    else:
        try:
            sweep_plan.check(configs, [session.checkpoint.spec(name) for name in names])
        except LimitError as error:
            st.error(text.sentence(error), icon=":material/block:")
            possible = False
    if refusals:
        with st.expander(
            f"Some combinations are left out, for {counted(len(refusals), 'reason')}", icon=":material/block:"
        ):
            st.markdown("\n".join(f"- {text.sentence(reason)}" for reason in refusals))
    return possible


def tell(place: DeltaGenerator, session: state.Session, configs: list[QuantConfig], names: list[str]) -> None:
    """Write into `place` what a sweep of this will take. Kinds of configurations that are new are timed first."""
    with place:
        st.markdown(sweep_plan.told(configs, [session.checkpoint.spec(name) for name in names]))
