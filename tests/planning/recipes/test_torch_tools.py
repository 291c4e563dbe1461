"""Recipes for the tools that name PyTorch's modules, read by the tools' own parsers where these install lightly."""

import fnmatch
import itertools
import json
import re
import sys
import types

import pytest
import torch
import yaml
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.utils.match import match_named_modules
from torchao.quantization import IntxUnpackedToInt8Tensor
from transformers import BitsAndBytesConfig
from transformers.quantizers.quantizers_utils import should_convert_module

import quantlab as ql
from quantlab.planning.recipes import recipe

from .plans import KEPT, mixed, names, plan_of, run
from .test_recipes import SLUGS


class Tree(torch.nn.Module):
    """Linear layers and embeddings under dotted names."""

    def __init__(self, leaves):
        super().__init__()
        for name, leaf in leaves.items():
            home = self
            *parents, last = name.split(".")
            for parent in parents:
                if parent not in home._modules:
                    home.add_module(parent, torch.nn.Module())
                home = home._modules[parent]
            home.add_module(last, leaf)

    def get_output_embeddings(self):
        return self._modules.get("lm_head")


def model_of(choices, size=128, more=("model.layers.1.mlp.up_proj_extra", "xmodel.layers.1.mlp.up_proj")):
    """A model with a small linear layer for every weight of the plan, and some that only look like them."""
    torch.manual_seed(0)
    leaves = {name.removesuffix(".weight"): torch.nn.Linear(size, size, bias=False) for name in choices}
    leaves |= {name: torch.nn.Linear(size, size, bias=False) for name in more}
    return Tree(leaves | {"model.embed_tokens": torch.nn.Embedding(8, size)})


def planned(choices):
    """Module -> configuration, for what the plan quantizes."""
    return {n.removesuffix(".weight"): ql.QuantConfig.parse(word) for n, word in choices.items() if word != "copy"}


# llm-compressor: compressed-tensors' own classes, on which its modifiers are built


def test_llm_compressor_groups_and_ignored_modules_are_the_plans():
    choices = mixed(SLUGS["llm-compressor"])
    said = yaml.safe_load(recipe(plan_of(choices), "llm-compressor", source_names=[*choices, *KEPT]).text)
    assert list(said) == ["default_stage"] and list(said["default_stage"]) == ["default_modifiers"]
    modifier = said["default_stage"]["default_modifiers"]["QuantizationModifier"]
    config = QuantizationConfig(config_groups=modifier["config_groups"], ignore=modifier["ignore"])
    model, found = model_of(choices), {}
    for group in config.config_groups.values():
        for name, _ in match_named_modules(model, group.targets, config.ignore):
            assert name not in found
            found[name] = group.weights
    wanted = planned(choices)
    assert found.keys() == wanted.keys()
    for name, config in wanted.items():
        args, granularity = found[name], config.granularity
        size = getattr(granularity, "group_size", None)
        assert (args.num_bits, args.symmetric, args.group_size) == (
            config.codec.bits,
            config.mapping == "symmetric",
            size,
        )
        strategy = {"PerGroup": "group", "PerChannel": "channel", "PerTensor": "tensor"}[type(granularity).__name__]
        assert (args.strategy, args.type, args.dynamic) == (strategy, "int", False)
    ignored = {name for name, _ in match_named_modules(model, modifier["ignore"], [])}
    assert ignored == {n.removesuffix(".weight") for n, word in choices.items() if word == "copy"} | {
        "model.embed_tokens"
    }


def test_llm_compressor_targets_are_matched_from_the_start_to_the_end():
    """vLLM takes the first target that re.match finds; a name without re: is a class's, or the name itself."""
    text = recipe(plan_of(mixed(SLUGS["llm-compressor"])), "llm-compressor").text
    targets = [json.loads(line.strip()[2:]) for line in text.splitlines() if line.strip().startswith('- "')]
    assert targets and all((target.startswith("re:^") and target.endswith("$")) or "." in target for target in targets)


