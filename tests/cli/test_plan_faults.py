"""Faults that were found in plans on the command line, each of which must stay away."""

import json
import math

import numpy as np
import pytest

import quantlab as ql
from quantlab.errors import BudgetError, CheckpointError, ConfigError
from quantlab.planning.budget import budget_of
from quantlab.planning.choices import Case

from ..planning.models import LLAMA, saved


@pytest.fixture
def llama(tmp_path):
    """A folder with a small model."""
    return saved(tmp_path / "llama", LLAMA, "float32", model_type="llama")


def test_a_decimal_comma_is_refused_and_no_budget_ten_times_as_large():
    known = {"fixed": 0, "values": 8, "source": 100}
    assert budget_of("4,700,000,000", **known).nbytes == 4_700_000_000
    for text in ("4,5GB", "4,5bpw", "1,23", "\N{ARABIC-INDIC DIGIT THREE}GB"):
        with pytest.raises(ConfigError, match=r"give bytes as 4700000000, 4\.7GB"):
            budget_of(text, **known)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--sweep", ""], "sweep"),
        (["--format", ""], "unknown format"),
        (["--importance", ""], "cannot open"),
    ],
)
def test_an_option_that_is_empty_is_not_taken_for_none(run, llama, tmp_path, given, said):
    ran = run("plan", llama, "--budget", "50%", "-o", tmp_path / "plan.json", *given)
    assert ran.code == 1 and said in ran.err, ran.err
    assert not (tmp_path / "plan.json").exists()


def test_a_pin_that_gives_nothing_is_told_how_pins_are_written(run, llama):
    ran = run("plan", llama, "--budget", "50%", "--pin", "lm_head.weight")
    assert ran.code == 2 and "write GLOB=SLUG or GLOB=copy" in ran.err


def test_a_budget_that_pins_forbid_says_which(run, llama):
    ran = run("plan", llama, "--budget", "20%", "--configs", "int4-sym-g32-mse", "--pin", "*proj*=copy")
    assert ran.code == 1 and "are not free, the first, " in ran.err and "since: pinned by you: *proj*=copy" in ran.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bound": 1e9}, "no plan can be below"),
        ({"bound": -5.0}, "its gap is"),
        ({"damage": 1e30}, "under the same objective"),
        ({"limit": 1}, "and is for 1"),
        ({"version": True}, "of version True"),
    ],
)
def test_a_plan_whose_claims_deny_each_other_is_refused(run, llama, tmp_path, change, said):
    path = tmp_path / "plan.json"
    assert run("plan", llama, "--configs", "int4-sym-g32-mse", "--budget", "90%", "-o", path).code == 0
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    ran = run("export", llama, "--plan", path, "-o", tmp_path / "out.safetensors")
    assert ran.code == 1 and said in ran.err, ran.err
    assert not (tmp_path / "out.safetensors").exists()


def test_units_that_do_not_come_to_the_damage_are_refused(run, llama, tmp_path):
    path = tmp_path / "plan.json"
    run("plan", llama, "--configs", "int4-sym-g32-mse", "--budget", "90%", "-o", path)
    plan = json.loads(path.read_text())
    plan["units"][0]["damage"] += 1.0
    path.write_text(json.dumps(plan))
    with pytest.raises(CheckpointError, match="its units come to"):
        ql.load_plan(path)


def test_a_plan_says_that_its_errors_are_of_weighted_inputs(run, llama, tmp_path):
    with ql.open_checkpoint(llama) as checkpoint:
        weights = {
            name: np.arange(1, checkpoint.spec(name).shape[-1] + 1, dtype=np.float32)
            for name in checkpoint.names
            if "proj" in name
        }
    np.savez(tmp_path / "importance.npz", **weights)
    asked = ["plan", llama, "--configs", "int4-sym-g32-mse", "int8-sym-g32-mse", "--budget", "60%"]
    asked += ["--importance", tmp_path / "importance.npz"]
    ran = run(*asked, "-o", tmp_path / "plan.json")
    assert ran.code == 0 and "weights: role prior, inputs weighted by importance" in ran.out
    assert ql.load_plan(tmp_path / "plan.json").importance
    ran = run(*asked, "--objective", "rows")
    assert "inputs weighted" not in ran.out and "choose relative or worst for importance" in ran.err


@pytest.mark.parametrize("objective", ["relative", "worst"])
@pytest.mark.parametrize("target", ["vllm", "any"])
def test_a_plan_of_a_quality_is_the_best_of_its_size_and_no_smaller_file_is_as_good(llama, objective, target):
    with ql.open_checkpoint(llama) as checkpoint:
        table = ql.sweep(checkpoint, ql.TARGETS[target].menu(checkpoint))
        problem = ql.problem(table, checkpoint, target=target, objective=objective)
        for decibels in (22, 27):
            plan = problem.solve(quality=decibels)
            best = problem.solve(budget=plan.nbytes)
            assert plan.damage == best.damage and plan.nbytes == best.nbytes
            assert plan.bound <= plan.damage and math.isclose(plan.gap, plan.damage - plan.bound)
            try:
                smaller = problem.solve(budget=plan.nbytes - 1)
            except BudgetError:
                continue
            assert smaller.damage > problem.references[objective] * 10 ** (-decibels / 10)


def test_a_head_that_is_copied_is_counted_once_in_what_config_json_says_at_least(llama):
    random = np.random.default_rng(0)
    with ql.open_checkpoint(llama) as checkpoint:
        problem = ql.problem(ql.sweep(checkpoint, ql.TARGETS["vllm"].menu(checkpoint)), checkpoint, target="vllm")
        may, schemes = np.isfinite(problem.damage), problem.rest.schemes
        units = np.arange(len(may))
        for _ in range(30):
            few = random.choice(may.shape[1] - 1, 2, replace=False)
            chosen = np.array([random.choice(few if row[few].all() else np.flatnonzero(row)) for row in may])
            used = frozenset(s for s in range(len(schemes)) if schemes[s][units, chosen].any())
            rest = problem.file_nbytes(chosen) - problem.sum_of(chosen)
            assert problem.sizes.least(may[problem.members], Case(used, several=len(used) > 1)) <= rest
