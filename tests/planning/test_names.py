"""Names in Hugging Face's and in GGUF's world, against gguf-py's own table."""

import json
import subprocess
import sys

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

import quantlab as ql
from quantlab.planning import names as names_of
from quantlab.planning.names import Place, architecture, blocks, gguf_name, gguf_place, pairs

ARCHITECTURES = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
places = names_of._places
LLAMA = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]


@pytest.mark.parametrize("arch", ["arctic", "llama", "qwen3moe", "gemma3", "bert", "t5", "mamba", "gpt-oss"])
def test_every_name_is_called_as_gguf_py_calls_it(arch):
    """In a process of its own: making the table for "arctic" changes that of every architecture after it."""
    program = (
        "import gguf, json, sys\n"
        "arch = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[sys.argv[1]]\n"
        "print(json.dumps({key: name for key, (_, name) in gguf.get_tensor_name_map(arch, 12).mapping.items()}))"
    )
    theirs = json.loads(subprocess.run([sys.executable, "-c", program, arch], check=True, capture_output=True).stdout)
    gguf_name("output.weight", "arctic", 1)
    wrong = {key: (gguf_name(f"{key}.weight", arch, 12), f"{name}.weight") for key, name in theirs.items()}
    assert {key: pair for key, pair in wrong.items() if pair[0] != pair[1]} == {}
    assert len(theirs) > 100


def test_names_that_are_in_no_table_are_called_nothing():
    assert gguf_name("vision.patch", "llama", 2) == gguf_name("", "llama", 2) == ""
    assert gguf_name("model.layers.2.self_attn.q_proj.weight", "llama", 2) == ""
    assert gguf_name("model.layers.99999999999.self_attn.q_proj.weight", "llama", 10**12) == ""
    with pytest.raises(ql.ConfigError, match=r"unknown architecture 'lama'.*did you mean llama\?"):
        gguf_name("output.weight", "lama", 2)


@pytest.mark.parametrize(
    "name, arch, place",
    [
        ("model.layers.2.block_sparse_moe.experts.5.w2.weight", "llama", ("blk.2.ffn_down_exps.weight", 5)),
        ("model.layers.2.mlp.experts.0.gate_proj.weight", "qwen3moe", ("blk.2.ffn_gate_exps.weight", 0)),
        ("model.layers.2.mlp.experts.down_proj", "gpt-oss", ("blk.2.ffn_down_exps", None)),
        ("model.language_model.layers.1.mlp.up_proj.weight", "gemma3", ("blk.1.ffn_up.weight", None)),
        ("bert.encoder.layer.4.attention.self.query.weight", "bert", ("blk.4.attn_q.weight", None)),
        ("layers.0.mlp.gate_proj.weight", "qwen3", ("blk.0.ffn_gate.weight", None)),
        ("language_model.lm_head.weight", "llama", ("output.weight", None)),
    ],
)
def test_experts_and_prefixes_are_taken_as_the_converter_takes_them(name, arch, place):
    assert gguf_place(name, arch) == Place(*place)


def test_a_model_is_paired_without_knowing_what_it_is():
    names = [f"model.layers.{i}.{part}.weight" for i in range(70) for part in LLAMA] + ["model.norm.weight", "odd"]
    known = [f"blk.{i}.{part}.weight" for i in range(70) for part in ("attn_q", "attn_output")] + ["output_norm.weight"]
    found = pairs(names, known)
    assert len(found) == 141 and found["model.layers.69.self_attn.o_proj.weight"] == ("blk.69.attn_output.weight", None)
    assert pairs(names, known, "bert") == found  # told something that does not fit
    assert pairs(names, names) == {name: (name, None) for name in names}
    assert pairs(names, []) == pairs([], known) == pairs(["a", "b"], known) == {}


def test_names_of_strangers_are_looked_up_in_one_table_and_not_in_all(monkeypatch):
    asked = []
    monkeypatch.setattr(names_of, "_places", lambda name, table: asked.append(name) or places(name, table))
    strange = [f"x{'abcdefgh'[i % 8]}.{i:x}z.weight" for i in range(3000)]
    found = pairs([*strange, "model.layers.7.self_attn.q_proj.weight"], ["blk.7.attn_q.weight"])
    assert found == {"model.layers.7.self_attn.q_proj.weight": ("blk.7.attn_q.weight", None)}
    assert len(asked) < 3 * len(strange)


def test_stacked_experts_are_found_with_and_without_a_suffix():
    found = pairs(["model.layers.0.mlp.experts.down_proj"], ["blk.0.ffn_down_exps.weight"], "gpt-oss")
    assert found == {"model.layers.0.mlp.experts.down_proj": ("blk.0.ffn_down_exps.weight", None)}


@pytest.mark.parametrize(
    "config, arch",
    [
        ({"model_type": "qwen3_moe"}, "qwen3moe"),
        ({"model_type": "mixtral"}, "llama"),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, "gemma3"),
        ({"model_type": "llava", "text_config": {}}, ""),
        ({"model_type": ["llama"]}, ""),
        ({"text_config": 3}, ""),
    ],
)
def test_the_architecture_is_what_the_model_says_it_is(tmp_path, config, arch):
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"a.weight": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with ql.open_checkpoint(tmp_path) as checkpoint:
        assert architecture(checkpoint) == arch
        (tmp_path / "config.json").write_text("{")
        assert architecture(checkpoint) == ""


@pytest.mark.parametrize("said, arch", [("qwen2", "qwen2"), ("quantum", "")])
def test_the_architecture_of_a_gguf_file_is_its_own_word(tmp_path, said, arch):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", said)
    writer.add_tensor("blk.0.attn_q.weight", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with ql.open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        assert architecture(checkpoint) == arch


def test_every_model_type_that_is_called_otherwise_leads_to_an_architecture():
    from quantlab.planning.names import CALLED

    assert set(CALLED.values()) <= set(ARCHITECTURES)


def test_blocks_are_counted():
    assert blocks(["model.layers.0.a", "model.layers.31.b.weight", "norm"]) == 32
    assert blocks(["norm", "w2.weight"]) == 0
