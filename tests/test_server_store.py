"""The store loses nothing: steps, branches that share them, snapshots, names."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from magrathea.errors import MagratheaError
from magrathea.server.database import backup_store
from magrathea.server.server import data_folder
from magrathea.server.store import Store, StoredStep, StoreThread


class StoreMachine(RuleBasedStateMachine):
    """A store compared with a dictionary of lists. A branch is known by its number and the list of its records."""

    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.branches: dict[str, dict[int, list[bytes]]] = {}
        self.heads: dict[str, int] = {}
        self.count = 0

    def head_is(self, session: str, branch: int, records: list[bytes]) -> None:
        old = self.heads.get(session)
        here = self.branches.setdefault(session, {})
        here[branch], self.heads[session] = records, branch
        kept = {found.id for found in self.store.branches(session)}
        assert kept >= set(here) - {old}
        if old is not None and old not in kept:  # nothing had been done on it
            del here[old]

    @rule(target=sessions)
    def begin(self) -> str:
        session = self.store.add_session("square")
        self.head_is(session, self.store.add_root(session, b"first", b"snapshot 0"), [])
        return session

    @rule(sessions=st.lists(sessions, min_size=1, max_size=3, unique=True), count=st.integers(1, 3))
    def go_on(self, sessions: list[str], count: int) -> None:
        for _ in range(count):
            steps = []
            for session in sessions:
                self.count += 1
                records = self.branches[session][self.heads[session]]
                records.append(b"%d" % self.count)
                steps.append(StoredStep(self.heads[session], len(records), records[-1], float(self.count)))
            self.store.append(steps)

    @rule(session=sessions, other=sessions, choice=st.randoms(use_true_random=False))
    def branch(self, session: str, other: str, choice: Any) -> None:
        parent = choice.choice(sorted(self.branches[other]))
        records = self.branches[other][parent]
        number = choice.randint(0, len(records))
        self.head_is(session, self.store.add_fork(session, parent, number), records[:number])

    @rule(session=sessions, choice=st.randoms(use_true_random=False))
    def switch(self, session: str, choice: Any) -> None:
        branch = choice.choice(sorted(self.branches[session]))
        records = self.branches[session][branch]
        self.store.switch(session, branch)
        self.head_is(session, branch, records)

    @rule(session=sessions, choice=st.randoms(use_true_random=False))
    def delete_branch(self, session: str, choice: Any) -> None:
        branch = choice.choice(sorted(self.branches[session]))
        if branch == self.heads[session]:
            with pytest.raises(MagratheaError, match="go to another one first"):
                self.store.delete_branch(session, branch)
        else:
            self.store.delete_branch(session, branch)
            del self.branches[session][branch]

    @rule(session=sessions)
    def snapshot(self, session: str) -> None:
        branch = self.heads[session]
        number = len(self.branches[session][branch])
        self.store.put_snapshot(branch, number, b"snapshot %d" % number)

    @rule(session=consumes(sessions))
    def delete(self, session: str) -> None:
        self.store.delete(session)
        del self.branches[session], self.heads[session]

    @invariant()
    def store_equals_model(self) -> None:
        listed = {found.id: found for found in self.store.sessions()}
        assert set(listed) == set(self.branches)
        for session, branches in self.branches.items():
            assert listed[session].head == self.heads[session]
            assert listed[session].num_steps == len(branches[self.heads[session]])
            assert {found.id: found.num_steps for found in self.store.branches(session)} == {
                branch: len(records) for branch, records in branches.items()
            }
            for branch, records in branches.items():
                assert [step.record for step in self.store.steps(branch, 0, len(records))] == records
                assert [step.number for step in self.store.steps(branch, 0, len(records))] == [
                    *range(1, len(records) + 1)
                ]
                assert self.store.record(branch, 0) == b"first"
                file, at, shared = self.store.snapshot(branch, len(records))
                assert file == b"snapshot %d" % at and shared <= min(at, len(records))

    def teardown(self) -> None:
        for session in list(self.branches):
            self.store.delete(session)
        for table in ("session", "branch", "step", "snapshot"):
            assert not self.store._query(f"SELECT * FROM {table}")
        self.store.close()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much],  # rules need sessions, of which there are few or none at first
)


def begun(store: Store) -> tuple[str, int]:
    session = store.add_session("square", "mine")
    return session, store.add_root(session, b"first", b"snapshot 0")


def test_appended_steps_are_durable_and_seen_by_another_connection(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "sessions.db")
    session, branch = begun(store)
    store.append([StoredStep(branch, 1, b"one", 0.5)])
    other = Store(tmp_path / "deep" / "sessions.db")
    assert other.session(session).num_steps == 1 and other.session(session).name == "mine"
    assert store._query("PRAGMA journal_mode") == [("wal",)]
    assert store._query("PRAGMA synchronous") == [(2,)]
    with pytest.raises(MagratheaError, match="continued in another server"):
        other.append([StoredStep(branch, 2, b"two", 0.5), StoredStep(branch, 1, b"one", 0.5)])
    assert other.session(session).num_steps == 1
    other.close()
    store.close()


def test_the_nearest_snapshot_is_found_on_either_side() -> None:
    store = Store()
    session, branch = begun(store)
    store.append([StoredStep(branch, number, b"%d" % number, 0.0) for number in range(1, 101)])
    store.put_snapshot(branch, 90, b"snapshot 90")
    assert store.snapshot(branch, 100) == (b"snapshot 90", 90, 90)
    assert store.snapshot(branch, 80) == (b"snapshot 90", 90, 80)
    assert store.snapshot(branch, 10) == (b"snapshot 0", 0, 0)
    fork = store.add_fork(session, branch, 70)
    store.append([StoredStep(fork, 71, b"other", 0.0)])
    assert store.snapshot(fork, 71) == (b"snapshot 90", 90, 70)
    assert [step.record for step in store.steps(fork, 68, 71)] == [b"69", b"70", b"other"]


def test_names_settings_and_untouched_sessions() -> None:
    store = Store()
    session, _ = begun(store)
    store.rename(session, "the cave")
    assert store.session(session).name == "the cave"
    assert store.setting("token", "a") == store.setting("token", "b") == "a"
    idle = store.add_session("square")
    store.add_root(idle, b"first", b"snapshot 0")
    store.delete_untouched(before=0)
    assert len(store.sessions()) == 2
    store.delete_untouched(before=1e12)
    assert [found.id for found in store.sessions()] == [session]
    with pytest.raises(MagratheaError, match="is not here"):
        store.session(idle)


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "sessions.db", max_bytes=40 * 4096)
    session, branch = begun(store)
    with pytest.raises(MagratheaError, match="free some space"):
        for number in range(1, 1000):
            store.append([StoredStep(branch, number, bytes(1000), 0.0)])
    kept = store.session(session).num_steps
    assert kept == number - 1 > 10
    store.delete(session)
    begun(store)
    store.close()


def test_other_files_and_newer_versions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_bytes(b"no database" * 1000)
    with pytest.raises(MagratheaError, match="cannot be used"):
        Store(tmp_path / "text.db")
    with sqlite3.connect(tmp_path / "newer.db") as newer:
        newer.execute("PRAGMA user_version = 9")
    newer.close()
    with pytest.raises(MagratheaError, match="version 9, but this Magrathea reads version 1"):
        Store(tmp_path / "newer.db")
    with pytest.raises(MagratheaError, match="cannot be used"):
        Store("/dev/null/sessions.db")


def test_a_database_of_another_program_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as photos:
        photos.execute("CREATE TABLE photo (id INTEGER)")
    photos.close()
    before = path.read_bytes()
    with pytest.raises(MagratheaError, match="of another program"):
        Store(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_closed_store_is_one_file_and_a_backup_is_whole_while_it_is_used(tmp_path: Path) -> None:
    store = Store(tmp_path / "sessions.db")
    session, branch = begun(store)
    store.append([StoredStep(branch, 1, b"step", 0.0)])
    assert backup_store(tmp_path / "sessions.db", tmp_path / "backup.db") == tmp_path / "backup.db"
    with pytest.raises(MagratheaError, match="is there already"):
        backup_store(tmp_path / "sessions.db", tmp_path / "backup.db")
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.db", "sessions.db"]
    with pytest.raises(MagratheaError, match="There is no store"):
        backup_store(tmp_path / "none.db", tmp_path / "other.db")
    for name in ("sessions.db", "backup.db"):
        kept = Store(tmp_path / name)
        assert kept.session(session).num_steps == 1 and kept.record(branch, 1) == b"step"
        kept.close()


def test_the_data_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGRATHEA_HOME", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.delenv("MAGRATHEA_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setattr("sys.platform", "linux")
    assert data_folder() == tmp_path / "share" / "magrathea"


def test_a_store_thread_runs_calls_in_order_and_off_the_event_loop(tmp_path: Path) -> None:
    threads: set[str] = set()

    def rename(store: Store, session: str, name: str) -> str:
        threads.add(threading.current_thread().name)
        before = store.session(session).name
        store.rename(session, name)
        return before

    async def main() -> list[str]:
        store = StoreThread(tmp_path / "sessions.db")
        session = await store.run(Store.add_session, "square", "0")
        await store.run(Store.add_root, session, b"first", b"snapshot 0")
        before = await asyncio.gather(*(store.run(rename, session, str(number)) for number in range(1, 20)))
        assert store.call(Store.session, session).name == "19"
        with pytest.raises(MagratheaError, match="is not here"):
            await store.run(Store.session, "none")
        store.close()
        return before

    assert asyncio.run(main()) == [str(number) for number in range(19)]
    assert threads == {"store_0"}
    with pytest.raises(MagratheaError, match="cannot be used"):
        StoreThread("/dev/null/sessions.db")
