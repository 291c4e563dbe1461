"""A plan and its budget: the front with the slider below it, and what the plan comes to beside it.

All of it is one fragment: a drag of the slider draws this part of the page alone.
"""

import math

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.errors import StreamlitAPIException

from quantlab.errors import BudgetError, ConfigError
from quantlab.planning.plan import Plan
from quantlab.plots.plan import with_plan
from quantlab.ui import plan_data, plan_files, plan_units, plan_words, state, text, widgets
from quantlab.ui.compare_views import table_of_text
from quantlab.ui.plan_data import Asked, Choice
from quantlab.ui.sweep_results import Results
from quantlab.wording import counted

BUDGET, SLIDER, SIMPLE = "budget", "budget-slider", "simple"
STEPS = 400  # places of the slider
AT_ONCE = 150  # units: a plan of fewer configurations is looked for unasked up to here; 500 took half a second a step
UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3), ("B", 1))
BUDGET_HELP = "As `4.5bpw` (bits per weight), `4.7GB`, `4.4GiB`, or `60%` of the model's own files."
SIMPLE_HELP = (
    "Predicted damage cannot rank plans that lie so close. A plan of fewer configurations is easier to read, and to "
    "write down for other tools."
)
BITS_HELP = "Of the weights that are planned, with their scales and headers; what else the file holds is not counted."
DAMAGE_HELP = (
    "The sum over all tensors of weight × error. Predicted from weights alone: it is no measure of what the model says."
)


@st.fragment
def show(session: state.Session, results: Results, asked: Asked) -> None:
    """The plan of the budget that is chosen here."""
    with widgets.boundary():
        found = plan_data.choice(session, results, asked)
        left, right = st.columns([3, 2], gap="medium")
        with left:
            figure = st.container()
            budget = _budget(found)
            plan = found.plan(budget, simple := bool(st.session_state.get(SIMPLE)))
            fewer = _beside(plan)
        with figure:
            _front(found, plan)
        with right:
            known = _headline(found, plan)
        # A drag is drawn before the proof, which can take longer than all of the drawing.
        best = found.proved(budget)
        if found.plan(budget, simple).choices != plan.choices:
            _again()
        plan = found.plan(budget, simple)
        known.caption(_known(found, plan))
        plan_files.buttons(session, results, found, plan)
        plan_units.tabs(session, found, plan)
        if _kinds(best) > 1 and len(plan.units) <= AT_ONCE:
            fewer.caption(_fewer(best, found.plan(budget, True)))
    state.remember("plan")


def _again() -> None:
    """Draw this part of the page anew: it is a run of the fragment alone, or of the whole page."""
    try:
        st.rerun(scope="fragment")
    except StreamlitAPIException:
        st.rerun()


def filling(session: state.Session, results: Results, asked: Asked) -> None:
    """The front as far as the sweep has come: what is not measured yet is copied."""
    with widgets.boundary():
        if results.measured:
            found = plan_data.choice(session, results, asked)
            widgets.chart(found.figure, "filling", "Predicted damage against the size of the file, so far")
            st.caption(
                f"So far: {results.measured:,} of {counted(len(results.names), 'weight')} measured, the others as they "
                "are in the file."
            )


def _budget(found: Choice) -> str:
    """The slider and the field, which follow each other; the budget in words, of one that a plan has."""
    unit, factor = next((unit for unit in UNITS if found.most >= unit[1]), UNITS[-1])
    step = _step((found.most - found.least) / factor / STEPS)
    digits = max(0, -math.floor(math.log10(step)))
    low, high = (round(math.ceil(size / factor / step) * step, digits) for size in (found.least, found.most))
    if BUDGET not in st.session_state and not st.query_params.get(BUDGET):
        st.session_state[BUDGET] = found.proposed
    slide, field = st.columns([4, 1], vertical_alignment="bottom")
    said = field.text_input(
        "Or type it", key=BUDGET, bind="query-params", persist_state="session", help=BUDGET_HELP,
        placeholder=found.proposed,
    )  # fmt: skip
    budget, refusal = _heard(found, said)

    def slid() -> None:
        st.session_state[BUDGET] = f"{st.session_state[SLIDER]:.{digits}f}{unit}"

    if high > low:
        st.session_state[SLIDER] = min(max(round(found.nbytes(budget) / factor, digits), low), high)
        slide.slider(
            "Budget: size of the file", low, high, step=step, key=SLIDER, on_change=slid,
            format=f"%.{digits}f {unit}",
        )  # fmt: skip
    else:
        slide.caption(f"There is one size only, {text.size(found.least)}: nothing smaller can be loaded.")
    if refusal:
        st.error(refusal, icon=":material/block:")
    return budget


