"""The file behind a store of results: one SQLite database, which several threads and processes may use at once.

SQLite notices when its file has lost its form, and not when a byte of a figure has changed. So every row that decides
what a store shows carries a digest of all of it, which is looked at when the row is read.
"""

import hashlib
import os
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import QuantlabError, StoreError

FOLDER_VARIABLE = "QUANTLAB_STORE"
VERSION = 2  # of the tables below; 1 had no digests
APPLICATION = 0x716C6162  # "qlab": what tells our databases from other programs'
BUSY_SECONDS = 30.0

# Names and reasons are UTF-8 as bytes: a tensor's name may be text that SQLite does not hold, such as a lone surrogate.
SCHEMA = """
CREATE TABLE sweeps (
    id TEXT PRIMARY KEY, outline BLOB NOT NULL, engine TEXT NOT NULL, title BLOB NOT NULL, location BLOB NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL, digest BLOB);
CREATE INDEX sweeps_by_outline ON sweeps (outline);
CREATE TABLE sweep_configs (
    sweep TEXT NOT NULL REFERENCES sweeps ON DELETE CASCADE, position INTEGER NOT NULL, slug TEXT NOT NULL,
    PRIMARY KEY (sweep, position)) WITHOUT ROWID;
CREATE TABLE sweep_tensors (
    sweep TEXT NOT NULL REFERENCES sweeps ON DELETE CASCADE, position INTEGER NOT NULL, name BLOB NOT NULL,
    shape TEXT NOT NULL, nbytes INTEGER NOT NULL, fingerprint BLOB, fault BLOB, done INTEGER NOT NULL DEFAULT 0,
    digest BLOB, PRIMARY KEY (sweep, position)) WITHOUT ROWID;
CREATE INDEX tensors_by_fingerprint ON sweep_tensors (fingerprint);
CREATE TABLE results (
    fingerprint BLOB NOT NULL, engine TEXT NOT NULL, slug TEXT NOT NULL, figures BLOB, reason BLOB, digest BLOB,
    PRIMARY KEY (fingerprint, engine, slug)) WITHOUT ROWID;
CREATE TABLE files (
    path BLOB NOT NULL, tensor BLOB NOT NULL, stamp TEXT NOT NULL, fingerprint BLOB NOT NULL, digest BLOB,
    PRIMARY KEY (path, tensor)) WITHOUT ROWID;
CREATE INDEX files_by_fingerprint ON files (fingerprint);
"""

# What the digest of a row covers, in SQL: of a sweep also how many tensors it has, and its configurations in order.
# When it last got rows changes all the time, and decides nothing.
DIGESTS = {
    "sweeps": "digest_of(sweeps.id, outline, engine, title, location, created, "
    "(SELECT count(*) FROM sweep_tensors WHERE sweep = sweeps.id), (SELECT group_concat(slug) FROM "
    "(SELECT slug FROM sweep_configs WHERE sweep = sweeps.id ORDER BY position)))",
    "sweep_tensors": "digest_of(sweep_tensors.sweep, sweep_tensors.position, name, shape, nbytes, "
    "sweep_tensors.fingerprint, fault, done)",
    "results": "digest_of(results.fingerprint, results.engine, results.slug, figures, reason)",
    "files": "digest_of(path, tensor, stamp, files.fingerprint)",
}
WHOLE = {table: f"({table}.digest IS {digest})" for table, digest in DIGESTS.items()}
SEAL = {table: f"UPDATE {table} SET digest = {digest}" for table, digest in DIGESTS.items()}  # and which, with WHERE


def digest_of(*values: object) -> bytes:
    """64 bits of a row's values, of the types that SQLite has."""
    return hashlib.blake2b(repr(values).encode(errors="surrogatepass"), digest_size=8).digest()


