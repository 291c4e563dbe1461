"""Whole models, exported as a user would, loaded by transformers with the code that is printed: what is promised, is.

What the export measured is compared bit for bit with what transformers holds, and the logits with those of a twin whose
weights are plain floats of these values.
"""

import json
import shutil

import numpy as np
import pytest

import quantlab as ql
from quantlab.formats import FORMATS
from quantlab.shipping.recipe import Rule
from quantlab.shipping.rehearsal import assigned, bound, refusals
from quantlab.shipping.shipping import ship

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")

FORMAT = "compressed-tensors"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
RECIPES = {
    "groups": ["int4-sym-g32-minmax"],
    "a preset of groups": ["w4_g32"],
    "channels": ["int8-sym-ch0-minmax"],
    "a preset of channels": ["w8_channel"],
    "per tensor": ["int8-sym-tensor-minmax-sbf16"],
    "affine": ["int4-aff-g32-minmax"],
    "affine with other scales": ["int8-aff-ch0-minmax-sfp16"],
    "several": ["int4-sym-g32-minmax", "*mlp*=int8-sym-ch0-minmax", "*q_proj*=copy"],
}
TINY = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
LLAMA = {**TINY, "vocab_size": 96, "intermediate_size": 128, "num_key_value_heads": 2}


def saved(model, folder):
    model.eval().save_pretrained(folder)
    return folder


def llama(folder, *, tied, dtype=torch.bfloat16):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**LLAMA, tie_word_embeddings=tied)
    return saved(transformers.LlamaForCausalLM(config).to(dtype), folder)


def planned(source, rules, **kwargs):
    return assigned(source, [Rule("*", None, copy=True), *map(Rule.parse, rules)], FORMAT, **kwargs)


def exported(folder, out, rules, **kwargs):
    """Export by rules, everything else copied; the model as the printed code loads it, and what was measured."""
    with ql.open_checkpoint(folder) as source:
        shipment = ship(source, planned(source, rules, **kwargs), out, FORMAT)
        assert shipment.equal.all()
        decoded = bound(source, FORMAT).decoded
        items = {item.spec.name: item for item in shipment.assignment.taken}
        promised = {name: decoded(ql.quantize(source.raw(name), item.config)) for name, item in items.items()}
    names: dict = {}
    exec(FORMATS[FORMAT].snippet(out, out), names)
    return names["model"].eval(), promised


def check(folder, model, promised, tokens):
    """The weights that transformers computes with, and the logits of the twin that has these as plain floats."""
    with torch.no_grad():
        logits = model(tokens).logits  # decompresses, too
    twin = type(model).from_pretrained(folder).eval()
    for name, values in promised.items():
        weight = model.get_parameter(name).detach()
        assert weight.dtype == twin.dtype
        np.testing.assert_array_equal(weight.float().numpy(), values)
        twin.get_parameter(name).data = torch.from_numpy(values).to(twin.dtype)
    with torch.no_grad():
        assert torch.equal(twin(tokens).logits, logits)


TOKENS = torch.arange(24).reshape(2, 12)


CASES = [(True, recipe, dtype) for recipe in RECIPES for dtype in DTYPES]
CASES += [(False, recipe, "bf16") for recipe in ("groups", "affine", "several")]


@pytest.mark.parametrize(("tied", "recipe", "dtype"), CASES)
def test_transformers_holds_the_weights_that_the_export_measured(tied, recipe, dtype, tmp_path):
    folder = llama(tmp_path / "model", tied=tied, dtype=DTYPES[dtype])
    model, promised = exported(folder, tmp_path / "out", RECIPES[recipe])
    check(folder, model, promised, TOKENS)


def test_the_head_of_an_untied_model_is_copied_where_a_rule_says_so(tmp_path):
    folder = llama(tmp_path / "model", tied=False)
    model, promised = exported(folder, tmp_path / "out", ["int4-sym-g32-minmax", "lm_head*=copy"])
    assert "lm_head.weight" not in promised
    check(folder, model, promised, TOKENS)


def test_scales_of_no_dtype_in_particular_are_stored_in_the_models(tmp_path):
    folder = llama(tmp_path / "model", tied=True)
    with ql.open_checkpoint(folder) as source:
        slugs = {str(item.config) for item in planned(source, ["int4-sym-g32-minmax", "*mlp*=w8_channel"]).taken}
    assert slugs == {"int4-sym-g32-minmax-sbf16", "int8-sym-ch0-minmax-sfp16"}


def edited(folder, **entries):
    """A model whose config.json says something else; None takes an entry out."""
    place = folder / "config.json"
    config = {**json.loads(place.read_text()), **entries}
    place.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_a_model_whose_config_says_no_dtype_keeps_that_of_its_tensors(dtype, tmp_path):
    folder = edited(llama(tmp_path / "model", tied=False, dtype=DTYPES[dtype]), dtype=None)
    # The first floats of the file would be scales of bfloat16.
    model, promised = exported(folder, tmp_path / "out", ["int8-sym-ch0-minmax-sbf16"])
    assert model.dtype == DTYPES[dtype]
    check(folder, model, promised, TOKENS)


