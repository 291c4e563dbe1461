"""Plans of tables: what may be chosen, what it costs, what stands beside it, and what cannot be."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import quantlab as ql
from quantlab.errors import BudgetError, CheckpointError, ConfigError, ExportError
from quantlab.planning.damage import OBJECTIVES, PRIOR
from quantlab.planning.planner import problem
from quantlab.planning.targets import TARGETS
from quantlab.shipping.recipe import Rule
from quantlab.shipping.rehearsal import assigned, file_nbytes
from quantlab.sweeping.weights import names_of_weights

from .models import LLAMA, saved
from .tables import billions, table_of

SMALL = {
    "model.layers.0.self_attn.q_proj.weight": (64, 64), "model.layers.0.self_attn.v_proj.weight": (32, 64),
    "model.layers.0.mlp.up_proj.weight": (96, 64), "model.layers.0.mlp.down_proj.weight": (64, 96),
    "norm.weight": (64,),
}  # fmt: skip
CONFIGS = ["int3-sym-g32-mse-sfp16", "int4-sym-g32-mse-sfp16", "int8-sym-ch0-mse-sfp16"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = saved(tmp_path_factory.mktemp("small") / "model", SMALL, "float32")
    with ql.open_checkpoint(path) as checkpoint:
        yield checkpoint, ql.sweep(checkpoint, map(ql.QuantConfig.parse, CONFIGS))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = saved(tmp_path_factory.mktemp("llama") / "model", LLAMA, "float32", model_type="llama")
    with ql.open_checkpoint(path) as checkpoint:
        yield checkpoint, ql.sweep(checkpoint, TARGETS["vllm"].menu(checkpoint))


def size_of(checkpoint, choices, format="safetensors"):
    """Bytes of an export by rules of names."""
    rules = [Rule("*", None, copy=True)]
    rules += [Rule(name, ql.QuantConfig.parse(slug)) for name, slug in choices.items() if slug != "copy"]
    return file_nbytes(checkpoint, assigned(checkpoint, rules, format), format)


def damage_of(table, choices, weights):
    """Of a choice: the sum of weight x 10^(-SQNR/10)."""
    found = {(row.tensor, row.config): 10 ** (-row.sqnr_db / 10) for row in table.itertuples()}
    return sum(weights[name] * found.get((name, slug), 0.0) for name, slug in choices.items())


# -- the optimum


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("budget", ["35%", "45%", "60%", "80%"])
def test_the_plan_is_the_best_of_all_that_fit(small, budget, prior):
    """Every plan of four weights and four options, in bytes of the export that rules would make."""
    checkpoint, table = small
    names = names_of_weights(checkpoint)
    roles = {"q_proj": "q", "v_proj": "v", "up_proj": "up", "down_proj": "down"}
    weights = {name: PRIOR[roles[name.split(".")[-2]]] if prior else 1.0 for name in names}
    plan = ql.plan(table, checkpoint, budget=budget, prior=prior)
    source = sum(file.size for file in checkpoint.files)
    limit = math.floor(source * float(budget[:-1]) / 100)
    assert plan.limit == limit
    best = math.inf
    for slugs in itertools.product([*CONFIGS, "copy"], repeat=len(names)):
        choices = dict(zip(names, slugs, strict=True))
        if set(slugs) != {"copy"} and size_of(checkpoint, choices) <= limit:
            best = min(best, damage_of(table, choices, weights))
    assert plan.nbytes == size_of(checkpoint, plan.choices) <= limit
    assert plan.damage == pytest.approx(best, rel=1e-12)
    assert plan.damage == pytest.approx(damage_of(table, plan.choices, weights), rel=1e-12)
    assert plan.proved
    assert plan.weighting == ("role prior" if prior else "equal")


@settings(max_examples=30)
@example(0, "worst", 0.38671875)  # one scheme alone fits where the best plan of several does not
@given(st.integers(0, 10**6), st.sampled_from(list(OBJECTIVES)), st.floats(0.2, 1.1))
def test_plans_of_any_table_keep_their_word(llama, seed, objective, share):
    """Size as exported, within the budget, members of units alike, damage as the table says, the bound below it."""
    checkpoint, _ = llama
    names = names_of_weights(checkpoint)
    table = table_of(checkpoint, names, TARGETS["vllm"].menu(checkpoint), seed)
    made = problem(table, checkpoint, target="vllm", objective=objective)
    try:
        plan = made.solve(int(made.source_nbytes * share))
    except BudgetError as error:
        assert error.possible > made.source_nbytes * share
        assert made.solve(int(error.possible)).nbytes <= error.possible
        return
    assert plan.nbytes <= plan.limit
    assert list(plan.choices) == names
    assert set(plan.choices) | set(plan.kept) == set(checkpoint.names)
    if set(plan.choices.values()) != {"copy"}:
        assert plan.nbytes == file_nbytes(checkpoint, assigned(checkpoint, plan.rules(), plan.format), plan.format)
    for unit in plan.units:
        assert {plan.choices[name] for name in unit.unit.members} == {unit.choice}
    assert plan.bound <= plan.damage
    assert plan.damage - plan.gap == pytest.approx(plan.bound, rel=1e-9, abs=1e-15)
    each = [unit.damage for unit in plan.units]
    total = max(each) if objective == "worst" else math.fsum(each)
    assert plan.damage == pytest.approx(total, rel=1e-12) == plan.damages[objective]
    for uniform in made.uniform:
        if uniform.nbytes <= plan.limit:
            assert plan.damage <= uniform.damage * (1 + 1e-12)


def test_more_bytes_are_never_worse_and_steps_say_when_a_choice_changes(llama):
    checkpoint, table = llama
    made = problem(table, checkpoint, target="vllm")
    plans = [made.solve(f"{share}%") for share in range(58, 100, 3)]
    damages = [plan.damage for plan in plans]
    assert damages == sorted(damages, reverse=True)
    assert all(plan.proved for plan in plans)
    for unit in plans[3].units:
        assert unit.low is None or unit.low <= plans[3].nbytes
        assert unit.high is None or unit.high >= plans[3].nbytes
        if unit.up:
            assert unit.up.nbytes > 0 and unit.up.damage < 0
        if unit.down:
            assert unit.down.nbytes < 0 and unit.down.damage > 0


def test_a_quality_gives_the_smallest_plan_of_it(small):
    checkpoint, table = small
    made = problem(table, checkpoint, prior=False)
    plan = made.solve(quality="25dB")
    names, most = names_of_weights(checkpoint), 4 * 10**-2.5
    sizes = [
        size_of(checkpoint, dict(zip(names, slugs, strict=True)))
        for slugs in itertools.product([*CONFIGS, "copy"], repeat=4)
        if set(slugs) != {"copy"}
        and damage_of(table, dict(zip(names, slugs, strict=True)), dict.fromkeys(names, 1.0)) <= most
    ]
    assert plan.damage <= most
    assert plan.nbytes <= min(sizes) + 16  # digits and padding of a header are no part of what is minimised
    assert plan.budget == "25 dB"


def test_the_worst_tensor_is_as_good_as_it_can_be(small):
    checkpoint, table = small
    names = names_of_weights(checkpoint)
    found = {(row.tensor, row.config): 10 ** (-row.sqnr_db / 10) for row in table.itertuples()}
    plan = ql.plan(table, checkpoint, budget="45%", objective="worst")
    best = min(
        max(found.get(pair, 0.0) for pair in zip(names, slugs, strict=True))
        for slugs in itertools.product([*CONFIGS, "copy"], repeat=4)
        if set(slugs) != {"copy"} and size_of(checkpoint, dict(zip(names, slugs, strict=True))) <= plan.limit
    )
    assert plan.damage == pytest.approx(best, rel=1e-12)
    assert plan.weighting == "equal"


# -- beside a plan


def test_uniform_configurations_are_the_exports_of_one_rule(llama):
    checkpoint, table = llama
    made = problem(table, checkpoint, target="vllm")
    heads = "lm_head.weight"
    for uniform in made.uniform:
        k = made.options.index(uniform.config)
        may = {
            name
            for unit, ok in zip(made.units, np.isfinite(made.damage[:, k]), strict=True)
            if ok
            for name in unit.members
        }
        assert heads not in may
        choices = {name: uniform.config if name in may else "copy" for name in names_of_weights(checkpoint)}
        assert uniform.nbytes == size_of(checkpoint, choices, "compressed-tensors")
        assert uniform.copied == len(choices) - len(may)
    plan = made.solve("70%")
    fit = [each for each in made.uniform if each.nbytes <= plan.limit]
    assert plan.uniform == min(fit, key=lambda each: each.damage)
    assert plan.above == next(each for each in made.uniform if each.nbytes > plan.limit)
    assert "relative" not in plan.not_better_under
    small = made.simpler(plan)
    assert small.nbytes <= plan.limit and small.damage <= 1.01 * plan.damage
    assert len(small.counts) <= len(plan.counts)


# -- wishes


def test_pins_ties_and_floors_are_kept(llama):
    checkpoint, table = llama
    int8 = next(slug for slug in table["config"].unique() if slug.startswith("int8-sym-ch0"))
    plan = ql.plan(
        table, checkpoint, target="vllm", budget="70%", pins=[f"*layers.0.mlp.down*={int8}", "*layers.1.*o_proj*=copy"],
        ties=["*o_proj*"], floors=["*v_proj*>=int8", "*up_proj*:sqnr>=30"],
    )  # fmt: skip
    assert plan.choices["model.layers.0.mlp.down_proj.weight"] == int8
    assert {plan.choices[f"model.layers.{i}.self_attn.o_proj.weight"] for i in range(2)} == {"copy"}
    decibels = {(row.tensor, row.config): row.sqnr_db for row in table.itertuples()}
    for i in range(2):
        parts = {plan.choices[f"model.layers.{i}.self_attn.{part}_proj.weight"] for part in "qkv"}
        assert len(parts) == 1 and not parts.pop().startswith("int4")
        up = f"model.layers.{i}.mlp.up_proj.weight"
        assert decibels.get((up, plan.choices[up]), math.inf) >= 30
    reasons = {unit.unit.name: unit.pinned for unit in plan.units}
    assert "pinned by you" in reasons["model.layers.0.mlp.down_proj.weight"]
    assert "it is the head" in reasons["lm_head.weight"]
    assert "vLLM fuses q, k and v" in {unit.unit.reason for unit in plan.units}


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"pins": ["*nothing*=copy"]}, "no tensor"),
        ({"pins": ["*down*=int8-sym-tensor-minmax"]}, "per tensor"),
        ({"pins": ["*down*=int8-sym-g32-of-my-own"]}, "no configuration"),
        ({"pins": ["*down*=copy", "*layers.0*=int4-sym-g32-mse"]}, "two choices"),
        ({"pins": ["*down*=int8-sym-g16-mse"]}, "sweep"),
        ({"ties": ["*nothing*"]}, "no tensor"),
        ({"floors": ["*nothing*>=int4"]}, "no tensor"),
        ({"weights": {"lm_head.weight": math.nan}}, "number from 0"),
        ({"weights": {"of another model": 1.0}}, "of 1 weight given, none"),
        ({"weights": {"lm_head": 1.0}, "objective": "worst"}, "leave out the weights"),
        ({"importance": True}, "weighted_sqnr_db"),
        ({"target": "torch"}, "unknown target"),
        ({"objective": "best"}, "unknown objective"),
        ({"format": "gguf"}, "unknown format of vllm"),
    ],
    ids=str,
)
def test_wishes_that_cannot_be_met_are_refused_in_one_sentence(llama, about, words):
    checkpoint, table = llama
    with pytest.raises(ConfigError, match=words) as caught:
        problem(table, checkpoint, **{"target": "vllm", **about})
    assert "\n" not in str(caught.value)


def test_budgets_that_are_none_are_refused(llama):
    checkpoint, table = llama
    made = problem(table, checkpoint, target="vllm")
    for asked in ("", "4 bananas", "-3GB", "nan", "1e400GB", None, True, -1, 1.5, 1 << 70, "5x%", [1]):
        with pytest.raises(ConfigError):
            made.solve(asked)
    for asked in ("loud", "dB", "9999dB", True, math.nan):
        with pytest.raises(ConfigError):
            made.solve(quality=asked)
    with pytest.raises(ConfigError):
        made.solve("3GB", quality=20)


def test_a_budget_below_the_least_says_the_least_which_is_a_plan(llama):
    checkpoint, table = llama
    made = problem(table, checkpoint, target="vllm", pins=["*down*=copy"])
    with pytest.raises(BudgetError, match="too small: the least possible for vLLM is") as caught:
        made.solve("10%")
    least = int(caught.value.possible)
    assert f"{least:,}" in str(caught.value)
    assert made.solve(least).nbytes == least
    with pytest.raises(BudgetError):
        made.solve(least - 1)


def test_budgets_mean_what_they_say(llama):
    checkpoint, table = llama
    made = problem(table, checkpoint, target="vllm")
    assert made.solve("100kB").limit == 100_000
    assert made.solve("100 KiB").limit == 102_400
    assert made.solve(123_456).limit == 123_456
    plan = made.solve("9bpw")
    assert plan.bits_per_weight <= 9
    assert plan.bits_per_weight == pytest.approx(8 * (plan.nbytes - made.fixed) / made.values)
    with_more = made.solve("100 GB")
    assert set(with_more.choices.values()) == {"copy"} and with_more.damage == 0


# -- tables


def test_a_table_that_lacks_rows_or_is_of_another_model_is_refused(llama, small):
    checkpoint, table = llama
    with pytest.raises(ConfigError, match=r"lacks 1 row about 1 of 15 tensors .* finish the sweep"):
        problem(table.iloc[1:], checkpoint, target="vllm")
    few = table[table["tensor"].isin(names_of_weights(checkpoint)[:3])]
    with pytest.raises(ConfigError, match="about 12 of 15 tensors"):
        problem(few, checkpoint, target="vllm")
    part = problem(few, checkpoint, target="vllm", partial=True)
    assert part.missing > 0
    assert set(part.solve("100%").choices.values()) > {"copy"} or part.solve("100%").damage == 0
    with pytest.raises(CheckpointError, match="of another model"):
        problem(small[1], checkpoint)
    reshaped = table.assign(shape=table["shape"].replace("64x64", "64x32"))
    with pytest.raises(CheckpointError, match="64x32"):
        problem(reshaped, checkpoint)
    for broken in (table.drop(columns="sqnr_db"), table.iloc[:0], table.assign(config="int99"), None):
        with pytest.raises(ConfigError):
            problem(broken, checkpoint)
    with pytest.raises(ConfigError, match="channels_sqnr_db"):
        problem(table.drop(columns="channels_sqnr_db"), checkpoint, target="vllm", objective="rows")


def test_a_weight_that_the_sweep_refused_is_kept_for_the_reason_that_the_sweep_gave(tmp_path):
    path, name = saved(tmp_path / "model", SMALL, "float32"), "model.layers.0.mlp.up_proj.weight"
    arrays = load_file(path / "model.safetensors")
    arrays[name][3, 5] = np.nan
    save_file(arrays, path / "model.safetensors")
    with ql.open_checkpoint(path) as checkpoint:
        table = ql.sweep(checkpoint, map(ql.QuantConfig.parse, CONFIGS))
        told = {left.what: left.reason for left in problem(table, checkpoint).left}
    assert told[name] == next(each["reason"] for each in table.attrs["refused"] if each["tensor"] == name)
    assert "NaN" in told[name]


def test_what_was_refused_or_is_never_best_is_left_out_and_said(llama):
    checkpoint, _ = llama
    names = names_of_weights(checkpoint)
    more = table_of(checkpoint, names, ["int4-aff-g32-mse", "q4_0", "int4-sym-g128-mse", "int8-sym-ch0-mse"])
    worse = table_of(checkpoint, names, ["int8-sym-g32-minmax"]).assign(sqnr_db=1.0)
    made = problem(pd.concat([more, worse]), checkpoint, target="vllm")
    why = {left.what: left.reason for left in made.left}
    assert "symmetric" in why["int4-aff-g32-mse"]
    assert "not q4_0" in why["q4_0"]
    assert "no larger and no worse" in why["int8-sym-g32-minmax"]
    assert "it is the head" in why["lm_head.weight"]


def test_scales_that_the_file_would_hold_otherwise_are_not_planned(tmp_path):
    """compressed-tensors stores scales as a model of bfloat16 has them: fp32 ones would be measured, not shipped."""
    with ql.open_checkpoint(saved(tmp_path / "model", LLAMA)) as checkpoint:
        configs = [ql.QuantConfig.parse(slug) for slug in ("int4-sym-g32-mse", "int4-sym-g32-mse-sbf16")]
        made = problem(ql.sweep(checkpoint, configs), checkpoint, target="transformers")
        plan = made.solve("60%")
        assert set(plan.choices.values()) == {"int4-sym-g32-mse-sbf16", "copy"}
        assert "bf16" in next(left.reason for left in made.left if left.what == "int4-sym-g32-mse")


def test_what_a_format_cannot_copy_is_quantized_or_refused(tmp_path):
    path = saved(tmp_path / "model", {"a.weight": (64, 64), "b.weight": (64, 32)})
    with ql.open_checkpoint(path) as checkpoint:
        table = ql.sweep(checkpoint, map(ql.QuantConfig.parse, CONFIGS))
        plan = problem(table, checkpoint, format="npz").solve("100%")
        assert set(plan.choices.values()) == {CONFIGS[-1]}  # .npz has no bfloat16
    path = saved(tmp_path / "with a norm", {"a.weight": (64, 64), "norm.weight": (64,)})
    with ql.open_checkpoint(path) as checkpoint:
        table = ql.sweep(checkpoint, map(ql.QuantConfig.parse, CONFIGS))
        with pytest.raises(ExportError, match="cannot be copied into an"):
            problem(table, checkpoint, format="npz").solve("100%")


def test_importance_and_measured_weights_change_what_counts(small):
    checkpoint, table = small
    names = names_of_weights(checkpoint)
    favoured = names[0]
    weighted = table.assign(weighted_sqnr_db=np.where(table["tensor"] == favoured, -20.0, table["sqnr_db"]))
    plan = ql.plan(weighted, checkpoint, budget="60%", importance=True, prior=False)
    assert plan.choices[favoured] == "copy"
    plan = ql.plan(table, checkpoint, budget="60%", weights={favoured: 1e6, **dict.fromkeys(names[1:], 1.0)})
    assert (plan.choices[favoured], plan.weighting) == ("copy", "measured")
    assert plan.weights[favoured] == 1e6


def test_other_tensors_that_were_swept_are_planned_as_well(tmp_path):
    with ql.open_checkpoint(saved(tmp_path / "model", LLAMA, "float32")) as checkpoint:
        names = [*names_of_weights(checkpoint), "model.embed_tokens.weight"]
        table = ql.sweep(checkpoint, map(ql.QuantConfig.parse, CONFIGS), names)
        plan = ql.plan(table, checkpoint, budget="30%")
        assert plan.choices["model.embed_tokens.weight"] != "copy"
        assert plan.nbytes == file_nbytes(checkpoint, assigned(checkpoint, plan.rules(), "safetensors"), "safetensors")


# -- a model of 7 B


@pytest.mark.parametrize("target", ["vllm", "transformers", "llama.cpp", "mlx", "any"])
def test_plans_of_seven_billion_weights_are_proved(target, tmp_path):
    with ql.open_checkpoint(billions(tmp_path / "model")) as checkpoint:
        names = names_of_weights(checkpoint)
        table = table_of(checkpoint, names, TARGETS[target].menu(checkpoint))
        made = problem(table, checkpoint, target=target)
        for budget in ("5bpw", "6.2bpw"):
            plan = made.solve(budget)
            assert plan.proved and plan.nbytes <= plan.limit
            assignment = assigned(checkpoint, plan.rules(), plan.format)
            assert plan.nbytes == file_nbytes(checkpoint, assignment, plan.format)
            assert plan.damage < plan.uniform.damage
        assert len(made.units) == (129 if target == "vllm" else 225)
        quick = made.solve("6.2bpw", prove=False)
        assert quick.bound <= plan.damage <= quick.damage
