"""What a plan is taken away as: an export, a recipe for another tool, a file of its own; and a file that is opened."""

import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.errors import QuantlabError
from quantlab.planning.plan import Plan
from quantlab.planning.planfile import check_model, load_plan
from quantlab.planning.recipes import RECIPES, recipe
from quantlab.planning.units import COPY
from quantlab.reporting import report
from quantlab.ui import export_form, plan_words, sources, state, text
from quantlab.ui.plan_data import Choice
from quantlab.ui.sweep_results import Results
from quantlab.wording import counted

# The tool that quantizes for a program, which is offered first.
OF_TARGET = {
    "vllm": "llm-compressor", "transformers": "autoround", "llama.cpp": "llama-quantize", "mlx": "mlx-lm",
    "onnxruntime": "onnxruntime",
}  # fmt: skip


def buttons(session: state.Session, results: Results, found: Choice, plan: Plan) -> None:
    """Export, recipe, save, report, and open another."""
    with st.container(horizontal=True):
        if st.button("Export this plan", type="primary", icon=":material/save_alt:"):
            export(session, plan)
        if st.button("Recipe for ...", icon=":material/receipt_long:", help="The plan in the words of other tools."):
            _recipe(session, found, plan)
        st.download_button(
            "Save plan.json", partial(_text, found, plan), f"{sources.stem(session.source)}-plan.json",
            mime="application/json", icon=":material/download:", on_click="ignore",
            help="Complete, and the same for `quantlab export --plan`. The model is read once, for its digest.",
        )  # fmt: skip
        st.download_button(
            "Report", partial(_report, session, results, found, plan), f"{sources.stem(session.source)}-report.html",
            mime="text/html", icon=":material/description:", on_click="ignore",
            help="One HTML file: the plan, its figures, and where they come from. The model is read once.",
        )  # fmt: skip
        if st.button("Open a plan.json", icon=":material/folder_open:", type="tertiary"):
            _open(session)


def _text(found: Choice, plan: Plan) -> str:
    return found.problem.signed(plan).text


def _report(session: state.Session, results: Results, found: Choice, plan: Plan) -> str:
    return report(session.checkpoint, results.frame, found.problem.signed(plan), problem=found.problem).html


def export(session: state.Session, plan: Plan) -> None:
    """Open Export with the plan's rules and its format."""
    slugs = Counter(slug for slug in plan.choices.values() if slug != COPY)
    export_form.propose_format(session, plan.format)
    state.go_to_export(plan.rules(), QuantConfig.parse(slugs.most_common(1)[0][0]) if slugs else None)


@st.dialog("The plan in other tools' words", width="large")
def _recipe(session: state.Session, found: Choice, plan: Plan) -> None:
    tools = list(RECIPES)
    first = tools.index(OF_TARGET.get(plan.target, tools[0]))
    name = st.selectbox("Tool", tools, first, format_func=lambda name: RECIPES[name].label, filter_mode=None)
    try:
        with st.spinner("Reading the model once, for its digest ..."):
            made = recipe(found.problem.signed(plan), name, source=session.checkpoint)
    except QuantlabError as error:
        st.warning(text.sentence(error), icon=":material/block:")
        return
    st.markdown("\n".join(f"- {text.sentence(remark)}" for remark in made.remarks))
    if made.command:
        st.code(made.command, language="sh", wrap_lines=True)
    st.code(made.text, language=None, height=300)
    st.download_button(
        f"Download {made.filename}", made.text, made.filename, type="primary", icon=":material/download:",
        on_click="ignore",
    )  # fmt: skip


@st.dialog("Open a plan", width="large")
def _open(session: state.Session) -> None:
    file = st.file_uploader("A plan that quantlab saved", type=["json"], key="plan-file")
    if file is None:
        return
    try:
        plan = loaded(file.getvalue())
        with st.spinner("Reading the model, to tell whether the plan is of it ..."):
            check_model(plan, session.checkpoint)
    except QuantlabError as error:
        st.error(text.sentence(error), icon=":material/block:")
        return
    st.markdown(
        f"**For {plan_words.program(plan.target)}**: {text.size(plan.nbytes)}, {plan.bits_per_weight:.3f} bits per "
        f"weight, {counted(len(plan.choices), 'weight')}. Predicted damage {text.number(plan.damage, 3)} "
        f"({plan_words.SHORT[plan.objective]}), of a budget of {text.plain(plan.budget)}."
    )
    lines = (f"{counted(count, 'tensor')}: {plan_words.said(choice)}" for choice, count in plan.counts.items())
    st.markdown("\n".join(f"- {text.plain(line)}" for line in lines))
    if st.button("Export this plan", type="primary", icon=":material/save_alt:", key="export-opened"):
        export(session, plan)


def loaded(data: bytes) -> Plan:
    """The plan of a file that was uploaded. QuantlabError for what is none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plan.json")
        path.write_bytes(data)
        return load_plan(path)
