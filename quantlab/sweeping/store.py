"""Results on disk: a sweep that survives the process it runs in, and rows that are never computed twice.

A row's figures are kept under (what the tensor holds, the configuration's slug, the version of the engine), so they
serve every file and every sweep with the same tensor. A sweep is a list of tensors and a list of configurations; it is
resumed by starting it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..core.config import QuantConfig
from ..errors import ConfigError
from ..late import pandas as pd
from .database import WHOLE, Database, default_folder
from .identity import engine_version
from .sources import Source, as_source, checked_names
from .storedrows import as_text, rows_of
from .storedrun import StoredRun
from .sweep import OnRows, Progress, Runner, checked_configs, checked_importance, stream, table

FILE = "results.sqlite"


@dataclass(frozen=True)
class SweepRecord:
    """A sweep in a store.

    Attributes
    ----------
    id : names it in `frame` and `delete`.
    title, location : what was swept, in words; where it can be opened again.
    created, updated : when it was begun, and when it last got rows (UTC).
    tensors : how many. configs : slugs, in the order of the rows.
    rows_done, rows_total : rows that are there, and rows that there will be.
    engine : the version of the arithmetic; `current` says whether it is this program's.
    """

    id: str
    title: str
    location: str
    created: datetime
    updated: datetime
    tensors: int
    configs: tuple[str, ...]
    rows_done: int
    rows_total: int
    engine: str

    @property
    def complete(self) -> bool:
        """Whether no row is missing."""
        return self.rows_done == self.rows_total

    @property
    def current(self) -> bool:
        """Whether the same sweep would be resumed: another version of the engine may come to other figures."""
        return self.engine == engine_version()


class ResultStore:
    """A folder with the results of sweeps, for any number of threads and processes at once.

    Parameters
    ----------
    folder : made if it is not there. Default: `database.default_folder`.

    Raises
    ------
    StoreError : the folder or its file cannot be used; the sentence says what to do.

    >>> import tempfile, numpy as np
    >>> store = ResultStore(tempfile.mkdtemp())
    >>> frame = store.run(np.float32([[1, 2], [3, 4]]), [QuantConfig()], title="two by two", location="")
    >>> store.frame(store.sweeps()[0].id).equals(frame)
    True
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.path = (default_folder() if folder is None else Path(folder)).absolute() / FILE
        self._database = Database(self.path)

    def close(self) -> None:
        """Close the file; what is called afterwards raises StoreError."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(
        self,
        source: Source,
        configs: Iterable[QuantConfig],
        tensors: Iterable[str] | None = None,
        *,
        title: str,
        location: str,
        workers: int | None = None,
        on_progress: Progress | None = None,
        on_rows: OnRows | None = None,
        cancel: Callable[[], bool] | None = None,
        runner: Runner = stream,
        on_begin: Callable[[SweepRecord], object] | None = None,
        importance: Mapping[str, np.ndarray] | None = None,
    ) -> pd.DataFrame:
        """`sweep`, begun or resumed: what the store holds is not computed again, and each tensor is saved as it ends.

        The same values under the same configurations are the same sweep, with the same weights of inputs if there are
        any. After a Cancel, an error or a killed process the tensors in flight are lost, and nothing else.

        Parameters
        ----------
        title, location : what is swept, for the list of sweeps, and where to open it again.
        runner : what measures; `stream`, or something of the same call.
        on_begin : told of the record once it is known, with the rows that are there already.
        on_rows : called for tensors that are there already, too.
        Others as `sweep`.

        Returns
        -------
        DataFrame : as `sweep`; `attrs["sweep"]` is its id, and `attrs["held"]` the number of rows that were there.
        """
        opened, wanted = as_source(source), checked_configs(configs)
        weightings = checked_importance(opened, importance)
        run = StoredRun(self._database, opened, wanted, checked_names(opened, tensors), cancel, weightings)
        run.begin(title, location)
        if on_begin is not None:
            on_begin(self.record(run.id))
        measured = run.measure(runner, workers, on_progress, on_rows)
        frame = self.frame(run.id, importance is not None)
        self._database.check(len(frame) == len(run.names) * len(wanted))  # an index that does not find what was written
        frame.attrs |= {"sweep": run.id, "held": len(frame) - measured}
        return frame

    def sweeps(self) -> list[SweepRecord]:
        """Every sweep in the store, the newest first."""
        with self._database.reading() as sql:
            rows = sql.execute(f"{RECORDS} GROUP BY sweeps.id ORDER BY updated DESC, sweeps.id").fetchall()
        return [self._record(row) for row in rows]

    def record(self, id: str) -> SweepRecord:
        """One sweep. ConfigError if there is none of this id."""
        with self._database.reading() as sql:
            row = sql.execute(f"{RECORDS} WHERE sweeps.id = ? GROUP BY sweeps.id", (id,)).fetchone()
        if row is None:
            raise ConfigError(f"there is no sweep {id!r} in {self.path}: it was deleted, or is in another store")
        return self._record(row)

    def _record(self, row: Sequence[Any]) -> SweepRecord:
        whole, *values = row
        self._database.check(whole)
        with self._database.decoding():
            return _record(values)

    def tensors(self, id: str) -> list[str]:
        """The tensors of a sweep, measured or not, in its order. ConfigError if there is no such sweep."""
        self.record(id)
        with self._database.reading() as sql:
            found = sql.execute(
                f"SELECT name, {WHOLE['sweep_tensors']} FROM sweep_tensors WHERE sweep = ? ORDER BY position", (id,)
            ).fetchall()
        self._database.check(all(whole for _, whole in found))
        with self._database.decoding():
            return [as_text(name) for name, _ in found]

    def frame(self, id: str, weighted: bool = False) -> pd.DataFrame:
        """The rows that are there, as `sweep` returns them. ConfigError if there is no such sweep.

        weighted : whether there is a column of weighted errors, though no row may have any.
        """
        self.record(id)
        rows = rows_of(self._database, id)
        return table(rows, rows, weighted)

    def delete(self, id: str) -> None:
        """Forget a sweep, and the results that no other sweep uses. ConfigError if there is no such sweep."""
        engine = self.record(id).engine
        with self._database.writing() as sql:
            sql.execute(
                "CREATE TEMP TABLE gone AS SELECT DISTINCT fingerprint, slug FROM sweep_tensors t "
                "JOIN sweep_configs c ON c.sweep = t.sweep WHERE t.sweep = ? AND fingerprint IS NOT NULL",
                (id,),
            )
            sql.execute("DELETE FROM sweeps WHERE id = ?", (id,))
            sql.execute(
                "DELETE FROM results WHERE engine = ? AND (fingerprint, slug) IN (SELECT fingerprint, slug FROM gone) "
                "AND NOT EXISTS (SELECT 1 FROM sweep_tensors t JOIN sweep_configs c ON c.sweep = t.sweep "
                "JOIN sweeps s ON s.id = t.sweep "
                "WHERE t.fingerprint = results.fingerprint AND c.slug = results.slug AND s.engine = results.engine)",
                (engine,),
            )
            sql.execute(
                "DELETE FROM files WHERE fingerprint IN (SELECT fingerprint FROM gone) AND NOT EXISTS "
                "(SELECT 1 FROM sweep_tensors t WHERE t.fingerprint = files.fingerprint)"
            )
            sql.execute("DROP TABLE gone")
        with self._database.reading() as sql:
            sql.execute("PRAGMA incremental_vacuum").fetchall()


RECORDS = f"""
SELECT {WHOLE["sweeps"]}, sweeps.id, title, location, created, updated, engine, count(t.name), total(t.done),
    (SELECT group_concat(slug) FROM (SELECT slug FROM sweep_configs c WHERE c.sweep = sweeps.id ORDER BY c.position))
FROM sweeps LEFT JOIN sweep_tensors t ON t.sweep = sweeps.id
"""


def _record(row: Sequence[Any]) -> SweepRecord:
    id, title, location, created, updated, engine, tensors, done, slugs = row
    configs = tuple(slugs.split(","))
    return SweepRecord(
        id,
        as_text(title),
        as_text(location),
        datetime.fromtimestamp(created, UTC),
        datetime.fromtimestamp(updated, UTC),
        tensors,
        configs,
        int(done) * len(configs),
        tensors * len(configs),
        engine,
    )
