"""bitsandbytes by way of transformers: a script with the modules that are not to be quantized.

A list of them takes the place of the default one, which spares heads, so a head that is not planned is in it. An entry
is a pattern for the beginning of a name up to a dot and also a plain ending: one that would spare more is anchored.
"""

import re

from .text import escaped, filled, plain, python_lines
from .tool import Schemes, Tool, Wanted, left_modules, modules

LABEL = "bitsandbytes"
SIMPLE = re.compile(r"[\w.]+", re.ASCII)  # as a pattern, next to nothing but itself: vLLM compares entries as they are
HEAD = "lm_head"
BOUNDARY = r"(?:(?<=\.)|(?=\.|$))"  # of transformers' should_convert_module: where a pattern's match has to end


SCRIPT = """
import sys

SKIPPED = <<SKIPPED>>
PLAN = <<PLAN>>


def config():
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=SKIPPED)


def check(model):
    quantized = {name for name, module in model.named_modules() if type(module).__name__ == "Linear8bitLt"}
    if other := quantized ^ PLAN:
        sys.exit(f"{len(other)} modules of this model are not as the plan has them: {min(other)}")


if __name__ == "__main__":
    from transformers import AutoModelForCausalLM

    source, out = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", quantization_config=config())
    check(model)
    model.save_pretrained(out)
"""


def schemes(wanted: Wanted) -> Schemes:
    """LLM.int8(): a scale per output channel. Its 4 bits are a number format of its own, nf4, or fp4."""
    return Schemes((8,), ("symmetric",), channel=True)


def entry(name: str, chosen: str) -> str:
    """An entry that spares a module and none of those to be quantized, which are given a line each."""
    if SIMPLE.fullmatch(name) and not re.search(rf"^(?:{name}){BOUNDARY}|{escaped(name)}$", chosen, re.MULTILINE):
        return name
    return f"^{escaped(name)}$"


def write(wanted: Wanted) -> str:
    """The script."""
    names = [plain(name, LABEL) for name in modules(wanted, LABEL)]
    left = dict.fromkeys([*left_modules(wanted), *([] if HEAD in names else [HEAD])])
    chosen = "\n".join(names)
    skipped = python_lines("[]", [entry(plain(name, LABEL), chosen) for name in left])
    return filled(SCRIPT, SKIPPED=skipped, PLAN=python_lines("{}", names))


def command(wanted: Wanted) -> str:
    """How it is run."""
    return "python bitsandbytes_plan.py MODEL OUT"


def remarks(wanted: Wanted) -> list[str]:
    """What else it does."""
    return ["LLM.int8() also quantizes what goes into a layer, but for outliers; the plan speaks of weights alone"]


BITSANDBYTES = Tool(LABEL, "bitsandbytes_plan.py", command, schemes, write, remarks)
