"""Files that have the names of models, and next to nothing in them."""

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

LAYER = {
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.k_proj.weight": (32, 64),
    "self_attn.v_proj.weight": (32, 64),
    "self_attn.o_proj.weight": (64, 64),
    "mlp.gate_proj.weight": (128, 64),
    "mlp.up_proj.weight": (128, 64),
    "mlp.down_proj.weight": (64, 128),
    "input_layernorm.weight": (64,),
}
ENDS = {"model.embed_tokens.weight": (96, 64), "model.norm.weight": (64,), "lm_head.weight": (96, 64)}
LLAMA = {**{f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in LAYER.items()}, **ENDS}
EXPERTS = {
    f"model.layers.{layer}.mlp.experts.{expert}.{projection}_proj.weight": (64, 128)
    if projection == "down"
    else (128, 64)
    for layer in range(2)
    for expert in range(3)
    for projection in ("gate", "up", "down")
}
MOE = {**EXPERTS, **{f"model.layers.{i}.mlp.gate.weight": (3, 64) for i in range(2)}}


def saved(folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "bfloat16", **config: object) -> Path:
    """A folder with a model of these tensors, and a config.json."""
    folder.mkdir(parents=True)
    rng, kind = np.random.default_rng(7), ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    save_file(
        {n: rng.standard_normal(s, np.float32).astype(kind) for n, s in shapes.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps({"dtype": dtype, **config}))
    return folder
