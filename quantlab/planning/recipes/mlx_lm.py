"""mlx-lm: a script whose predicate says what becomes of each module.

Its own check comes first: a module whose rows are no multiple of the *default* group size is skipped without a word,
so the default is the smallest of the plan, and the script looks at the end whether every module was asked for. The
experts of a layer are one module there, `switch_mlp`.
"""

import re

from ...core.config import QuantConfig
from ...errors import ConfigError
from ...wording import shown
from .text import filled, python_plan
from .tool import Schemes, Tool, Wanted, group_size, modules

LABEL = "mlx-lm"
EXPERT = re.compile(r"(?P<layer>.*)\.experts\.\d+\.(?P<part>\w+)")
MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


SCRIPT = """
import sys

<<PLAN>>
SMALLEST = <<SMALLEST>>  # modules whose rows are no multiple of the default group size are never asked for
asked = set()


def predicate(path, module, *others):
    asked.add(path)
    return dict(SCHEMES[PLAN[path]]) if path in PLAN and hasattr(module, "to_quantized") else False


if __name__ == "__main__":
    from mlx_lm import convert

    source, out = sys.argv[1:]
    convert(source, out, quantize=True, q_bits=4, q_group_size=SMALLEST, quant_predicate=predicate)
    if lost := [path for path in PLAN if path not in asked]:
        sys.exit(f"do not use {out}: {len(lost)} modules of the plan were not quantized, {lost[0]} among them")
"""


def schemes(wanted: Wanted) -> Schemes:
    """MLX's affine mode: a scale and a bias per group, which is our uniform mapping."""
    return Schemes((2, 3, 4, 5, 6, 8), ("uniform",), (32, 64, 128))


def scheme(config: QuantConfig) -> str:
    """What the predicate answers."""
    return f'{{"group_size": {group_size(config)}, "bits": {config.codec.bits}, "mode": "affine"}}'


def path(name: str) -> str:
    """What mlx-lm calls a module."""
    match = EXPERT.fullmatch(name)
    return f"{match['layer']}.switch_mlp.{MIXTRAL.get(match['part'], match['part'])}" if match else name


def paths(wanted: Wanted) -> dict[str, QuantConfig]:
    """Configurations by mlx-lm's names. ConfigError for experts of a layer that differ."""
    found: dict[str, tuple[str, QuantConfig | None]] = {}
    chosen: dict[str, QuantConfig | None] = dict(modules(wanted, LABEL))
    for name in wanted.copied:
        chosen[name.removesuffix(".weight")] = None
    for name, config in chosen.items():
        first, other = found.setdefault(path(name), (name, config))
        if (other and scheme(other)) != (config and scheme(config)):
            raise ConfigError(
                f"{LABEL} holds the experts of a layer in one module, and the plan gives {shown(first)} "
                f"{other or 'a copy'} but {shown(name)} {config or 'a copy'}: tie them, --tie '*.experts.*'"
            )
    return {name: config for name, (_, config) in found.items() if config}


def write(wanted: Wanted) -> str:
    """The script."""
    chosen = paths(wanted)
    smallest = min(group_size(config) for config in chosen.values())
    return filled(SCRIPT, PLAN=python_plan(chosen, scheme), SMALLEST=smallest)


def command(wanted: Wanted) -> str:
    """How it is run."""
    return "python mlx_plan.py MODEL OUT"


MLX_LM = Tool(LABEL, "mlx_plan.py", command, schemes, write)
