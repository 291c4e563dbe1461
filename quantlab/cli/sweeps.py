"""quantlab sweeps: the sweeps in a store, listed, shown and deleted."""

import argparse
from dataclasses import asdict
from typing import Any

from ..errors import ConfigError
from ..sweeping.store import ResultStore, SweepRecord
from ..sweeping.tables import json_text
from ..wording import counted
from .options import UsageError, command, examples
from .results import COLUMNS_HELP, add_results, deliver, destination, tell_refused
from .sweep import FOLDER_HELP
from .terminal import note, show_table

ACTIONS = ("list", "show", "delete")
USAGE = "quantlab sweeps [list | show ID | delete ID ...] [options]"
TEXT = f"""\
"quantlab sweep FILE --store" keeps its rows in a store; this is what is in it.

  list         one line per sweep, the newest first; --json - for a program
  show ID      its table, as "quantlab sweep" shows and writes it, finished or not
  delete ID    forget it, and the rows that no other sweep uses

An ID may be cut short as long as it is that of one sweep only. A sweep that is not finished goes on
when the command that began it is given again.

{COLUMNS_HELP}

examples:
{
    examples(
        ("what is there", "sweeps"),
        ("one of them, every row", "sweeps show 3fa2 --csv sweep.csv"),
        ("forget two", "sweeps delete 3fa2 77"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(commands, "sweeps", run, "list, show and delete the sweeps that were kept", TEXT)
    parser.usage = USAGE
    parser.add_argument("action", choices=ACTIONS, nargs="?", default="list", help="what to do (default: list)")
    parser.add_argument("ids", metavar="ID", nargs="*", help="sweeps, by the first letters of their ids")
    parser.add_argument("--store", metavar="FOLDER", default="", help=f"where the sweeps are kept; {FOLDER_HELP}")
    add_results(parser)


def run(args: argparse.Namespace) -> None:
    """Do what is asked for."""
    if args.action == "list" and args.ids:
        raise UsageError("list takes no ID: did you mean show?")
    if args.action == "show" and len(args.ids) != 1:
        raise UsageError("show takes the ID of one sweep: quantlab sweeps lists them")
    if args.action == "delete" and not args.ids:
        raise UsageError("delete takes the IDs of one sweep or more: quantlab sweeps lists them")
    if not all(args.ids):
        raise UsageError("'' is the ID of no sweep: quantlab sweeps lists them")
    writer, path = destination(args)
    if args.action != "show" and (path or args.each or writer not in (None, "json")):
        raise UsageError("a table to show or write is that of one sweep: quantlab sweeps show ID")
    with ResultStore(args.store or None) as store:
        found = [named(store, text) for text in args.ids]
        if args.action == "list":
            show_list(store, as_json=writer == "json")
        elif args.action == "delete":
            for record in found:
                store.delete(record.id)
                note(f"deleted {record.id}: {words(record)}")
        else:
            frame = store.frame(found[0].id)
            tell(found[0])
            tell_refused(frame)
            deliver(frame, writer, path, args.each, args.totals)


def named(store: ResultStore, text: str) -> SweepRecord:
    """The sweep whose id begins so. ConfigError if there is none, or more than one."""
    found = [record for record in store.sweeps() if record.id.startswith(text)]
    if len(found) > 1:
        raise ConfigError(f"{len(found)} sweeps have ids that begin with {text!r}: give more letters")
    return found[0] if found else store.record(text)


def show_list(store: ResultStore, as_json: bool) -> None:
    """Print every sweep."""
    records = store.sweeps()
    if as_json:
        print(json_text([
            asdict(record)
            | {"created": record.created.isoformat(), "updated": record.updated.isoformat()}
            | {"complete": record.complete, "current": record.current}
            for record in records
        ]))  # fmt: skip
        return
    lines = [
        [
            record.id,
            record.updated.astimezone().strftime("%Y-%m-%d %H:%M"),
            f"{record.rows_done:,}/{record.rows_total:,}",
            f"{record.tensors:,}",
            f"{len(record.configs):,}",
            f"{record.title}  {record.location}" if record.location else record.title,
        ]
        for record in records
    ]
    if lines:
        show_table(["id", "last change", "rows", "tensors", "configs", "of"], lines, "<<>>><", name=5)
    note(f"{counted(len(records), 'sweep')} in {store.path.parent}")


def tell(record: SweepRecord) -> None:
    """Say which sweep a table is of, and what it lacks."""
    note(words(record))
    if not record.complete:
        note(f"{record.rows_done:,} of {record.rows_total:,} rows are there: the command that began it goes on with it")
    if not record.current:
        note("measured by another version of quantlab, whose figures may differ from this one's")


def words(record: SweepRecord) -> str:
    """A sweep in a line."""
    return f"{record.title}: {counted(len(record.configs), 'configuration')} x {counted(record.tensors, 'tensor')}"
