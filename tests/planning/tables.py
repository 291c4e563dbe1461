"""Tables of sweeps that nobody measured: of models that are too large for a test, and of none at all."""

import json
import math
import os
import struct
from pathlib import Path

import numpy as np
import pandas as pd

from quantlab.core.config import QuantConfig
from quantlab.core.tensor import packed_nbytes
from quantlab.errors import QuantlabError
from quantlab.sweeping.sweep import COLUMNS, labels, refusal


def billions(folder: Path, layers: int = 32, width: int = 4096, inner: int = 11008, words: int = 32000) -> Path:
    """A safetensors file shaped like a LLaMA of 7 B: 13 GB that take no place on disk, since nobody writes them."""
    matrices = {"q": (width, width), "k": (width, width), "v": (width, width), "o": (width, width)}
    shapes: dict[str, tuple[int, ...]] = {"lm_head.weight": (words, width), "model.embed_tokens.weight": (words, width)}
    for i in range(layers):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": shape for name, shape in matrices.items()}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj.weight": (width, inner), f"{layer}.input_layernorm.weight": (width,)}
    header, position = {}, 0
    for name, shape in sorted(shapes.items()):
        end = position + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as target:
        target.write(struct.pack("<Q", len(text)) + text)
        target.truncate(8 + len(text) + position)
    (folder / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16", "model_type": "llama"}))
    assert os.stat(folder / "model.safetensors").st_blocks * 512 < 1 << 20
    return folder


def table_of(checkpoint, names, configs, seed=0):
    """What a sweep might have found: about 6 dB a bit, tensors that are harder than others, and some noise."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        [row for name in names for row in rows_of(checkpoint.spec(name), configs, rng)], columns=COLUMNS
    )


def rows_of(spec, configs, rng):
    harder = rng.normal(0, 3)
    for config in map(QuantConfig.parse, map(str, configs)):
        try:
            nbytes = packed_nbytes(spec.shape, config)
        except QuantlabError as error:
            yield {**labels(spec.name, spec.shape, config), **refusal(str(error))}
            continue
        bits = 8 * nbytes / spec.size
        decibels = 6.02 * bits - 4 - harder + rng.normal(0, 0.5)
        yield {
            **labels(spec.name, spec.shape, config),
            **dict.fromkeys(COLUMNS[COLUMNS.index("sqnr_db") :], 0.5),
            "sqnr_db": decibels,
            "channels_sqnr_db": decibels - abs(rng.normal(0, 1)),
            "mse": 1e-4 * 10 ** (-decibels / 10),
            "nbytes": nbytes,
            "bits_per_weight": bits,
        }
