"""The power fails at any moment: the file can be opened and has every step that was acknowledged.

SQLite in WAL mode with `synchronous=FULL` promises an order: the log is synced before a commit returns, and before the
file is touched from it; the file is synced before the log is written over, and then the log's new header before its
frames (https://sqlite.org/src/info/ff5be73dee). So while an `append` runs, the disk may hold any sectors of the new log
with the old file, or, once the log is whole, any sectors of the new file.
"""

from __future__ import annotations

import random
from pathlib import Path

from magrathea.server.store import Store, StoredStep

SECTOR = 512  # bytes that a disk writes whole
HEADER = 32  # bytes of a log
NUM_APPENDS, STATES_EACH = 60, 2


def read(path: Path) -> tuple[bytes, bytes]:
    """The file and its log, as they are now."""
    return path.read_bytes(), path.with_name(f"{path.name}-wal").read_bytes()


def torn(before: bytes, after: bytes, rng: random.Random) -> bytes:
    """Some sectors are written and some not, and perhaps the end is missing; what never was written is anything."""
    share, state = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0)), bytearray(before)
    state += rng.randbytes(max(0, len(after) - len(before)))
    for start in range(0, len(after), SECTOR):
        if rng.random() < share:
            state[start : start + SECTOR] = after[start : start + SECTOR]
    return bytes(state[: rng.randint(len(before), len(state))]) if rng.random() < 0.5 else bytes(state)


def torn_log(before: bytes, after: bytes, rng: random.Random) -> bytes:
    """A log that is written, or that begins anew with another header, which is on the disk before the rest."""
    begun = after[:HEADER] + before[HEADER:]
    return before if begun != before and rng.random() < 0.2 else torn(begun, after, rng)


def test_no_acknowledged_step_is_lost_when_the_power_fails(tmp_path: Path) -> None:
    rng = random.Random(0)
    store = Store(tmp_path / "live" / "sessions.db")
    store._db.execute("PRAGMA wal_autocheckpoint = 12")  # so that the log is often written into the file
    branches = [store.add_root(store.add_session("square"), b"first", b"file") for _ in range(3)]
    records: list[bytes] = []
    num_checkpoints = num_arrived = 0
    before = read(store.path)
    for number in range(1, NUM_APPENDS + 1):
        records.append(rng.randbytes(rng.choice((100, 1000, 6000))))
        store.append([StoredStep(branch, number, records[-1], float(number)) for branch in branches])
        after = read(store.path)
        num_checkpoints += after[0] != before[0]
        for state in range(STATES_EACH):
            if after[0] == before[0] or state % 2:
                crash = before[0], torn_log(before[1], after[1], rng)
            else:
                crash = torn(before[0], after[0], rng), after[1]
            num_arrived += opened(tmp_path / f"{number}-{state}.db", crash, branches, records)
        before = after
    store.close()
    assert num_checkpoints > 5 and 0 < num_arrived < NUM_APPENDS * STATES_EACH


def opened(path: Path, crash: tuple[bytes, bytes], branches: list[int], records: list[bytes]) -> bool:
    """Start again from what the disk holds; whether the step that was not acknowledged has arrived all the same."""
    path.write_bytes(crash[0])
    path.with_name(f"{path.name}-wal").write_bytes(crash[1])
    store = Store(path)
    assert store._query("PRAGMA integrity_check") == [("ok",)]
    found = [[step.record for step in store.steps(branch, 0, len(records))] for branch in branches]
    assert found[0] in (records, records[:-1]), "an acknowledged step is lost"
    assert found[1:] == found[:1] * 2, "a batch is kept in parts"
    store.append([StoredStep(branches[0], len(found[0]) + 1, b"goes on", 0.0)])
    store.close()
    return found[0] == records