def default_folder() -> Path:
    """Where results are kept: the folder that QUANTLAB_STORE names, else `quantlab` in this user's folder of caches."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "win32":
        caches = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        caches = "~/Library/Caches"
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "quantlab"


class Database:
    """One connection, used by one thread at a time; other processes have theirs.

    Raises StoreError for whatever goes wrong with the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._sentences():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # We begin and end transactions ourselves: isolation_level None keeps the module out of it.
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.create_function("digest_of", -1, digest_of, deterministic=True)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for statements that only read."""
        with self._lock, self._sentences():
            yield self._connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection within a transaction: all of it is kept at the end of the block, or nothing after an error."""
        with self._lock, self._sentences():
            # IMMEDIATE: a transaction that reads before it writes could not wait for another writer.
            self._connection.execute("BEGIN IMMEDIATE")
            with self._transaction():
                yield self._connection

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Ends the transaction that has begun."""
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk has ended it already
                self._connection.execute("ROLLBACK")
            raise

    def check(self, whole: bool) -> None:
        """StoreError unless a row is `whole`: its digest is that of its values."""
        if not whole:
            raise StoreError(self._damage("a row is not what was written"))

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA trusted_schema = OFF")  # the file may come from somebody else
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("BEGIN")  # one look: another process may be making the tables at this moment
        application, version, tables = self._marks()
        connection.execute("COMMIT")
        if application != APPLICATION and (application or version or tables):
            raise StoreError(
                f"{self.path} is the database of another program: choose another folder, with {FOLDER_VARIABLE}"
            )
        if version > VERSION:
            raise StoreError(
                f"{self.path} was written by a newer quantlab (its version is {version}, and this one reads "
                f"{VERSION}): use that one, or choose another folder with {FOLDER_VARIABLE}"
            )
        if version == 1:
            self._add_digests()
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._switch_to_wal()
        # In WAL mode this survives the end of a process at any moment; a loss of power costs the last seconds at most.
        connection.execute("PRAGMA synchronous = NORMAL")
        with self.writing():
            if self._marks() == (0, 0, 0):  # another process may have been faster
                for statement in SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {VERSION}")

    def _add_digests(self) -> None:
        """Bring a store of version 1 up to date, alone: an older program would go on writing rows without digests."""
        self._set_journal("DELETE")  # which fails as long as anybody else has the file open
        self._connection.execute("BEGIN EXCLUSIVE")
        with self._transaction():
            if self._marks()[1] == 1:  # another process may have been faster
                for table in DIGESTS:
                    self._connection.execute(f"ALTER TABLE {table} ADD COLUMN digest BLOB")
                    self._connection.execute(SEAL[table])
                self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def _switch_to_wal(self) -> None:
        """WAL: readers and a writer do not wait for each other."""
        self._set_journal("WAL")

    def _set_journal(self, mode: str) -> None:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute(f"PRAGMA journal_mode = {mode}")
                return
            except sqlite3.OperationalError as error:
                # This one statement does not wait by itself when another process is at the same.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def _marks(self) -> tuple[int, int, int]:
        """Whose database it is, of which version, and how many tables it has; all 0 for a new one."""
        application, version, tables = (
            self._connection.execute(statement).fetchone()[0]
            for statement in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
        )
        return application, version, tables

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Errors of the database and of the system, as sentences."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(self._sentence(error)) from error
        except (UnicodeError, OverflowError) as error:  # in SQLite's own words about a file that it quotes; in a number
            raise StoreError(self._damage(error)) from error
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise StoreError(
                f"{self.path.parent} cannot be a folder for results: {why}; choose another with {FOLDER_VARIABLE}"
            ) from error

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """What cannot be made sense of, though the database could be read, as the sentence of a damaged file."""
        try:
            yield
        except QuantlabError:
            raise
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            OSError,
            RecursionError,
            TypeError,
            ValueError,
            struct.error,
        ) as error:
            raise StoreError(self._damage(error)) from error

    def _damage(self, why: Exception | str) -> str:
        return (
            f"{self.path} is damaged ({_one_line(why)}): move it away or delete it, and sweeps begin anew, or choose "
            f"another folder with {FOLDER_VARIABLE}"
        )

    def _sentence(self, error: sqlite3.Error) -> str:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of it says where in SQLite
        if code == sqlite3.SQLITE_FULL:
            return f"{self.path} cannot grow, the disk is full: free some space, and start again where it stopped"
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"{self.path} has been in use by another program for {BUSY_SECONDS:.0f} seconds: try again"
        if str(error) == "Cannot operate on a closed database.":
            return f"{self.path} is closed: open the store again"
        if code in (
            sqlite3.SQLITE_CORRUPT,
            sqlite3.SQLITE_NOTADB,
            sqlite3.SQLITE_ERROR,
        ):  # the last: a table is missing
            return self._damage(error)
        why = _one_line(error)
        return f"{self.path} cannot be read and written ({why}): choose another folder with {FOLDER_VARIABLE}"


def _one_line(why: Exception | str) -> str:
    return " ".join(str(why).split())[:200] or type(why).__name__
