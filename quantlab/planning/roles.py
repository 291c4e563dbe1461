"""What a tensor does in its model, as far as its name tells: query, down projection, expert ... and in which block.

Names are those that Hugging Face, llama.cpp (GGUF), Meta, MLX, Keras and exporters to ONNX give. A name that is none of
them has the role "": nothing is guessed from shapes.
"""

import re
from functools import lru_cache
from typing import NamedTuple

# In the order in which a map of a model shows them.
KINDS = (
    *("embedding", "q", "k", "v", "qkv", "q_a", "q_b", "kv_a", "kv_b", "o"),
    *("router", "gate", "up", "gate_up", "down"),
    *("expert gate", "expert up", "expert gate_up", "expert down"),
    "head",
)
EXPERT = "expert "
LONGEST = 400  # characters of a name that is looked into: published ones have 150, and a stranger's may have 4,096


class Role(NamedTuple):
    """What a tensor does.

    Attributes
    ----------
    kind : one of `KINDS`, or "". What all experts of a layer share, and a router's gate, is no expert's.
    block : the number of its layer; None outside of the layers.
    expert : the number of its expert; None for all experts in one tensor, as for what is no expert's.
    """

    kind: str = ""
    block: int | None = None
    expert: int | None = None

    @property
    def base(self) -> str:
        """The kind without a word on experts: "gate" of an "expert gate"."""
        return self.kind.removeprefix(EXPERT)


# What stands behind the name of a module, whatever the module is.
_PARTS = frozenset(["weight", "bias", "kernel", "qweight", "weight_packed", "matmul", "gemm", "vars"])
_BLOCK = re.compile(r"(?:(?:^|[./_])(?:layers?|blk|blocks?|resblocks)|(?:^|[./])h)[._/](\d+)(?=[._/]|$)")
_EXPERT = re.compile(r"(?:^|[./])(?:experts?|ffn_(?:gate|up|down))[._/](\d+)(?=[._/]|$)")
_STACKED = re.compile(
    r"_(?:ch)?exps\b|\.(?:experts|switch_mlp|input_linear|output_linear)\b|\.moe\.(?:gate|up|down)_proj$|\.ffn_(?:gate|up|down)\.#"
)

_ATTENTION = r"(?:\w*attn|\w*attention|attention\.self|attentionlayer|mixer\.mha)(?:_layer)?"

# Kind -> how the path to a module ends, in small letters, its numbers written #. The first that fits counts.
_ENDS = {
    "router": r"ffn_gate_inp(?:_shexp)?|router|router\.(?:layer|linear|classifier|gate)|shared_expert_gate"
    r"|(?:mlp|moe|block_sparse_moe|ffn|feed_forward)\.gate(?:\.wg)?",
    "q_a": r"q_a_proj|attn_q_a|wq_a",
    "q_b": r"q_b_proj|attn_q_b|wq_b",
    "kv_a": r"kv_a_proj(?:_with_mqa)?|attn_kv_a_mqa|wkv_a",
    "kv_b": r"kv_b_proj|attn_kv_b|attn_[kv]_b|wkv_b",
    "qkv": r"qkv_proj|qkv|query_key_value|c_attn|w_?pack|wqkv|attn_qkv|att_proj|in_proj_qkvz?"
    rf"|{_ATTENTION}\.in_proj_weight",
    "q": r"q_proj|query|query_proj|query_dense|wq|to_q|attn_q|q_attn|q_lin|(?:self|encdec)attention\.q",
    "k": r"k_proj|key|key_proj|key_dense|wk|to_k|attn_k|k_lin|(?:self|encdec)attention\.k",
    "v": r"v_proj|value|value_proj|value_dense|wv|to_v|attn_v|v_lin|(?:self|encdec)attention\.v",
    "o": rf"o_proj|to_out(?:\.#)?|attn_out(?:put)?|attention_output(?:_dense)?|\w*encoder\.#\.wo"
    rf"|{_ATTENTION}\.(?:out_proj|c_proj|dense|output\.dense|output_dense|proj|projection|wo|o|out|out_lin)",
    "gate_up": r"gate_up_proj|ffn_gate_up|ff_proj|mlp\.wi|input_linear|w12",
    # Meta's w1 is the gate, Qwen 1 calls so what is no gate, and some experts have none.
    "gate": r"gate_proj|(?<!h\.#\.mlp\.)(?<!mlp\.experts\.mlp\.)w1|h\.#\.mlp\.w2|wi_0|ffn_gate|c_fc_0|ffw_gating"
    r"|feedforward_gate_dense",
    "up": r"up_proj|(?<!encoder\.#\.ffn\.)w3|(?:h\.#|experts)\.mlp\.w1|experts\.mlp\.v1|wi_1|wi|ffn_up|fc1|fc_in|c_fc"
    r"|c_fc_1|dense_h_to_4h|intermediate\.dense|lin1|linear1|linear_fc1|(?:mlp|ffn)\.up|ffw_gating_2"
    r"|feedforward_intermediate_dense",
    "down": r"down_proj|w2|\w*encoder\.#\.ffn\.w3|wo|ffn_down|fc2|fc_out|mlp\.c_proj|dense_4h_to_h|output\.dense|lin2"
    r"|linear2|linear_fc2|(?:mlp|ffn)\.down|blocks\.#\.ff_out|ffw_linear|feedforward_output_dense|output_linear",
    "head": r"lm_head(?:\.(?:decoder|linear))?|embed_out|output_projection|predictions\.decoder|transformer\.ff_out"
    r"|word_embeddings_for_head|output_layer|^head|^output|^proj_out|score|classifier",
    "embedding": r"\w*embed\w*|\w*embd\w*|wte|wpe|^shared|token_types",
}
_KINDS = {kind: re.compile(rf"(?:^|\.)(?:{ends})$") for kind, ends in _ENDS.items()}


def role_of(name: str) -> Role:
    """The role of a tensor.

    >>> role_of("model.layers.3.self_attn.q_proj.weight")
    Role(kind='q', block=3, expert=None)
    >>> role_of("blk.0.ffn_down_exps.weight").kind, role_of("onnx::MatMul_123").kind
    ('expert down', '')
    """
    if len(name) > LONGEST:
        return Role()
    block, expert = _BLOCK.search(name), _EXPERT.search(name)
    kind = _kind(re.sub(r"(?<=[./])\d+(?=[./]|$)", "#", name.lower()))
    return Role(kind, _number(block), _number(expert) if kind.startswith(EXPERT) else None)


def _number(found: re.Match[str] | None) -> int | None:
    return int(found[1]) if found and len(found[1]) < 10 else None


@lru_cache(maxsize=1 << 14)
def _kind(name: str) -> str:
    """The kind that a name, in small letters and with # for its numbers, ends in."""
    parts = re.split(r"[./]", name)
    while len(parts) > 1 and parts[-1] in _PARTS:
        parts.pop()
    path = ".".join(parts)
    stacked = bool(_STACKED.search(path))
    path = re.sub(r"(\.ffn_(?:gate|up|down))\.#$", r"\1", re.sub(r"_(?:exps|chexps|shexp)$", "", path))
    kind = next((kind for kind, ends in _KINDS.items() if ends.search(path)), "")
    return EXPERT + kind if stacked and EXPERT + kind in KINDS else kind
