"""The Plan page: what it offers to measure, the plan of every budget, what stands beside it, and every refusal."""

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantlab.errors import Cancelled, QuantlabError
from quantlab.planning.plan import Plan
from quantlab.planning.planner import problem
from quantlab.ui import jobs, plan_files, plan_rows, state
from quantlab.ui.text import size
from tests.pages.app import job_of, messages, page, said

ROLES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


@pytest.fixture
def llm(tmp_path, monkeypatch) -> str:
    """Two blocks of a language model, whose projections differ in how hard they are to quantize."""
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    rng = np.random.default_rng(2)
    tensors = {
        f"model.layers.{block}.{role}.weight": rng.standard_t(3 + 2 * block, (64, 128)).astype(np.float16)
        for block in range(2)
        for role in ROLES
    }
    tensors["model.norm.weight"] = np.ones(64, np.float16)
    save_file(tensors, tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def button(at, label):
    return next(one for one in at.button if one.label == label)


def measured(**url):
    """The page after the menu was measured."""
    at = page("plan", **url)
    button(at, "Measure them").click().run()
    assert job_of(at).finished.wait(60)
    at.run()
    assert not at.exception
    return at


def found(at, **options):
    """The problem that the page shows, made anew from the sweep of its link."""
    session = at.session_state["quantlab"]
    return problem(job_of(at).result.frame, session.checkpoint, **options)


def budget(at):
    return at.text_input(key="budget").value


def metric(at, label):
    return next(one.value for one in at.metric if one.label == label)


def test_without_rows_the_page_says_what_it_measures_and_how_long_that_takes(llm):
    at = page("plan", file=llm)
    assert not at.exception
    assert at.selectbox(key="target-of-plan").value == "vllm"
    assert "A plan for vLLM is made from measurements: 8 configurations of 12 weights" in said(at)
    assert "on this computer" in said(at)
    assert not at.get("plotly_chart")


def test_the_first_plan_needs_no_slug_and_no_size(llm):
    at = measured(file=llm)
    plan = found(at, target="vllm").solve(budget(at))
    assert f"{plan.bits_per_weight:.3f}" == metric(at, "Bits per weight")
    assert "Predicted damage" in [one.label for one in at.metric]
    assert len(at.get("plotly_chart")) == 2  # the front and the map


def test_open_leads_here_with_the_program_chosen(llm):
    at = page("open", file=llm)
    at.selectbox(key="plan-for").set_value("llama.cpp").run()
    button(at, "Plan").click().run()
    assert [title.value for title in at.title] == ["Plan"]
    assert "A plan for llama.cpp (GGUF) is made from measurements" in said(at)


def test_a_typed_budget_is_solved_and_stands_beside_its_neighbours(llm):
    at = measured(file=llm)
    at.text_input(key="budget").set_value("6bpw").run()
    plan = found(at, target="vllm").solve("6bpw")
    assert f"{plan.bits_per_weight:.3f}" == metric(at, "Bits per weight")
    table = at.table[0].value
    assert table.index[0].startswith("This plan, of ")
    assert any(plan.uniform.config in name.replace("\\", "") for name in table.index)
    assert any("the next above" in name for name in table.index) == (plan.above is not None)


def test_the_words_say_that_damage_is_predicted_and_for_what_the_plan_is_optimal(llm):
    at = measured(file=llm, budget="6bpw")
    text = said(at)
    plan = found(at, target="vllm").solve(budget(at))
    assert re.search(r"[\d.]+ % less predicted damage than \S+ for all, the best single configuration", text)
    assert f"of at most this size ({size(plan.uniform.nbytes)})" in text
    assert ("Proved optimal" if plan.proved else "of the optimum") in text
    assert "for what is minimised: relative error, weighted by role" in text
    assert "at ten sizes it was never worse than one configuration for all" in text
    assert "quality" not in text.lower()


def test_each_objective_says_how_well_it_ranks(llm):
    at = measured(file=llm, objective="absolute", weighting="equal")
    assert "worse than one configuration for all at six" in said(at)
    at.radio(key="objective-of-plan").set_value("worst").run()
    assert not at.exception
    assert "not tried on any model" in said(at) and "relative error of the worst tensor" in said(at)


def test_the_slider_moves_the_budget_and_does_not_go_below_the_least(llm):
    at = measured(file=llm)
    slider, least = at.slider(key="budget-slider"), found(at, target="vllm").front.nbytes[0]
    assert slider.min * 1000 >= least
    slider.set_value(slider.max).run()
    assert at.text_input(key="budget").value.endswith("kB")
    assert float(at.text_input(key="budget").value[:-2]) == pytest.approx(slider.max)
    assert not at.exception and not at.error


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [("1kB", "too small: the least possible"), ("much", "give bytes as"), ("-3GB", "give bytes as")],
)
def test_a_budget_that_cannot_be_gets_a_sentence_and_a_plan_beside_it(llm, typed, sentence):
    at = measured(file=llm, budget=typed)
    assert sentence in messages(at) and "Shown: " in messages(at)
    assert metric(at, "Size")


