"""llm-compressor: a recipe in YAML, one group of modules a scheme.

A name counts before a pattern and that before a class, in vLLM the first; so no two targets take in the same module,
and none is a class. `re:` is matched from the start only: patterns are anchored at both ends.
"""

import json

from ...core.config import QuantConfig
from ...core.granularity import PerChannel, PerGroup
from .fused import remark, split
from .text import by_slug, patterns, plain
from .tool import Schemes, Tool, Wanted, group_size, is_symmetric, left_modules, modules

LABEL = "llm-compressor"


def schemes(wanted: Wanted) -> Schemes:
    """What compressed-tensors packs."""
    return Schemes((2, 3, 4, 5, 6, 7, 8), ("symmetric", "affine"), None, tensor=True, channel=True)


def weights(config: QuantConfig) -> str:
    """The arguments of a scheme."""
    granularity = config.granularity
    strategy = "group" if isinstance(granularity, PerGroup) else "tensor"
    strategy = "channel" if isinstance(granularity, PerChannel) else strategy
    size = f", group_size: {group_size(config)}" if isinstance(granularity, PerGroup) else ""
    return (
        f"{{num_bits: {config.codec.bits}, type: int, symmetric: {str(is_symmetric(config)).lower()}, "
        f"strategy: {strategy}{size}, dynamic: false, observer: memoryless_minmax}}"
    )


def targets(names: list[str]) -> list[str]:
    """Modules as targets: by name, or by a pattern where it takes in several. JSON's strings are YAML's."""
    found = patterns([plain(name, LABEL) for name in names])
    return [json.dumps(name_of(pattern) or f"re:^{pattern}$", ensure_ascii=False) for pattern in found]


def name_of(pattern: str) -> str:
    """The only name that a pattern matches; "" if there are several, or if the name could be taken for a pattern."""
    name = pattern.replace(r"\.", ".")
    return name if name.replace(".", "").replace("_", "").isalnum() and "." in name else ""


def listed(key: str, items: list[str], indent: int) -> list[str]:
    """A key and its list, an item a line."""
    space = " " * indent
    return [f"{space}{key}:", *(f"{space}  - {item}" for item in items)] if items else [f"{space}{key}: []"]


def write(wanted: Wanted) -> str:
    """The recipe."""
    chosen, slugs = modules(wanted, LABEL), wanted.slugs()
    lines = ["default_stage:", "  default_modifiers:", "    QuantizationModifier:"]
    lines += listed("ignore", targets(left_modules(wanted)), 6)
    lines.append("      config_groups:")
    for i, (slug, names) in enumerate(by_slug(chosen).items()):
        lines += [f"        group_{i}:  # {slug}", *listed("targets", targets(names), 10)]
        lines.append(f"          weights: {weights(slugs[slug])}")
    return "\n".join([*lines, ""])


def command(wanted: Wanted) -> str:
    """How it is run."""
    call = "oneshot(model='MODEL', recipe='recipe.yaml', output_dir='OUT')"
    return f'python -c "from llmcompressor import oneshot; {call}"'


def remarks(wanted: Wanted) -> list[str]:
    """What loads it."""
    rare = sorted({config.dtype for config in wanted.configs.values()} & {"int3", "int5", "int6", "int7"})
    need = [f"for {', '.join(rare)}, take compressed-tensors 0.18 or later: it packs as vLLM reads"] if rare else []
    apart = split(modules(wanted, LABEL), left_modules(wanted), weights)
    return ["rows must be whole groups: llm-compressor stops where they are not", *need, *remark(apart)]


LLM_COMPRESSOR = Tool(LABEL, "recipe.yaml", command, schemes, write, remarks)
