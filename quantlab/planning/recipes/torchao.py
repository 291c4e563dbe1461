"""torchao: a script with a configuration by every module's full name, and none for the rest.

A name counts before a pattern; a `filter_fn` beside them is refused; what no key names stays as it is.
"""

from ...core.config import QuantConfig
from ...core.granularity import PerChannel, PerGroup, PerTensor
from .text import filled, python_plan
from .tool import Schemes, Tool, Wanted, is_symmetric, modules

LABEL = "torchao"


SCRIPT = """
import sys
from collections import OrderedDict

import torch
from torchao.quantization import FqnToConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig
from torchao.quantization import MappingType, PerAxis, PerGroup, PerRow, PerTensor, quantize_
from torchao.utils import TorchAOBaseTensor

<<PLAN>>
CONFIG = FqnToConfig(OrderedDict((name, SCHEMES[slug]) for name, slug in PLAN.items()))


def quantize(model):
    quantize_(model, CONFIG, filter_fn=None)
    check(model)
    return model


def check(model):
    weights = {name: getattr(module, "weight", None) for name, module in model.named_modules()}
    made = {name for name, weight in weights.items() if isinstance(weight, TorchAOBaseTensor)}
    if other := made ^ PLAN.keys():
        sys.exit(f"{len(other)} modules of this model are not as the plan has them: {min(other)}")


if __name__ == "__main__":
    from transformers import AutoModelForCausalLM, TorchAoConfig

    source, out = sys.argv[1:]
    # Without a list of its own, what PLAN says of a head would be left out.
    config = TorchAoConfig(CONFIG, modules_to_not_convert=[])
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", quantization_config=config)
    check(model)
    model.save_pretrained(out)
"""


def no_single_scale(config: QuantConfig) -> str:
    """Its int8 alone has one scale for a tensor."""
    single = isinstance(config.granularity, PerTensor)
    return "only its symmetric int8 has a single scale for a tensor" if single and not is_int8(config) else ""


def is_int8(config: QuantConfig) -> bool:
    """Whether its type for int8 holds a configuration."""
    return config.dtype == "int8" and is_symmetric(config)


def schemes(wanted: Wanted) -> Schemes:
    """Integers of 2 to 8 bits."""
    mappings = ("symmetric", "affine")
    return Schemes((2, 3, 4, 5, 6, 7, 8), mappings, None, tensor=True, channel=True, but=no_single_scale)


def scheme(config: QuantConfig) -> str:
    """The configuration in torchao's classes."""
    granularity = config.granularity
    place = f"PerGroup({granularity.group_size})" if isinstance(granularity, PerGroup) else "PerTensor()"
    if is_int8(config):
        place = "PerRow()" if isinstance(granularity, PerChannel) else place
        return f"Int8WeightOnlyConfig(granularity={place})"
    place = "PerAxis(0)" if isinstance(granularity, PerChannel) else place
    mapping = "SYMMETRIC" if is_symmetric(config) else "ASYMMETRIC"
    return (
        f"IntxWeightOnlyConfig(weight_dtype=torch.{config.dtype}, granularity={place}, "
        f"mapping_type=MappingType.{mapping})"
    )


def write(wanted: Wanted) -> str:
    """The script."""
    return filled(SCRIPT, PLAN=python_plan(modules(wanted, LABEL), scheme))


def command(wanted: Wanted) -> str:
    """How it is run."""
    return "python torchao_plan.py MODEL OUT"


def remarks(wanted: Wanted) -> list[str]:
    """How it stores codes."""
    wide = any(not is_int8(config) for config in wanted.configs.values())
    return ["a code takes a byte in torchao whatever its bits: its files are larger than the plan says"] if wide else []


TORCHAO = Tool(LABEL, "torchao_plan.py", command, schemes, write, remarks)
