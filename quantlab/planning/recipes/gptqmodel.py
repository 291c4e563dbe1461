"""GPTQModel: a script with the commonest scheme as the common one, and patterns for modules with another, or none.

Patterns are matched from the start, and vLLM matches them against the names of fused modules: where q, k and v, or
gate and up, have one scheme, the name that they have together is in its pattern too.
"""

from collections import Counter, defaultdict

from ...core.config import QuantConfig
from .fused import remark, split, with_fused
from .text import filled, patterns, plain, python_dict
from .tool import Schemes, Tool, Wanted, group_size, is_symmetric, left_modules, modules

LABEL = "GPTQModel"
GROUPS = (16, 32, 64, 128, 256, 512, 1024)


SCRIPT = """
import sys

COMMON = <<COMMON>>  # <<SLUG>>
<<DYNAMIC>>


if __name__ == "__main__":
    from gptqmodel import GPTQModel, QuantizeConfig

    source, out, texts = sys.argv[1:]
    with open(texts, encoding="utf-8") as file:
        calibration = [line for line in file.read().splitlines() if line]
    model = GPTQModel.load(source, QuantizeConfig(**COMMON, desc_act=False, dynamic=DYNAMIC))
    model.quantize(calibration)
    model.save(out)
"""


def no_affine_int8(config: QuantConfig) -> str:
    """Why 8 bits with a zero point are not for it: vLLM reads such files as symmetric only."""
    return "" if config.codec.bits < 8 or is_symmetric(config) else "vLLM loads no affine int8 of it"


def schemes(wanted: Wanted) -> Schemes:
    """Integers of 2 to 8 bits; 5, 6 and 7 in a layout that nobody else reads."""
    return Schemes((2, 3, 4, 8), ("symmetric", "affine"), GROUPS, channel=True, but=no_affine_int8)


def scheme(config: QuantConfig) -> str:
    """What a pattern sets."""
    return f'{{"bits": {config.codec.bits}, "group_size": {group_size(config)}, "sym": {is_symmetric(config)}}}'


def dynamic(chosen: dict[str, QuantConfig], left: list[str], common: QuantConfig) -> dict[str, str]:
    """Patterns and what they set, as Python's source."""
    schemes = defaultdict(list)
    for name, config in chosen.items():
        schemes[scheme(config)].append(name)
    found = {f"-:^{pattern}$": "{}" for pattern in patterns(with_fused([plain(name, LABEL) for name in left]))}
    for words, names in schemes.items():
        if words != scheme(common):
            found |= {f"+:^{pattern}$": words for pattern in patterns(with_fused(names))}
    return found


def common_scheme(chosen: dict[str, QuantConfig]) -> QuantConfig:
    """The configuration that most modules have."""
    slug = Counter(config.slug for config in chosen.values()).most_common(1)[0][0]
    return QuantConfig.parse(slug)


def write(wanted: Wanted) -> str:
    """The script."""
    chosen = {plain(name, LABEL): config for name, config in modules(wanted, LABEL).items()}
    common = common_scheme(chosen)
    return filled(
        SCRIPT,
        COMMON=scheme(common),
        SLUG=common,
        DYNAMIC=python_dict("DYNAMIC", dynamic(chosen, left_modules(wanted), common)),
    )


def command(wanted: Wanted) -> str:
    """How it is run."""
    return "python gptqmodel_plan.py MODEL OUT TEXTS"


def remarks(wanted: Wanted) -> list[str]:
    """What it needs, and what vLLM would not load."""
    chosen = {plain(name, LABEL): config for name, config in modules(wanted, LABEL).items()}
    said = [
        "TEXTS is a file of texts to calibrate with, one a line",
        *remark(split(chosen, left_modules(wanted), scheme)),
    ]
    head = any(name.rpartition(".")[2] == "lm_head" for name in chosen)
    return said + (["a head is quantized only with lm_head=True in QuantizeConfig"] if head else [])


GPTQMODEL = Tool(LABEL, "gptqmodel_plan.py", command, schemes, write, remarks)
