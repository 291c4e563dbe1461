"""Rows of a sweep in the database, and back: to the last bit."""

import json
import math
import struct
from collections.abc import Iterable

from ..core.config import QuantConfig
from .database import WHOLE, Database
from .sweep import FIGURES, WEIGHTED, Row, labels, refused_rows

# The figures of a row, as float64 one after the other. A new one goes to the end: rows of earlier versions have the
# first of these, and no others. The ratio is not among them: it follows from the bytes that a tensor takes where it is.
KEPT = (
    "sqnr_db",
    "mse",
    "rmse",
    "mae",
    "max_abs_error",
    "cosine",
    "clipped_fraction",
    "nbytes",
    "bits_per_weight",
    "worst_channel_sqnr_db",
    "zeroed_fraction",
    "channels_sqnr_db",
    WEIGHTED,
)
FEWEST = 9  # figures of the first rows that there were
LOST = "what was kept of it is damaged: run the sweep again, and it is measured anew"


def rows_of(database: Database, id: str, positions: Iterable[int] | None = None) -> dict[str, list[Row]]:
    """The rows of every finished tensor of a sweep, or of some, by name and in the sweep's order."""
    chosen = None if positions is None else json.dumps(list(positions))
    with database.reading() as sql:
        damaged = sql.execute(
            f"SELECT count(*) FROM sweep_tensors WHERE sweep = ?1 AND NOT {WHOLE['sweep_tensors']} "
            "AND (?2 IS NULL OR position IN (SELECT value FROM json_each(?2)))",
            (id, chosen),
        ).fetchone()[0]
        database.check(not damaged)
        found = sql.execute(
            f"SELECT t.name, t.shape, t.nbytes, t.fault, c.slug, figures, reason, {WHOLE['results']} FROM sweeps s "
            "JOIN sweep_tensors t ON t.sweep = s.id JOIN sweep_configs c ON c.sweep = s.id LEFT JOIN results "
            "ON results.fingerprint = t.fingerprint AND results.engine = s.engine AND results.slug = c.slug "
            "WHERE s.id = ?1 AND t.done AND (?2 IS NULL OR t.position IN (SELECT value FROM json_each(?2))) "
            "ORDER BY t.position, c.position",
            (id, chosen),
        ).fetchall()
    rows: dict[str, list[Row]] = {}
    with database.decoding():
        configs = {slug: QuantConfig.parse(slug) for slug in {entry[4] for entry in found}}
        for name, shape, nbytes, fault, slug, figures, reason, whole in found:
            if not whole:  # or not there, as of a tensor that could not be read
                figures, reason = None, fault if fault is not None else as_bytes(LOST)
            row = row_of(as_text(name), tuple(json.loads(shape)), nbytes, configs[slug], figures, reason)
            rows.setdefault(row["tensor"], []).append(row)
    return rows


def row_of(
    name: str, shape: tuple[int, ...], nbytes: int, config: QuantConfig, figures: bytes | None, why: bytes | None
) -> Row:
    """A row as `tensor_rows` made it, to the last bit; figures that its engine had not are NaN."""
    if figures is None:
        return refused_rows(name, shape, [config], as_text(why or b""))[0]
    count = max(len(figures) // 8, FEWEST)
    known = struct.unpack(f"<{count}d", figures)[: len(KEPT)]
    found: Row = {**dict.fromkeys(KEPT, float("nan")), **dict(zip(KEPT, known, strict=False))}
    found["nbytes"] = int(found["nbytes"])
    if math.isnan(found[WEIGHTED]):  # inputs without weights
        del found[WEIGHTED]
    found["compression_ratio"] = nbytes / found["nbytes"]
    return {**labels(name, shape, config), **dict.fromkeys(FIGURES), **found}


def kept(row: Row) -> tuple[bytes | None, bytes | None]:
    """What the store keeps of a row: its figures, or the reason why there are none."""
    if "reason" in row:
        return None, as_bytes(row["reason"])
    return struct.pack(f"<{len(KEPT)}d", *(row.get(figure, math.nan) for figure in KEPT)), None


def as_bytes(text: str) -> bytes:
    """Any text, as the database holds it."""
    return text.encode(errors="surrogatepass")


def as_text(data: bytes) -> str:
    """The inverse of `as_bytes`."""
    return data.decode(errors="surrogatepass")
