"""quantlab sweep: error and size of many configurations, without writing any."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..core.config import QuantConfig
from ..errors import Cancelled, ClusterError, ConfigError, check_integer
from ..formats import Checkpoint, TensorSpec, open_checkpoint
from ..formats.input.remote import public
from ..formats.output.exporting import check_not_source
from ..late import pandas as pd
from ..shipping.recipe import select
from ..sweeping.cluster import ClusterRunner
from ..sweeping.database import FOLDER_VARIABLE
from ..sweeping.estimate import Estimate, estimate, roughly
from ..sweeping.refusals import foretold, refusals
from ..sweeping.sampled import SHARE, sampled
from ..sweeping.store import ResultStore
from ..sweeping.sweep import MAX_EVALUATIONS, MAX_ROWS, Progress, Runner, check_grid, stream, sweep
from ..sweeping.tables import json_text
from ..sweeping.weights import weights_of
from ..wording import counted, shown, size_text
from .grid import add_grid, chosen
from .importance import HELP, importance_for, kept_as
from .options import UsageError, add_file, add_tensors, command, examples, one
from .results import COLUMNS_HELP, SHOWN_REASONS, add_results, deliver, destination, tell_refused
from .terminal import Bar, note

TEXT = f"""\
The options make a grid: every dtype with every mapping, granularity, calibration and scale dtype.
What does not go together is left out, and said so. Each tensor is read once, whatever the number
of configurations, and the next one while this one is computed: a sweep takes the memory of the two
largest tensors.

{COLUMNS_HELP}

With --store, rows are kept on disk as each tensor ends. Interrupted or killed, the same command
goes on where it was; what is in the store already, of this file or of another one with the same
values, is not computed again. "quantlab sweeps" lists what is there.

With --cluster, the tensors are measured by the workers of a Dask cluster, and the figures are the
same. The workers read FILE themselves: all of them must find it under this path, or it is a URL. A
cluster runs what it is sent, and its answers are trusted: use none that you do not trust.

examples:
{
    examples(
        ("the usual suspects", "sweep model.safetensors"),
        (
            "4 bits: which groups, which range",
            "sweep model.safetensors --dtype int4 --granularity g32 g64 g128 --calibration minmax mse",
        ),
        ("two in particular, on one tensor", "sweep model.safetensors --config w4_g128 fp16 --tensors lm_head.weight"),
        ("every figure of every tensor, for a spreadsheet", "sweep model.safetensors --csv sweep.csv"),
        ("how long it will take, and how much memory", "sweep model.safetensors --dtype int4 int8 --dry-run"),
        ("one that survives the night", "sweep model.safetensors --dtype int4 int8 --store"),
        ("a first answer for a large model", "sweep model/ --sample"),
        ("on other machines", "sweep s3://bucket/model/ --cluster tcp://scheduler:8786 --store"),
    )
}"""
FOLDER_HELP = f"""\
default: the folder that the environment variable {FOLDER_VARIABLE} names, or quantlab in your folder of caches"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(
        commands, "sweep", run, "measure error and size of many configurations; no weights are written", TEXT
    )
    add_file(parser)
    add_tensors(parser)
    add_grid(parser)
    add_results(parser)
    parser.add_argument(
        "--store", metavar="FOLDER", nargs="?", const="",
        help=f"keep every row in FOLDER, and do not compute again what is there; {FOLDER_HELP}",
    )  # fmt: skip
    parser.add_argument(
        "--sample", metavar="N", nargs="?", const=SHARE, type=one(share),
        help=f"measure one row in N of each tensor (default: {SHARE}), drawn at random: a first answer, with +- dB, "
        "the standard error of each SQNR; per tensor, and channels along another axis than the first, are left out",
    )  # fmt: skip
    parser.add_argument(
        "--importance", metavar="IMATRIX",
        help=f"weight errors by what their inputs are: a column more, weighted_sqnr_db; {HELP}",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true",
        help="say how many rows, how long and how much memory, after a second of timing; with --json - for a program",
    )  # fmt: skip
    parser.add_argument(
        "--cluster", metavar="ADDRESS",
        help="measure on the Dask cluster whose scheduler is at tcp://HOST:PORT; needs requirements-cluster.txt",
    )  # fmt: skip
    parser.add_argument(
        "--workers", metavar="N", type=one(workers),
        help="threads to use at most; default: one per core. With --cluster, those of a task; default: what is free",
    )  # fmt: skip
    parser.add_argument(
        "--max-rows", metavar="N", type=one(limit), default=MAX_ROWS,
        help=f"refuse a grid of more rows (default: {MAX_ROWS:,})",
    )  # fmt: skip
    parser.add_argument(
        "--max-evaluations", metavar="N", type=one(limit), default=MAX_EVALUATIONS,
        help=f"refuse a grid of more values x configurations (default: {MAX_EVALUATIONS:,})",
    )  # fmt: skip


def workers(text: str) -> int:
    """A number of threads."""
    return check_integer("the number of workers", int(text) if text.isdecimal() else text, 1, 1024)


def share(text: str) -> int:
    """One row in how many."""
    return check_integer("the sample", int(text) if text.isdecimal() else text, 1, 1 << 20)


def limit(text: str) -> int:
    """A limit of a grid."""
    return check_integer("the limit", int(text) if text.isdecimal() else text, 1, 10**24)


