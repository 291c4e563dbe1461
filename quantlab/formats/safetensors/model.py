"""What a model's config.json says of the program that will run it: in which dtype, and with which modules."""

import re
from collections.abc import Sequence
from typing import Any

from ..checkpoint import Checkpoint
from ..output.outgoing import Outgoing
from .beside import own_config

# The dtypes that models run in: NumPy's and torch's name of each -> the suffix of a configuration's scales.
SCALES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
SUFFIX = ".weight"

# Modules that hold a matrix and are no torch.nn.Linear, by the last part of their name.
_EMBEDDING = re.compile(r".*embed.*|wte|wpe|shared|.*relative_attention_bias|relative_attention_bias.*", re.I)
_LINEAR = re.compile(r".*(proj|linear|dense|mapping|fc\d*|_out|out_).*", re.I)  # though "embed" stands in them too
_CONV1D_TYPES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")
_CONV1D = re.compile(r"c_attn|c_proj|c_fc|q_attn")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ROUTER = re.compile(r"gate|router")
_EXPERT = re.compile(r"\bexperts(\.(?:\d+\.)?)(?=.)", re.DOTALL)
# Heads that models share with their embedding.
HEADS = r"(.*[.])?(lm_head|lm_head[.]decoder|predictions[.]decoder|proj_out|embed_out|output_projection)"

TIED_HEAD = "the model has its embedding in the place of it (tie_word_embeddings): copy it"


def module_of(name: str) -> str:
    """The module that a weight belongs to: its name without `.weight`."""
    return name.removesuffix(SUFFIX)


def dtype_said(config: dict[str, Any]) -> str | None:
    """The dtype that a config.json says its model runs in; None if it says none that models run in."""
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            if isinstance(said := part.get(key), str) and said.removeprefix("torch.") in SCALES:
                return said.removeprefix("torch.")
    return None


def dtype_of(source: Checkpoint) -> str | None:
    """The dtype that transformers will hold a model's weights in; None of what is no whole model.

    Where config.json does not say it, it is that of the first tensor of floats. Raises ExportError for a config.json
    that cannot be read.
    """
    config = own_config(source)
    return (dtype_said(config) or first_dtype(source.spec(name).dtype for name in source.names)) if config else None


def first_dtype(dtypes: Any) -> str | None:
    """The first of some dtypes that models run in."""
    return next((dtype for dtype in dtypes if dtype in SCALES), None)


def experts_of(name: str) -> tuple[str, str] | None:
    """The experts that a tensor is one of, all of a layer, and what it is to its expert; None for what is no expert's.

    >>> experts_of("model.layers.3.mlp.experts.17.up_proj.weight")
    ('model.layers.3.mlp.experts', 'up_proj.weight')
    """
    found = _EXPERT.search(name)
    return (name[: found.start(1)], name[found.end() :]) if found else None


def is_one_expert(name: str) -> bool:
    """Whether a tensor, or a module, is that of a single expert, and not one of them all.

    >>> is_one_expert("mlp.experts.17.up_proj"), is_one_expert("mlp.experts.up_proj")
    (True, False)
    """
    found = _EXPERT.search(name)
    return found is not None and found[1] != "."


def is_tied_head(name: str, config: dict[str, Any]) -> bool:
    """Whether a weight is that of a head that a config.json says to be the embedding itself."""
    inner = config.get("text_config")
    tied = any(part.get("tie_word_embeddings") is True for part in (config, inner) if isinstance(part, dict))
    return tied and re.fullmatch(HEADS, module_of(name)) is not None


def no_linear(tensors: Sequence[Outgoing], config: dict[str, Any]) -> dict[str, str]:
    """Of tensors that are to be quantized, those that no torch.nn.Linear holds: name -> why, in a sentence.

    A file has names and no modules, so this knows what the names and config.json tell, and not more.
    """
    found = {tensor.name: _no_linear(tensor.name, config) for tensor in tensors if tensor.config is not None}
    return {name: why for name, why in found.items() if why}


def _no_linear(name: str, config: dict[str, Any]) -> str:
    if not name.endswith(SUFFIX):
        return "its readers look for modules, whose weights are called X.weight"
    module = module_of(name).rpartition(".")[2]
    if _EMBEDDING.fullmatch(module) and not _LINEAR.fullmatch(module):
        return "it is an embedding, and its readers load packed weights of linear layers only"
    if is_tied_head(name, config):
        return TIED_HEAD
    kind = config.get("model_type")
    if kind in _CONV1D_TYPES and _CONV1D.fullmatch(module):
        return f"{kind} keeps it in a Conv1D, and its readers load packed weights of linear layers only"
    if _ROUTER.fullmatch(module) and any(config.get(key) for key in _EXPERTS):
        return "it chooses experts, which transformers does without a linear layer"
    return ""
