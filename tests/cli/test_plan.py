"""quantlab plan, and export --plan: from a model to a plan, and from the plan to exactly its bytes."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import quantlab as ql
from quantlab.planning.plan import Plan

from ..planning.models import LLAMA, saved


@pytest.fixture
def llama(tmp_path):
    """A folder with a small model."""
    return saved(tmp_path / "llama", LLAMA, "float32", model_type="llama")


def test_a_plan_is_made_told_and_saved(run, llama, tmp_path):
    ran = run("plan", llama, "--for", "vllm", "--budget", "70%", "-o", tmp_path / "plan.json")
    assert ran.code == 0, ran.err
    plan = ql.load_plan(tmp_path / "plan.json")
    assert f"{plan.nbytes:,} bytes" in ran.out and "asked for 70%" in ran.out
    assert "optimal for: relative error, weights: role prior. Predicted from weights alone" in ran.out
    assert f"less damage than {plan.uniform.config} everywhere" in ran.out
    assert all(choice in ran.out for choice in plan.counts)
    assert "it is the head" in ran.err  # what was left out, and why
    with ql.open_checkpoint(llama) as checkpoint:
        table = ql.sweep(checkpoint, ql.TARGETS["vllm"].menu(checkpoint))
        assert ql.plan(table, checkpoint, target="vllm", budget="70%") == plan


def test_a_plan_for_programs_has_everything(run, llama):
    found = run("plan", llama, "--for", "mlx", "--budget", "8bpw", "--json").json
    fields = set(Plan.__dataclass_fields__)
    assert fields <= found.keys()
    assert found["proved"] is True and found["relative_gap"] == 0
    assert sum(found["counts"].values()) == len(found["choices"])


def test_what_was_measured_is_not_measured_again_and_a_kept_sweep_serves(run, llama, tmp_path):
    run("plan", llama, "--budget", "50%", "-o", tmp_path / "a.json")
    (sweep,) = run("sweeps", "list", "--json", "-").json
    assert sweep["complete"]
    run("plan", llama, "--budget", "50%", "--menu", "-o", tmp_path / "b.json")
    assert run("plan", llama, "--budget", "50%", "--sweep", sweep["id"][:5], "-o", tmp_path / "c.json").code == 0
    assert len(run("sweeps", "list", "--json", "-").json) == 1
    assert len({(tmp_path / f"{name}.json").read_bytes() for name in "abc"}) == 1


def test_an_export_by_a_plan_has_its_bytes_and_keeps_what_it_copies(run, llama, tmp_path):
    run(
        "plan", llama, "--for", "vllm", "--budget", "80%", "--pin", "*layers.0*down*=copy", "-o", tmp_path / "plan.json"
    )
    plan = ql.load_plan(tmp_path / "plan.json")
    ran = run("export", llama, "--plan", tmp_path / "plan.json", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) == plan.nbytes
    with ql.open_checkpoint(tmp_path / "out") as out, ql.open_checkpoint(llama) as source:
        name = "model.layers.0.mlp.down_proj.weight"
        np.testing.assert_array_equal(out.raw(name), source.raw(name))
    # Another format that can hold it, and a look at what would be.
    ran = run("export", llama, "--plan", tmp_path / "plan.json", "--format", "safetensors", "-o", tmp_path / "own.bin")
    assert ran.code == 0, ran.err
    with ql.open_checkpoint(tmp_path / "own.bin") as out:
        assert {n: str(out.quantized(n).config) for n in out.packed_names} == {
            n: choice for n, choice in plan.choices.items() if choice != "copy"
        }
    found = run("export", llama, "--plan", tmp_path / "plan.json", "--dry-run", "--json").json
    assert found["file_nbytes"] == plan.nbytes


@pytest.mark.parametrize("target", ["vllm", "llama.cpp", "mlx", "onnxruntime", "any"])
def test_every_target_s_plan_is_exported_in_the_bytes_that_it_says(run, llama, tmp_path, target):
    assert run("plan", llama, "--for", target, "--budget", "75%", "-o", tmp_path / "plan.json").code == 0
    plan = ql.load_plan(tmp_path / "plan.json")
    assert run("export", llama, "--plan", tmp_path / "plan.json", "-o", tmp_path / "out").code == 0
    out = tmp_path / "out"
    files = [out] if out.is_file() else out.rglob("*")
    assert sum(path.stat().st_size for path in files) == plan.nbytes <= plan.limit


def test_weights_importance_and_wishes_reach_the_plan(run, llama, tmp_path):
    name = "model.layers.1.self_attn.o_proj.weight"
    (tmp_path / "weights.csv").write_text(f"tensor,weight\n{name},1e6\nlm_head.weight,1\n")
    np.savez(tmp_path / "importance.npz", **{name: np.ones(64, np.float32)})
    ran = run(
        "plan", llama, "--budget", "60%", "--weights", tmp_path / "weights.csv", "--importance",
        tmp_path / "importance.npz", "--pin", "*layers.0*q_proj*=copy", "--tie", "*layers.1*mlp*", "--floor",
        "*v_proj*>=int8", "--objective", "relative", "-o", tmp_path / "plan.json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    plan = ql.load_plan(tmp_path / "plan.json")
    assert plan.weighting == "measured" and plan.choices[name] == "copy"
    assert "14 tensors have no importance" in ran.err and "have no weight and get the median" in ran.err
    assert plan.choices["model.layers.0.self_attn.q_proj.weight"] == "copy"
    assert len({choice for n, choice in plan.choices.items() if "layers.1.mlp" in n}) == 1
    ran = run("plan", llama, "--budget", "60%", "--no-prior", "--objective", "worst")
    assert "optimal for: worst tensor. Predicted" in ran.out
    assert "optimal for: relative error, weights: equal" in run("plan", llama, "--budget", "60%", "--no-prior").out
    assert "asked for 30 dB" in run("plan", llama, "--quality", "30dB").out


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], 2, "--budget"),
        (["--budget", "3GB", "--quality", "3"], 2, "--budget"),
        (["--budget", "3 bananas"], 1, "3 bananas"),
        (["--budget", "1kB"], 1, "the least possible for"),
        (["--budget", "60%", "--pin", "nothing"], 2, "argument --pin"),
        (["--budget", "60%", "--pin", "*none*=copy"], 1, "matches"),
        (["--budget", "60%", "--floor", "v>=much"], 2, "floor"),
        (["--budget", "60%", "--sweep", "zzz"], 1, "there is no sweep"),
        (["--budget", "60%", "--sweep", "zzz", "--importance", "f"], 2, "--importance"),
        (["--budget", "60%", "--weights", "absent.csv"], 1, "absent.csv"),
        (["--budget", "60%", "--importance", "absent.gguf"], 1, "absent.gguf"),
        (["--budget", "60%", "--format", "gguf"], 1, "choose one of"),
        (["--budget", "60%", "--configs", "q4_0", "--for", "vllm"], 1, "the least possible"),
        (["--budget", "60%", "-o", "no/such/folder/plan.json"], 1, "there is no folder"),
    ],
    ids=str,
)
def test_what_cannot_be_planned_is_said_in_a_sentence_and_nothing_is_written(
    run, llama, tmp_path, words, code, sentence
):
    before = sorted(tmp_path.rglob("*"))
    ran = run("plan", llama, *words)
    assert ran.code == code, ran.err
    assert sentence in ran.err
    assert "Traceback" not in ran.err and not ran.out
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_by_a_plan_that_is_none_or_anothers_is_refused(run, llama, tmp_path):
    run("plan", llama, "--budget", "60%", "-o", tmp_path / "plan.json")
    save_file({"a.weight": np.ones((4, 64), np.float32)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.json").write_text("{}")
    out = tmp_path / "out.safetensors"
    for words in (
        [tmp_path / "other.safetensors", "--plan", tmp_path / "plan.json"],
        [llama, "--plan", tmp_path / "broken.json"],
        [llama, "--plan", tmp_path / "absent.json"],
        [llama, "--plan", tmp_path / "plan.json", "--format", "gguf"],
    ):
        ran = run("export", *words, "-o", out)
        assert ran.code == 1 and ran.err.count("\n") == 1, ran.err
        assert not out.exists()
    for words in (
        ["--plan", tmp_path / "plan.json", "--config", "int8"],
        ["--plan", tmp_path / "plan.json", "--others", "leave"],
        ["--plan", tmp_path / "plan.json", "--copy-refused"],
        ["--plan", tmp_path / "plan.json"],
        [],
    ):
        with_out = [] if len(words) == 2 else ["-o", out]
        assert run("export", llama, *words, *with_out).code == 2
    assert not out.exists()


def test_a_plan_does_not_replace_the_model(run, llama):
    model = llama / "model.safetensors"
    before = model.read_bytes()
    assert run("plan", model, "--budget", "60%", "-o", model).code == 1
    assert model.read_bytes() == before


def test_a_saved_plan_is_one_choice_a_line(run, llama, tmp_path):
    run("plan", llama, "--budget", "60%", "-o", tmp_path / "plan.json")
    lines = (tmp_path / "plan.json").read_text().splitlines()
    choices = json.loads((tmp_path / "plan.json").read_text())["choices"]
    assert all(
        any(line.strip().rstrip(",") == f'"{name}": "{slug}"' for line in lines) for name, slug in choices.items()
    )


def test_a_plan_of_fewer_configurations_is_told_where_there_is_one(run, llama):
    with ql.open_checkpoint(llama) as checkpoint:
        found = ql.problem(ql.sweep(checkpoint, ql.TARGETS["any"].menu(checkpoint)), checkpoint)
        told = set()
        for budget in ("30%", "40%"):
            plan = found.solve(budget)
            other = found.simpler(plan)
            kinds, less = (len(set(each.choices.values()) - {"copy"}) for each in (plan, other))
            assert other.nbytes <= plan.limit and other.damage <= 1.01 * plan.damage and less <= kinds
            line = f"with {less} configurations in place of {kinds}: {other.nbytes:,} bytes"
            assert (line in run("plan", llama, "--budget", budget).out) == (less < kinds)
            told.add(less < kinds)
        assert True in told