def run(args: argparse.Namespace) -> None:
    """Sweep, and print or write the table."""
    if args.sample and (args.store is not None or args.cluster):
        raise UsageError("--sample is measured here and not kept: leave out --store and --cluster")
    configs, impossible = chosen(args)
    writer, path = destination(args)
    with open_checkpoint(args.file) as checkpoint:
        if path:
            check_not_source(path, checkpoint)
        names = select(checkpoint, args.tensors)
        specs = [checkpoint.spec(name) for name in names]
        check_grid(len(configs), [spec.size for spec in specs], args.max_rows, args.max_evaluations)
        if args.dry_run:
            show_estimate(estimate(configs, specs), as_json=writer == "json")
            tell_left(checkpoint, args.tensors)
            tell_foretold(configs, specs, each=True)
            return
        tell_foretold(configs, specs, each=False)
        frame = measured_frame(args, checkpoint, configs, names)
        tell_left(checkpoint, args.tensors)
        tell_scope(checkpoint, configs, impossible, frame)
    deliver(frame, writer, path, args.each, args.totals)


def measured_frame(
    args: argparse.Namespace, checkpoint: Checkpoint, configs: list[QuantConfig], names: list[str]
) -> pd.DataFrame:
    """The table, computed, or taken from the store as far as it is there."""
    sizes = [checkpoint.spec(name).size for name in names]
    runner: Runner = ClusterRunner(args.cluster).stream if args.cluster else stream
    if args.sample:
        runner = partial(sampled, share=args.sample)
    importance = importance_for(args.importance, checkpoint) if args.importance else None
    with Bar() as bar:
        progress = bar if args.cluster else by_weights(bar, sizes)  # a cluster takes tensors as they come
        if args.store is None:
            return sweep(checkpoint, configs, names, args.workers, progress, runner=runner, importance=importance)
        with ResultStore(args.store or None) as store:
            try:
                frame = store.run(
                    checkpoint, configs, names, title=kept_as(checkpoint, args.importance),
                    location=public(checkpoint.location), workers=args.workers, on_progress=progress, runner=runner,
                    importance=importance,
                )  # fmt: skip
            except (KeyboardInterrupt, Cancelled, ClusterError):
                note("what is finished is in the store: the same command goes on from there")
                raise
    held = frame.attrs["held"]
    note(f"{held:,} of {counted(len(frame), 'row')} were in the store {store.path.parent}")
    return frame


def show_estimate(found: Estimate, as_json: bool) -> None:
    """Print what the sweep amounts to."""
    if as_json:
        print(json_text({
            "configs": found.configs, "tensors": found.tensors, "rows": found.rows, "values": found.values,
            "evaluations": found.evaluations, "seconds": found.seconds, "peak_nbytes": found.peak_bytes,
            "refused_rows": found.refused,
        }))  # fmt: skip
        return
    scope = f"{counted(found.configs, 'configuration')} x {counted(found.tensors, 'tensor')}"
    print(f"rows         {found.rows:,} ({scope})")
    print(f"evaluations  {found.evaluations:,} ({found.values:,} values under each configuration)")
    print(f"time         {roughly(found.seconds)} on this machine, longer where it has other work")
    print(f"memory       about {size_text(found.peak_bytes)} at most, the program's own included")


def by_weights(on_progress: Progress, sizes: Sequence[int]) -> Progress:
    """Progress in weights in place of rows: a row about a large tensor takes longer than one about a small one."""
    before = [0, *itertools.accumulate(sizes)]

    def report(done: int, total: int, label: str) -> None:
        tensor, share = divmod(done * len(sizes), total)  # the rows of a tensor follow each other
        within = share * sizes[tensor] // total if tensor < len(sizes) else 0
        on_progress(before[tensor] + within, before[-1], label)

    return report


def tell_left(checkpoint: Checkpoint, asked: Sequence[str]) -> None:
    """Say which tensors were not swept, unless somebody chose."""
    if not asked and (left := weights_of(checkpoint).told()):
        note(f"left alone unless --tensors names them: {left}")


def tell_foretold(configs: Sequence[QuantConfig], specs: Sequence[TensorSpec], each: bool) -> None:
    """Say, before anything is read, what the shapes of tensors will refuse; `each` with the reasons."""
    sentences = foretold(configs, specs)
    for sentence in sentences[: SHOWN_REASONS if each else 0]:
        note(f"will have no figures: {sentence}")
    if sentences and not each:
        count = len(refusals(configs, specs))
        note(f"{counted(count, 'configuration')} will refuse tensors for their shapes: --dry-run says which, and why")


def tell_scope(checkpoint: Checkpoint, configs: list[QuantConfig], refusals: list[str], frame: pd.DataFrame) -> None:
    """Say what was swept and what was not. ConfigError if nothing could be."""
    refused = frame.attrs["refused"]
    if len(refused) == len(frame):
        raise ConfigError(f"nothing could be measured: {shown(refused[0]['tensor'])}: {refused[0]['reason']}")
    tensors = frame["tensor"].nunique()
    of = f" of {len(checkpoint.names):,}" if len(checkpoint.names) > tensors else ""
    note(f"{counted(len(configs), 'configuration')} x {counted(tensors, 'tensor')}{of}")
    for sentence in refusals:
        note(f"left out of the grid: {sentence}")
    tell_refused(frame)
