"""What all recipes promise: nothing is rounded silently, and a plan is data."""

import ast
import itertools

import pytest
import yaml

import quantlab as ql
from quantlab.core.dtypes import DTYPES
from quantlab.errors import QuantlabError
from quantlab.planning.recipes import RECIPES, recipe
from quantlab.planning.recipes.text import patterns

from .plans import GGUF_ROLES, mixed, names, plan_of, schemes_of

# Slugs that each tool can express, and some that it cannot with the nearest that it can.
SLUGS = {
    "llama-quantize": ("q4_0", "q8_0", "bf16"),
    "autoround": ("int4-sym-g128-mse-sfp16", "int8-sym-ch0-minmax", "int3-aff-g64-minmax"),
    "llm-compressor": ("int4-aff-g32-mse", "int8-sym-ch0-minmax-sbf16", "int8-sym-tensor-minmax"),
    "mlx-lm": ("int4-uni-g64-mse-sbf16", "int8-uni-g128-minmax", "int6-uni-g32-minmax"),
    "onnxruntime": ("int4-sym-g32-mse", "int4-aff-ch0-minmax", "int8-sym-ch0-minmax", "int8-aff-g16-minmax"),
    "modelopt": ("int4-sym-g128-mse", "int8-sym-ch0-minmax", "int8-sym-tensor-minmax"),
    "torchao": ("int4-sym-g32-mse", "int8-sym-ch0-minmax", "int3-aff-g64-minmax", "int5-sym-ch0-minmax"),
    "gptqmodel": ("int4-sym-g128-mse", "int8-sym-g64-minmax", "int3-aff-ch0-minmax"),
    "bitsandbytes": ("int8-sym-ch0-minmax",),
}
NEAREST = [
    ("llama-quantize", "int4-sym-g64-mse", "q4_0"),
    ("llama-quantize", "int4-uni-g32-mse", "q4_1"),
    ("llama-quantize", "int8-sym-ch0-minmax", "q8_0"),
    ("autoround", "int8-aff-g32-minmax", "int8-sym-g32-minmax"),
    ("autoround", "q4_0", "int4-sym-g32-minmax-sfp16"),
    ("llm-compressor", "int4-uni-g32-mse", "int4-aff-g32-mse"),
    ("llm-compressor", "int4-sym-ch1-mse", "int4-sym-ch0-mse"),
    ("mlx-lm", "int4-sym-g64-mse", "int4-uni-g64-mse"),
    ("mlx-lm", "int7-uni-g64-mse", "int8-uni-g64-mse"),
    ("mlx-lm", "int4-uni-g256-mse", "int4-uni-g128-mse"),
    ("onnxruntime", "int5-sym-g32-mse", "int4-sym-g32-mse"),
    ("modelopt", "int4-aff-g32-mse", "int4-sym-g32-mse"),
    ("torchao", "int4-sym-g32-mse-pow2", "int4-sym-g32-mse"),
    ("gptqmodel", "int5-sym-g128-mse", "int4-sym-g128-mse"),
    ("bitsandbytes", "int4-sym-g64-mse", "int8-sym-ch0-mse"),
    ("bitsandbytes", "fp16", "int8-sym-ch0-minmax-sfp16"),
]
SCRIPTS = [tool for tool, made in RECIPES.items() if made.filename.endswith(".py")]


def choices_for(tool):
    """A mix of what the tool can express, under names that it knows."""
    if tool == "llama-quantize":
        return mixed(SLUGS[tool], GGUF_ROLES, "blk") | {"output.weight": "copy"}
    return mixed(SLUGS[tool])


@pytest.mark.parametrize("tool", RECIPES)
def test_a_recipe_says_who_made_it_and_what_does_not_carry_over(tool):
    found = recipe(plan_of(choices_for(tool)), tool)
    top = found.text.split("\n\n")[0] if found.text.startswith("#") else "\n".join(found.remarks)
    assert "made by quantlab" in top.lower() and "'tiny'" in top and "abab" in top and "4.5bpw" in top
    assert "its figures do not" in top and RECIPES[tool].label in top
    assert found.command and found.filename and found.text.endswith("\n")
    for remark in found.remarks:  # each becomes a sentence with a capital, which a name does not bear
        assert not remark.endswith(".") and remark.split()[0] not in ("vLLM", "torchao", "mlx-lm", "int8", "lm_head")


@pytest.mark.parametrize("tool", RECIPES)
def test_a_recipe_is_the_same_each_time(tool):
    assert recipe(plan_of(choices_for(tool)), tool) == recipe(plan_of(choices_for(tool)), tool)


@pytest.mark.parametrize(("tool", "slug", "nearest"), NEAREST)
def test_what_a_tool_has_no_words_for_is_refused_with_the_nearest_that_it_has(tool, slug, nearest):
    chosen = choices_for(tool)
    first, second, *_ = [name for name, word in chosen.items() if word != "copy"]
    with pytest.raises(ql.ConfigError) as caught:
        recipe(plan_of(chosen | {second: slug, first: slug}), tool)
    said = str(caught.value)
    assert repr(first) in said and f"is {slug}, " in said and f"nearest that it has is {nearest}:" in said
    assert RECIPES[tool].label in said and "2 tensors of" in said