# torchao: FqnToConfig applied to a model


def test_torchao_quantizes_what_the_plan_says_and_nothing_else():
    choices = mixed(SLUGS["torchao"], blocks=2)
    text = recipe(plan_of(choices), "torchao").text
    model = run(text)["quantize"](model_of(choices))
    wanted = planned(choices)
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            check_torchao(layer.weight, wanted.get(name))


def check_torchao(weight, config):
    if config is None:
        assert type(weight) is torch.nn.Parameter and type(weight.data) is torch.Tensor
    elif config.dtype == "int8" and config.mapping == "symmetric":
        assert type(weight.data).__name__ == "Int8Tensor" and tuple(weight.block_size) == block(config)
    else:
        assert isinstance(weight.data, IntxUnpackedToInt8Tensor)
        assert weight.target_dtype == getattr(torch, config.dtype) and tuple(weight.block_size) == block(config)
        assert bool((weight.zero_point == 0).all()) == (config.mapping == "symmetric")


def block(config):
    """Values that share a scale, of the 128 x 128 of `model_of`."""
    return (1, getattr(config.granularity, "group_size", 128))


def test_torchaos_script_stops_where_the_model_is_another():
    choices = mixed(SLUGS["torchao"], blocks=2)
    with pytest.raises(
        SystemExit, match=r"1 modules of this model are not as the plan has them: model\.layers\.0\.mlp\.up"
    ):
        run(recipe(plan_of(choices | {"model.layers.0.mlp.up.weight": "int4-sym-g32-mse"}), "torchao").text)[
            "quantize"
        ](model_of(choices))


# bitsandbytes: the rule and the class of transformers


@pytest.mark.parametrize("head", ["copy", "int8-sym-ch0-minmax", None])
def test_bitsandbytes_spares_what_the_plan_copies_and_no_more(head):
    choices = mixed(SLUGS["bitsandbytes"])
    # Endings, beginnings and patterns that would take in others.
    choices |= {
        "proj.weight": "copy",
        "model.layers.1.weight": "copy",
        "a(b.weight": "copy",
        "model.layers.(.weight": "copy",
    }
    choices |= {"xproj.weight": "int8-sym-ch0-minmax", "v.proj.weight": "int8-sym-ch0-minmax"}
    choices.pop("lm_head.weight")
    if head:
        choices["lm_head.weight"] = head
    space = run(recipe(plan_of(choices), "bitsandbytes").text)
    config = space["config"]()
    assert isinstance(config, BitsAndBytesConfig) and config.load_in_8bit
    for name in {n.removesuffix(".weight") for n in choices} | {"lm_head"}:
        assert should_convert_module(name, config.llm_int8_skip_modules) == (name in planned(choices)), name
    assert space["PLAN"] == planned(choices).keys()


# mlx-lm: the predicate, called by MLX's own quantize


def test_mlx_lm_predicate_quantizes_the_plan_alone():
    nn = pytest.importorskip("mlx.nn")
    choices = mixed(SLUGS["mlx-lm"], blocks=4)
    space = run(recipe(plan_of(choices), "mlx-lm").text)
    model, wanted = mlx_model(nn, choices), planned(choices)

    def asked_by_mlx_lm(path, module):  # mlx_lm.utils.quantize_model of 0.32
        divides = hasattr(module, "to_quantized") and module.weight.shape[-1] % space["SMALLEST"] == 0
        return divides and space["predicate"](path, module)

    nn.quantize(model, space["SMALLEST"], 4, class_predicate=asked_by_mlx_lm)
    leaves = dict(model.named_modules())
    for name in (n.removesuffix(".weight") for n in choices):
        config, layer = wanted.get(name), leaves[name]
        assert isinstance(layer, nn.QuantizedLinear) == (config is not None)
        if config:
            assert (layer.bits, layer.group_size, layer.mode) == (
                config.codec.bits,
                config.granularity.group_size,
                "affine",
            )
    assert not isinstance(leaves["model.embed_tokens"], nn.QuantizedEmbedding)
    assert not [path for path in space["PLAN"] if path not in space["asked"]]


