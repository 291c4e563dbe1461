"""The parts of the Export page: which tensor gets what, what it comes to, and where it goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from quantlab.config import PRESETS, QuantConfig
from quantlab.errors import ConfigError
from quantlab.formats import FORMATS, Checkpoint
from quantlab.formats.files import shown
from quantlab.recipe import SKIP, Assignment, Item, Rule, assign
from quantlab.shipping import refusal
from quantlab.ui import exports, jobs, sources, state, text
from quantlab.ui.cache import Key
from quantlab.ui.help import about
from quantlab.ui.sweep_job import Results, counted

WRITABLE = [name for name, kind in FORMATS.items() if kind.write]
WAYS = ("Download", "A folder on this computer")
LEAVE_OUT = "leave out"
FIELD, NAME_FIELD, CARD = 340, 520, 130  # pixels
TABLE_HEIGHT = 38 + 35 * 10
PATTERN_HELP = (
    "Empty: every floating-point tensor of two dimensions or more. Biases and norms are small and sensitive, so they "
    "are taken only when you ask for them. Or a name, or a pattern: `*` stands for any text, `?` for one character."
)
EXCEPTION_HELP = (
    "Tensors that get something else, or are left out. Where several exceptions match, the last one counts."
)


@dataclass(frozen=True, eq=False)
class Plan:
    """What would be written, and why the format cannot hold some of it."""

    assignment: Assignment
    refusals: list[str]


def choose_rules(session: state.Session) -> list[Rule]:
    """What every tensor gets: the general rule, then its exceptions."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        pattern = st.text_input(
            "Tensors", key="take", bind="query-params", persist_state="session", width=FIELD, help=PATTERN_HELP,
            placeholder="every weight",
        )  # fmt: skip
        general = _config(f"all-{session.config}", "Configuration", session.config, _offered(session))
    if general is not None and general != session.config:
        state.choose_config(general)
    rules = [_exception(session, i, rule) for i, rule in enumerate(session.rules)]
    if tuple(rules) != session.rules:
        state.choose_rules(rule for rule in rules if rule)
        st.rerun()
    if st.button("Add an exception", icon=":material/add:", type="tertiary", help=EXCEPTION_HELP):
        state.choose_rules([*session.rules, Rule(session.chosen or "*", PRESETS["float16"])])
        st.rerun()
    return [Rule(pattern.strip(), session.config), *session.rules]


def _exception(session: state.Session, i: int, rule: Rule) -> Rule | None:
    """One exception as it is now; None once it is removed."""
    with st.container(horizontal=True, vertical_alignment="bottom", key=f"exception-{i}"):
        pattern = st.text_input("Except", rule.pattern, key=f"except-{i}-{rule}", width=FIELD)
        config = _config(f"exception-{i}-{rule}", "which get", rule.config, [LEAVE_OUT, *_offered(session)])
        gone = st.button("Remove", key=f"remove-{i}-{rule}", icon=":material/close:", type="tertiary")
    return None if gone else Rule(pattern.strip() or rule.pattern, config)


def _config(key: str, label: str, value: QuantConfig | None, offered: Sequence[str]) -> QuantConfig | None:
    """A choice of configurations, where others can be typed in; None for `LEAVE_OUT`.

    What was typed and is no configuration is answered by a sentence, and `value` still holds.
    """
    now = LEAVE_OUT if value is None else str(value)
    options = list(dict.fromkeys([now, *offered]))
    chosen = st.selectbox(
        label, options, key=key, format_func=_named, accept_new_options=True, width=FIELD, help=about("configuration"),
        placeholder="Choose, or type one such as int4-sym-g64-mse",
    )  # fmt: skip
    try:
        return None if chosen in (LEAVE_OUT, SKIP) else QuantConfig.parse((chosen or now).strip())
    except ConfigError as error:
        st.error(f"{text.sentence(error)} Still used: {text.plain(now)}.", icon=":material/block:")
        return value


def _named(slug: str) -> str:
    """A slug, with the name of the preset that it is."""
    names = [name for name, config in PRESETS.items() if str(config) == slug and name != slug]
    return f"{slug} ({names[0]})" if names else slug


def _offered(session: state.Session) -> list[str]:
    """Slugs to choose from: those under consideration, and those of the presets."""
    return list(dict.fromkeys(map(str, [session.config, *session.compare, *PRESETS.values()])))


def plan(session: state.Session, rules: Sequence[Rule], format: str) -> Plan:
    """What the rules come to in a format. QuantlabError for rules that do not fit the file."""
    return _plan(session.key, tuple(map(str, rules)), format, session.checkpoint)


