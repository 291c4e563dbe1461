"""AutoRound: a script that gives every linear layer its bits by its exact name.

It takes other keys as parts of names, with dots escaped for them, so `layers.1` finds `layers.10`; what has no key
gets the common scheme; and layers whose lengths are no multiples of 32 it keeps at 16 bits with a word in its log.
"""

from ...core.config import QuantConfig
from .text import filled, python_plan
from .tool import Schemes, Tool, Wanted, group_size, is_symmetric, modules

LABEL = "AutoRound"


SCRIPT = """
import sys

import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

<<PLAN>>
KEPT = {"bits": 16, "data_type": "float"}


def layer_config(model):
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, (torch.nn.Linear, Conv1D))}
    if lost := [name for name in PLAN if name not in layers]:
        sys.exit(f"{len(lost)} layers of the plan are not linear layers of this model: {lost[0]}")
    if odd := [name for name in PLAN if any(length % 32 for length in layers[name].weight.shape)]:
        sys.exit(f"AutoRound keeps {len(odd)} layers at 16 bits, whose lengths are no multiples of 32: {odd[0]}")
    head = model.get_output_embeddings()  # AutoRound leaves it alone, unless it has an entry
    return {
        name: dict(SCHEMES[PLAN[name]]) if name in PLAN else dict(KEPT)
        for name, layer in layers.items()
        if name in PLAN or layer is not head
    }


if __name__ == "__main__":
    source, out = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(source)
    rounding = AutoRound(model, tokenizer, scheme="W4A16", layer_config=layer_config(model))
    rounding.quantize_and_save(out, format="auto_round")
"""


def no_affine_int8(config: QuantConfig) -> str:
    """Why 8 bits with a zero point are not for it."""
    return "" if config.codec.bits < 8 or is_symmetric(config) else "its own format has no affine int8"


def schemes(wanted: Wanted) -> Schemes:
    """Integers of 2 to 8 bits."""
    return Schemes((2, 3, 4, 5, 6, 7, 8), ("symmetric", "affine"), None, channel=True, but=no_affine_int8)


def scheme(config: QuantConfig) -> str:
    """An entry of layer_config."""
    return (
        f'{{"bits": {config.codec.bits}, "group_size": {group_size(config)}, "sym": {is_symmetric(config)}, '
        '"data_type": "int"}'
    )


def write(wanted: Wanted) -> str:
    """The script."""
    return filled(SCRIPT, PLAN=python_plan(modules(wanted, LABEL), scheme))


def command(wanted: Wanted) -> str:
    """How it is run."""
    return "python autoround_plan.py MODEL OUT"


AUTOROUND = Tool(LABEL, "autoround_plan.py", command, schemes, write)