def mlx_model(nn, choices):
    model = nn.Module()
    leaves = {n.removesuffix(".weight"): nn.Linear(128, 128, bias=False) for n in choices}
    leaves["model.embed_tokens"] = nn.Embedding(8, 128)
    for name, leaf in leaves.items():
        home = model
        parts = name.split(".")
        for parent, below in itertools.pairwise(parts):
            home = mlx_child(nn, home, parent, [] if below.isdigit() else nn.Module())
        home[parts[-1]] = leaf
    return model


def mlx_child(nn, home, part, new):
    if isinstance(home, list):
        while len(home) <= int(part):
            home.append(nn.Module())
        return home[int(part)]
    if part not in home:
        home[part] = new
    return home[part]


def test_mlx_lm_has_the_experts_of_a_layer_in_one_module():
    expert = "model.layers.0.mlp.experts.{}.{}.weight"
    choices = {expert.format(i, part): "int4-uni-g64-mse" for i in range(4) for part in ("up_proj", "down_proj")}
    choices |= {f"model.layers.1.block_sparse_moe.experts.{i}.w3.weight": "int8-uni-g64-mse" for i in range(2)}
    plan = run(recipe(plan_of(choices), "mlx-lm").text)["PLAN"]
    assert plan == {
        "model.layers.0.mlp.switch_mlp.up_proj": "int4-uni-g64-mse",
        "model.layers.0.mlp.switch_mlp.down_proj": "int4-uni-g64-mse",
        "model.layers.1.block_sparse_moe.switch_mlp.up_proj": "int8-uni-g64-mse",
    }
    for other in ("int8-uni-g64-mse", "copy"):
        with pytest.raises(ql.ConfigError, match=r"experts\.0\.up_proj.*experts\.3\.up_proj.*--tie"):
            recipe(plan_of(choices | {expert.format(3, "up_proj"): other}), "mlx-lm")


# AutoRound needs too much to be installed for a test. Its rule (0.16.1, compressors/layer_config_resolver.py): a key
# that is a linear layer's exact name is taken as it is; a layer of a block without a key gets the common scheme.


@pytest.fixture
def without_auto_round(monkeypatch):
    module = types.ModuleType("auto_round")
    module.AutoRound = None
    monkeypatch.setitem(sys.modules, "auto_round", module)


def test_autoround_gets_every_linear_layer_by_its_exact_name(without_auto_round):
    choices = mixed(SLUGS["autoround"])
    found = run(recipe(plan_of(choices), "autoround").text)["layer_config"](model_of(choices))
    linear = {n for n, m in model_of(choices).named_modules() if isinstance(m, torch.nn.Linear)}
    assert found.keys() == linear - {"lm_head"}
    for name, entry in found.items():
        config = planned(choices).get(name)
        if config is None:
            assert entry == {"bits": 16, "data_type": "float"}
        else:
            size = getattr(config.granularity, "group_size", -1)
            symmetric = config.mapping == "symmetric"
            assert entry == {"bits": config.codec.bits, "group_size": size, "sym": symmetric, "data_type": "int"}


def test_autorounds_script_stops_for_layers_that_it_would_leave(without_auto_round):
    choices = mixed(SLUGS["autoround"])
    script = run(recipe(plan_of(choices), "autoround").text)
    with pytest.raises(SystemExit, match=r"no multiples of 32: model\.layers\.0\.self_attn\.q_proj"):
        script["layer_config"](model_of(choices, size=48))
    with pytest.raises(SystemExit, match="not linear layers of this model"):
        script["layer_config"](torch.nn.Linear(32, 32))


# ModelOpt needs too much, too. Its rule (modelopt 0.47, torch/quantization/conversion.py): entries are applied in their
# order, each to the quantizers whose names fnmatch finds; one with "cfg" turns them on, "enable": False turns them off.


