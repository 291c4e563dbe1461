"""What `quantize`, `export` and `verify` say about a packed file, to people and to programs."""

import itertools
from typing import Any

import pandas as pd

from ..errors import ExportError
from ..formats.files import shown, size_text
from ..recipe import Assignment
from ..shipping import Shipment
from ..sweep import shape_text
from ..tables import json_text, whole_bytes
from .terminal import counted, figure, note, show_table

SHOWN_NAMES = 8


def preview(assignment: Assignment, as_json: bool) -> None:
    """Show which tensor would get what, and what it comes to."""
    if as_json:
        print(json_text({**sizes(assignment), "tensors": planned(assignment), "left_out": left_out(assignment)}))
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
    tell_left_out(assignment)


def planned(assignment: Assignment) -> list[dict[str, Any]]:
    """What every tensor would get."""
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


def report(shipment: Shipment, as_json: bool) -> None:
    """Show what was written, as it was read back. ExportError if that is not what a sweep measures."""
    assignment, equal = shipment.assignment, shipment.equal
    written = shipment.path.stat().st_size
    if as_json:
        content = {"file": str(shipment.path), "format": shipment.format, "file_nbytes": written, **sizes(assignment)}
        content |= {"equal_to_sweep": bool(equal.all()), "tensors": records(shipment.found)}
        print(json_text({**content, "left_out": left_out(assignment)}))
    else:
        show_figures(shipment.found)
        print(f"\n{summary(assignment)}")
        tell_left_out(assignment)
    if not equal.all():
        name = shipment.found["tensor"][int(equal.argmin())]
        raise ExportError(
            f"{shown(str(shipment.path))} was written, but {shown(name)} measures differently once it is read back: "
            "do not use the file, and report this"
        )
    if not as_json:
        place = f"{shown(str(shipment.path))}, {size_text(written)}"
        print(f"Wrote {place}. Read back and measured again: every figure is the sweep's.")


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
    """The figures of all tensors together."""
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


def left_out(assignment: Assignment) -> list[dict[str, str]]:
    """The tensors that are not in the file, and why."""
    return [{"tensor": item.spec.name, "reason": item.reason} for item in assignment.left]


def tell_left_out(assignment: Assignment) -> None:
    """Say which tensors are not in the file, and why."""
    if assignment.left:
        note(f"{counted(len(assignment.left), 'tensor')} not quantized and not in the file:")
    by_reason = sorted(left_out(assignment), key=lambda item: item["reason"])
    for reason, items in itertools.groupby(by_reason, key=lambda item: item["reason"]):
        names = [item["tensor"] for item in items]
        more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
        note(f"  {reason}: {', '.join(names[:SHOWN_NAMES])}{more}")
