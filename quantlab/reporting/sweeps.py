"""A report's part on a sweep: what every configuration makes of the whole model."""

from __future__ import annotations

import math

import numpy as np

from ..late import pandas as pd
from ..sweeping.tables import measured, total, why_no_total
from ..wording import counted, size_text
from .page import Section, paragraph
from .svg import Series, chart, linear
from .tables import Table

HEADERS = ["configuration", "bits per weight", "size", "SQNR dB", "median dB", "worst dB", "worst tensor"]


def section(frame: pd.DataFrame) -> Section:
    """The figure, the table, and what has no total."""
    totals = ordered(frame)
    parts = [paragraph(lead(frame, totals), "soft")]
    if len(totals):
        parts += [figure(totals), table(totals).html()]
    parts += [paragraph(f"Not among the totals: {sentence}.", "soft") for sentence in why_no_total(frame)]
    return Section("Every configuration for the whole model", "\n".join(parts))


def lead(frame: pd.DataFrame, totals: pd.DataFrame) -> str:
    """What was measured."""
    tensors = counted(measured(frame)["tensor"].nunique(), "tensor")
    return (
        f"Measured: {tensors} under {counted(frame['config'].nunique(), 'configuration')}. SQNR is 1 over the mean "
        "of all tensors' relative squared errors, each weighted by its number of values. Named is a configuration that "
        f"no other one beats in both{'' if len(totals) else '. None has figures of all tensors'}."
    )


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """The totals, smallest first, and whether each is on the front: column `front`."""
    totals = total(frame).sort_values(["bits_per_weight", "sqnr_db"], ascending=[True, False], kind="stable")
    before = totals["sqnr_db"].cummax().shift(fill_value=-math.inf)
    return totals.assign(front=totals["sqnr_db"] > before)


def figure(totals: pd.DataFrame) -> str:
    """SQNR against bits per weight. What has no error at all has no place on it, and stands in the table."""
    drawn = totals[np.isfinite(totals["sqnr_db"])]
    if drawn.empty:
        return ""
    rows = drawn.to_dict("records")
    bits, sqnr = ([float(row[name]) for row in rows] for name in ("bits_per_weight", "sqnr_db"))
    told = [f"{row['config']}: {row['bits_per_weight']:.3f} bits per weight, {row['sqnr_db']:.2f} dB" for row in rows]
    named = [str(row["config"]) if row["front"] else "" for row in rows]
    dots = Series("one configuration for all tensors", "dot", bits, sqnr, told, named)
    axes = linear("bits per weight", bits), linear("SQNR in dB", sqnr)
    return chart([dots], *axes, f"SQNR against bits per weight of {counted(len(rows), 'configuration')}")


def table(totals: pd.DataFrame) -> Table:
    """The same in figures."""
    rows = [
        [
            str(row["config"]), f"{row['bits_per_weight']:.3f}", size_text(int(row["nbytes"])),
            *(decibels(row[name]) for name in ("sqnr_db", "median_sqnr_db", "worst_sqnr_db")), str(row["worst_tensor"]),
        ]
        for row in totals.to_dict("records")
    ]  # fmt: skip
    return Table(HEADERS, rows, frozenset({1, 2, 3, 4, 5}), frozenset({0, 6}))


def decibels(value: float) -> str:
    """A figure in dB; that of no error at all in words."""
    return "exact" if value == math.inf else "" if math.isnan(value) else f"{value:.2f}"
