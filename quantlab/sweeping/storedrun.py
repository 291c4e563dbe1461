"""One sweep of a store while it runs: found or entered, then saved tensor by tensor."""

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from ..core import pool
from ..core.config import QuantConfig
from ..core.inputs import Weighting
from ..errors import Cancelled, QuantlabError, StoreError
from ..wording import shown
from .database import SEAL, WHOLE, Database
from .identity import engine_version, files_stamp, fingerprint
from .sources import TensorSource
from .storedrows import as_bytes, as_text, kept, rows_of
from .sweep import OnRows, Progress, Row, Runner, SweepRequest, channel_axis_of


@dataclass
class StoredRun:
    """One sweep while it runs. `wanted` is called on the reader's thread, the rest on the one that runs the sweep."""

    database: Database
    source: TensorSource
    configs: list[QuantConfig]
    names: list[str]
    cancel: Callable[[], bool] | None
    importance: Mapping[str, Weighting] = field(default_factory=dict)
    id: str = ""
    known: dict[str, bytes] = field(default_factory=dict)  # fingerprints by name

    def __post_init__(self) -> None:
        self.engine = engine_version()
        self.specs = [self.source.spec(name) for name in self.names]
        self.place = {name: position for position, name in enumerate(self.names)}
        self.stamp = files_stamp(self.source)
        self.path = as_bytes(str(getattr(self.source, "location", "")))
        digests = b"".join(self.importance[name].digest() for name in self.names if name in self.importance)
        # Where fingerprints are remembered of tensors with weights, which belong to them: no path has a NUL.
        self.weighted_path = self.path + b"\0" + hashlib.sha256(digests).digest()
        self.outline = self._outline()

    # -- the beginning

    def begin(self, title: str, location: str) -> None:
        """Find the sweep in the store, or enter it."""
        self._remember_files()
        while True:
            seen = self._candidates()
            found = next((id for id, place in seen if self._is_same(id, place, as_bytes(location))), None)
            with self.database.writing() as sql:
                if found is None and self._candidates() != seen:
                    continue  # another process has entered a sweep like this one meanwhile
                self.id = found or self._enter(sql)
                if found is not None:
                    self._check(sql)
                sql.execute(
                    "UPDATE sweeps SET title = ?, location = ? WHERE id = ?",
                    (as_bytes(title), as_bytes(location), self.id),
                )
                self._set_out(sql)
                sql.execute(f"{SEAL['sweeps']} WHERE id = ?", (self.id,))
                return

    def _check(self, sql: sqlite3.Connection) -> None:
        """StoreError unless what is kept of a sweep is as it was written: what goes on from here is sealed anew."""
        rows = sql.execute(f"SELECT {WHOLE['sweeps']} FROM sweeps WHERE id = ?", (self.id,)).fetchall()
        rows += sql.execute(
            f"SELECT {WHOLE['sweep_tensors']} FROM sweep_tensors WHERE sweep = ?", (self.id,)
        ).fetchall()
        self.database.check(all(whole for (whole,) in rows))

    def _remember_files(self) -> None:
        """The fingerprints of tensors of a file that is as it was when they were read."""
        if self.stamp is None:
            return
        with self.database.reading() as sql:
            rows = sql.execute(
                f"SELECT path, tensor, fingerprint FROM files WHERE path IN (?, ?) AND stamp = ? AND {WHOLE['files']}",
                (self.path, self.weighted_path, self.stamp),
            ).fetchall()
        with self.database.decoding():
            self.known = {
                name: digest
                for path, tensor, digest in rows
                if (name := as_text(tensor)) in self.place and path == self._path_of(name)
            }

    def _path_of(self, name: str) -> bytes:
        return self.weighted_path if name in self.importance else self.path

    def _outline(self) -> bytes:
        """What can be said of the sweep before anything is read."""
        weights = {name: [weighting.digest().hex()] for name, weighting in self.importance.items()}
        tensors = [
            (
                *(name, list(getattr(spec, "shape", ())), str(getattr(spec, "dtype", "")), int(spec.nbytes)),
                *weights.get(name, ()),
            )
            for name, spec in zip(self.names, self.specs, strict=True)
        ]
        said = json.dumps([self.engine, [config.slug for config in self.configs], tensors])
        return hashlib.sha256(said.encode()).digest()

    def _candidates(self) -> list[tuple[str, bytes]]:
        """(id, location) of sweeps that look the same from outside, the newest first."""
        with self.database.reading() as sql:
            return sql.execute(
                "SELECT id, location FROM sweeps WHERE outline = ? ORDER BY updated DESC, id", (self.outline,)
            ).fetchall()

    def _is_same(self, id: str, place: bytes, location: bytes) -> bool:
        """Whether a sweep is about the same values: every tensor that it has seen is equal to ours.

        What has to be read for that is read in order of size: different checkpoints mostly differ in a small tensor.
        """
        with self.database.reading() as sql:
            seen = sql.execute(
                f"SELECT position, fingerprint, {WHOLE['sweep_tensors']} FROM sweep_tensors "
                "WHERE sweep = ? AND fingerprint IS NOT NULL ORDER BY nbytes, position",
                (id,),
            ).fetchall()
        if not seen:
            return bool(location) and place == location
        self.database.check(all(whole for *_, whole in seen))
        with self.database.decoding():
            named = [(self.names[position], digest) for position, digest, _ in seen]
        named.sort(key=lambda pair: pair[0] not in self.known)  # those that cost nothing first
        return all(self._fingerprint(name) == digest for name, digest in named)

    def _fingerprint(self, name: str) -> bytes | None:
        """A tensor's fingerprint, remembered or read; None if it cannot be read."""
        if name not in self.known:
            try:
                with pool.limits(cancel=self.cancel):
                    digest = self._digest(name, self.source.raw(name))
            except Cancelled:
                raise
            except (QuantlabError, OSError, MemoryError):
                return None
            if digest is not None:
                self._learn(name, digest)
        return self.known.get(name)

    def _digest(self, name: str, raw: Any) -> bytes | None:
        return fingerprint(raw, channel_axis_of(self.source.spec(name)), self.importance.get(name))

    def _learn(self, name: str, digest: bytes) -> None:
        """Remember a fingerprint, for the next time that the file is opened too."""
        self.known[name] = digest
        if self.stamp is not None:
            with self.database.writing() as sql:
                sql.execute(
                    "INSERT OR REPLACE INTO files (path, tensor, stamp, fingerprint, digest) "
                    "VALUES (?1, ?2, ?3, ?4, digest_of(?1, ?2, ?3, ?4))",
                    (self._path_of(name), as_bytes(name), self.stamp, digest),
                )

    def _enter(self, sql: sqlite3.Connection) -> str:
        id, now = secrets.token_hex(6), time.time()
        sql.execute(
            "INSERT INTO sweeps (id, outline, engine, title, location, created, updated) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (id, self.outline, self.engine, b"", b"", now, now),
        )
        sql.executemany(
            "INSERT INTO sweep_configs (sweep, position, slug) VALUES (?, ?, ?)",
            [(id, position, config.slug) for position, config in enumerate(self.configs)],
        )
        sql.executemany(
            "INSERT INTO sweep_tensors (sweep, position, name, shape, nbytes) VALUES (?, ?, ?, ?, ?)",
            [
                (id, position, as_bytes(name), json.dumps(list(getattr(spec, "shape", ()))), int(spec.nbytes))
                for position, (name, spec) in enumerate(zip(self.names, self.specs, strict=True))
            ],
        )
        return id

    def _set_out(self, sql: sqlite3.Connection) -> None:
        """Mark the tensors whose every row is there, and whole; those that could not be read are tried again."""
        sql.execute("UPDATE sweep_tensors SET fault = NULL, done = 0 WHERE sweep = ?", (self.id,))
        sql.executemany(
            "UPDATE sweep_tensors SET fingerprint = ? WHERE sweep = ? AND position = ?",
            [(digest, self.id, self.place[name]) for name, digest in self.known.items()],
        )
        sql.execute(f"{SEAL['sweep_tensors']} WHERE sweep = ?", (self.id,))
        for (position,) in sql.execute(
            "SELECT position FROM sweep_tensors WHERE sweep = ? AND fingerprint IS NOT NULL", (self.id,)
        ).fetchall():
            self._mark(sql, position)

    def _mark(self, sql: sqlite3.Connection, position: int) -> frozenset[str]:
        """The slugs of a tensor's rows that are there and whole; if none is missing, the tensor is done."""
        self._drop_damaged(sql, position)
        held = frozenset(
            slug
            for (slug,) in sql.execute(
                "SELECT r.slug FROM sweep_tensors t JOIN sweep_configs c ON c.sweep = t.sweep "
                "JOIN results r ON r.fingerprint = t.fingerprint AND r.engine = ? AND r.slug = c.slug "
                "WHERE t.sweep = ? AND t.position = ?",
                (self.engine, self.id, position),
            )
        )
        if len(held) == len(self.configs):
            sql.execute("UPDATE sweep_tensors SET done = 1 WHERE sweep = ? AND position = ?", (self.id, position))
            self._seal(sql, position)
        return held

    def _drop_damaged(self, sql: sqlite3.Connection, position: int) -> None:
        """Forget the results of a tensor that are not what was written: they are measured anew."""
        sql.execute(
            f"DELETE FROM results WHERE engine = ? AND NOT {WHOLE['results']} AND fingerprint = "
            "(SELECT fingerprint FROM sweep_tensors WHERE sweep = ? AND position = ?)",
            (self.engine, self.id, position),
        )

    def _seal(self, sql: sqlite3.Connection, position: int) -> None:
        sql.execute(f"{SEAL['sweep_tensors']} WHERE sweep = ? AND position = ?", (self.id, position))

    def todo(self) -> list[str]:
        """The tensors that have rows missing."""
        with self.database.reading() as sql, self.database.decoding():
            return [
                self.names[position]
                for (position,) in sql.execute(
                    "SELECT position FROM sweep_tensors WHERE sweep = ? AND NOT done ORDER BY position", (self.id,)
                )
            ]

    # -- tensor by tensor

    def measure(self, runner: Runner, workers: int | None, on_progress: Progress | None, on_rows: OnRows | None) -> int:
        """Have the missing rows measured, and tell of all, those first that are there. How many were measured."""
        todo, measured = self.todo(), 0
        if on_rows is not None:
            for name, rows in self.rows(set(self.names) - set(todo)).items():
                on_rows(name, rows)
        whole = SweepRequest(
            self.source, self.configs, self.names, workers, on_progress, self.cancel, self.wanted, self.importance
        )
        held = whole.rows - len(todo) * len(self.configs)
        missing = replace(whole, names=todo, on_progress=lambda done, total, label: whole.tell(held + done, label))
        with closing(runner(missing)) as streamed:  # whatever stops us here stops the reader, or a cluster's tasks
            for name, rows in streamed:
                self.save(name, rows)
                measured += len(rows)
                if on_rows is not None:
                    on_rows(name, self.rows({name})[name])
        whole.tell(whole.rows, "done")
        return measured

    def wanted(self, name: str, raw: Any) -> list[QuantConfig]:
        """The configurations of a tensor that the store does not hold. `raw` is None where the bytes are elsewhere."""
        if name not in self.known and raw is not None:
            digest = self._digest(name, raw)
            if digest is not None:
                self._learn(name, digest)
        if name not in self.known:
            return self.configs
        with self.database.writing() as sql:
            # With the fingerprint in its place nobody deletes, from now on, what is held.
            self._place(sql, name, self.known[name])
            held = self._mark(sql, self.place[name])
        return [config for config in self.configs if config.slug not in held]

    def save(self, name: str, rows: list[Row]) -> None:
        """Keep the rows that came of a tensor: under what it holds, or for this sweep alone if it could not be read."""
        fault = next((row["reason"] for row in rows if "fault" in row), None)
        digest = None if fault is not None else self._digest_of(name, rows)
        if digest is None and not all("reason" in row for row in rows):
            raise StoreError(f"the rows of {shown(name)} cannot be kept: what it holds cannot be read here")
        with self.database.writing() as sql:
            sql.execute("UPDATE sweeps SET updated = ? WHERE id = ?", (time.time(), self.id))
            if digest is None:
                why = fault if fault is not None else rows[0].get("reason", "")
                self._place(sql, name, self.known.get(name), fault=as_bytes(why))
                return
            self._place(sql, name, digest)
            self._drop_damaged(sql, self.place[name])
            sql.executemany(
                "INSERT OR IGNORE INTO results (fingerprint, engine, slug, figures, reason, digest) "
                "VALUES (?1, ?2, ?3, ?4, ?5, digest_of(?1, ?2, ?3, ?4, ?5))",
                [(digest, self.engine, row["config"], *kept(row)) for row in rows],
            )
            self._mark(sql, self.place[name])

    def _digest_of(self, name: str, rows: list[Row]) -> bytes | None:
        """The fingerprint of the tensor that rows are about; who has read it elsewhere sends it along."""
        sent = rows[0].get("fingerprint") if rows else None
        if sent is not None and sent != self.known.get(name):
            self._learn(name, sent)
        return self._fingerprint(name)

    def _place(self, sql: sqlite3.Connection, name: str, digest: bytes | None, fault: bytes | None = None) -> None:
        """Set what is known of one of the sweep's tensors. StoreError if somebody has deleted the sweep."""
        changed = sql.execute(
            "UPDATE sweep_tensors SET fingerprint = ?, fault = ?, done = ? WHERE sweep = ? AND position = ?",
            (digest, fault, fault is not None, self.id, self.place[name]),
        )
        if not changed.rowcount:
            raise StoreError("the sweep was deleted while it ran: start it again if that was a mistake")
        self._seal(sql, self.place[name])

    def rows(self, names: set[str]) -> dict[str, list[Row]]:
        """The rows of some tensors, as they are in the store."""
        return rows_of(self.database, self.id, [self.place[name] for name in names]) if names else {}
