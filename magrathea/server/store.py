"""Where sessions live on: one SQLite file. A step that was acknowledged is on the disk, whatever becomes of the server.

A session is what a link opens: a tree of branches. A branch is the steps that one run of dreaming added, numbered from
the one after its fork; what came before is its parent's. Steps are only ever added, so branches share their past and a
fork costs a row. Snapshots are session files (`Session.save`) from which waking need not go back to the first step.

The file is in WAL mode and ``synchronous=FULL``: when ``append`` returns, its steps survive the end of the process and
of the machine. All sessions of a batch are committed together, so that the cost is one sync of the disk a batch.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass

from magrathea.errors import MagratheaError
from magrathea.server.database import Database

TIP = "coalesce((SELECT max(number) FROM step WHERE step.branch = branch.id), branch.forked_at)"


@dataclass(frozen=True)
class StoredStep:
    """A step as it is kept: its branch, its number from 1 on, the record of the session's log (tokens, where they came
    from, seed of the dice), and all reward up to it."""

    branch: int
    number: int
    record: bytes
    total_reward: float


@dataclass(frozen=True)
class StoredSession:
    """A session as it is listed. ``head`` is the branch on which it goes on; ``used`` is in seconds of the epoch."""

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
        """Whether nothing was ever done in it."""
        return not self.num_steps and self.num_branches == 1 and not self.name


@dataclass(frozen=True)
class Branch:
    """A line of steps: it left ``parent`` after step ``forked_at``, and has come to step ``num_steps``."""

    id: int
    parent: int | None
    forked_at: int
    num_steps: int


class Store(Database):
    """The sessions of a server. Any thread may use it; calls wait for each other.

    Args:
        path: the file; made if missing, with its folder. ":memory:" keeps sessions only as long as the process lives.
        most_bytes: the file never grows beyond this; steps are refused then.

    Every method raises MagratheaError if the file cannot be read or written.
    """

    # -- steps --------------------------------------------------------------------------------------------------------
    def append(self, steps: Iterable[StoredStep]) -> None:
        """Keep the next steps of some branches: all of them or, if this raises, none."""
        with self._writing() as db:
            rows = [(step.branch, step.number, step.record, step.total_reward) for step in steps]
            try:
                db.executemany("INSERT INTO step VALUES (?, ?, ?, ?)", rows)
            except sqlite3.IntegrityError as error:
                raise MagratheaError("This session has gone on in another server; load the page again.") from error

    def _line(self, branch: int, number: int) -> list[tuple[int, int, int]]:
        """The branches that lead to a step, first one first, each with the numbers it holds: after, up to."""
        line: list[tuple[int, int, int]] = []
        at: int | None = branch
        while at is not None:
            found = self._rows("SELECT parent, forked_at FROM branch WHERE id = ?", at)
            if not found:
                raise MagratheaError(f"There is no branch {branch} here.")
            parent, forked_at = found[0]
            line.append((at, forked_at, number))
            at, number = parent, min(number, forked_at)
        return line[::-1]

    def steps(self, branch: int, after: int, up_to: int) -> list[StoredStep]:
        """The steps that lead to step ``up_to`` of a branch, without those up to ``after``; oldest first."""
        query = "SELECT number, record, total_reward FROM step WHERE branch = ? AND number > ? AND number <= ?"
        return [
            StoredStep(part, *row)
            for part, low, high in self._line(branch, up_to)
            for row in self._rows(query + " ORDER BY number", part, max(after, low), high)
        ]

    def first(self, branch: int) -> bytes:
        """The record of the step that a branch, or the one it left, began from."""
        root = self._line(branch, 0)[0][0]
        return self._rows("SELECT first FROM branch WHERE id = ?", root)[0][0]

    # -- snapshots ----------------------------------------------------------------------------------------------------
    def put_snapshot(self, branch: int, number: int, file: bytes) -> None:
        """Keep a session file of a branch at a step, in place of the one before."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?)", (branch, number, file))
            db.execute("DELETE FROM snapshot WHERE branch = ? AND number > 0 AND number < ?", (branch, number))

    def snapshot(self, branch: int, number: int) -> tuple[bytes, int, int]:
        """The session file nearest to a step of a branch: the file, its step, and the last step it shares with the
        way to the one asked for (before its own, if it lies further on or on a branch that was left)."""
        found = [
            (abs(min(number, high) - at) + number - min(at, high), part, at, min(at, high))
            for part, low, high in self._line(branch, number)
            for (at,) in self._rows("SELECT number FROM snapshot WHERE branch = ?", part)
        ]
        if not found:
            raise MagratheaError(f"Store '{self.path}' has lost the beginning of branch {branch}.")
        _, part, at, shared = min(found)
        (file,) = self._rows("SELECT file FROM snapshot WHERE branch = ? AND number = ?", part, at)[0]
        return file, at, shared

    # -- sessions -----------------------------------------------------------------------------------------------------
    def add_session(self, world: str, name: str = "") -> str:
        """A new session without branches; returns its id, which cannot be guessed."""
        session, now = secrets.token_urlsafe(12), time.time()
        with self._writing() as db:
            db.execute("INSERT INTO session VALUES (?, ?, ?, ?, ?, NULL, 0)", (session, world, name, now, now))
        return session

    def add_root(self, session: str, first: bytes, file: bytes, steps: Iterable[tuple[bytes, float]] = ()) -> int:
        """A branch that begins anew, or with the steps of an uploaded file; the session goes on with it."""
        with self._writing() as db:
            values = (session, None, 0, first, time.time())
            branch = db.execute("INSERT INTO branch VALUES (NULL, ?, ?, ?, ?, ?)", values).lastrowid
            rows = [(branch, number, *step) for number, step in enumerate(steps, 1)]
            db.executemany("INSERT INTO step VALUES (?, ?, ?, ?)", rows)
            db.execute("INSERT INTO snapshot VALUES (?, ?, ?)", (branch, len(rows), file))
            self._go_on(db, session, branch)
        assert branch is not None
        return branch

    def add_fork(self, session: str, parent: int, forked_at: int) -> int:
        """A branch that leaves another, of this session or not, after one of its steps; the session goes on with it."""
        holder = next(part for part, low, _ in reversed(self._line(parent, forked_at)) if forked_at > low or not low)
        with self._writing() as db:
            values = (session, holder, forked_at, None, time.time())
            branch = db.execute("INSERT INTO branch VALUES (NULL, ?, ?, ?, ?, ?)", values).lastrowid
            self._go_on(db, session, branch)
        assert branch is not None
        return branch

    def _go_on(self, db: sqlite3.Connection, session: str, branch: int | None) -> None:
        """The session's head is now this branch; the old one is dropped if nothing ever happened on it."""
        (old,) = db.execute("SELECT head FROM session WHERE id = ?", (session,)).fetchone()
        db.execute("UPDATE session SET head = ?, used = ? WHERE id = ?", (branch, time.time(), session))
        if old is not None and old != branch:
            self._drop_branches(db, f"id = {int(old)} AND NOT EXISTS (SELECT 1 FROM step WHERE branch = branch.id)")

    def go_on(self, session: str, branch: int) -> None:
        """Let a session go on with another of its branches."""
        with self._writing() as db:
            if not db.execute("SELECT 1 FROM branch WHERE id = ? AND session = ?", (branch, session)).fetchone():
                raise MagratheaError(f"This session has no branch {branch}.")
            self._go_on(db, session, branch)

    def sessions(self, world: str | None = None) -> list[StoredSession]:
        """All sessions (of one world), the last used first."""
        where, values = ("AND session.world = ?", (world,)) if world is not None else ("", ())
        return [StoredSession(*row) for row in self._rows(self._listing(where), *values)]

    def num_sessions(self) -> int:
        return self._rows("SELECT count(*) FROM session WHERE NOT deleted")[0][0]

    def session(self, session: str) -> StoredSession:
        """One session; raises MagratheaError if it is not here."""
        found = self._rows(self._listing("AND session.id = ?"), session)
        if not found:
            raise MagratheaError("This session is not here: it was deleted, or its link belongs to another server.")
        return StoredSession(*found[0])

    @staticmethod
    def _listing(where: str) -> str:
        return f"""SELECT session.id, session.world, session.name, session.created, session.used, session.head, {TIP},
            (SELECT count(*) FROM branch AS other WHERE other.session = session.id)
            FROM session JOIN branch ON branch.id = session.head WHERE NOT session.deleted {where}
            ORDER BY session.used DESC"""

    def branches(self, session: str) -> list[Branch]:
        """The branches of a session, oldest first."""
        query = f"SELECT id, parent, forked_at, {TIP} FROM branch WHERE session = ? ORDER BY id"
        return [Branch(*row) for row in self._rows(query, session)]

    def rename(self, session: str, name: str) -> None:
        with self._writing() as db:
            db.execute("UPDATE session SET name = ? WHERE id = ?", (name, session))

    def touch(self, session: str) -> None:
        """Somebody has used this session now."""
        with self._writing() as db:
            db.execute("UPDATE session SET used = ? WHERE id = ?", (time.time(), session))

    # -- forgetting ---------------------------------------------------------------------------------------------------
    def delete(self, session: str) -> None:
        """Forget a session. The steps that forks of it share with it stay until those are deleted too."""
        with self._writing() as db:
            db.execute("UPDATE session SET deleted = 1, head = NULL WHERE id = ?", (session,))
            self._sweep(db)

    def delete_branch(self, session: str, branch: int) -> None:
        """Forget a branch for good. The steps that others share with it stay until those are deleted too.

        Raises MagratheaError if the session has no such branch, or is on it.
        """
        with self._writing() as db:
            found, now = self.session(session), time.time()
            if found.head == branch:
                raise MagratheaError("This session is on that branch; go to another one first.")
            grave = secrets.token_urlsafe(12)  # a deleted session, whose branches go as soon as nobody shares them
            db.execute("INSERT INTO session VALUES (?, ?, '', ?, ?, NULL, 1)", (grave, found.world, now, now))
            values = (grave, branch, session)
            if not db.execute("UPDATE branch SET session = ? WHERE id = ? AND session = ?", values).rowcount:
                raise MagratheaError(f"This session has no branch {branch}.")
            self._sweep(db)

    def _sweep(self, db: sqlite3.Connection) -> None:
        """Drop what deleted sessions hold and no other branch shares: whole branches, and the ends of others."""
        deleted = "session IN (SELECT id FROM session WHERE deleted)"
        while self._drop_branches(db, deleted):
            pass
        shared = "(SELECT max(forked_at) FROM branch AS other WHERE other.parent = branch.id)"
        held = db.execute(f"SELECT id, {shared} FROM branch WHERE {deleted}").fetchall()
        db.executemany("DELETE FROM step WHERE branch = ? AND number > ?", held)
        db.execute("DELETE FROM session WHERE deleted AND id NOT IN (SELECT session FROM branch)")

    def _drop_branches(self, db: sqlite3.Connection, which: str) -> int:
        """Forget the branches among these that no other branch left; returns how many."""
        leaves = f"SELECT id FROM branch WHERE ({which}) AND id NOT IN (SELECT parent FROM branch WHERE parent NOTNULL)"
        dropped = [row[0] for row in db.execute(leaves)]
        for table, column in (("step", "branch"), ("snapshot", "branch"), ("branch", "id")):
            db.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(branch,) for branch in dropped])
        return len(dropped)

    def delete_untouched(self, before: float) -> None:
        """Forget the sessions in which nothing was ever done and that nobody opened since ``before``."""
        for session in self.sessions():
            if session.untouched and session.used < before:
                self.delete(session.id)
        with self._writing() as db:  # what a server that died just then left half made
            db.execute("DELETE FROM session WHERE head IS NULL AND NOT deleted AND created < ?", (before,))

    # -- settings -----------------------------------------------------------------------------------------------------
    def setting(self, name: str, default: str) -> str:
        """A value that is kept with the store; the first default given is kept."""
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO setting VALUES (?, ?)", (name, default))
            return db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()[0]
