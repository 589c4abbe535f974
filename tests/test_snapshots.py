"""The states that a memory had along the way: given back bit for bit, and kept about once."""

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

MOST_BYTES = 2048  # of a step on disk


def grown(state: MemoryState, dice: np.random.Generator) -> MemoryState:
    """What a state might be some steps later: some rows are others, some are new, and now and then all is otherwise."""
    if not state or dice.random() < 0.1:
        length = int(dice.integers(30))
        state = {
            "map": torch.zeros(length, 2),
            "names": torch.zeros(length, dtype=torch.uint16),
            "sum": torch.zeros(()),
        }
    new, values = int(dice.integers(4)), state["map"].clone()
    values[torch.from_numpy(dice.random(len(values)) < 0.1)] = float(dice.choice([0.0, -0.0, 1.0, np.nan]))
    more = torch.from_numpy(dice.random((new, 2), np.float32))
    names = torch.cat([state["names"], torch.full((new,), 7, dtype=torch.uint16)])
    return {"map": torch.cat([values, more]), "names": names, "sum": state["sum"] + 1}


def same(one: MemoryState, other: MemoryState) -> bool:
    alike = one.keys() == other.keys() and all(one[name].dtype == other[name].dtype for name in one)
    return alike and all(one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in one)


@given(seed=st.integers(0, 999), num_kept=st.integers(1, 40), cut=st.integers(0, 40), more=st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_every_kept_snapshot_is_restored_exactly(seed: int, num_kept: int, cut: int, more: int) -> None:
    dice, kept = np.random.default_rng(seed), Snapshots()
    whole: dict[int, MemoryState] = {}

    def keep(checkpoints: Snapshots, times: range) -> None:
        for number in (EVERY * time for time in times):
            whole[number] = grown(checkpoints.newest, dice)
            checkpoints.keep(number, whole[number])

    def assert_all_are(checkpoints: Snapshots) -> None:
        assert checkpoints.numbers == [n for n in whole if n in checkpoints.numbers]
        assert all(same(state, whole[number]) for number, state in checkpoints.states())
        assert not checkpoints.numbers or same(checkpoints.newest, whole[checkpoints.numbers[-1]])

    keep(kept, range(1, num_kept + 1))
    assert kept.numbers == [number for number in whole if stays(number, EVERY * num_kept)]
    assert_all_are(kept)
    fork, before = kept.fork(), dict(whole)
    fork.truncate(EVERY * cut + 5)
    keep(fork, range(min(cut, num_kept) + 1, min(cut, num_kept) + 1 + more))
    assert_all_are(fork)
    whole = before
    assert_all_are(kept)


def long_life(memory: str, num_steps: int = 300) -> Session:
    session = Session(wild_world(memory), 1, start=0)
    log = np.repeat(session.log_of(0, -1), num_steps)
    log["kind"] = StepKind.OBSERVED
    log["tokens"] = np.random.default_rng(0).integers(2, size=log["tokens"].shape)
    session.extend([log])
    session.prepare()
    return session


def contents(session: Session) -> str:
    """The checksum of what a session's file has in it."""
    return session_file._metadata(session.to_bytes())["checksum"]


@pytest.mark.parametrize("memory", [*MEMORIES, "retrieval-pose"])
def test_file_restores_all_snapshots(memory: str) -> None:
    """Gone back to any of them, and from there on, a loaded session is what the one that was saved is."""
    session = long_life(memory)
    again = Session.from_bytes(session.to_bytes(), session.world)
    assert contents(again) == contents(session)
    for number in (30, 100, 130):
        for each in (session, again):
            each.rewind(number)
        one, other = session.step([1]), again.step([1])
        assert torch.equal(one.tokens, other.tokens) and contents(again) == contents(session)


def test_files_of_version_1_are_read() -> None:
    """They have every state whole, and wide keys."""
    session = long_life("retrieval")
    history, data = session._histories[0], session.to_bytes()
    header = session_file._metadata(data)["header"]
    tensors = {name: tensor for name, tensor in session_file.load(data).items() if ":" not in name}
    states = {f"checkpoint/0/{number}": state for number, state in history.snapshots.states()}
    for place, state in (states | {"memory/0": session.memory.state_dict(0)}).items():
        tensors |= {f"{place}:{name}": tensor.int() if name == "key" else tensor for name, tensor in state.items()}
    metadata = {"header": header, "checksum": session_file._checksum(header, tensors), "magrathea_session": "1"}
    again = read(session_file.save(tensors, metadata), "retrieval")
    assert torch.equal(again.step([1]).tokens, session.step([1]).tokens)
    for each in (session, again):
        each.rewind(150)
    assert torch.equal(again.step([1]).tokens, session.step([1]).tokens)


@pytest.mark.parametrize("rows", [[-1], [10_000], [2**31 - 1]])
def test_changes_of_rows_that_do_not_exist_are_refused(rows: list[int]) -> None:
    data = long_life("retrieval").to_bytes()
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
    """With all that there is to go back to, of steps of which no two are alike; and no more in a longer life."""
    world = wild_world(memory)
    steps = distinct_steps(world, 1000, seed=0)
    shorter, longer = (len(dream_after(world, steps[:length], seed=0).to_bytes()) / length for length in (250, 1000))
    assert longer < min(MOST_BYTES, 1.1 * shorter)
