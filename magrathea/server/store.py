"""The SQLite file that keeps sessions. A step that was acknowledged is on the disk, whatever happens to the server.

A session is a tree of branches. A branch is the steps that one run added, numbered from the one after its fork; those
before are its parent's. Steps are only added, so branches share them and a fork costs one table row. Snapshots are
session files (`Session.save`) from which a session is restored without going back to its first step.

The file is in WAL mode with `synchronous=FULL`: when `append` returns, its steps survive the end of the process and of
the machine. The steps of a batch are committed together, at the cost of one sync of the disk.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from magrathea.errors import MagratheaError
from magrathea.server.database import MAX_BYTES, Visitor, database_errors, open_database

NUM_STEPS = "coalesce((SELECT max(number) FROM step WHERE step.branch = branch.id), branch.forked_at)"

P = ParamSpec("P")
T = TypeVar("T")


class MissingSession(MagratheaError):
    """A session that the store does not have."""


@dataclass(frozen=True)
class StoredStep:
    """A step: its branch, its number from 1 on, its record in the session's log (tokens, kind, seed), and the sum of
    rewards up to it."""

    branch: int
    number: int
    record: bytes
    total_reward: float


@dataclass(frozen=True)
class StoredSession:
    """A session as it is listed. `head` is the branch on which it continues; times are in seconds of the epoch."""

    id: str
    world: str
    name: str
    created: float
    used: float
    head: int
    num_steps: int
    num_branches: int

    @property
    def untouched(self) -> bool:
        """Whether it has no steps, no second branch and no name."""
        return not self.num_steps and self.num_branches == 1 and not self.name


@dataclass(frozen=True)
class Branch:
    """A line of steps that left `parent` after step `forked_at` and ends with step `num_steps`."""

    id: int
    parent: int | None
    forked_at: int
    num_steps: int


class Store:
    """The sessions of a server, for use in one thread.

    Args:
        path: the file; made if missing, with its folder. ":memory:" keeps sessions only as long as the process.
        max_bytes: size that the file never exceeds; steps are refused then.

    Every method raises MagratheaError if the file cannot be read or written.
    """

    def __init__(self, path: str | Path = ":memory:", max_bytes: int = MAX_BYTES) -> None:
        self.path, self.max_bytes = path, max_bytes
        self._db = open_database(path, max_bytes)

    def close(self) -> None:
        """Write what is in the log (-wal) into the file, as far as no other server reads it, and close it."""
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with database_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _query(self, query: str, *values: object) -> list[tuple]:
        with database_errors(self.path):
            return self._db.execute(query, values).fetchall()

    # -- steps --------------------------------------------------------------------------------------------------------
    def append(self, steps: Iterable[StoredStep]) -> None:
        """Add the next steps of some branches: all of them or, if this raises, none."""
        with self._transaction() as db:
            values = [(step.branch, step.number, step.record, step.total_reward) for step in steps]
            try:
                db.executemany("INSERT INTO step VALUES (?, ?, ?, ?)", values)
            except sqlite3.IntegrityError as error:
                raise MagratheaError("This session has continued in another server; load the page again.") from error

    def _lineage(self, branch: int, number: int) -> list[tuple[int, int, int]]:
        """The branches that hold the steps up to one, oldest first: (branch, the step before its first, its last)."""
        lineage: list[tuple[int, int, int]] = []
        at: int | None = branch
        while at is not None:
            found = self._query("SELECT parent, forked_at FROM branch WHERE id = ?", at)
            if not found:
                raise MagratheaError(f"There is no branch {branch} here.")
            parent, forked_at = found[0]
            lineage.append((at, forked_at, number))
            at, number = parent, min(number, forked_at)
        return lineage[::-1]

    def steps(self, branch: int, after: int, up_to: int) -> list[StoredStep]:
        """Steps `after` + 1 … `up_to` of a branch, with those that it shares; oldest first."""
        query = "SELECT number, record, total_reward FROM step WHERE branch = ? AND number > ? AND number <= ?"
        return [
            StoredStep(part, *row)
            for part, low, high in self._lineage(branch, up_to)
            for row in self._query(query + " ORDER BY number", part, max(after, low), high)
        ]

    def total_reward(self, branch: int, number: int) -> float:
        """The sum of rewards up to a step of a branch."""
        last = self.steps(branch, number - 1, number)
        return last[0].total_reward if last else 0.0

    def record(self, branch: int, number: int) -> bytes:
        """The record of a step of a branch; step 0 is the last one that the branch was started from.

        Raises MagratheaError if there is no such step.
        """
        if number:
            steps = self.steps(branch, number - 1, number)
            if not steps:
                raise MagratheaError(f"There is no step {number} on branch {branch}.")
            return steps[0].record
        root = self._lineage(branch, 0)[0][0]
        return self._query("SELECT first FROM branch WHERE id = ?", root)[0][0]

    def check_step(self, session: str, branch: int, number: int) -> None:
        """Raises MagratheaError unless the session has this branch, and the branch this step."""
        num_steps = {found.id: found.num_steps for found in self.branches(session)}
        if not 0 <= number <= num_steps.get(branch, -1):
            raise MagratheaError(f"This session has no step {number} on branch {branch}.")

    # -- snapshots ----------------------------------------------------------------------------------------------------
    def put_snapshot(self, branch: int, number: int, file: bytes) -> None:
        """Keep a session file of a branch at a step, in place of the one before; that of the start stays."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?)", (branch, number, file))
            db.execute("DELETE FROM snapshot WHERE branch = ? AND number > 0 AND number < ?", (branch, number))

    def snapshot(self, branch: int, number: int) -> tuple[bytes, int, int]:
        """The session file from which a step of a branch is reached with the fewest steps.

        Returns:
            the file, its step, and the last step that it shares with the one asked for: less than its own step if it
            lies further on, or on a branch that was left.
        """
        found = [
            (abs(min(number, high) - at) + number - min(at, high), part, at, min(at, high))
            for part, low, high in self._lineage(branch, number)
            for (at,) in self._query("SELECT number FROM snapshot WHERE branch = ?", part)
        ]
        if not found:
            raise MagratheaError(f"Store '{self.path}' has lost the beginning of branch {branch}.")
        _, part, at, shared = min(found)
        (file,) = self._query("SELECT file FROM snapshot WHERE branch = ? AND number = ?", part, at)[0]
        return file, at, shared

    # -- sessions -----------------------------------------------------------------------------------------------------
    def add_session(
        self, world: str, name: str = "", max_sessions: int | None = None, visitor: Visitor | None = None
    ) -> str:
        """A new session without branches; returns its id, which cannot be guessed.

        Raises MagratheaError if there are `max_sessions`, or the visitor has as many, or as many bytes, as one may.
        """
        session, now = secrets.token_urlsafe(12), time.time()
        salt = self.setting("visitor_salt", secrets.token_urlsafe(18))
        with self._transaction() as db:
            (num_sessions,) = db.execute("SELECT count(*) FROM session WHERE NOT deleted").fetchone()
            if max_sessions is not None and num_sessions >= max_sessions:
                raise MagratheaError(f"This server keeps {max_sessions} sessions at most; delete one first.")
            if visitor is not None:
                visitor.claim(db, session, salt, max_sessions, self.max_bytes)
            db.execute("INSERT INTO session VALUES (?, ?, ?, ?, ?, NULL, 0)", (session, world, name, now, now))
        return session

    def add_root(self, session: str, first: bytes, file: bytes, steps: Iterable[tuple[bytes, float]] = ()) -> int:
        """A branch that starts anew, or with the steps (record, total reward) of an uploaded file; the session
        continues on it.

        Args:
            first: record of the last step that it is started from.
            file: session file after its last step.
        """
        with self._transaction() as db:
            values = (session, None, 0, first, time.time())
            branch = db.execute("INSERT INTO branch VALUES (NULL, ?, ?, ?, ?, ?)", values).lastrowid
            rows = [(branch, number, *step) for number, step in enumerate(steps, 1)]
            db.executemany("INSERT INTO step VALUES (?, ?, ?, ?)", rows)
            db.execute("INSERT INTO snapshot VALUES (?, ?, ?)", (branch, len(rows), file))
            self._set_head(db, session, branch)
        assert branch is not None
        return branch

    def add_fork(self, session: str, parent: int, forked_at: int) -> int:
        """A branch that leaves another, of this session or not, after one of its steps; the session continues on it."""
        lineage = reversed(self._lineage(parent, forked_at))
        holder = next(part for part, low, _ in lineage if forked_at > low or not low)
        with self._transaction() as db:
            values = (session, holder, forked_at, None, time.time())
            branch = db.execute("INSERT INTO branch VALUES (NULL, ?, ?, ?, ?, ?)", values).lastrowid
            self._set_head(db, session, branch)
        assert branch is not None
        return branch

    def _set_head(self, db: sqlite3.Connection, session: str, branch: int | None) -> None:
        """The session continues on this branch; the one before is dropped if it has no steps of its own."""
        (old,) = db.execute("SELECT head FROM session WHERE id = ?", (session,)).fetchone()
        db.execute("UPDATE session SET head = ?, used = ? WHERE id = ?", (branch, time.time(), session))
        if old is not None and old != branch:
            self._drop_branches(db, f"id = {int(old)} AND NOT EXISTS (SELECT 1 FROM step WHERE branch = branch.id)")

    def switch(self, session: str, branch: int) -> None:
        """Let a session continue on another of its branches."""
        with self._transaction() as db:
            if not db.execute("SELECT 1 FROM branch WHERE id = ? AND session = ?", (branch, session)).fetchone():
                raise MagratheaError(f"This session has no branch {branch}.")
            self._set_head(db, session, branch)

    def sessions(self, world: str | None = None) -> list[StoredSession]:
        """All sessions (of one world), the last used first."""
        where, values = ("AND session.world = ?", (world,)) if world is not None else ("", ())
        return [StoredSession(*row) for row in self._query(self._listing(where), *values)]

    def session(self, session: str) -> StoredSession:
        """One session; raises MissingSession if it is not here."""
        found = self._query(self._listing("AND session.id = ?"), session)
        if not found:
            raise MissingSession("This session is not here: it was deleted, or its link belongs to another server.")
        return StoredSession(*found[0])

    @staticmethod
    def _listing(where: str) -> str:
        return f"""SELECT session.id, session.world, session.name, session.created, session.used, session.head,
            {NUM_STEPS}, (SELECT count(*) FROM branch AS other WHERE other.session = session.id)
            FROM session JOIN branch ON branch.id = session.head WHERE NOT session.deleted {where}
            ORDER BY session.used DESC"""

    def branches(self, session: str) -> list[Branch]:
        """The branches of a session, oldest first."""
        query = f"SELECT id, parent, forked_at, {NUM_STEPS} FROM branch WHERE session = ? ORDER BY id"
        return [Branch(*row) for row in self._query(query, session)]

    def rename(self, session: str, name: str) -> None:
        """Give a session another name."""
        with self._transaction() as db:
            db.execute("UPDATE session SET name = ? WHERE id = ?", (name, session))

    def touch(self, session: str) -> None:
        """Note that a session was used now."""
        with self._transaction() as db:
            db.execute("UPDATE session SET used = ? WHERE id = ?", (time.time(), session))

    # -- deleting -----------------------------------------------------------------------------------------------------
    def delete(self, session: str) -> None:
        """Delete a session. The steps that forks of it share with it stay until those are deleted too."""
        with self._transaction() as db:
            db.execute("UPDATE session SET deleted = 1, head = NULL WHERE id = ?", (session,))
            db.execute("DELETE FROM visitor WHERE session = ?", (session,))
            self._drop_deleted(db)

    def delete_branch(self, session: str, branch: int) -> None:
        """Delete a branch. The steps that others share with it stay until those are deleted too.

        Raises MagratheaError if the session has no such branch, or continues on it.
        """
        with self._transaction() as db:
            found, now = self.session(session), time.time()
            if found.head == branch:
                raise MagratheaError("This session is on that branch; go to another one first.")
            holder = secrets.token_urlsafe(12)  # a deleted session, whose branches go as soon as nobody shares them
            db.execute("INSERT INTO session VALUES (?, ?, '', ?, ?, NULL, 1)", (holder, found.world, now, now))
            values = (holder, branch, session)
            if not db.execute("UPDATE branch SET session = ? WHERE id = ? AND session = ?", values).rowcount:
                raise MagratheaError(f"This session has no branch {branch}.")
            self._drop_deleted(db)

    def _drop_deleted(self, db: sqlite3.Connection) -> None:
        """Drop what deleted sessions hold and no other branch shares: whole branches, and the ends of others."""
        deleted = "session IN (SELECT id FROM session WHERE deleted)"
        while self._drop_branches(db, deleted):
            pass
        shared = "(SELECT max(forked_at) FROM branch AS other WHERE other.parent = branch.id)"
        held = db.execute(f"SELECT id, {shared} FROM branch WHERE {deleted}").fetchall()
        db.executemany("DELETE FROM step WHERE branch = ? AND number > ?", held)
        db.execute("DELETE FROM session WHERE deleted AND id NOT IN (SELECT session FROM branch)")

    def _drop_branches(self, db: sqlite3.Connection, which: str) -> int:
        """Drop the branches among these that no other branch left; returns how many."""
        leaves = f"SELECT id FROM branch WHERE ({which}) AND id NOT IN (SELECT parent FROM branch WHERE parent NOTNULL)"
        dropped = [row[0] for row in db.execute(leaves)]
        for table, column in (("step", "branch"), ("snapshot", "branch"), ("branch", "id")):
            db.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(branch,) for branch in dropped])
        return len(dropped)

    def delete_untouched(self, before: float) -> None:
        """Delete the sessions in which nothing was ever done and that nobody used since `before`."""
        for session in self.sessions():
            if session.untouched and session.used < before:
                self.delete(session.id)
        with self._transaction() as db:  # sessions that a server left without a branch when it ended
            db.execute("DELETE FROM session WHERE head IS NULL AND NOT deleted AND created < ?", (before,))
            db.execute("DELETE FROM visitor WHERE session NOT IN (SELECT id FROM session)")

    # -- settings -----------------------------------------------------------------------------------------------------
    def setting(self, name: str, default: str) -> str:
        """A value that is kept with the store; the first default given is kept."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO setting VALUES (?, ?)", (name, default))
            return db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()[0]


class StoreThread:
    """A store in a thread of its own, so that no event loop waits for the disk; arguments as of `Store`. Calls run one
    at a time, in the order in which they were made."""

    def __init__(self, path: str | Path = ":memory:", max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        try:
            self._store = self._thread.submit(Store, path, max_bytes).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def call(self, function: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function(store, …)` in the thread and wait for its result; not for use on an event loop."""
        return self._thread.submit(function, self._store, *args, **kwargs).result()

    async def run(self, function: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function(store, …)` in the thread, awaiting its result."""
        return await asyncio.wrap_future(self._thread.submit(function, self._store, *args, **kwargs))

    def close(self) -> None:
        """Close the file after the calls under way."""
        self.call(Store.close)
        self._thread.shutdown()
