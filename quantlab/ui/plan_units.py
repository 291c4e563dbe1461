"""What each unit of a plan gets: a map, a table, and the one that was clicked, with what else it could have."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from quantlab.planning.plan import Plan, PlannedUnit, Step
from quantlab.planning.roles import KINDS, role_of
from quantlab.plots.plan import Cell, unit_map
from quantlab.ui import kinds, pinning, plan_words, state, text, widgets
from quantlab.ui.plan_data import Choice
from quantlab.wording import counted

CLICKED = "unit-of-plan"  # in the session: name of the unit that was clicked
FREE = "what is best"
HEIGHT = 38 + 35 * 12


def tabs(session: state.Session, found: Choice, plan: Plan) -> None:
    """The parts of the plan; only the open one is drawn."""
    drawn: dict[str, Callable[[], None]] = {
        "Map": lambda: _map(session, found, plan),
        "Table": lambda: _table(session, found, plan),
        "By other measures": lambda: _measures(found, plan),
        "Left out": lambda: _left(found),
    }
    widgets.heed("plan-view", drawn)
    shown = st.tabs(list(drawn), key="plan-view", on_change="rerun", bind="query-params")
    for tab, draw in zip(shown, drawn.values(), strict=True):
        if tab.open:
            with tab:
                draw()


def _map(session: state.Session, found: Choice, plan: Plan) -> None:
    event = widgets.chart(
        unit_map(_cells(plan, found.sizes)), "unit-map", "Bits per weight of every unit, by role and depth",
        on_select="rerun", selection_mode="points",
    )  # fmt: skip
    if points := event.selection.points:
        st.session_state[CLICKED] = points[0]["customdata"]
    _say(plan)
    _drawer(session, found, plan)


def _say(plan: Plan) -> None:
    pinned = sum(bool(unit.pinned) for unit in plan.units)
    held = f" {counted(pinned, 'unit')} without a choice, marked with a dot." if pinned else ""
    st.caption(f"The stronger the colour, the more bits.{held} A click on a cell opens it below.")


def _cells(plan: Plan, values: list[int]) -> list[Cell]:
    cells = [_cell(unit, count) for unit, count in zip(plan.units, values, strict=True)]
    # As a model computes: known roles from the embedding to the head; what has none after them.
    return sorted(cells, key=lambda cell: _place(cell.row.partition(",")[0]))


def _place(kind: str) -> int:
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def _cell(planned: PlannedUnit, values: int) -> Cell:
    roles = [role_of(name) for name in planned.unit.members]
    found = sorted({role.kind for role in roles}, key=_place)
    row = ", ".join(found) if all(found) else ""
    bits = 8 * planned.nbytes / max(values, 1)
    choice = plan_words.said(planned.choice)
    told = f"<b>{_html(named(planned))}</b><br>{choice}<br>{text.size(planned.nbytes)}, {bits:.3g} bits"
    why = f"<br>{_html(planned.pinned)}" if planned.pinned else ""
    name = planned.unit.name
    return Cell(
        name, row or kinds.kind(name), roles[0].block if row else _depth(name), bits, told + why, bool(planned.pinned)
    )


def _depth(name: str) -> int | None:
    """The first number in a name whose layers are not known by theirs."""
    return kinds.numbers(name)[0] if kinds.numbers(name) else None


def _html(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;")


def named(planned: PlannedUnit) -> str:
    """A unit's name, and how many more it stands for."""
    more = len(planned.unit.members) - 1
    return text.shortened(planned.unit.name, 60) + (f" and {more} more" if more else "")


def _table(session: state.Session, found: Choice, plan: Plan) -> None:
    frame = table(plan, found.sizes)
    column = st.column_config
    event = st.dataframe(
        frame, key="units", hide_index=True, height=min(38 + 35 * len(frame), HEIGHT), on_select="rerun",
        selection_mode="single-row", alt=f"{len(frame)} units of the plan",
        column_config={
            "Unit": column.TextColumn(pinned=True, width=340),
            "Gets": column.TextColumn(width=170),
            "Bits": column.NumberColumn("Bits per weight", format="%.3f"),
            "Bytes": column.NumberColumn(format="localized"),
            "Damage": column.NumberColumn("Of the damage (%)", format="%.2f"),
            "Up": column.TextColumn("Next step up", width=280, help="What the unit gets next as the budget grows."),
            "Down": column.TextColumn("Next step down", width=280, help="What it falls back to as the budget shrinks."),
            "Stays": column.TextColumn("Stays so", help="The budgets between which the unit keeps what it has."),
            "Why": column.TextColumn("Shared or given", width=320),
        },
    )  # fmt: skip
    if rows := event.selection.rows:
        st.session_state[CLICKED] = plan.units[rows[0]].unit.name
    st.caption("A click on a row opens it below.")
    _drawer(session, found, plan)


