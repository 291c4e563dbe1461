"""quantlab report: a model's sweep and plan as one file to hand on."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.config import QuantConfig
from ..errors import ConfigError, QuantlabError
from ..formats import Checkpoint, open_checkpoint
from ..formats.output.exporting import check_not_source
from ..late import pandas as pd
from ..planning.damage import BY_ROLE, MEASURED
from ..planning.plan import Plan
from ..planning.planfile import check_model, load_plan
from ..planning.planner import problem
from ..planning.problem import Problem
from ..planning.units import COPY
from ..reporting import Report, report
from ..sweeping.store import ResultStore
from ..sweeping.sweep import shape_text, sweep
from ..wording import shown, size_text
from .options import OUT_HELP, UsageError, add_file, command, examples, flattened, several
from .output import checked_out, write_file
from .sweep import FOLDER_HELP
from .sweeps import named
from .terminal import Bar, note

TEXT = f"""\
One HTML file with figures, tables, the plan, and where all of it comes from. It loads nothing from
anywhere and holds no script: it opens offline, on a phone, in print, light and dark. --markdown
writes the short of it for a model card.

With --plan alone, every tensor is measured under what the plan gives it. With --sweep, or with
--configs, which are measured here and now, the report also has every configuration beside it.

examples:
{
    examples(
        ("a plan, measured", "report model.safetensors --plan plan.json -o report.html"),
        ("and all that it was chosen from", "report model.safetensors --plan plan.json --sweep 3fa2 -o report.html"),
        ("a few configurations", "report model.safetensors --configs w4_g32 w8_channel -o report.html"),
        ("for a model card", "report model.safetensors --plan plan.json -o report.html --markdown card.md"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(commands, "report", run, "write figures, tables and a plan into one HTML file", TEXT)
    add_file(parser)
    parser.add_argument("--plan", metavar="PLAN", help="a plan that quantlab plan wrote for this very model")
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--sweep", metavar="ID", help="a sweep of the store, by the first letters of its id")
    rows.add_argument(
        "--configs", metavar="SLUG", nargs="+", action="extend", type=several(QuantConfig.parse), default=[],
        help="configurations to measure here and now",
    )  # fmt: skip
    parser.add_argument("--store", metavar="FOLDER", default="", help=f"where the sweep is kept; {FOLDER_HELP}")
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help=OUT_HELP)
    parser.add_argument("--markdown", metavar="CARD", help="write a block for a model card, too")


def run(args: argparse.Namespace) -> None:
    """Measure what is to be measured, and write."""
    if not (args.plan or args.sweep or args.configs):
        raise UsageError("say what the report is about: --plan PLAN, --sweep ID or --configs SLUG ...")
    path, card = checked_out(args.out), checked_out(args.markdown) if args.markdown else None
    with open_checkpoint(args.file) as checkpoint:
        for out in filter(None, (path, card)):
            check_not_source(out, checkpoint)
        made = written(args, checkpoint)
    write_file(path, made.html.encode())
    note(f"wrote {shown(str(path))}, {size_text(made.nbytes)}, with everything in it")
    if card:
        write_file(card, made.markdown.encode())
        note(f"wrote {shown(str(card))}")


def written(args: argparse.Namespace, checkpoint: Checkpoint) -> Report:
    """The report that is asked for."""
    plan = load_plan(args.plan) if args.plan else None
    if plan is not None:
        check_model(plan, checkpoint)  # before anything is measured for it
    table, notes = rows(args, checkpoint, plan)
    for sentence in notes:
        note(sentence)
    # Rows of the plan's own choices alone are no choice: the front of those would not be the plan's.
    whole = problem_of(plan, table, checkpoint) if plan is not None and (args.sweep or args.configs) else None
    return report(checkpoint, table, plan, problem=whole, notes=notes)


def rows(args: argparse.Namespace, checkpoint: Checkpoint, plan: Plan | None) -> tuple[pd.DataFrame, list[str]]:
    """The table (of the store, of the configurations that are named, of a plan's choices), and what to know of it."""
    if args.sweep:
        return kept(args.store, args.sweep, checkpoint)
    configs = flattened(args.configs)
    if configs:
        with Bar() as bar:
            return sweep(checkpoint, configs, on_progress=bar), []
    assert plan is not None
    return chosen(plan, checkpoint), []


def kept(folder: str, id: str, checkpoint: Checkpoint) -> tuple[pd.DataFrame, list[str]]:
    """A sweep of the store, and what is to be known of it. ConfigError for one of other tensors."""
    with ResultStore(folder or None) as store:
        record = named(store, id)
        frame = store.frame(record.id)
    notes = []
    if not record.complete:
        notes.append(
            f"The sweep is not finished: {record.rows_done:,} of {record.rows_total:,} rows are in the report."
        )
    if not record.current:
        notes.append(f"The sweep was measured by another engine, {record.engine}, whose figures may differ.")
    shapes = dict(zip(frame["tensor"], frame["shape"], strict=True))
    known = {name: shape_text(checkpoint.spec(name).shape) for name in checkpoint.names}
    if other := [name for name, shape in shapes.items() if known.get(name) != shape]:
        raise ConfigError(
            f"the sweep {record.id} is of {shown(record.title)}, and {checkpoint} has no tensor {shown(other[0])} of "
            f"shape {shapes[other[0]]}: give the model that was swept"
        )
    return frame, notes


def chosen(plan: Plan, checkpoint: Checkpoint) -> pd.DataFrame:
    """A row per tensor that a plan quantizes, under what it gives it: measured now."""
    names: dict[str, list[str]] = {}
    for name, word in plan.choices.items():
        if word != COPY:
            names.setdefault(word, []).append(name)
    with Bar() as bar:
        found = [sweep(checkpoint, [QuantConfig.parse(slug)], mine, on_progress=bar) for slug, mine in names.items()]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame({"tensor": [], "config": []})


def problem_of(plan: Plan, table: pd.DataFrame, checkpoint: Checkpoint) -> Problem | None:
    """What the plan was chosen from, for its front; None where the table does not tell."""
    weights = {name: unit.weight for unit in plan.units for name in unit.unit.members}
    try:
        return problem(
            table, checkpoint, target=plan.target, objective=plan.objective, format=plan.format,
            prior=plan.weighting == BY_ROLE, weights=weights if plan.weighting == MEASURED else None,
            importance=plan.importance,
        )  # fmt: skip
    except QuantlabError as error:
        note(f"the report has no figure of what other sizes buy: {error}")
        return None