@pytest.mark.parametrize("tool", RECIPES)
def test_the_nearest_is_something_that_the_tool_takes(tool):
    """Of every number format, mapping, granularity and calibration: its nearest is itself, or is not refused."""
    schemes = schemes_of(tool)
    grid = itertools.product(DTYPES, ("sym", "aff", "uni"), ("ch1", "g48"), ("",))
    refused = 0
    for dtype, mapping, granularity, more in grid:
        try:
            configurable = DTYPES[dtype].configurable
            slug = f"{dtype}-{mapping}-{granularity}-mse{more}" if configurable else dtype
            config = ql.QuantConfig.parse(slug)
        except QuantlabError:
            continue
        nearest = schemes.nearest(config)
        assert nearest is not None and schemes.refuses(nearest) == ""
        if not schemes.refuses(config):
            assert nearest == config
        refused += bool(schemes.refuses(config))
    assert refused > 5


@pytest.mark.parametrize("tool", RECIPES)
def test_a_plan_that_only_copies_has_no_recipe(tool):
    with pytest.raises(ql.ConfigError, match="leaves every tensor as it is"):
        recipe(plan_of({"a.weight": "copy"}), tool)


def test_an_unknown_tool_is_refused_with_the_known_ones():
    with pytest.raises(ql.ConfigError, match="did you mean torchao"):
        recipe(plan_of(choices_for("torchao")), "torchoa")


@pytest.mark.parametrize("tool", [tool for tool in RECIPES if tool != "llama-quantize"])
def test_a_tensor_that_is_no_modules_weight_is_refused(tool):
    with pytest.raises(ql.ConfigError, match=r"'model\.experts\.gate_up' is no module's"):
        recipe(plan_of({"model.experts.gate_up": SLUGS[tool][0]}), tool)


HOSTILE = "x\"\"\"'''\\\n<<PLAN>>\x1b[31m\u2028}{; import os #"


@pytest.mark.parametrize("tool", RECIPES)
@pytest.mark.parametrize("where", ["model", "copied", "planned", "budget"])
def test_strangers_names_stay_data(tool, where):
    """A recipe holds them as literals on one line, or refuses them in a sentence."""
    chosen, told = choices_for(tool), {}
    if where == "copied":
        chosen[f"{HOSTILE}.weight"] = "copy"
    if where == "planned":
        chosen[f"{HOSTILE}.weight"] = SLUGS[tool][0]
    if where == "budget":
        told = {"budget": HOSTILE, "target": HOSTILE}
    try:
        found = recipe(plan_of(chosen, HOSTILE if where == "model" else "tiny", **told), tool)
    except ql.ConfigError as error:
        assert where in ("copied", "planned") and str(error).isprintable() and "\n" not in str(error)
        return
    assert found.text.isascii() or ("\x1b" not in found.text and "\u2028" not in found.text)
    assert all(remark.isprintable() for remark in found.remarks)
    if tool in SCRIPTS:
        plain = recipe(plan_of(choices_for(tool)), tool)
        assert shape(found.text) == shape(plain.text)
    elif tool == "llm-compressor":
        assert list(yaml.safe_load(found.text)) == ["default_stage"]
    else:
        assert all(line.count("=") == 1 and not line.startswith("#") for line in found.text.splitlines())


def shape(script):
    """The statements of a script, without the texts and numbers in them."""
    tree = ast.parse(script)
    kinds = []
    for node in tree.body:
        kinds.append(type(node).__name__)
        if not isinstance(node, ast.Assign):
            kinds += [type(inner).__name__ for inner in ast.walk(node)]
        else:
            kinds += sorted({type(inner).__name__ for inner in ast.walk(node)} - {"Constant"})
    return kinds


def test_patterns_match_the_names_they_were_made_of_and_no_others():
    import re

    everything = names() + names(GGUF_ROLES, "blk") + ["lm_head.weight", "a.b", "a-b", "ab", "layers.1", "layers.11"]
    everything += [
        "model.layers.1.mlp.up_proj.weight.x",
        "xmodel.layers.1.mlp.up_proj.weight",
        "model.layers.1",
        "c++.1",
    ]
    for seed in range(40):
        chosen = [name for i, name in enumerate(everything) if (i * 7919 + seed * 104729) % 97 < 20 + seed]
        found = [re.compile(f"^{pattern}$") for pattern in patterns(chosen)]
        hits = {name: sum(bool(pattern.search(name)) for pattern in found) for name in everything}
        assert hits == {name: int(name in chosen) for name in everything}


def test_patterns_share_what_can_be_shared():
    assert len(patterns(names())) == 2  # attention, and the rest
    assert patterns(names(("mlp.up_proj",), blocks=2)) == [r"model\.layers\.(0|1)\.mlp\.up_proj\.weight"]


def test_a_recipe_of_ten_thousand_experts_is_written_at_once():
    expert = "model.layers.{}.mlp.experts.{}.{}_proj.weight"
    many = {
        expert.format(i, j, part): "int4-sym-g128-mse" for i in range(27) for j in range(128) for part in ("up", "down")
    }
    assert len(recipe(plan_of(many | {"lm_head.weight": "copy"}), "gptqmodel").text) < 4_000_000
