"""quantlab importance: what an importance file knows, and of which of a model's tensors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, ShapeError
from ..formats import Checkpoint, open_checkpoint
from ..planning.importance import Importance, Matched, match, read_importance
from ..planning.names import Place
from ..sweeping.sweep import shape_text
from ..sweeping.tables import json_text
from ..sweeping.weights import weights_of
from ..wording import counted, shown
from .options import command, examples
from .terminal import figure, note, show_table

HELP = "llama.cpp's imatrix (GGUF or .dat), or .npz or .safetensors with the mean squares of every weight's inputs"
SHOWN = 8  # names that a note lists

TEXT = f"""\
A weight's error costs what its input makes of it: an importance file has the mean square of every
input column, as a model saw them on some text. "quantlab sweep --importance" weights errors by it.
It is llama.cpp's imatrix (GGUF, or the older .dat), or .npz or .safetensors of arrays NAME: float
[inputs], or [experts, inputs]. Names are those of the model, or Hugging Face's and GGUF's for the
same tensor.

  inputs    columns of the weight; of a stack of experts: experts x inputs
  tokens    how many it was computed on; calls in a .dat, which does not say more; of a stack, all of it
  largest   the largest mean square over the mean of all: 1 where every input is alike
  without   experts that have seen no token: they count like the mean of the others

examples:
{
    examples(
        ("what is in a file", "importance imatrix.gguf"),
        ("whose it is", "importance imatrix.gguf --model model.safetensors"),
        ("for a program", "importance imatrix.gguf --model model/ --json"),
    )
}"""


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = command(
        commands, "importance", run, "show what an importance file knows, and of which of a model's tensors", TEXT
    )
    parser.add_argument("file", metavar="FILE", help=HELP)
    parser.add_argument("--model", metavar="MODEL", help="a model: show which of its tensors the file knows")
    parser.add_argument("--json", action="store_true", help="print JSON; null stands for what does not exist")


def run(args: argparse.Namespace) -> None:
    """Print what is in the file, and what of the model matches."""
    found = read_importance(args.file)
    if args.model is None:
        show(args.file, found, None, args.json)
        return
    with open_checkpoint(args.model) as checkpoint:
        matched = match(found, checkpoint)
        show(args.file, found, matched, args.json)
        if not args.json:
            tell_matched(matched, checkpoint)


def show(path: str, found: Importance, matched: Matched | None, as_json: bool) -> None:
    """A line per entry; with a model, what of it each one is."""
    tensors = by_entry(matched)
    if as_json:
        more = {} if matched is None else described(matched)
        about = {"file": path, "kind": found.kind, "origin": found.origin}
        print(json_text({**about, "entries": [record(found, name, tensors) for name in found.entries], **more}))
        return
    lines = []
    for name in found.entries:
        row = record(found, name, tensors)
        tokens = "-" if row["tokens"] is None else f"{row['tokens']:,.0f}"
        cells = [name, shape_text(row["shape"]), tokens, figure(row["largest"], ".4g"), f"{row['without_data']:,}"]
        lines.append(cells + ([] if matched is None else [listed(row["tensors"], 1) or "-"]))
    headers = ["entry", "inputs", "tokens", "largest", "without"] + ([] if matched is None else ["tensor"])
    show_table(headers, lines, "<<>>>" + "<" * (matched is not None))
    origin = f", {found.origin}" if found.origin else ""
    print(f"\n{shown(Path(path).name)}: {found.kind}, {counted(len(lines), 'weight')}{origin}")


def record(found: Importance, name: str, tensors: dict[str, list[str]]) -> dict[str, Any]:
    """What there is to say of an entry."""
    values, tokens = found.entries[name], found.counts.get(name)
    mean = float(values.mean(dtype=np.float64))
    return {
        "entry": name,
        "shape": values.shape,
        "tokens": None if tokens is None else float(tokens.sum()),
        "largest": float(values.max()) / mean if mean else float("nan"),
        "without_data": 0 if tokens is None else int((tokens == 0).sum()),
        "tensors": tensors.get(name, []),
    }


def by_entry(matched: Matched | None) -> dict[str, list[str]]:
    """The tensors that take their weights from each entry."""
    found: dict[str, list[str]] = {}
    for tensor, places in (matched.matched if matched else {}).items():
        for place in places:
            found.setdefault(place.name, []).append(tensor)
    return found


def described(matched: Matched) -> dict[str, Any]:
    """What matches, and what does not, for a program."""

    def said(place: Place) -> dict[str, Any]:
        return {"entry": place.name, "expert": place.expert}

    return {
        "matched": {tensor: [said(place) for place in places] for tensor, places in matched.matched.items()},
        "unmatched": matched.unmatched,
        "without_data": matched.without_data,
        "refused": matched.refused,
    }


def tell_matched(matched: Matched, checkpoint: Checkpoint) -> None:
    """Say on stderr what of a model has weights for its inputs, and what of the file is left over."""
    chosen = weights_of(checkpoint).names
    without = [name for name in chosen if name not in matched.weights]
    count = len(chosen) - len(without)
    note(f"importance is known of {count:,} of {counted(len(chosen), 'weight')} of {checkpoint}")
    if without and count:
        note(f"not of {listed(without)}")
    if matched.unmatched:
        note(f"of the file's entries, {len(matched.unmatched):,} are of no tensor of it: {listed(matched.unmatched)}")
    for name, experts in list(matched.without_data.items())[:SHOWN]:
        of = f"{counted(len(experts), 'expert')} of {shown(name)}" if name in matched.weights else shown(name)
        note(f"has seen no data: {of}")
    for name, why in list(matched.refused.items())[:SHOWN]:
        note(f"no importance for {shown(name)}: {why}")


def listed(names: Sequence[str], most: int = SHOWN) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def importance_for(path: str, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """The weights of inputs in a file for the tensors of a checkpoint; tells what matched, and what did not.

    ShapeError for a file of another model, by its shapes; ConfigError where it knows none of the tensors.
    """
    matched = match(read_importance(path), checkpoint)
    if matched.refused:
        name, why = next(iter(matched.refused.items()))
        more = f" (and {len(matched.refused) - 1:,} more)" if len(matched.refused) > 1 else ""
        raise ShapeError(
            f"{shown(Path(path).name)} does not fit {shown(name)}{more}: {why}; give the file of this model"
        )
    if not matched.weights:
        raise ConfigError(
            f"{shown(Path(path).name)} knows none of the tensors of {checkpoint}: give that of this model; quantlab "
            "importance FILE shows the names in it"
        )
    tell_matched(matched, checkpoint)
    return dict(matched.weights)


def kept_as(checkpoint: Checkpoint, path: str | None) -> str:
    """What a sweep is called in a store: two of one model that are weighted by different files can be told apart."""
    return f"{checkpoint.title}, weighted by {Path(path).name}" if path else checkpoint.title
