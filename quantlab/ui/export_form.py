"""The form of the Export page: which tensor gets what, in which file format, and where it goes."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import streamlit as st

from quantlab.core.config import PRESETS
from quantlab.core.granularity import PerChannel
from quantlab.errors import ConfigError
from quantlab.formats import FORMATS
from quantlab.shipping.recipe import COPY, SKIP, Rule
from quantlab.shipping.rehearsal import natural_format
from quantlab.sweeping.weights import DEFINITION, channel_axes
from quantlab.ui import exports, sources, state, text
from quantlab.ui.help import about
from quantlab.wording import counted

WRITABLE = [name for name, kind in FORMATS.items() if kind.writable]
WAYS = ("Download", "A folder on this computer")
# What people type for the two outcomes that are no configuration.
MEANT = {"copied": COPY, "copied unchanged": COPY, "as it is": COPY, "left out": SKIP, "skipped": SKIP, "none": SKIP}
OTHERWISE = {SKIP: "left out", COPY: "copied unchanged"}
_FORMAT_OF = "format-of"  # in the session: which file the format was chosen for
REFUSED = "copy-refused"
FIELD, NAME_FIELD = 340, 520  # pixels
PATTERN_HELP = (
    f"Empty: the weights, which are {DEFINITION}. The others are small or sensitive, so they are taken only when you "
    "ask for them: by a name, or a pattern, in which `*` stands for any text and `?` for one character."
)
OTHERS_HELP = (
    "Tensors that are not quantized, such as biases and norms. Without them the file holds the quantized ones alone; a "
    "program that runs the model needs them."
)
REFUSED_HELP = (
    "A shape that is not cut into whole groups or blocks, or what the format or its program cannot hold: such tensors "
    "go into the file as they are. Off: they are refused, and nothing is written."
)
FORMAT_HELP = (
    "**.npz** and **.safetensors** hold packed codes, scales and a manifest, enough to decode them with NumPy alone. "
    "The others are what those programs load; some cannot hold every configuration, and say why."
)
CHANNELS_HELP = (
    "What a weight is used for says where its output channels are: a matrix that ONNX and Keras multiply by is "
    "[in, out]. Off: along axis 0 (ch0), whatever it is used for."
)
EXCEPTION_HELP = (
    "Tensors that get something else, or are left out. Where several exceptions match, the last one counts."
)


def choose_rules(session: state.Session) -> list[Rule]:
    """What every tensor gets: the general rule, then its exceptions; or rules that leave nothing to a general one."""
    if session.rules and session.rules[0].pattern == "*":
        return _whole(session)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        pattern = st.text_input(
            "Tensors", key="take", bind="query-params", persist_state="session", width=FIELD, help=PATTERN_HELP,
            placeholder="every weight",
        )  # fmt: skip
        general = _outcome(
            f"all-{session.config}", "Configuration", Rule(pattern.strip(), session.config), _offered(session)
        )
    if general.config is not None and general.config != session.config:
        state.choose_config(general.config)
    rules = [_exception(session, i, rule) for i, rule in enumerate(session.rules)]
    if tuple(rules) != session.rules:
        state.choose_rules(rule for rule in rules if rule)
        st.rerun()
    if st.button("Add an exception", icon=":material/add:", type="tertiary", help=EXCEPTION_HELP):
        state.choose_rules([*session.rules, Rule(session.chosen or "*", PRESETS["float16"])])
        st.rerun()
    return [Rule(pattern.strip(), session.config), *session.rules]


def _whole(session: state.Session) -> list[Rule]:
    """The rules of a plan, or others that begin with one for every tensor: they are told of, and not edited."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{counted(len(session.rules), 'rule')} decide what every tensor gets**, as planned.")
        st.page_link(
            state.page_path("plan"), label="Back to the plan", icon=":material/route:",
            query_params=state.remembered("plan") | state.link(),
        )  # fmt: skip
        if st.button("One configuration instead", icon=":material/close:", type="tertiary"):
            state.choose_rules([])
            st.rerun()
    with st.expander("The rules, of which the last that matches counts", icon=":material/rule:"):
        told = {"Tensors": [rule.pattern for rule in session.rules], "Get": [_named(r.word) for r in session.rules]}
        st.dataframe(pd.DataFrame(told), hide_index=True)
    return list(session.rules)


def _exception(session: state.Session, i: int, rule: Rule) -> Rule | None:
    """One exception as it is now; None once it is removed."""
    with st.container(horizontal=True, vertical_alignment="bottom", key=f"exception-{i}"):
        pattern = st.text_input("Except", rule.pattern, key=f"except-{i}-{rule}", width=FIELD)
        now = _outcome(f"exception-{i}-{rule}", "which get", rule, [*OTHERWISE, *_offered(session)])
        gone = st.button("Remove", key=f"remove-{i}-{rule}", icon=":material/close:", type="tertiary")
    return None if gone else replace(now, pattern=pattern.strip() or rule.pattern)