def test_what_fuses_is_one_unit_and_a_pin_of_it_is_kept(llm):
    pin = "model.layers.0.self_attn.q_proj.weight=copy"
    at = measured(file=llm, pin=pin, **{"plan-view": "Table"})
    units = at.dataframe[0].value.set_index("Unit")
    first = units.loc["model.layers.0.self_attn.k_proj.weight and 2 more"]
    assert first["Gets"] == "as it is" and "pinned by you" in first["Why"] and "fuses q, k and v" in first["Why"]
    assert len(units) == 8


def test_a_unit_that_was_clicked_is_pinned_and_freed(llm):
    at = measured(file=llm, budget="8bpw")
    unit = "model.layers.1.mlp.up_proj.weight"
    at.session_state["unit-of-plan"] = unit
    at.run()
    field = next(one for one in at.selectbox if one.label == "It gets")
    assert field.value == "what is best"
    slug = found(at, target="vllm").options[0]
    field.set_value(next(option for option in field.options if option.startswith(slug))).run()
    assert not at.exception
    assert at.query_params["pin"] in ([f"{unit}={slug}"], f"{unit}={slug}")
    field = next(one for one in at.selectbox if one.label == "It gets")
    field.set_value("What is best").run()
    assert "pin" not in at.query_params


def test_wishes_that_cannot_be_get_sentences(llm):
    at = measured(file=llm, budget="8bpw")
    at.multiselect(key="floor").set_value(["*up_proj*>>int4"]).run()
    assert "is none: write GLOB>=DTYPE" in messages(at)
    at.multiselect(key="floor").set_value(["*up_proj*>=int8"]).run()
    assert not at.error
    at = measured(file=llm, pin="nothing.like.this=copy")
    assert "no tensor of" in messages(at).lower()


def test_a_floor_is_met(llm):
    at = measured(file=llm, floor="*up_proj*>=int8", **{"plan-view": "Table"})
    units = at.dataframe[0].value.set_index("Unit")
    assert all(units.loc[f"model.layers.{block}.mlp.up_proj.weight", "Gets"].startswith("int8") for block in range(2))


def test_fewer_configurations_within_a_hundredth(llm):
    at = measured(file=llm, budget="6bpw")
    made = found(at, target="vllm")
    best = made.solve("6bpw")
    at.toggle(key="simple").set_value(True).run()
    simple = made.simpler(best)
    assert f"{simple.bits_per_weight:.3f}" == metric(at, "Bits per weight")


@pytest.mark.parametrize("view", ["Map", "Table", "By other measures", "Left out"])
def test_every_view_is_drawn_and_only_the_open_one(llm, view):
    at = measured(file=llm, **{"plan-view": view})
    assert (len(at.get("plotly_chart")), len(at.dataframe)) == {"Map": (2, 0), "Table": (1, 1)}.get(
        view, (1, len(at.dataframe))
    )
    if view == "By other measures":
        assert "Squared error" in said(at)


def test_the_plan_leads_to_an_export_of_its_size(llm):
    at = measured(file=llm)
    plan: Plan = found(at, target="vllm").solve(budget(at))
    button(at, "Export this plan").click().run()
    assert [title.value for title in at.title] == ["Export"]
    assert not at.exception and not at.error
    rules = at.session_state["quantlab"].rules
    assert [str(rule) for rule in rules] == [str(rule) for rule in plan.rules()]
    assert at.session_state["format"] == "compressed-tensors"
    assert "decide what every tensor gets, as planned" in said(at)


def test_an_export_of_a_plan_can_be_given_up(llm):
    at = page("export", file=llm, rule=["*=copy", "*.up_proj.weight=int8-sym-ch0-minmax"])
    assert "2 rules decide what every tensor gets, as planned" in said(at)
    button(at, "One configuration instead").click().run()
    assert not at.exception and at.session_state["quantlab"].rules == ()


