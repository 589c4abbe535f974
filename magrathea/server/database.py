"""The SQLite file of a store: its tables, how it is opened, and how it is copied."""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from magrathea.errors import MagratheaError
from magrathea.files import atomic_write

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
VISITORS = """
CREATE TABLE IF NOT EXISTS visitor (session TEXT PRIMARY KEY, visitor TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS session_of_visitor ON visitor (visitor);
"""  # who began a session, as a hash; earlier versions know no such table, and read a file that has it
PAGE_BYTES, MAX_BYTES = 4096, 8 << 30  # of SQLite, and of the file by default


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Who begins a session.

    Attributes:
        address: stored as a hash.
        of_limit: how much of a limit one visitor may have.
        num_bytes: of the file that the session begins with.
    """

    address: str
    of_limit: float = 1.0
    num_bytes: int = 0

    def claim(self, db: sqlite3.Connection, session: str, salt: str, max_sessions: int | None, max_bytes: int) -> None:
        """Note that a new session is this visitor's; raises MagratheaError where that has its share already."""
        own = hashlib.sha256(f"{salt} {self.address}".encode()).hexdigest()
        (num_sessions,) = db.execute("SELECT count(*) FROM visitor WHERE visitor = ?", (own,)).fetchone()
        if max_sessions is not None and num_sessions >= share(self.of_limit, max_sessions):
            raise MagratheaError(
                f"You have {num_sessions} of the {max_sessions} sessions that this server keeps, the most that one "
                "visitor may have; delete one first."
            )
        files = "FROM snapshot JOIN branch ON branch.id = branch JOIN visitor ON visitor.session = branch.session"
        (held,) = db.execute(f"SELECT coalesce(sum(length(file)), 0) {files} WHERE visitor = ?", (own,)).fetchone()
        if held + self.num_bytes > share(self.of_limit, max_bytes):
            raise MagratheaError(
                f"Your sessions take {held:,} of the {max_bytes:,} bytes of this server, and {self.num_bytes:,} more "
                "are more than one visitor may have; delete one first."
            )
        db.execute("INSERT INTO visitor VALUES (?, ?)", (session, own))


def share(part: float, limit: int) -> int:
    """A part of a limit: at least one."""
    return max(1, math.ceil(part * limit))


@contextmanager
def database_errors(path: str | Path) -> Iterator[None]:
    """Raise a MagratheaError that names the file where SQLite or the disk fails."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise MagratheaError(
            f"Store '{path}' cannot be used ({error}); free some space, let its folder be written, or choose another "
            "file with --store."
        ) from error


def open_database(path: str | Path, max_bytes: int) -> sqlite3.Connection:
    """Open a store's file, for use in one thread; it is made if missing, with its folder.

    Raises MagratheaError if it cannot be read or written, or is of another program or version.
    """
    with database_errors(path):
        if str(path) != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, timeout=10, isolation_level=None)
        try:
            _check_owner(db, path)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                db.execute(f"PRAGMA {pragma}")
            db.execute(f"PRAGMA max_page_count = {max_bytes // PAGE_BYTES}")
            _create_tables(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _check_owner(db: sqlite3.Connection, path: str | Path) -> None:
    """Raises MagratheaError, before anything is written, if the file has tables but none of a store."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and not {"session", "branch", "step", "snapshot"} <= tables:
        raise MagratheaError(f"Store '{path}' is a SQLite file of another program; choose another file with --store.")


def _create_tables(db: sqlite3.Connection, path: str | Path) -> None:
    db.execute("BEGIN IMMEDIATE")
    with db:  # commits, or rolls back
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in filter(str.strip, SCHEMA.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")
        elif version != VERSION:
            raise MagratheaError(
                f"Store '{path}' has version {version}, but this Magrathea reads version {VERSION}; "
                "install the Magrathea that made it, or choose another file with --store."
            )
        for statement in filter(str.strip, VISITORS.split(";")):
            db.execute(statement)


def backup_store(path: Path, target: Path) -> Path:
    """Copy a store, also while a server uses it, to one new file that is whole; returns the target.

    Raises MagratheaError if the store is missing, the target is there already, or one of them cannot be used.
    """
    if not path.is_file():
        raise MagratheaError(f"There is no store '{path}'; name one with --store.")
    if target.exists():
        raise MagratheaError(f"File '{target}' is there already; name a new one.")
    try:
        with (
            closing(sqlite3.connect(path, timeout=10)) as source,
            atomic_write(target) as temporary,
            closing(sqlite3.connect(temporary)) as copy,
        ):
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
    except (sqlite3.Error, OSError) as error:
        raise MagratheaError(
            f"Store '{path}' cannot be copied to '{target}' ({error}); free some space, or name another file."
        ) from error
    return target