def _outcome(key: str, label: str, rule: Rule, offered: Sequence[str]) -> Rule:
    """The rule with what is chosen for its tensors; slugs that are not offered can be typed in.

    What was typed and is no configuration is answered by a sentence, and the rule stays as it is.
    """
    chosen = st.selectbox(
        label, list(dict.fromkeys([rule.word, *offered])), key=key, format_func=_named, accept_new_options=True,
        width=FIELD, help=about("configuration"), placeholder="Choose, or type one such as int4-sym-g64-mse",
    )  # fmt: skip
    try:
        word = (chosen or rule.word).strip()
        return replace(Rule.parse(MEANT.get(word.lower(), word)), pattern=rule.pattern)
    except ConfigError as error:
        ways = " Or copy, to keep them unchanged, or skip, to leave them out." if SKIP in offered else ""
        still = _named(rule.word)
        st.error(f"{text.sentence(error)}{ways} Still used: {text.plain(still)}.", icon=":material/block:")
        return rule


def _named(word: str) -> str:
    """A slug, with the name of the preset that it is; or what else becomes of tensors."""
    names = [name for name, config in PRESETS.items() if str(config) == word and name != word]
    return OTHERWISE.get(word) or (f"{word} ({names[0]})" if names else word)


def _offered(session: state.Session) -> list[str]:
    """Slugs to choose from: those under consideration, and those of the presets."""
    return list(dict.fromkeys(map(str, [session.config, *session.compare, *PRESETS.values()])))


def choose_format(session: state.Session) -> str:
    """The file format, by its name in the registry; for another file than before that of the program which runs it."""
    before = st.session_state.get(_FORMAT_OF)
    if before != session.key and (before is not None or "format" not in st.query_params):
        st.session_state["format"] = natural_format(session.checkpoint)
    st.session_state[_FORMAT_OF] = session.key
    return st.selectbox(
        "File format", WRITABLE, format_func=lambda name: FORMATS[name].label, key="format", bind="query-params",
        persist_state="session", help=FORMAT_HELP, width=NAME_FIELD, filter_mode=None,
    )  # fmt: skip


def propose_format(session: state.Session, format: str) -> None:
    """Have the form begin with a format, for the open file."""
    st.session_state["format"], st.session_state[_FORMAT_OF] = format, session.key


def choose_channels(session: state.Session, rules: Sequence[Rule]) -> list[Rule]:
    """The rules; those per channel along the first axis follow each tensor's own channels, where that is asked for."""
    axes = channel_axes(session.checkpoint)
    first = [rule.config is not None and rule.config.granularity == PerChannel(0) for rule in rules]
    if axes == [0] or not any(first):
        return list(rules)
    named = " and ".join(map(str, axes))
    follow = st.toggle(f"Channels as the file has them: along axis {named}", True, key="follow", help=CHANNELS_HELP)
    return [replace(rule, follows=follow and is_first) for rule, is_first in zip(rules, first, strict=True)]


def choose_others(format: str) -> list[Rule]:
    """What becomes of tensors that no rule speaks of, as the rule before all others."""
    whole = FORMATS[format].layout is not None
    copy = st.toggle("Copy the other tensors unchanged", whole, key=f"others-{whole}", help=OTHERS_HELP)
    return [Rule("*", None, copy=True)] if copy else []


def choose_refused() -> bool:
    """Whether tensors that cannot be quantized as the rules say are copied; a button beside the refusal says so too."""
    return st.toggle(
        "Copy tensors that cannot be quantized so", key=REFUSED, bind="query-params", persist_state="session",
        help=REFUSED_HELP,
    )  # fmt: skip


def copy_refused() -> None:
    """Turn that on."""
    st.session_state[REFUSED] = True


def choose_target(session: state.Session, rules: Sequence[Rule], format: str) -> tuple[str, str | None]:
    """The file's name, and the folder to save it in; None for a download."""
    words = {rule.word for rule in rules if rule.config}
    what = words.pop() if len(words) == 1 else "mixed"
    suggested = exports.safe_name(f"{sources.stem(session.source)}-{what}{FORMATS[format].suffix}")
    is_folder = FORMATS[format].folder
    ways = (f"{WAYS[0]} (.zip)", WAYS[1]) if is_folder else WAYS
    # A model's folder is loaded from where it lies, and a download would have to be unpacked.
    way = st.segmented_control("Write to", ways, default=ways[is_folder], required=True, key=f"to-{is_folder}")
    folder = None
    with st.container(horizontal=True):
        if way == WAYS[1]:
            roots = ", ".join(map(text.plain, sources.roots()))
            folder = st.text_input("Folder", str(sources.roots()[0]), key="folder", width=FIELD, help=f"Under {roots}.")
        label = "Name of the new folder" if is_folder else "File name"
        name = st.text_input(label, suggested, key=f"name-{suggested}", width=NAME_FIELD)
    return name.strip() or suggested, folder