def test_modelopt_turns_on_what_is_planned_and_no_more():
    choices = mixed(SLUGS["modelopt"]) | {"model.blocks[0].a*b.weight": "int4-sym-g128-mse"}
    entries = run(recipe(plan_of(choices), "modelopt").text)["QUANT_CFG"]["quant_cfg"]
    every = [n.removesuffix(".weight") for n in choices] + ["model.blocks0.aXb", "model.layers.11.mlp.up_proj.x"]
    kinds = ("weight_quantizer", "input_quantizer", "output_quantizer")
    for quantizer in (f"{name}.{kind}" for name in every for kind in kinds):
        state = "untouched"
        for entry in entries:
            if fnmatch.fnmatch(quantizer, entry["quantizer_name"]):
                state = entry.get("cfg") or entry["enable"]
        name, _, kind = quantizer.rpartition(".")
        config = planned(choices).get(name) if kind == "weight_quantizer" else None
        assert state == (modelopt_attributes(config) if config else False)


def modelopt_attributes(config):
    size = getattr(config.granularity, "group_size", None)
    if size:
        return {"num_bits": config.codec.bits, "block_sizes": {-1: size, "type": "static"}}
    return {"num_bits": config.codec.bits, "axis": getattr(config.granularity, "axis", None)}


# GPTQModel is built from source. Its rule (gptqmodel 7.7, quantization/config.py): patterns in their order, re.match on
# the module's name; "-:" is not quantized, "+:" takes the entry's fields, what none finds takes the common ones.
# vLLM asks with the names of fused modules, too (layers/quantization/utils/gptq_utils.py).


def gptq(script, name):
    """The fields that a module gets, or None."""
    for pattern, fields in script["DYNAMIC"].items():
        if re.match(pattern[2:], name):
            return None if pattern.startswith("-:") else script["COMMON"] | fields
    return script["COMMON"]


def test_gptqmodel_patterns_give_every_module_what_is_planned():
    choices = mixed(SLUGS["gptqmodel"])
    script = run(recipe(plan_of(choices), "gptqmodel", source_names=[*choices, "model.vision.proj.weight"]).text)
    wanted = planned(choices)
    for name in [*(n.removesuffix(".weight") for n in choices), "model.vision.proj"]:
        config = wanted.get(name)
        size = getattr(config.granularity, "group_size", -1) if config else None
        fields = config and {"bits": config.codec.bits, "group_size": size, "sym": config.mapping == "symmetric"}
        assert gptq(script, name) == fields


def test_gptqmodel_patterns_take_in_the_modules_that_vllm_fuses():
    words = ("int4-sym-g128-mse", "int8-sym-g64-minmax", "copy")
    choices = {name: words[int(name.split(".")[2]) % 3] for name in names()}
    found = recipe(plan_of(choices), "gptqmodel")
    script = run(found.text)
    for i in range(12):
        for fused, part in (("self_attn.qkv_proj", "self_attn.q_proj"), ("mlp.gate_up_proj", "mlp.gate_proj")):
            assert gptq(script, f"model.layers.{i}.{fused}") == gptq(script, f"model.layers.{i}.{part}")
    assert not any("vLLM" in remark for remark in found.remarks)


@pytest.mark.parametrize("tool", ["gptqmodel", "llm-compressor"])
@pytest.mark.parametrize("word", ["int8-sym-g64-minmax", "copy"])
def test_what_vllm_could_not_load_is_said(tool, word):
    """It takes the scheme of the first part for all of a fused module."""
    same = dict.fromkeys(names(), "int4-sym-g128-mse")
    found = recipe(plan_of(same | {"model.layers.3.self_attn.v_proj.weight": word}), tool)
    assert any("vLLM" in remark and "model.layers.3.self_attn.q_proj" in remark for remark in found.remarks)
    # How numbers are rounded is not a difference, and an output projection is fused with nothing.
    alike = same | {names()[2]: "int4-sym-g128-minmax", names()[3]: word}
    assert not any("vLLM" in remark for remark in recipe(plan_of(alike), tool).remarks)