def test_recipes_are_shown_or_refused_in_a_sentence(llm):
    at = measured(file=llm)
    button(at, "Recipe for ...").click().run()
    assert not at.exception
    assert "q_proj" in " ".join(code.value for code in at.code)
    at = measured(file=llm, target="any")
    button(at, "Recipe for ...").click().run()
    assert not at.exception
    assert "llama-quantize cannot be told this plan" in messages(at)


def test_a_saved_plan_is_opened_again_and_something_else_refused(llm):
    at = measured(file=llm)
    made = found(at, target="vllm")
    plan = made.signed(made.solve(budget(at)))
    assert plan_files.loaded(plan.text.encode()) == plan
    with pytest.raises(QuantlabError, match=r"plan\.json"):
        plan_files.loaded(b"{}")
    button(at, "Open a plan.json").click().run()
    assert not at.exception and at.file_uploader(key="plan-file")


def test_weights_of_a_file_count_and_a_bad_file_gets_a_sentence(llm):
    at = measured(file=llm, weighting="measured")
    assert "Until a file is given, roles count" in said(at) and "weighted by role" in said(at)
    at.file_uploader(key="weights-file").upload(
        "w.csv", b"tensor,weight\nmodel.layers.0.mlp.down_proj,5\n", "text/csv"
    ).run()
    assert "1 weight of w.csv" in said(at) and "with measured weights" in said(at)
    assert "have no weight and get the median" in said(at)
    at.file_uploader(key="weights-file").upload("w.csv", b"tensor,weight\na,-1\n", "text/csv").run()
    assert at.error and not at.exception


def test_a_sweep_of_something_else_offers_the_menu_beside_its_plan(llm):
    at = measured(file=llm, target="any")
    at.selectbox(key="target-of-plan").set_value("vllm").run()
    assert not at.exception
    assert "Worth measuring for vLLM, too" in said(at)
    before = set(job_of(at).result.figures.configs)
    button(at, "Measure these too").click().run()
    assert job_of(at).finished.wait(60)
    assert before < set(job_of(at).result.figures.configs)


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
def test_a_sweep_that_ended_badly_says_so_and_offers_the_menu(llm, ending):
    def work(progress, cancel):
        raise Cancelled() if ending == "cancelled" else RuntimeError("boom")

    job = jobs.start("sweep", "8 configurations", work)
    assert job.finished.wait(10)
    at = page("plan", file=llm, job=job.id)
    assert not at.exception
    assert ending in messages(at) and button(at, "Measure them")


def test_a_running_sweep_shows_the_front_as_far_as_it_goes(llm):
    done = measured(file=llm)
    results = job_of(done).result

    def work(progress, cancel):
        progress.publish(results)
        while not cancel():
            pass
        raise Cancelled()

    job = jobs.start("sweep", "8 configurations × 12 tensors", work)
    at = page("plan", file=llm, job=job.id)
    assert not at.exception
    assert "12 of 12 weights measured" in said(at) and len(at.get("plotly_chart")) == 1
    job.cancel()
    assert job.finished.wait(10)


def test_a_target_that_can_hold_nothing_of_a_model_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    np.savez(tmp_path / "odd.npz", **{"a.kernel": np.ones((6, 5, 3), np.float32)})
    at = page("plan", file=str(tmp_path / "odd.npz"), target="mlx")
    assert not at.exception
    assert "loads none of these weights in fewer bits" in messages(at) and "Choose another program" in messages(at)


def test_the_sample_has_a_plan():
    at = measured(file="sample")
    assert not at.error and metric(at, "Size")


def test_a_link_of_a_sweep_that_is_gone_says_so(llm):
    at = page("plan", file=llm, job="gone")
    assert "no longer keeps the sweep" in messages(at)


def test_no_model_no_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    at = page("plan", file=str(tmp_path / "none.npz"))
    assert not at.exception and at.error


def test_the_menu_is_asked_once_a_file(llm, monkeypatch):
    at = page("plan", file=llm)
    session: state.Session = at.session_state["quantlab"]
    assert plan_rows.menu(session.key, "vllm", session) == tuple(
        map(str, plan_rows.TARGETS["vllm"].menu(session.checkpoint))
    )
