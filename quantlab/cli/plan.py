"""quantlab plan: the best configuration for every tensor, under a budget, for the program that will load it."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from ..core.config import QuantConfig
from ..errors import Cancelled, ConfigError
from ..formats import Checkpoint, open_checkpoint
from ..formats.input.remote import public
from ..formats.output.exporting import check_not_source
from ..late import pandas as pd
from ..planning.damage import OBJECTIVES
from ..planning.plan import Plan, Uniform
from ..planning.planner import problem
from ..planning.problem import Problem
from ..planning.targets import TARGETS
from ..planning.units import COPY
from ..planning.wishes import Pin, parse_floor, parse_pin, parse_tie
from ..shipping.recipe import matches, select
from ..sweeping.store import ResultStore
from ..sweeping.sweep import check_grid
from ..sweeping.tables import json_text
from ..sweeping.weights import is_weight, names_of_weights
from ..wording import counted, shown, size_text
from .importance import importance_for, kept_as
from .options import UsageError, add_file, add_tensors, command, examples, flattened, one, several, wrapped
from .output import checked_out
from .sweep import FOLDER_HELP, by_weights
from .sweeps import named
from .terminal import Bar, figure, note, show_table

SHOWN = 8  # sentences about what is left out
TARGET_HELP = "\n".join(wrapped(name, target.label) for name, target in TARGETS.items())
OBJECTIVE_HELP = "\n".join(wrapped(name, objective.help) for name, objective in OBJECTIVES.items())

TEXT = f"""\
Chooses for every weight one of the configurations that were measured, or a copy of it, so that the
file fits the budget and the damage is the least possible. Bytes are those of the file to be, all of
it; "quantlab export MODEL --plan" writes exactly as many. The damage is what weights tell, a
prediction: how well it ranks plans for what a model computes, nobody knows without running it.

Programs, each with a menu of configurations that are worth measuring for it; they are swept through
the store, so that what is measured already is not measured again:
{TARGET_HELP}

Damage is the sum over tensors of weight x error, and an error is:
{OBJECTIVE_HELP}
Weights are those of --weights, measured ones if you have them; else a prior for the role of a layer
(q, k, v, o, gate, up, down); with --no-prior all tensors count alike.

