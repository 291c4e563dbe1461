"""Layers that vLLM computes in one multiplication, by their names, and so holds under one scheme."""

from .model import SUFFIX, module_of

# Names of modules that lie side by side -> what they are, for a sentence.
_FUSED = {
    frozenset(modules.split()): words
    for modules, words in {
        "q_proj k_proj v_proj": "q, k and v",
        "wq wk wv": "wq, wk and wv",
        "query key value": "query, key and value",
        "gate_proj up_proj": "gate and up",
        "w1 w3": "w1 and w3",
        "fc11 fc12": "fc11 and fc12",
        "in_proj_qkv in_proj_z": "in_proj_qkv and in_proj_z",
        "in_proj_a in_proj_b": "in_proj_a and in_proj_b",
        "q_a_proj kv_a_proj_with_mqa": "q_a and kv_a",
    }.items()
}
_WORDS = {module: words for modules, words in _FUSED.items() for module in modules}


def fused_in(name: str) -> tuple[str, str] | None:
    """Where a weight is fused with others, and with which; None for one that is computed alone.

    >>> fused_in("model.layers.0.self_attn.q_proj.weight")
    ('model.layers.0.self_attn', 'q, k and v')
    """
    path, _, module = module_of(name).rpartition(".")
    words = _WORDS.get(module) if name.endswith(SUFFIX) else None
    return (path, words) if words else None
