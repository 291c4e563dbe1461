"""Rows of a sweep in the database, and back: to the last bit."""

import json
import struct
from collections.abc import Iterable

from ..core.config import QuantConfig
from .database import Database
from .sweep import FIGURES, Row, labels, refused_rows

# The ratio is not a figure of the values: it follows from the bytes that they take where they come from.
KEPT = [figure for figure in FIGURES if figure != "compression_ratio"]
LAYOUT = struct.Struct(f"<{len(KEPT)}d")


def rows_of(database: Database, id: str, positions: Iterable[int] | None = None) -> dict[str, list[Row]]:
    """The rows of every finished tensor of a sweep, or of some, by name and in the sweep's order."""
    chosen = None if positions is None else json.dumps(list(positions))
    with database.reading() as sql:
        found = sql.execute(
            "SELECT t.name, t.shape, t.nbytes, t.fault, c.slug, r.figures, r.reason FROM sweeps s "
            "JOIN sweep_tensors t ON t.sweep = s.id JOIN sweep_configs c ON c.sweep = s.id "
            "LEFT JOIN results r ON r.fingerprint = t.fingerprint AND r.engine = s.engine AND r.slug = c.slug "
            "WHERE s.id = ?1 AND t.done AND (?2 IS NULL OR t.position IN (SELECT value FROM json_each(?2))) "
            "ORDER BY t.position, c.position",
            (id, chosen),
        ).fetchall()
    rows: dict[str, list[Row]] = {}
    with database.decoding():
        configs = {slug: QuantConfig.parse(slug) for slug in {entry[4] for entry in found}}
        for name, shape, nbytes, fault, slug, figures, reason in found:
            why = reason if reason is not None else fault
            row = row_of(as_text(name), tuple(json.loads(shape)), nbytes, configs[slug], figures, why)
            rows.setdefault(row["tensor"], []).append(row)
    return rows


def row_of(
    name: str, shape: tuple[int, ...], nbytes: int, config: QuantConfig, figures: bytes | None, why: bytes | None
) -> Row:
    """A row as `tensor_rows` made it, to the last bit."""
    if figures is None:
        return refused_rows(name, shape, [config], as_text(why or b""))[0]
    row = {**labels(name, shape, config), **dict(zip(KEPT, LAYOUT.unpack(figures), strict=True))}
    row["nbytes"] = int(row["nbytes"])
    return {**row, "compression_ratio": nbytes / row["nbytes"]}


def kept(row: Row) -> tuple[bytes | None, bytes | None]:
    """What the store keeps of a row: its figures, or the reason why there are none."""
    if "reason" in row:
        return None, as_bytes(row["reason"])
    return LAYOUT.pack(*(row[figure] for figure in KEPT)), None


def as_bytes(text: str) -> bytes:
    """Any text, as the database holds it."""
    return text.encode(errors="surrogatepass")


def as_text(data: bytes) -> str:
    """The inverse of `as_bytes`."""
    return data.decode(errors="surrogatepass")