examples:
{
    examples(
        ("what fits into 4.7 GB for llama.cpp", "plan model/ --for llama.cpp --budget 4.7GB -o plan.json"),
        ("then write it", "export model/ --plan plan.json -o model.gguf"),
        (
            "some tensors as you want them",
            "plan model/ --for vllm --budget 4.5bpw --pin '*.o_proj.weight=copy' --floor '*v_proj*>=int8'",
        ),
        ("the smallest of a quality", "plan model/ --for mlx --quality 25dB"),
        ("embeddings, too", "plan model/ --for mlx --budget 4.5bpw --tensors '*embed_tokens*'"),
        ("of a sweep that was kept", "plan model/ --sweep 3fa2 --budget 60%"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(commands, "plan", run, "choose the best configuration for every tensor, under a budget", TEXT)
    add_file(parser)
    parser.add_argument("--for", dest="target", choices=list(TARGETS), default="any", help="the program (default: any)")
    parser.add_argument("--budget", metavar="SIZE", help="4700000000, 4.7GB, 4.5bpw (bits per weight), 60%% (of FILE)")
    parser.add_argument("--quality", metavar="DB", help="in place of a budget: decibels that the plan has at least")
    measured = parser.add_mutually_exclusive_group()
    measured.add_argument("--menu", action="store_true", help="sweep the program's own menu (default)")
    measured.add_argument("--sweep", metavar="ID", help="take the figures of a sweep in the store; measure nothing")
    measured.add_argument(
        "--configs", metavar="SLUG", nargs="+", action="extend", type=several(QuantConfig.parse),
        help="sweep these configurations",
    )  # fmt: skip
    add_tensors(parser, "names or globs of tensors to plan beside the weights, such as '*embed_tokens*'")
    parser.add_argument("--weights", metavar="F", help="how much each tensor counts: CSV or JSON of tensor, weight")
    parser.add_argument(
        "--importance", metavar="F", help="llama.cpp's imatrix, .npz or .safetensors: errors weighted by inputs"
    )
    parser.add_argument("--objective", choices=list(OBJECTIVES), default="relative", help="(default: relative)")
    parser.add_argument("--no-prior", action="store_true", help="let all tensors count alike")
    wishes = parser.add_argument_group("what is wanted whatever is optimal", "Several values each, quoted.")
    for name, parse, help in (
        ("--pin", parse_pin, "GLOB=SLUG or GLOB=copy: these tensors get this"),
        ("--tie", parse_tie, "GLOB: all of these share one choice"),
        ("--floor", parse_floor, "GLOB>=int4, sqnr>=20 or GLOB:sqnr>=20: the least that these have"),
    ):
        wishes.add_argument(
            name, metavar=name[2:].upper(), nargs="+", action="extend", type=one(parse), default=[], help=help
        )
    parser.add_argument("--format", help="the file's format (default: the program's own)")
    parser.add_argument("--store", metavar="FOLDER", default="", help=f"where sweeps are kept; {FOLDER_HELP}")
    parser.add_argument("-o", "--out", metavar="PLAN", help="write the plan as JSON, for quantlab export and recipe")
    parser.add_argument("--json", action="store_true", help="print JSON; null stands for what does not exist")


def run(args: argparse.Namespace) -> None:
    """Measure what is not measured, choose, and say or write what came of it."""
    if (args.budget is None) == (args.quality is None):
        raise UsageError("say how large the file may be with --budget, or how good it must be with --quality")
    if args.sweep is not None and args.tensors:
        raise UsageError("--tensors says what is measured: a plan by --sweep decides on all that the sweep has")
    if args.sweep is not None and args.importance is not None:
        raise UsageError("--importance is measured with: leave out --sweep, and what is in the store is found again")
    path = checked_out(args.out) if args.out is not None else None
    with open_checkpoint(args.file) as checkpoint:
        if path:
            check_not_source(path, checkpoint)
        table = measured_table(args, checkpoint)
        found = problem(
            table, checkpoint, target=args.target, objective=args.objective, prior=not args.no_prior,
            weights=args.weights, importance=args.importance is not None, pins=args.pin, ties=args.tie,
            floors=args.floor, format=args.format,
        )  # fmt: skip
        plan = found.solve(args.budget, args.quality)
        tell(found)
        if path or args.json:
            plan = found.signed(plan)
        if args.json:
            print(json_text({**asdict(plan), **facts(plan), "left_out": [asdict(left) for left in found.left]}))
        else:
            show(plan, found)
        if path:
            note(f"wrote {shown(str(plan.save(path)))}: quantlab export {args.file} --plan {path} -o OUT")


def measured_table(args: argparse.Namespace, checkpoint: Checkpoint) -> pd.DataFrame:
    """The figures, from a sweep that was kept, or measured and kept now."""
    with ResultStore(args.store or None) as store:
        if args.sweep is not None:
            return store.frame(named(store, args.sweep).id)
        configs = flattened(args.configs or []) or TARGETS[args.target].menu(checkpoint)
        configs += [config for config in pinned_configs(args.pin, checkpoint) if config not in configs]
        if not configs:
            raise ConfigError(f"{TARGETS[args.target].label} can load none of the weights of {checkpoint} quantized")
        names = planned_names(checkpoint, args.tensors)
        sizes = [checkpoint.spec(name).size for name in names]
        check_grid(len(configs), sizes)
        importance = importance_for(args.importance, checkpoint) if args.importance is not None else None
        with Bar() as bar:
            try:
                return store.run(
                    checkpoint, configs, names, title=kept_as(checkpoint, args.importance),
                    location=public(checkpoint.location), on_progress=by_weights(bar, sizes), importance=importance,
                )  # fmt: skip
            except (KeyboardInterrupt, Cancelled):
                note("what is finished is in the store: the same command goes on from there")
                raise


def planned_names(checkpoint: Checkpoint, patterns: Sequence[str]) -> list[str]:
    """The weights, and what globs take in besides, in the checkpoint's order."""
    if not patterns:
        return names_of_weights(checkpoint)
    asked = set(select(checkpoint, patterns))
    return [name for name in checkpoint.names if name in asked or is_weight(checkpoint.spec(name))]


def pinned_configs(pins: Iterable[Pin], checkpoint: Checkpoint) -> list[QuantConfig]:
    """What pins give to tensors, which has to be measured as well, each once."""
    specs = [checkpoint.spec(name) for name in checkpoint.names]
    given = {pin.choice(spec) for pin in pins for spec in specs if matches(spec.name, pin.pattern)}
    return [QuantConfig.parse(choice) for choice in sorted(given - {COPY})]


def tell(found: Problem) -> None:
    """Say what was left out, and why."""
    for sentence in found.notes:
        note(sentence)
    by_reason: dict[str, list[str]] = {}
    for left in found.left:
        by_reason.setdefault(left.reason, []).append(left.what)
    for reason, what in list(by_reason.items())[:SHOWN]:
        more = f" and {len(what) - 1:,} more" if len(what) > 1 else ""
        note(f"left out: {what[0]}{more}: {reason}")


def facts(plan: Plan) -> dict[str, Any]:
    """What follows from a plan, for a program."""
    return {
        "proved": plan.proved,
        "relative_gap": plan.relative_gap,
        "counts": plan.counts,
        "not_better_under": plan.not_better_under,
    }


def show(plan: Plan, found: Problem) -> None:
    """Print what a plan is made of, and what it comes to."""
    tensors, nbytes = plan.counts, Counter[str]()
    for unit in plan.units:
        nbytes[unit.choice] += unit.nbytes
    rows = [[choice, f"{count:,}", f"{nbytes[choice]:,}"] for choice, count in tensors.items()]
    show_table(["config", "tensors", "bytes"], rows, "<>>")
    print(
        f"\n{plan.nbytes:,} bytes ({size_text(plan.nbytes)}), {figure(plan.bits_per_weight, '.3f')} bits per weight, "
        f"for {TARGETS[plan.target].label}; asked for {plan.budget}"
    )
    print(f"{optimality(plan)}. Predicted from weights alone")
    for sentence in [*beside(plan), *fewer(plan, found.simpler(plan))]:
        print(sentence)


def optimality(plan: Plan) -> str:
    """What is minimised, and how near to the least it is."""
    if plan.proved:
        return f"optimal for: {plan.meaning}"
    return f"within {plan.relative_gap:.1g} of the optimum for: {plan.meaning}"


def beside(plan: Plan) -> list[str]:
    """What stands beside a plan: the best uniform configuration of its size, and the next one above."""
    found = []
    if plan.uniform:
        found.append(f"{compared(plan.damage, plan.uniform)} ({plan.uniform.nbytes:,} bytes)")
        if plan.not_better_under:
            found.append(f"not better than that under: {', '.join(plan.not_better_under)}")
    else:
        found.append("no configuration for all of them fits into so little")
    if plan.above:
        more = size_text(plan.above.nbytes - plan.limit)
        found.append(f"{more} above the budget, everything is {plan.above.config}{copies(plan.above)}")
    return found


def fewer(plan: Plan, other: Plan) -> list[str]:
    """What a plan of fewer configurations is, which what is minimised cannot rank below."""
    kinds, less = (len(set(each.choices.values()) - {COPY}) for each in (plan, other))
    if less >= kinds:
        return []
    return [f"within 1 % of the damage, with {less} configurations in place of {kinds}: {other.nbytes:,} bytes"]


def compared(damage: float, uniform: Uniform) -> str:
    """A damage beside that of one configuration for all."""
    less = 100 * (1 - damage / uniform.damage) if uniform.damage else 0.0
    size = f"{less:.0f} % less damage than" if less >= 0.5 else "about the damage of"
    return f"{size} {uniform.config} everywhere{copies(uniform)}"


def copies(uniform: Uniform) -> str:
    """How many tensors a configuration is not for."""
    return f", {counted(uniform.copied, 'tensor')} copied" if uniform.copied else ""