@st.cache_resource(max_entries=16, show_spinner=False)
def _plan(key: Key, rules: tuple[str, ...], format: str, _checkpoint: Checkpoint) -> Plan:
    assignment = assign(_checkpoint, [Rule.parse(rule) for rule in rules])
    reasons = ((item, refusal(item, format)) for item in assignment.taken)
    return Plan(assignment, [f"{shown(item.spec.name)} as {item.config}: {why}" for item, why in reasons if why])


def choose_format() -> str:
    """The file format, by its name in the registry."""
    return st.segmented_control(
        "File format", WRITABLE, default=WRITABLE[0], format_func=lambda name: FORMATS[name].label, required=True,
        key="format", bind="query-params", persist_state="session",
        help="Both hold the packed codes, the scales, and a manifest that says how to decode them with NumPy alone.",
    )  # fmt: skip


def preview(found: Plan) -> None:
    """What would be written: the whole in cards, every tensor in a table, and what is left out."""
    assignment = found.assignment
    total = len(assignment.taken) + len(assignment.left)
    with st.container(horizontal=True, gap="small"):
        for label, value, term in (
            ("Tensors", f"{len(assignment.taken):,} of {total:,}", None),
            ("Source", text.size(assignment.source_nbytes), None),
            ("Packed", text.size(assignment.nbytes), None),
            ("Bits per weight", f"{assignment.bits_per_weight:.3f}", "bits_per_weight"),
            ("Compression", f"{assignment.compression_ratio:.2f} ×", "compression_ratio"),
        ):
            st.metric(label, value, width=CARD, help=term and about(term))
    with st.expander(f"{counted(len(assignment.taken), 'tensor')} to be written", icon=":material/table_rows:"):
        _planned(assignment.taken)
    if assignment.left:
        with st.expander(f"{counted(len(assignment.left), 'tensor')} not in the file", icon=":material/block:"):
            _left_out(assignment.left)
    if found.refusals:
        more = f" The same goes for {len(found.refusals) - 1:,} more." if len(found.refusals) > 1 else ""
        st.error(f"This format cannot hold {text.sentence(found.refusals[0])}{more}", icon=":material/block:")


def _planned(items: Sequence[Item]) -> None:
    frame = pd.DataFrame(
        {
            "Tensor": [item.spec.name for item in items],
            "Configuration": [str(item.config) for item in items],
            "Shape": [text.shape(item.spec.shape) for item in items],
            "Type": [item.spec.dtype for item in items],
            "Source": [item.source_nbytes for item in items],
            "Packed": [item.nbytes for item in items],
            "Compression": [item.source_nbytes / item.nbytes for item in items],
        }
    )
    number = st.column_config.NumberColumn
    config = {
        "Source": number(format="bytes"),
        "Packed": number(format="bytes"),
        "Compression": number(format="%.2f ×"),
    }
    st.dataframe(frame, hide_index=True, column_config=config, height=min(38 + 35 * len(frame), TABLE_HEIGHT))


def _left_out(items: Sequence[Item]) -> None:
    rows = [
        {"Tensor": i.spec.name, "Shape": text.shape(i.spec.shape), "Type": i.spec.dtype, "Why": i.reason} for i in items
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, height=min(38 + 35 * len(rows), TABLE_HEIGHT))


def choose_target(session: state.Session, rules: Sequence[Rule], format: str) -> tuple[str, str | None]:
    """The file's name, and the folder to save it in; None for a download."""
    configs = {rule.config for rule in rules if rule.config}
    what = rules[0].config if len(configs) == 1 else "mixed"
    title = session.title.removesuffix(Path(session.title).suffix)
    suggested = exports.safe_name(f"{title}-{what}{FORMATS[format].suffix}")
    way = st.segmented_control("Write to", WAYS, default=WAYS[0], required=True, key="to", bind="query-params")
    folder = None
    with st.container(horizontal=True):
        if way == WAYS[1]:
            roots = ", ".join(map(text.plain, sources.roots()))
            folder = st.text_input("Folder", str(sources.roots()[0]), key="folder", width=FIELD, help=f"Under {roots}.")
        name = st.text_input("File name", suggested, key=f"name-{suggested}", width=NAME_FIELD)
    return name.strip() or suggested, folder


def start(session: state.Session, found: Plan, format: str, target: tuple[str, str | None]) -> None:
    """Start the job that writes the file, and remember it."""
    results = swept(session)
    job = exports.start(
        session.checkpoint, session.key, found.assignment, format, *target, None if results is None else results.frame
    )
    state.choose_export(job.id)


def swept(session: state.Session) -> Results | None:
    """The results of the visitor's last sweep, if it was of this very file."""
    job = jobs.get(session.job)
    results = (job.result or job.partial) if job else None
    return results if results is not None and results.key == session.key else None
