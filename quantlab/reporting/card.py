"""The same for a model card, in Markdown: what became of the weights, and how to do it again."""

from __future__ import annotations

from ..formats import Checkpoint
from ..formats.output.manifest import VERSION
from ..late import pandas as pd
from ..planning.plan import Plan
from ..wording import size_text
from .facts import Facts
from .plans import choice_table, measured_of, sentences, target_of
from .sweeps import ordered, table
from .text import code_in_markdown, in_markdown


def card(facts: Facts, checkpoint: Checkpoint, frame: pd.DataFrame | None, plan: Plan | None) -> str:
    """A block that begins with a heading of the second level."""
    parts = ["## Quantization\n", about(facts, plan)]
    if plan is not None:
        parts += [choice_table(plan, checkpoint, measured_of(plan, frame)).markdown()]
        parts += [f"{in_markdown(' '.join(sentences(plan)))}\n"]
    elif frame is not None and len(totals := ordered(frame)):
        best = totals[totals["front"]]
        parts += ["Configurations that no other one beats in both size and error:\n", table(best).markdown()]
    if plan is not None:
        parts.append(f"```sh\nquantlab export MODEL --plan plan.json -o OUT  # sha256 {facts.sha256}\n```\n")
    return "\n".join([*parts, f"Measured by quantlab {VERSION} on {code_in_markdown(facts.title)}.\n"])


def about(facts: Facts, plan: Plan | None) -> str:
    """What it is about, an entry a row."""
    rows = [["source", code_in_markdown(facts.title)], ["sha256", f"`{facts.sha256}`"]]
    rows.append(["source size", size_text(facts.nbytes)])
    if plan is not None:
        rows += [["for", in_markdown(target_of(plan))], ["format", plan.format], ["budget", in_markdown(plan.budget)]]
        rows += [["size", f"{plan.nbytes:,} bytes"], ["bits per weight", f"{plan.bits_per_weight:.3f}"]]
    return "".join(f"| {' | '.join(row)} |\n" for row in [["", ""], ["---", "---"], *rows, ["quantlab", VERSION]])
