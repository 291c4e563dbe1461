"""A model's sweep and plan as one file to hand on: `report`."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import ConfigError
from ..formats import Checkpoint
from ..formats.output.atomic import write_whole
from ..formats.output.manifest import VERSION
from ..late import pandas as pd
from ..planning.plan import Plan
from ..planning.planfile import signed_for
from ..planning.problem import Problem
from ..wording import counted, size_text
from . import plans, sweeps
from .card import card
from .facts import Facts, facts_of
from .page import Section, cards, folded, page, paragraph
from .text import in_html

LARGEST = 1 << 20  # bytes of a plan's file that a report has in it


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes
    ----------
    html : one file that needs nothing else. markdown : a block for a model card.
    """

    html: str
    markdown: str

    @property
    def nbytes(self) -> int:
        """Bytes of the HTML file."""
        return len(self.html.encode())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the HTML, whole or not at all. ExportError if it cannot be written."""
        data = self.html.encode()

        def write(target: BinaryIO) -> None:
            target.write(data)

        write_whole(path, write, lambda written: None)
        return Path(path)


def report(
    checkpoint: Checkpoint,
    table: pd.DataFrame | None = None,
    plan: Plan | None = None,
    *,
    problem: Problem | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """What was measured of a model, and what is planned for it. Reads the model's files, for their digests.

    Parameters
    ----------
    table : of `sweep`. plan : of `plan`, for this very model. At least one of them.
    problem : what the plan is one of: with it the report has the front of all plans.
    notes : what else is to be known of the figures, in sentences.

    Raises
    ------
    ConfigError : neither a table nor a plan.
    CheckpointError : the plan is for another model.
    """
    if table is None and plan is None:
        raise ConfigError("a report is about a sweep or a plan: give at least one of them")
    if plan is not None:
        plan = signed_for(plan, checkpoint)
    facts = facts_of(checkpoint)
    parts = [] if plan is None else plans.sections(plan, checkpoint, table, problem)
    if table is not None and table["config"].nunique() > 1 and not is_of_plan(table, plan):
        parts.append(sweeps.section(table))
    parts += [again(plan)] if plan else []
    parts.append(Section("Where these figures come from", provenance(facts, notes)))
    return Report(page(f"{facts.title}: quantization", lead(facts, table, plan), parts),
                  card(facts, checkpoint, table, plan))  # fmt: skip


def is_of_plan(table: pd.DataFrame, plan: Plan | None) -> bool:
    """Whether a table holds the rows of a plan and no others, which have no totals."""
    if plan is None:
        return False
    return all(plan.choices.get(t) == c for t, c in zip(table["tensor"], table["config"], strict=True))


def lead(facts: Facts, table: pd.DataFrame | None, plan: Plan | None) -> str:
    """What comes first: the figures that are asked for most."""
    entries = [(size_text(facts.nbytes), "the model as it is"), (f"{facts.tensors:,}", "tensors")]
    if plan is not None:
        entries += [(size_text(plan.nbytes), f"planned for {plans.target_of(plan)}")]
        entries += [
            (f"{plan.bits_per_weight:.2f}", "bits per weight"),
            (f"{100 * plan.nbytes / facts.nbytes:.1f} %", "of its size"),
        ]
    elif table is not None:
        entries += [(f"{table['config'].nunique():,}", "configurations measured")]
    said = f"Made by quantlab {VERSION}. Everything is in this file: it loads nothing and runs nothing."
    return paragraph(said, "soft") + cards(entries)


def again(plan: Plan) -> Section:
    """How to do it again: the rules, and the plan itself."""
    rules = plan.rules()
    body = own_file(plan.text.encode()) + "<pre><code>quantlab export MODEL --plan plan.json -o OUT</code></pre>"
    body += folded(f"The same in {counted(len(rules), 'rule')}, the last that matches counting", pre(map(str, rules)))
    return Section("To do it again", body)


def own_file(data: bytes) -> str:
    """The plan's own file, where it is no load to the report."""
    if len(data) > LARGEST:
        return paragraph(f"The plan's own file is not in this one: it has {size_text(len(data))}.")
    said = paragraph("The plan's own file, to export by or to write recipes for other tools from:")
    code = base64.b64encode(data).decode()
    return f'{said}<p><a download="plan.json" href="data:application/json;base64,{code}">plan.json</a></p>'


def pre(lines: Iterable[str]) -> str:
    """Lines as they are."""
    return "<pre><code>{}</code></pre>".format("\n".join(map(in_html, lines)))


def provenance(facts: Facts, notes: Sequence[str]) -> str:
    """The model, its files, the versions and the machine."""
    files = facts.file_table().html() if len(facts.files) > 1 else ""
    body = "".join(map(paragraph, notes)) + facts.table().html()
    body += folded(counted(len(facts.files), "file"), files) if files else ""
    return body + paragraph("Times are in no figure here: the machine is told for who measures again.", "soft")