def _heard(found: Choice, said: str) -> tuple[str, str]:
    """The budget that is shown, and why it is not the one that was typed, in a sentence."""
    words = said.strip() or found.proposed
    try:
        if found.nbytes(words) >= found.least:
            return words, ""
        found.problem.solve(words)
    except BudgetError as error:
        return f"{found.least}B", f"{text.sentence(error)} Shown: the smallest plan."
    except ConfigError as error:
        return found.proposed, f"{text.sentence(error)} Shown: {found.proposed}."
    return words, ""


def _step(least: float) -> float:
    """The next 1, 2 or 5 times a power of ten.

    >>> _step(0.0031), _step(0.0007)
    (0.005, 0.001)
    """
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(round(m * power, 12) for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def _front(found: Choice, plan: Plan) -> None:
    fig = with_plan(found.figure, plan.nbytes, plan.damage, plan.limit, found.problem.bits)
    widgets.chart(
        fig, "front", f"Predicted damage against the size of the file: this plan has {text.size(plan.nbytes)}"
    )


def _headline(found: Choice, plan: Plan) -> DeltaGenerator:
    """What the plan comes to, what that is worth, and how far it can be trusted; the place of the last."""
    problem = found.problem
    with st.container(horizontal=True, gap="small"):
        size_help = f"{plan.nbytes:,} bytes, to the byte: headers, padding and all that is copied."
        st.metric("Size", text.size(plan.nbytes), width=88, help=size_help)
        st.metric("Bits per weight", f"{plan.bits_per_weight:.3f}", width=118, help=BITS_HELP)
        st.metric("Predicted damage", text.number(plan.damage, 3), width=150, help=DAMAGE_HELP)
    if told := plan_words.gain(plan):
        st.markdown(told)
    known = st.empty()
    known.caption(_known(found, plan))
    if doubt := plan_words.doubt(plan):
        st.caption(f":material/info: {text.plain(doubt)}")
    for note in problem.notes:
        st.caption(f":material/info: {text.sentence(note)}")
    st.toggle(
        "Fewer configurations, within 1 %", key=SIMPLE, bind="query-params", persist_state="session", help=SIMPLE_HELP
    )
    return known


def _known(found: Choice, plan: Plan) -> str:
    """How near the plan is to the best one, and how well what is minimised is known to rank plans."""
    problem = found.problem
    evidence = plan_words.evidence(problem.objective.name, problem.weighting, found.importance)
    return f"{plan_words.optimum(plan, problem)} {evidence}"


def _beside(plan: Plan) -> DeltaGenerator:
    """The plan among its neighbours: the best uniform configuration of its size, and the next one above the budget.

    Returns the place for a plan of fewer configurations.
    """
    lines = {f"This plan, of {counted(_kinds(plan), 'configuration')}": _line(plan.nbytes, plan.damage, plan)}
    for what, one in (("for all", plan.uniform), ("for all, the next above", plan.above)):
        if one is not None:
            lines[f"{text.plain(one.config)} {what}"] = _line(one.nbytes, one.damage, plan)
    table_of_text(lines, ["Size", "Predicted damage"], "The plan and the uniform configurations beside it")
    return st.empty()


def _fewer(best: Plan, other: Plan) -> str:
    """What a plan of fewer configurations within 1 % has, in a sentence."""
    if _kinds(other) >= _kinds(best):
        return "No plan within 1 % of the damage was found that has fewer configurations."
    return (
        f"Within 1 %, with {counted(_kinds(other), 'configuration')} in place of {_kinds(best)}: "
        f"{text.size(other.nbytes)}, predicted damage {text.number(other.damage, 3)}."
    )


def _kinds(plan: Plan) -> int:
    return len(set(plan.choices.values()) - {"copy"})


def _line(nbytes: int, damage: float, plan: Plan) -> list[str]:
    more = f" (+{100 * (damage / plan.damage - 1):,.0f} %)" if plan.damage and damage > plan.damage else ""
    return [text.size(nbytes), f"{text.number(damage, 3)}{more}"]
