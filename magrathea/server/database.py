"""The SQLite file of the store: its tables, its settings, its transactions and its errors."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from magrathea.errors import MagratheaError

VERSION = 1
SCHEMA = """
CREATE TABLE session (id TEXT PRIMARY KEY, world TEXT NOT NULL, name TEXT NOT NULL, created REAL NOT NULL,
    used REAL NOT NULL, head INTEGER, deleted INTEGER NOT NULL DEFAULT 0);
CREATE TABLE branch (id INTEGER PRIMARY KEY, session TEXT NOT NULL REFERENCES session, parent INTEGER REFERENCES branch,
    forked_at INTEGER NOT NULL, first BLOB, created REAL NOT NULL);
CREATE INDEX branch_of_session ON branch (session);
CREATE INDEX branch_of_parent ON branch (parent);
CREATE TABLE step (branch INTEGER NOT NULL REFERENCES branch, number INTEGER NOT NULL, record BLOB NOT NULL,
    total_reward REAL NOT NULL, PRIMARY KEY (branch, number)) WITHOUT ROWID;
CREATE TABLE snapshot (branch INTEGER NOT NULL REFERENCES branch, number INTEGER NOT NULL, file BLOB NOT NULL,
    PRIMARY KEY (branch, number));
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
PAGE_BYTES = 4096


def data_home() -> Path:
    """Where this user's data belongs: $MAGRATHEA_HOME, or the platform's own place."""
    if os.environ.get("MAGRATHEA_HOME"):
        return Path(os.environ["MAGRATHEA_HOME"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Magrathea"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "Magrathea"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "magrathea"


class Database:
    """One SQLite file that any thread may use; calls wait for each other.

    Args:
        path: the file; made if missing, with its folder. ":memory:" keeps nothing beyond the process.
        most_bytes: the file never grows beyond this; what would make it is refused then.

    Every method raises MagratheaError if the file cannot be read or written.
    """

    def __init__(self, path: str | Path = ":memory:", most_bytes: int = 8 << 30) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._told():
            if str(path) != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute(f"PRAGMA max_page_count = {most_bytes // PAGE_BYTES}")
            self._prepare()

    def _prepare(self) -> None:
        with self._writing() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in filter(str.strip, SCHEMA.split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise MagratheaError(
                    f"Store '{self.path}' has version {version}, but this Magrathea reads version {VERSION}; "
                    "install the Magrathea that made it, or choose another file with --store."
                )

    def close(self) -> None:
        """Close the file; what was written stays."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise MagratheaError(
                f"Store '{self.path}' cannot be used ({error}); free some space, or choose another file with --store."
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: object) -> list[tuple]:
        with self._lock, self._told():
            return self._db.execute(query, values).fetchall()
