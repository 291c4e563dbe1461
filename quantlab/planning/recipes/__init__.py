"""A plan in the words of other tools.

Each of `RECIPES` says what its program can express (`schemes`) and writes the plan down in its words (`write`). What a
tool has no words for is refused by name, with the nearest that it has: nothing is rounded on the way.
"""

from collections.abc import Iterable

from ...errors import check_known
from ...formats.checkpoint import Checkpoint
from ...formats.gguf.read import GGUFCheckpoint
from ..names import architecture
from ..plan import Plan
from ..planfile import signed_for
from .autoround import AUTOROUND
from .bitsandbytes import BITSANDBYTES
from .gptqmodel import GPTQMODEL
from .llama_quantize import LLAMA_QUANTIZE
from .llm_compressor import LLM_COMPRESSOR
from .mlx_lm import MLX_LM
from .modelopt import MODELOPT
from .onnxruntime import ONNXRUNTIME
from .text import commented, heading
from .tool import Known, Recipe, Tool, check_expressible, wanted_of
from .torchao import TORCHAO

RECIPES: dict[str, Tool] = {
    "llama-quantize": LLAMA_QUANTIZE,
    "autoround": AUTOROUND,
    "llm-compressor": LLM_COMPRESSOR,
    "mlx-lm": MLX_LM,
    "onnxruntime": ONNXRUNTIME,
    "modelopt": MODELOPT,
    "torchao": TORCHAO,
    "gptqmodel": GPTQMODEL,
    "bitsandbytes": BITSANDBYTES,
}

__all__ = ["RECIPES", "Recipe", "recipe"]


def recipe(
    plan: Plan, tool: str, *, source: Checkpoint | None = None, source_names: Iterable[str] | None = None
) -> Recipe:
    """A plan in the words of one of `RECIPES`.

    Parameters
    ----------
    source : the plan's model. With it, what stays as it is keeps its own type where a tool has to be told of one, and
        names are translated by the model's architecture. source_names : names of its tensors, in place of the plan's.

    Raises
    ------
    ConfigError : an unknown tool, or a plan that it cannot express: the first tensor by name, the nearest that the tool
        has, and how many there are.
    CheckpointError : the source is not the plan's model.
    """
    check_known("tool", tool, RECIPES)
    if source is not None:
        plan = signed_for(plan, source)
    wanted, made_by = wanted_of(plan, source_names, known_of(source)), RECIPES[tool]
    check_expressible(wanted, made_by)
    top = heading(wanted, made_by.label)
    text = made_by.write(wanted)
    if made_by.comment:
        text = commented(top, made_by.comment) + text
    return Recipe(text, made_by.filename, made_by.command(wanted), (*top, *made_by.remarks(wanted)))


def known_of(source: Checkpoint | None) -> Known | None:
    """What a model's files tell beyond a plan."""
    if source is None:
        return None
    if isinstance(source, GGUFCheckpoint):
        kinds = {name: source.kind(name).name.lower() for name in source.names}
    else:
        kinds = {name: source.spec(name).dtype for name in source.names}
    return Known(kinds, architecture(source))
