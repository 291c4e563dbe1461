"""The head of the Plan page: the program that a plan is for, what is minimised, and what is pinned."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from quantlab.errors import ConfigError, QuantlabError
from quantlab.planning.damage import BY_ROLE, MEASURED, OBJECTIVES, read_weights
from quantlab.planning.targets import TARGETS
from quantlab.planning.wishes import parse_floor, parse_pin, parse_tie
from quantlab.ui import opening, plan_words, state, text, widgets
from quantlab.ui.plan_data import Asked
from quantlab.wording import counted

WEIGHTS = "weights-of-plan"  # in the session: (name, ((tensor, weight), ...)) of the file that was given
TARGET_HELP = "The program that will load the file. It decides which configurations there are, and what shares one:\n\n"
PIN_HELP = (
    "Tensors that get this whatever is best: `GLOB=SLUG`, or `GLOB=copy` to keep them as they are. Enter adds one."
)
FLOOR_HELP = "The least that tensors get: `*v_proj*>=int4`, or `sqnr>=20` for decibels of each, or `*down*:sqnr>=25`."
TIE_HELP = "Tensors that share one configuration, beside those that the program ties: `*.layers.0.*`."


def choose(session: state.Session) -> Asked:
    """The title with the fields beside it; what they ask for."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.title("Plan", anchor=False, width="content")
        target = _target(session)
        objective, weighting, importance, weights = _damage()
        pins, floors, ties = _wishes(session)
    return Asked(target, objective, weighting, importance, pins, floors, ties, weights)


def _target(session: state.Session) -> str:
    uses = "\n".join(f"- **{TARGETS[name].label}**: {use}." for name, use in plan_words.USES.items())
    return st.selectbox(
        "Program that will load it", list(TARGETS), width=250, format_func=lambda name: TARGETS[name].label,
        filter_mode=None, label_visibility="collapsed", help=TARGET_HELP + uses,
        **_linked("target", TARGETS, opening.suited(session.checkpoint)),
    )  # fmt: skip


def _linked(name: str, options: Iterable[str], default: str) -> dict[str, Any]:
    """Key and callback of a field whose choice stands in the URL by its name: Streamlit's own binding writes labels."""
    options, key = list(options), f"{name}-of-plan"
    widgets.heed(name, options)
    said = st.query_params.get(name, default)
    st.session_state[key] = said if said in options else default

    def chosen() -> None:
        st.query_params[name] = st.session_state[key]

    return {"key": key, "on_change": chosen}


def _damage() -> tuple[str, str, bool, tuple[tuple[str, float], ...]]:
    """What is minimised: objective, weighting, whether importance counts, and weights from a file."""
    with st.popover("What is minimised", icon=":material/balance:"):
        objective = st.radio(
            "Damage of a tensor", list(OBJECTIVES), format_func=lambda name: OBJECTIVES[name].label,
            captions=[one.help for one in OBJECTIVES.values()], **_linked("objective", OBJECTIVES, "relative"),
        )  # fmt: skip
        weighting = st.radio(
            "How much each tensor counts", list(plan_words.WEIGHTINGS), format_func=plan_words.WEIGHTINGS.__getitem__,
            help=plan_words.WEIGHTINGS_HELP, disabled=OBJECTIVES[objective].largest,
            **_linked("weighting", plan_words.WEIGHTINGS, BY_ROLE),
        )  # fmt: skip
        weights = _measured() if weighting == MEASURED else ()
        importance = st.toggle(
            "Inputs by importance", key="importance", bind="query-params", persist_state="session",
            help="Relative errors are weighted by how large each input is, where the sweep was given an importance "
            "file (imatrix).",
        )  # fmt: skip
    if weighting == MEASURED and not weights:
        weighting = BY_ROLE
    return objective, weighting, importance, () if OBJECTIVES[objective].largest else weights


def _measured() -> tuple[tuple[str, float], ...]:
    """The weights of a file; until there is one, the roles count, and that is said."""
    file = st.file_uploader("Weights of tensors", type=["csv", "json"], key="weights-file")
    if file is not None:
        try:
            st.session_state[WEIGHTS] = file.name, _read(file.name, file.getvalue())
        except QuantlabError as error:
            st.error(text.sentence(error), icon=":material/block:")
    name, found = st.session_state.get(WEIGHTS, ("", ()))
    told = f"{counted(len(found), 'weight')} of {text.plain(name)}." if found else "Until a file is given, roles count."
    st.caption(told)
    return found


def _read(name: str, data: bytes) -> tuple[tuple[str, float], ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.json" if name.endswith(".json") else "weights.csv")
        path.write_bytes(data)
        return tuple(read_weights(path).items())


def _wishes(session: state.Session) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Pins, floors and ties, as text; what cannot be read is refused in a sentence, and left out."""
    now = [str(pin) for pin in session.pins]
    others = [*st.session_state.get("floor", []), *st.session_state.get("tie", [])] or st.query_params.get_all("floor")
    count = len(now) + len(others)
    with st.popover(f"Pins and floors ({count})" if count else "Pins and floors", icon=":material/keep:"):
        said = st.multiselect(
            "Pins", now, now, key=f"pins-{now}", accept_new_options=True, help=PIN_HELP, placeholder="lm_head*=copy",
            wrap=True,
        )  # fmt: skip
        if said != now:
            state.choose_pins(map(parse_pin, _readable(said, parse_pin)))
            if [str(pin) for pin in session.pins] != now:
                st.rerun()
        floors = _listed("floor", "Floors", FLOOR_HELP, "*v_proj*>=int4", parse_floor)
        ties = _listed("tie", "Ties", TIE_HELP, "*.experts.*", parse_tie)
    return tuple(str(pin) for pin in session.pins), tuple(floors), tuple(ties)


def _listed(key: str, label: str, help: str, example: str, parse: Callable[[str], object]) -> list[str]:
    """A field of wishes that are typed; they stand in the URL."""
    known = list(dict.fromkeys([*st.session_state.get(key, []), *st.query_params.get_all(key)]))
    said = st.multiselect(
        label, known, key=key, accept_new_options=True, help=help, bind="query-params", persist_state="session",
        placeholder=example, wrap=True,
    )  # fmt: skip
    return _readable(said, parse)


def _readable(words: Sequence[str], parse: Callable[[str], object]) -> list[str]:
    """Those that can be parsed; the others are answered by a sentence."""
    found = []
    for word in words:
        try:
            parse(word)
            found.append(word)
        except ConfigError as error:
            st.error(text.sentence(error), icon=":material/block:")
    return found
