"""quantlab report."""

import pytest

import quantlab as ql
from tests.reporting.models import HOSTILE, SLUGS, layers, measured, write


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "model.safetensors", [*layers(2), *HOSTILE])


@pytest.fixture
def plan(model, tmp_path):
    checkpoint, _, problem = measured(model)
    with checkpoint:
        return problem.signed(problem.solve("6bpw")).save(tmp_path / "plan.json")


def test_a_plan_alone_is_measured(run, model, plan, tmp_path):
    made = run("report", model, "--plan", plan, "-o", tmp_path / "r.html", "--markdown", tmp_path / "card.md")
    text = (tmp_path / "r.html").read_text()
    assert (made.code, made.out) == (0, "") and "kB, with everything in it" in made.err
    assert "The plan" in text and "Every configuration" not in text and "What every size buys" not in text
    assert (tmp_path / "card.md").read_text().startswith("## Quantization\n")
    with ql.open_checkpoint(model) as source:  # as one that was swept
        name = layers(2)[0]
        word = ql.sweep(source, [ql.QuantConfig.parse(SLUGS[0])], [name])
    assert word["sqnr_db"].iloc[0] > 0 and f"<code>{name}</code>" in text


def test_with_all_configurations_the_front_is_there(run, model, plan, tmp_path):
    made = run("report", model, "--plan", plan, "--configs", *SLUGS, "-o", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert made.code == 0 and "What every size buys" in text and "Every configuration" in text


def test_a_sweep_of_the_store_is_taken_from_there(run, model, tmp_path, monkeypatch):
    assert run("sweep", model, "--config", *SLUGS, "--store", tmp_path / "store").code == 0
    id = run("sweeps", "--store", tmp_path / "store", "--json", "-").json[0]["id"]
    made = run("report", model, "--sweep", id[:6], "--store", tmp_path / "store", "-o", tmp_path / "r.html")
    assert made.code == 0 and all(slug in (tmp_path / "r.html").read_text() for slug in SLUGS)
    monkeypatch.setattr("quantlab.sweeping.store.engine_version", lambda: "another")
    made = run("report", model, "--sweep", id[:6], "--store", tmp_path / "store", "-o", tmp_path / "r.html")
    assert (
        "measured by another engine" in made.err and "measured by another engine" in (tmp_path / "r.html").read_text()
    )
    other = write(tmp_path / "other.safetensors", layers(1))
    made = run("report", other, "--sweep", id[:6], "--store", tmp_path / "store", "-o", tmp_path / "s.html")
    assert made.code == 1 and "give the model that was swept" in made.err and not (tmp_path / "s.html").exists()


def test_what_cannot_be_is_said_before_anything_is_measured(run, model, plan, tmp_path):
    other = write(tmp_path / "other.safetensors", layers(1))
    made = run("report", other, "--plan", plan, "-o", tmp_path / "r.html")
    assert made.code == 1 and "make a plan of this one" in made.err and made.err.count("\n") == 1
    assert run("report", model, "--plan", plan, "-o", tmp_path / "no" / "r.html").code == 1
    assert run("report", model, "--plan", plan, "-o", model).code == 1
    assert run("report", model, "-o", tmp_path / "r.html").code == 2
    assert run("report", model, "--sweep", "a", "--configs", "bf16", "-o", tmp_path / "r.html").code == 2
    assert not (tmp_path / "r.html").exists()
