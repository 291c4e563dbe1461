"""NVIDIA's ModelOpt: a script with a list of quantizers, all of them off at first.

The last entry that matches wins, names are matched as globs in which `[0]` is a class, and an axis and block sizes
exclude each other.
"""

import glob

from ...core.config import QuantConfig
from ...core.granularity import PerChannel, PerGroup
from .text import filled, python_plan
from .tool import Schemes, Tool, Wanted, group_size, modules

LABEL = "ModelOpt"


SCRIPT = """
import sys

<<PLAN>>
QUANT_CFG = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        *({"quantizer_name": f"{name}.weight_quantizer", "cfg": SCHEMES[slug]} for name, slug in PLAN.items()),
    ],
    "algorithm": "max",
}


def quantize(model):
    import modelopt.torch.quantization as mtq

    model = mtq.quantize(model, QUANT_CFG)  # weights alone need no data
    on = sum(
        name.endswith("weight_quantizer") and getattr(module, "is_enabled", False)
        for name, module in model.named_modules()
    )
    if on != len(PLAN):
        sys.exit(f"ModelOpt quantizes {on} weights of this model, and the plan has {len(PLAN)}")
    return model


if __name__ == "__main__":
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoModelForCausalLM

    source, out = sys.argv[1:]
    export_hf_checkpoint(quantize(AutoModelForCausalLM.from_pretrained(source, dtype="auto")), export_dir=out)
"""


def schemes(wanted: Wanted) -> Schemes:
    """Integers without zero points."""
    return Schemes((2, 3, 4, 5, 6, 7, 8), ("symmetric",), None, tensor=True, channel=True)


def scheme(config: QuantConfig) -> str:
    """The attributes of a quantizer."""
    if isinstance(config.granularity, PerGroup):
        return f'{{"num_bits": {config.codec.bits}, "block_sizes": {{-1: {group_size(config)}, "type": "static"}}}}'
    axis = 0 if isinstance(config.granularity, PerChannel) else None
    return f'{{"num_bits": {config.codec.bits}, "axis": {axis}}}'


def write(wanted: Wanted) -> str:
    """The script."""
    chosen = {glob.escape(name): config for name, config in modules(wanted, LABEL).items()}
    return filled(SCRIPT, PLAN=python_plan(chosen, scheme))


def command(wanted: Wanted) -> str:
    """How it is run."""
    return "python modelopt_plan.py MODEL OUT"


def remarks(wanted: Wanted) -> list[str]:
    """What becomes of the result."""
    return ["ModelOpt computes with any of these, and its export writes fewer: where it refuses, so does the script"]


MODELOPT = Tool(LABEL, "modelopt_plan.py", command, schemes, write, remarks)
