"""llama-quantize's file. No release of it is on PyPI: its grammar is stated here.

tools/quantize/quantize.cpp: words separated by white space; before the first = the pattern, which is lower-cased,
behind it a ggml_type_name in any case. src/llama-quant.cpp: std::regex in its default grammar, std::regex_search in the
name of each tensor with "weight" at its end and two dimensions or more; the first that is found decides.
"""

import json
import re

import gguf
import numpy as np
import pytest
import safetensors.numpy

import quantlab as ql
from quantlab.planning.recipes import recipe

from .plans import GGUF_ROLES, mixed, names, plan_of

CHOICES = mixed(("q4_0", "q8_0", "bf16", "q5_1"), GGUF_ROLES, "blk") | {"output.weight": "copy"}
del CHOICES["lm_head.weight"]
# What ECMAScript's expressions and Python's have alike: letters, anchors, escaped signs, groups of alternatives.
COMMON_GRAMMAR = re.compile(r"(?:[a-z0-9_^$()|]|\\[.$^*+?()\[\]{}|\\]|-)+|\.")


def parsed(text):
    """The patterns and types of a file, as llama-quantize reads it."""
    found = []
    for word in text.split():
        pattern, equals, kind = word.partition("=")
        assert equals and COMMON_GRAMMAR.fullmatch(pattern.lower()), word
        found.append((re.compile(pattern.lower()), gguf.GGMLQuantizationType[kind.upper()]))
    return found


def type_of(found, name):
    return next(kind for pattern, kind in found if pattern.search(name))


def test_every_tensor_gets_the_type_that_is_planned_and_the_rest_stays():
    text = recipe(plan_of(CHOICES), "llama-quantize").text
    found = parsed(text)
    for name, word in CHOICES.items():
        assert type_of(found, name).name.lower() == {"copy": "f32"}.get(word, word)
    for name in ("token_embd.weight", "blk.1.attn_kv_b.weight", "blk.111.ffn_up.weight", "xblk.1.ffn_up.weight"):
        assert type_of(found, name).name == "F32"
    assert len(text.splitlines()) < len(CHOICES) / 2


def test_the_command_ends_with_a_quantized_type():
    found = recipe(plan_of(CHOICES), "llama-quantize")
    assert found.command.split()[-1] == "q4_0" and any("last word must be q4_0" in remark for remark in found.remarks)
    only = recipe(plan_of(dict.fromkeys(names(GGUF_ROLES, "blk"), "fp16")), "llama-quantize")
    assert only.command.split()[-1] == "q8_0" and type_of(parsed(only.text), "blk.0.attn_q.weight").name == "F16"


def test_with_its_source_what_is_kept_keeps_its_type(tmp_path):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    for name, dtype in {
        "token_embd.weight": np.float16,
        "blk.0.ffn_up.weight": np.float16,
        "blk.0.ffn_down.weight": np.float32,
        "blk.0.attn_q.weight": np.float16,
        "blk.0.attn_norm.weight": np.float32,
    }.items():
        writer.add_tensor(name, np.zeros((32, 32) if "norm" not in name else (32,), dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    choices = {"blk.0.ffn_up.weight": "q4_0", "blk.0.ffn_down.weight": "copy", "blk.0.attn_q.weight": "copy"}
    kept = ("token_embd.weight", "blk.0.attn_norm.weight")
    with ql.open_checkpoint(path) as source:
        plan = plan_of(choices, kept=kept, sha256=source.sha256())
        found = parsed(recipe(plan, "llama-quantize", source=source).text)
        unsaved = plan_of(choices, kept=kept, sha256="")
        assert (
            recipe(unsaved, "llama-quantize", source=source).text == recipe(plan, "llama-quantize", source=source).text
        )
        with pytest.raises(ql.CheckpointError, match="also has"):
            recipe(plan_of(choices, sha256=source.sha256()), "llama-quantize", source=source)
    kinds = {name: type_of(found, name).name for name in ("token_embd.weight", *choices)}
    assert kinds == {
        "token_embd.weight": "F16",
        "blk.0.ffn_up.weight": "Q4_0",
        "blk.0.ffn_down.weight": "F32",
        "blk.0.attn_q.weight": "F16",
    }


@pytest.mark.parametrize("name", ["blk.0.Q.weight", "blk.0.a b.weight", "blk.0.a=b.weight"])
def test_names_that_no_pattern_finds_are_refused(name):
    with pytest.raises(ql.ConfigError, match="llama-quantize"):
        recipe(plan_of(CHOICES | {name: "q4_0"}), "llama-quantize")


def test_a_plan_of_hugging_faces_names_is_told_in_ggufs():
    choices = mixed(("q4_0", "q8_0"))
    found = recipe(plan_of(choices, kept=("model.embed_tokens.weight", "model.norm.weight")), "llama-quantize")
    theirs = parsed(found.text)
    for (name, word), own in zip(choices.items(), [*names(GGUF_ROLES, "blk"), "output.weight"], strict=True):
        assert type_of(theirs, own).name == {"copy": "F32"}.get(word, word.upper()), name
    assert found.command.startswith("python convert_hf_to_gguf.py MODEL --outtype f32 ")
    assert any("most of GGUF's architectures" in remark for remark in found.remarks)


def test_a_models_own_architecture_and_type_are_looked_up(tmp_path):
    layers = [f"model.layers.{i}.self_attn.{part}_proj.weight" for i in range(2) for part in "qkv"]
    halves = {name: np.zeros((32, 32), np.float16) for name in layers}
    safetensors.numpy.save_file(halves, tmp_path / "model.safetensors")
    for arch, own in (("qwen3", "blk.1.attn_q.weight"), ("rwkv6qwen2", "blk.1.time_mix_receptance.weight")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": arch}))
        with ql.open_checkpoint(tmp_path / "model.safetensors") as source:
            plan = plan_of(dict.fromkeys(sorted(layers), "q4_0"), sha256=source.sha256())
            found = recipe(plan, "llama-quantize", source=source)
        assert type_of(parsed(found.text), own).name == "Q4_0" and type_of(parsed(found.text), "x").name == "F16"
        assert "--outtype f16" in found.command and len(found.remarks) == 4


def test_experts_of_a_stack_are_one_tensor():
    expert = "model.layers.0.mlp.experts.{}.up_proj.weight"
    choices = {expert.format(i): "q4_0" for i in range(4)}
    assert type_of(parsed(recipe(plan_of(choices), "llama-quantize").text), "blk.0.ffn_up_exps.weight").name == "Q4_0"
    for other in ("q8_0", "copy"):
        with pytest.raises(ql.ConfigError, match=r"as one tensor, and the plan gives .*--tie"):
            recipe(plan_of(choices | {expert.format(2): other}), "llama-quantize")


def test_a_tensor_without_a_name_in_gguf_is_refused():
    with pytest.raises(ql.ConfigError, match=r"none for tensor 'model\.vision\.thing\.weight'"):
        recipe(plan_of({names()[0]: "q4_0", "model.vision.thing.weight": "q4_0"}), "llama-quantize")
