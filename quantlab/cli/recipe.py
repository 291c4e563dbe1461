"""quantlab recipe: a plan in the words of another tool."""

import argparse
from typing import Any

from ..formats import open_checkpoint
from ..planning.planfile import load_plan
from ..planning.recipes import RECIPES, Recipe, recipe
from ..wording import shown
from .options import OUT_HELP, command, examples, wrapped
from .output import checked_out, write_file, write_stdout
from .terminal import note

TEXT = f"""\
Writes a plan of "quantlab plan" down for a tool that quantizes by itself. Its quantizer makes other
values than quantlab's: what each tensor becomes carries over, figures do not. A plan that the tool
has no words for is refused by the first tensor's name, with the nearest that it has.

{chr(10).join(wrapped(name, f"{made.label}: {made.filename}") for name, made in RECIPES.items())}

examples:
{
    examples(
        ("for llama.cpp's own quantizer", "recipe plan.json --for llama-quantize --source model/ -o types.txt"),
        ("for vLLM, by way of llm-compressor", "recipe plan.json --for llm-compressor -o recipe.yaml"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(commands, "recipe", run, "write a plan down for another tool", TEXT)
    parser.add_argument("file", metavar="PLAN", help="a plan that quantlab plan wrote")
    parser.usage = "quantlab recipe PLAN --for TOOL [options]"
    parser.add_argument("--for", dest="tool", choices=RECIPES, required=True, help="the tool")
    parser.add_argument(
        "--source", metavar="MODEL", help="the plan's model: where a tool has to be told the type of what is kept, or "
        "goes by names in GGUF, they are looked up there",
    )  # fmt: skip
    parser.add_argument("-o", "--out", metavar="OUT", help=f"{OUT_HELP} (default: stdout)")


def run(args: argparse.Namespace) -> None:
    """Write the recipe, and say how it is run."""
    path = checked_out(args.out) if args.out else None
    made = written(args)
    data = made.text.encode()
    write_stdout(data) if path is None else write_file(path, data)
    for remark in made.remarks:
        note(f"{remark[0].upper()}{remark[1:]}.")
    note(f"To run it{f' as {made.filename}' if path is None else ''}: {made.command}")
    if path is not None and path.name != made.filename:
        note(f"  with {shown(str(path))} in place of {made.filename}")


def written(args: argparse.Namespace) -> Recipe:
    """The recipe that is asked for."""
    plan = load_plan(args.file)
    if args.source is None:
        return recipe(plan, args.tool)
    with open_checkpoint(args.source) as source:
        return recipe(plan, args.tool, source=source)
