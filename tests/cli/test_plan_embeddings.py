"""quantlab plan: what is planned beside the weights, and what pins ask for beyond the menu."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import quantlab as ql
from quantlab.planning.targets import TARGETS


@pytest.fixture
def model(tmp_path, rng):
    path = tmp_path / "model.safetensors"
    names = [
        "model.embed_tokens.weight",
        *(f"model.layers.{i}.mlp.{m}_proj.weight" for i in (0, 1) for m in ("up", "down")),
    ]
    save_file({name: rng.standard_t(5, (64, 128)).astype(np.float32) for name in names}, path)
    return path


@pytest.fixture
def plan(run, model, tmp_path):
    def plan(*more, code=0):
        out = tmp_path / "plan.json"
        made = run("plan", model, "--for", "any", "--store", tmp_path / "store", "-o", out, *more)
        assert made.code == code, made.err
        return made if code else json.loads(out.read_text())

    return plan


def test_an_embedding_is_planned_where_it_is_asked_for(run, plan, model, tmp_path):
    assert "model.embed_tokens.weight" not in plan("--budget", "70%")["choices"]
    asked = plan("--budget", "40%", "--tensors", "*embed_tokens*")
    assert len(asked["choices"]) == 5 and asked["choices"]["model.embed_tokens.weight"] != "copy"
    written = run("export", model, "--plan", tmp_path / "plan.json", "-o", tmp_path / "out.safetensors")
    assert written.code == 0 and (tmp_path / "out.safetensors").stat().st_size == asked["nbytes"]


def test_a_glob_that_takes_in_nothing_is_refused(plan):
    made = plan("--budget", "70%", "--tensors", "*embedd_tokens*", code=1)
    assert "no tensor of 'model.safetensors' matches '*embedd_tokens*'" in made.err and made.err.count("\n") == 1


def test_a_pin_beyond_the_menu_is_measured_too(plan, model):
    slug = "int7-sym-g16-minmax"
    with ql.open_checkpoint(model) as checkpoint:
        assert slug not in map(str, TARGETS["any"].menu(checkpoint))
    found = plan("--budget", "70%", "--pin", f"*layers.1.mlp.down*={slug}")
    assert found["choices"]["model.layers.1.mlp.down_proj.weight"] == slug
    assert set(found["choices"].values()) != {slug}


def test_what_a_kept_sweep_has_is_not_asked_for_again(plan):
    assert (
        "a plan by --sweep decides on all that the sweep has"
        in plan("--budget", "70%", "--sweep", "ab", "--tensors", "*", code=2).err
    )
