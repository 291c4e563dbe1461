"""What `quantize`, `export` and `verify` say about a packed file, to people and to programs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ..errors import ExportError
from ..formats import FORMATS
from ..late import pandas as pd
from ..shipping.recipe import Assignment, Item
from ..shipping.shipping import Shipment
from ..sweeping.sweep import shape_text
from ..sweeping.tables import json_text, whole_bytes
from ..wording import counted, shown, size_text
from .terminal import figure, note, show_table

SHOWN_NAMES = 8


def preview(assignment: Assignment, as_json: bool, whole: tuple[int, int] | None = None) -> None:
    """Show which tensor would get what, and what it comes to; `whole`: bytes of the export to be, and of the source."""
    if as_json:
        files = {"file_nbytes": whole[0], "source_file_nbytes": whole[1]} if whole else {}
        print(json_text({**files, **sizes(assignment), "tensors": planned(assignment), **others(assignment)}))
        return
    rows = [
        [
            item.spec.name, str(item.config), item.spec.dtype, shape_text(item.spec.shape), f"{item.source_nbytes:,}",
            f"{item.nbytes:,}", f"{item.source_nbytes / item.nbytes:.2f}",
        ]
        for item in assignment.taken
    ]  # fmt: skip
    show_table(["tensor", "config", "type", "shape", "bytes", "packed", "ratio"], rows, "<<<<>>>")
    print(f"\n{summary(assignment)}; nothing was written")
    if whole:
        print(f"The export would have {_beside(*whole)}")
    tell_others(assignment)


def planned(assignment: Assignment) -> list[dict[str, Any]]:
    """What every quantized tensor would be."""
    return [
        {
            "tensor": item.spec.name,
            "shape": item.spec.shape,
            "config": str(item.config),
            "source_nbytes": item.source_nbytes,
            "nbytes": item.nbytes,
        }
        for item in assignment.taken
    ]


def report(shipment: Shipment, as_json: bool, with_snippet: bool, source_nbytes: int) -> None:
    """Show what was written, as it was read back, and the bytes of the source's files beside it.

    Raises ExportError if it is not what was measured before.
    """
    assignment, equal, snippet = shipment.assignment, shipment.equal, FORMATS[shipment.format].snippet
    code = snippet(shipment.path, shipment.path) if snippet and with_snippet else ""
    if as_json:
        content = {"file": str(shipment.path), "format": shipment.format, "file_nbytes": shipment.file_nbytes}
        content["source_file_nbytes"] = source_nbytes
        content |= {**sizes(assignment), "equal_to_sweep": bool(equal.all()), "note": shipment.note}
        content |= {"snippet": code} if with_snippet else {}
        print(json_text({**content, "tensors": records(shipment.found), **others(assignment)}))
    else:
        show_figures(shipment.found)
        print(f"\n{summary(assignment)}")
        tell_others(assignment)
    if not equal.all():
        name = shipment.found["tensor"][int(equal.argmin())]
        raise ExportError(
            f"{shown(str(shipment.path))} was written, but {shown(name)} measures differently once it is read back: "
            "do not use the file, and report this"
        )
    if not as_json:
        figures = f"are the format's own, as {shipment.note}" if shipment.note else "are the sweep's"
        whole = _beside(shipment.file_nbytes, source_nbytes)
        print(f"Wrote {shown(str(shipment.path))}, {whole}. Read back and measured again: ", end="")
        print(f"the figures {figures}.")
        if code:
            print(f"\n{code}", end="")


def _beside(nbytes: int, source: int) -> str:
    """The size of an export, beside that of its source."""
    return f"{size_text(nbytes)}, the source has {size_text(source)}: ratio {source / nbytes:.2f}"


def records(found: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table of figures."""
    return whole_bytes(found).to_dict("records")  # type: ignore[return-value]


def show_figures(found: pd.DataFrame) -> None:
    """Print a line per tensor of a packed file."""
    rows = [
        [
            row["tensor"], row["config"], figure(row["sqnr_db"], ".2f"),
            figure(row["bits_per_weight"], ".3f"), figure(row["compression_ratio"], ".2f"), f"{row['nbytes']:,}",
        ]
        for row in found.to_dict("records")
    ]  # fmt: skip
    show_table(["tensor", "config", "SQNR dB", "bits/wt", "ratio", "bytes"], rows, "<<>>>>")


def sizes(assignment: Assignment) -> dict[str, Any]:
    """The figures of all quantized tensors together."""
    return {
        "nbytes": assignment.nbytes,
        "source_nbytes": assignment.source_nbytes,
        "bits_per_weight": assignment.bits_per_weight,
        "compression_ratio": assignment.compression_ratio,
    }


def summary(assignment: Assignment) -> str:
    """The same in words."""
    return (
        f"{counted(len(assignment.taken), 'tensor')}, {size_text(assignment.source_nbytes)} in "
        f"{size_text(assignment.nbytes)}: {assignment.bits_per_weight:.3f} bits per weight, ratio "
        f"{assignment.compression_ratio:.2f}"
    )


def others(assignment: Assignment) -> dict[str, Any]:
    """The tensors that are not quantized: copied into the file, or left out for a reason."""
    return {
        "copied": [
            {"tensor": item.spec.name, "nbytes": item.nbytes, "reason": item.reason} for item in assignment.copied
        ],
        "left_out": [{"tensor": item.spec.name, "reason": item.reason} for item in assignment.left],
        "remarks": list(assignment.remarks),
    }


def tell_others(assignment: Assignment) -> None:
    """Say what is to be known of the file, which tensors are not quantized, and why."""
    for remark in assignment.remarks:
        note(remark)
    if assignment.copied:
        size = size_text(assignment.copied_nbytes)
        note(f"{counted(len(assignment.copied), 'tensor')} copied unchanged ({size}): {listed(assignment.copied)}")
        if assignment.refused:
            note(f"  {len(assignment.refused):,} of them cannot be quantized so: {assignment.refused[0].reason}")
        if kept := [item for item in assignment.copied if item.reason and not item.refused]:
            note(f"  no rule takes or copies {len(kept):,} of them, but a model is written again as a whole")
    if assignment.left:
        note(f"{counted(len(assignment.left), 'tensor')} not quantized and not in the file:")
    by_reason = sorted(assignment.left, key=lambda item: item.reason)
    for reason, items in itertools.groupby(by_reason, key=lambda item: item.reason):
        note(f"  {reason}: {listed(list(items))}")


def listed(items: Sequence[Item]) -> str:
    """The names of the first few."""
    more = f" and {len(items) - SHOWN_NAMES:,} more" if len(items) > SHOWN_NAMES else ""
    return ", ".join(item.spec.name for item in items[:SHOWN_NAMES]) + more