def table(plan: Plan, values: list[int]) -> pd.DataFrame:
    """The units as rows, in the file's order."""
    return pd.DataFrame(
        {
            "Unit": [_safe(named(each)) for each in plan.units],
            "Gets": [plan_words.said(each.choice) for each in plan.units],
            "Bits": [8 * each.nbytes / max(count, 1) for each, count in zip(plan.units, values, strict=True)],
            "Bytes": [each.nbytes for each in plan.units],
            "Damage": [100 * each.damage / plan.damage if plan.damage else 0.0 for each in plan.units],
            "Up": [_step(each.up, plan) for each in plan.units],
            "Down": [_step(each.down, plan) for each in plan.units],
            "Stays": [_stays(each) for each in plan.units],
            "Why": [_safe("; ".join(filter(None, [each.unit.reason, each.pinned]))) for each in plan.units],
        }
    )


def _safe(words: str) -> str:
    """Text that no spreadsheet takes for a formula: the table can be downloaded."""
    return f"'{words}" if words[:1] in ("=", "+", "-", "@") else words


def _step(step: Step | None, plan: Plan) -> str:
    if step is None:
        return "–"
    change = 100 * step.damage / plan.damage if plan.damage else 0.0
    return f"{plan_words.said(step.choice)}: {_signed(step.nbytes)}, {_percent(change)}"


def _signed(nbytes: int) -> str:
    return f"{'+' if nbytes > 0 else '−'}{text.size(abs(nbytes))}"


def _percent(change: float) -> str:
    return f"{'+' if change > 0 else '−'}{abs(change):.2g} %"


def _stays(each: PlannedUnit) -> str:
    low = text.size(each.low) if each.low is not None else "the least"
    return f"{low} to {text.size(each.high)}" if each.high is not None else f"from {low}"


def _drawer(session: state.Session, found: Choice, plan: Plan) -> None:
    """The unit that was clicked: what it could have, and the field that pins it."""
    at = next((i for i, each in enumerate(plan.units) if each.unit.name == st.session_state.get(CLICKED)), None)
    if at is None:
        return
    planned = plan.units[at]
    with st.container(border=True):
        st.markdown(f"**{text.plain(named(planned))}**")
        reason = f"{text.sentence(planned.unit.reason)} " if planned.unit.reason else ""
        st.caption(f"{reason}{text.sentence(planned.pinned) if planned.pinned else _price(planned, plan)}")
        _pin(session, found, plan, at)


def _price(planned: PlannedUnit, plan: Plan) -> str:
    ways = [("up", planned.up), ("down", planned.down)]
    told = [f"next {way}: {_step(step, plan)}" for way, step in ways if step is not None]
    return (
        f"{text.sentence('; '.join(told))} Percentages are of the predicted damage."
        if told
        else "It has no other choice."
    )


def _pin(session: state.Session, found: Choice, plan: Plan, at: int) -> None:
    """The choice of one unit: what is best, or a pin."""
    planned, problem = plan.units[at], found.problem
    names, members = list(plan.choices), planned.unit.members
    own = next((word for name, word in pinning.given(session.pins, names).items() if name in members), None)
    costs = [] if own else found.costs(plan, at)
    offered = {option: cost for option, cost in zip(problem.options, costs, strict=False) if cost is not None}
    chosen = st.selectbox(
        "It gets", [FREE, *(offered or [planned.choice])], 1 if own else 0, key=f"pin-{members[0]}-{own}", width=420,
        format_func=lambda option: _offered(option, offered.get(option), plan), filter_mode=None,
        help="Another choice is a pin: the plan then keeps it, and spends the rest of the budget anew.",
    )  # fmt: skip
    if (chosen == FREE) == (own is not None):
        pinned = [name for name in members if name in pinning.given(session.pins, names)]
        state.choose_pins(pinning.toggled(session.pins, names, pinned or members[:1], own or chosen))
        st.rerun()


def _offered(option: str, cost: float | None, plan: Plan) -> str:
    if option == FREE:
        return f"{FREE[0].upper()}{FREE[1:]}"
    if cost is None or not plan.damage:
        return plan_words.said(option)
    change = _percent(100 * cost / plan.damage) if cost > 0 else "no change of"
    return f"{plan_words.said(option)}: {change} damage at this size"


def _measures(found: Choice, plan: Plan) -> None:
    """The same plan's damage under every objective, beside the best uniform configuration's."""
    one = plan.uniform
    head = "| What could be minimised | This plan |" + (f" {text.plain(one.config)} for all | |" if one else "")
    lines = [head, "|---|---:|" + ("---:|---|" if one else "")]
    for name, damage in plan.damages.items():
        line = f"| {plan_words.SHORT[name].capitalize()} | {text.number(damage, 3)} |"
        if one:
            less = plan_words.saved(damage, one.damages[name])
            line += f" {text.number(one.damages[name], 3)} | {f'{less} less' if less else 'not better'} |"
        lines.append(line)
    st.markdown("\n".join(lines))
    st.caption(
        "All are predicted from weights alone. The plan minimises the one chosen above, and the others show what that "
        "costs. Where they disagree, only running the model tells."
    )


def _left(found: Choice) -> None:
    """What plans do not choose from, and why."""
    if not found.problem.left:
        st.caption("Nothing: every configuration that was measured is some tensor's best at some size.")
        return
    rows = [(text.shortened(left.what, 60), left.reason) for left in found.problem.left]
    frame = pd.DataFrame(rows, columns=["What", "Why"])
    st.dataframe(
        frame, hide_index=True, height=min(38 + 35 * len(frame), HEIGHT),
        column_config={"What": st.column_config.TextColumn(width=320)},
    )  # fmt: skip
