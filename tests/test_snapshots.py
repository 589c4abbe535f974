"""Snapshots of a memory's states: restored bit for bit, and stored as differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from session_worlds import MEMORIES, wild_world
from test_memories import ALL
from test_session_file import read, refusal

from magrathea.bench.history import distinct_steps, dream_after
from magrathea.session import Session
from magrathea.session import file as session_file
from magrathea.session.history import StepKind
from magrathea.session.snapshots import EVERY, Change, MemoryState, Snapshots, stays

MAX_BYTES_PER_STEP = 2048  # on disk


def next_state(state: MemoryState, rng: np.random.Generator) -> MemoryState:
    """A state some steps later: some rows changed, some are new, and sometimes everything is different."""
    if not state or rng.random() < 0.1:
        length = int(rng.integers(30))
        state = {
            "map": torch.zeros(length, 2),
            "names": torch.zeros(length, dtype=torch.uint16),
            "sum": torch.zeros(()),
        }
    new, values = int(rng.integers(4)), state["map"].clone()
    values[torch.from_numpy(rng.random(len(values)) < 0.1)] = float(rng.choice([0.0, -0.0, 1.0, np.nan]))
    more = torch.from_numpy(rng.random((new, 2), np.float32))
    names = torch.cat([state["names"], torch.full((new,), 7, dtype=torch.uint16)])
    return {"map": torch.cat([values, more]), "names": names, "sum": state["sum"] + 1}


def same(one: MemoryState, other: MemoryState) -> bool:
    same_types = one.keys() == other.keys() and all(one[name].dtype == other[name].dtype for name in one)
    return same_types and all(one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in one)


@given(seed=st.integers(0, 999), num_kept=st.integers(1, 40), cut=st.integers(0, 40), more=st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_every_kept_snapshot_is_restored_exactly(seed: int, num_kept: int, cut: int, more: int) -> None:
    rng, kept = np.random.default_rng(seed), Snapshots()
    states: dict[int, MemoryState] = {}

    def keep(snapshots: Snapshots, multiples: range) -> None:
        for number in (EVERY * multiple for multiple in multiples):
            states[number] = next_state(snapshots.newest, rng)
            snapshots.keep(number, states[number])

    def assert_restored(snapshots: Snapshots) -> None:
        assert snapshots.numbers == [n for n in states if n in snapshots.numbers]
        assert all(same(state, states[number]) for number, state in snapshots.states())
        assert not snapshots.numbers or same(snapshots.newest, states[snapshots.numbers[-1]])

    keep(kept, range(1, num_kept + 1))
    assert kept.numbers == [number for number in states if stays(number, EVERY * num_kept)]
    assert_restored(kept)
    fork, before = kept.fork(), dict(states)
    fork.truncate(EVERY * cut + 5)
    keep(fork, range(min(cut, num_kept) + 1, min(cut, num_kept) + 1 + more))
    assert_restored(fork)
    states = before
    assert_restored(kept)


def long_session(memory: str, num_steps: int = 300) -> Session:
    session = Session(wild_world(memory), 1, start=0)
    log = np.repeat(session.log_of(0, -1), num_steps)
    log["kind"] = StepKind.OBSERVED
    log["tokens"] = np.random.default_rng(0).integers(2, size=log["tokens"].shape)
    session.extend([log])
    session.prepare()
    return session


def checksum_of(session: Session) -> str:
    """The checksum of the contents of a session's file."""
    return session_file._metadata(session.to_bytes())["checksum"]


@pytest.mark.parametrize("memory", [*MEMORIES, "retrieval-pose"])
def test_file_restores_all_snapshots(memory: str) -> None:
    """After rewinding to any of them, a loaded session steps as the saved one does."""
    session = long_session(memory)
    loaded = Session.from_bytes(session.to_bytes(), session.world)
    assert checksum_of(loaded) == checksum_of(session)
    for number in (30, 100, 130):
        for each in (session, loaded):
            each.rewind(number)
        one, other = session.step([1]), loaded.step([1])
        assert torch.equal(one.tokens, other.tokens) and checksum_of(loaded) == checksum_of(session)


def test_files_of_version_1_are_read() -> None:
    """They store every state in full, and keys as int32."""
    session = long_session("retrieval")
    history, data = session._histories[0], session.to_bytes()
    header = session_file._metadata(data)["header"]
    tensors = {name: tensor for name, tensor in session_file.load(data).items() if ":" not in name}
    states = {f"checkpoint/0/{number}": state for number, state in history.snapshots.states()}
    for prefix, state in (states | {"memory/0": session.memory.state_dict(0)}).items():
        tensors |= {f"{prefix}:{name}": tensor.int() if name == "key" else tensor for name, tensor in state.items()}
    metadata = {"header": header, "checksum": session_file._checksum(header, tensors), "magrathea_session": "1"}
    loaded = read(session_file.save(tensors, metadata), "retrieval")
    assert torch.equal(loaded.step([1]).tokens, session.step([1]).tokens)
    for each in (session, loaded):
        each.rewind(150)
    assert torch.equal(loaded.step([1]).tokens, session.step([1]).tokens)


@pytest.mark.parametrize("rows", [[-1], [10_000], [2**31 - 1]])
def test_changes_of_rows_that_do_not_exist_are_refused(rows: list[int]) -> None:
    data = long_session("retrieval").to_bytes()
    tensors, header = session_file.load(data), session_file._metadata(data)["header"]
    name = next(name for name in tensors if "/rows:" in name)
    tensors[name][: len(rows)] = torch.tensor(rows, dtype=torch.int32)
    metadata = {"header": header, "checksum": session_file._checksum(header, tensors), "magrathea_session": "2"}
    assert "makes no sense" in refusal(session_file.save(tensors, metadata), "retrieval")


def test_change_stores_only_the_rows_that_differ() -> None:
    before = torch.arange(1000)
    after = torch.cat([before, torch.tensor([5])])
    after[3] = 0
    change = Change.between(before, after)
    assert change.rows is not None and change.rows.tolist() == [3, 1000] and torch.equal(change.applied(before), after)


@pytest.mark.parametrize("memory", ALL)
def test_file_size_is_at_most_2_kilobytes_per_step(memory: str) -> None:
    """With all snapshots, for steps of which no two are the same; and no more per step in a longer history."""
    world = wild_world(memory)
    steps = distinct_steps(world, 1000, seed=0)
    short, long = (len(dream_after(world, steps[:length], seed=0).to_bytes()) / length for length in (250, 1000))
    assert long < min(MAX_BYTES_PER_STEP, 1.1 * short)