def test_a_model_is_held_in_the_dtype_that_its_config_says_and_not_in_that_of_its_tensors(tmp_path):
    folder = edited(llama(tmp_path / "model", tied=False, dtype=torch.float32), dtype=None, torch_dtype="float16")
    model, promised = exported(folder, tmp_path / "out", ["int8-sym-ch0-minmax"])
    assert model.dtype == torch.float16
    check(folder, model, promised, TOKENS)


def test_scales_that_the_models_dtype_cannot_hold_are_refused(tmp_path):
    folder = llama(tmp_path / "model", tied=False, dtype=torch.float32)
    edited(folder, dtype="float16")
    with ql.open_checkpoint(folder) as source:
        q = ql.quantize(np.full((4, 64), 1e-12, np.float32), ql.QuantConfig.parse("int8-sym-ch0-minmax-sbf16"))
        with pytest.raises(ql.NonFiniteError, match="float16, in which the model is held: choose scales of fp16"):
            bound(source, FORMAT).decoded(q)


def test_the_tied_head_of_a_masked_language_model_stays_as_it_is(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(**TINY, vocab_size=96, intermediate_size=128, dtype="float32")
    folder = saved(transformers.BertForMaskedLM(config), tmp_path / "model")
    model, promised = exported(folder, tmp_path / "out", ["int8-sym-ch0-minmax"])
    assert type(model).__name__ == "BertForMaskedLM"
    check(folder, model, promised, TOKENS)


# -- what no linear layer holds


def gpt2(folder):
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=64, n_layer=1, n_head=4, n_positions=32, vocab_size=96, dtype="float32")
    return saved(transformers.GPT2LMHeadModel(config), folder)


NO_LINEAR = {
    "tied, by name": (lambda folder: llama(folder, tied=True), "*embed*=int8-sym-ch0-minmax", "embed_tokens", "embedd"),
    "untied, by name": (lambda folder: llama(folder, tied=False), "*=int8-sym-ch0-minmax", "embed_tokens", "embedd"),
    "positions": (gpt2, "*wpe*=int8-sym-ch0-minmax", "wpe", "is an embedding"),
    "Conv1D": (gpt2, "*c_attn.weight=int8-sym-ch0-minmax", "c_attn", "Conv1D"),
}


@pytest.mark.parametrize("case", NO_LINEAR)
def test_a_matrix_that_no_linear_layer_holds_is_refused_beforehand(case, tmp_path):
    make, rule, name, why = NO_LINEAR[case]
    with ql.open_checkpoint(make(tmp_path / "model")) as source:
        shapes = [Rule(name, None, copy=True) for name in source.names if len(source.spec(name).shape) != 2]
        rules = [Rule("*", None, copy=True), Rule.parse(rule), *shapes]
        found = refusals(source, assigned(source, rules, FORMAT), FORMAT)
        assert len(found) == 1
        assert name in found[0] and why in found[0]


def test_the_rest_of_such_a_model_is_exported_and_loads(tmp_path):
    folder = gpt2(tmp_path / "model")
    edited(folder, tie_word_embeddings=False)
    with ql.open_checkpoint(folder) as source, pytest.raises(ql.ConfigError, match="can hold none of the tensors"):
        planned(source, ["int8-sym-ch0-minmax"], copy_refused=True)
    shutil.rmtree(folder)
    folder = llama(folder, tied=False)
    model, promised = exported(folder, tmp_path / "out", ["*=int4-sym-g32-minmax"], copy_refused=True)
    assert "model.embed_tokens.weight" not in promised and "lm_head.weight" in promised
    check(folder, model, promised, TOKENS)


def test_affine_weights_beside_others_are_refused_beforehand(tmp_path):
    with ql.open_checkpoint(llama(tmp_path / "model", tied=True)) as source:
        assignment = planned(source, ["int4-aff-g32-minmax", "*mlp*=int8-aff-ch0-minmax"])
        (why,) = refusals(source, assignment, FORMAT)
    assert "transformers loads affine weights only where all have one bit width and one granularity" in why


@pytest.mark.parametrize("named", ['X"); import os; os.abort(); ("', "os.abort", ["LlamaModel"], None, "ä" * 3])
def test_a_strangers_config_writes_no_code(named, tmp_path):
    folder = edited(llama(tmp_path / "model", tied=True), architectures=[named])
    exported(folder, tmp_path / "out", ["int4-sym-g32-minmax"])
    assert "abort" not in FORMATS[FORMAT].snippet("out", tmp_path / "out")
