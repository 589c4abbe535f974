"""Sessions that are saved, loaded, forked and rewound equal sessions that only took the steps, bit for bit."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from session_worlds import MEMORIES, NUM_ACTIONS, EchoMemory, play_board, wild_world

from magrathea.errors import MagratheaError
from magrathea.sampler import derive_seed
from magrathea.session import Session
from magrathea.session.history import CHUNK, History, StepKind, record_of
from magrathea.world import StepResult

OBSERVATIONS = play_board(30, seed=1)[0]
BATCH_SIZE = 2

actions = st.lists(st.integers(0, NUM_ACTIONS - 1), min_size=BATCH_SIZE, max_size=BATCH_SIZE)
steps = st.one_of(
    st.tuples(st.just("step"), actions),
    st.tuples(st.just("observe"), actions, st.integers(0, len(OBSERVATIONS) - BATCH_SIZE)),
)
other_operations = st.one_of(
    st.tuples(st.sampled_from(["save and load", "fork", "peek", "act"])),
    st.tuples(st.just("fork with a seed"), st.integers(0, 3)),
    st.tuples(st.just("reset"), st.sampled_from([(True, True), (True, False), (False, True)])),
    st.tuples(st.just("rewind"), st.integers(1, 12)),
)
operation_lists = st.lists(st.one_of(steps, steps, other_operations), max_size=25)


def take_step(session: Session, step: Sequence[Any]) -> None:
    """Step or observe, as `steps` draws them."""
    if step[0] == "step":
        session.step(np.array(step[1]))
    else:
        observations = OBSERVATIONS[step[2] : step[2] + BATCH_SIZE]
        session.observe(np.array(step[1]), observations, np.zeros(BATCH_SIZE, np.float32), np.zeros(BATCH_SIZE, bool))


def same(one: StepResult, other: StepResult) -> bool:
    """Whether two results have the same tokens, uncertainties and numbers of passes, bit for bit."""
    same_uncertainty = all(np.array_equal(one.uncertainty[name], other.uncertainty[name]) for name in one.uncertainty)
    return (
        same_uncertainty and torch.equal(one.tokens, other.tokens) and np.array_equal(one.num_passes, other.num_passes)
    )


def assert_same(one: Session, other: Session) -> None:
    """Two sessions have the same histories, memories and seeds, and their next steps are the same."""
    action = np.ones(BATCH_SIZE, np.int64)
    assert same(one.peek(action), other.peek(action))
    assert [difference.first for difference in one.diff(other)] == [None] * BATCH_SIZE
    for index in range(BATCH_SIZE):
        assert np.array_equal(one.log_of(index), other.log_of(index))
        states = one.memory.state_dict(index), other.memory.state_dict(index)
        assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert one.seeds == other.seeds


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=operation_lists, seed=st.integers(0, 5))
def test_any_sequence_of_operations_equals_its_steps_alone(
    tmp_path: Path, memory: str, operations: list, seed: int
) -> None:
    """Saving, forking, peeking, acting and undone steps change nothing: only the remaining steps count."""
    world = wild_world(memory)
    session, taken = Session(world, BATCH_SIZE, seed=seed), []  # the steps that remain, each with the seeds before it
    for operation in operations:
        name = operation[0]
        if name in ("step", "observe"):
            taken.append((session.seeds, operation))
            take_step(session, operation)
        elif name == "save and load":
            session = Session.load(session.save(tmp_path / "a.mwsession"), world)
        elif name == "fork":
            session, other = session.fork(), session
            take_step(other, ("step", [4] * BATCH_SIZE))  # the original goes on apart from its fork
        elif name == "fork with a seed":
            session = session.fork(seed=operation[1])
        elif name == "reset":
            taken.append((session.seeds, operation))
            session.reset(np.array(operation[1]))
        elif name == "rewind":
            number = min(operation[1], int(session.num_steps.min()))
            session.rewind(number)
            if number:
                cut = len(taken) - number
                assert session.seeds == taken[cut][0]
                taken = taken[:cut]
        elif name == "peek":
            session.peek(np.zeros(BATCH_SIZE, np.int64))
        else:
            session.act()
    expected = Session(world, BATCH_SIZE, seed=seed)
    for seeds, operation in taken:
        expected._seeds[:] = seeds
        if operation[0] == "reset":
            expected.reset(np.array(operation[1]))
        else:
            take_step(expected, operation)
    expected._seeds[:] = session.seeds
    assert_same(session, expected)


CONTINUE = """
import sys
from pathlib import Path

import numpy as np, torch
torch.set_num_threads(1)
from session_worlds import MEMORIES, wild_world
from magrathea.session import Session

for index, memory in enumerate(MEMORIES):
    file = Path(sys.argv[1]) / f"{index}.mwsession"
    session = Session.load(file, wild_world(memory))
    for number in range(70):
        session.step(np.array([number % 5, 3]))
    session.rewind(5)
    result = session.peek(np.array([1, 1]))
    np.savez(file.with_suffix(".npz"), tokens=result.tokens.numpy(), **result.uncertainty)
    session.save(file)
"""


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Session]]:
    """A session of each memory; and the folder of their files, from which another process continued them."""
    folder, sessions = tmp_path_factory.mktemp("continued"), []
    for index, memory in enumerate(MEMORIES):
        session = Session(wild_world(memory), BATCH_SIZE, seed=3)
        for number in range(75):
            take_step(session, ("step", [number % 5, 2]) if number % 3 else ("observe", [0, 1], number % 20))
        session.save(folder / f"{index}.mwsession")
        sessions.append(session)
    subprocess.run([sys.executable, "-c", CONTINUE, str(folder)], check=True, cwd=Path(__file__).parent)
    return folder, sessions


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(MEMORIES)), ids=MEMORIES)
def test_another_process_continues_bit_for_bit(continued: tuple[Path, list[Session]], index: int) -> None:
    file, session = continued[0] / f"{index}.mwsession", continued[1][index]
    for number in range(65):
        session.step(np.array([number % 5, 3]))
    peeked, result = np.load(file.with_suffix(".npz")), session.peek(np.array([1, 1]))
    assert np.array_equal(peeked["tokens"], result.tokens)
    assert all(np.array_equal(peeked[name], values) for name, values in result.uncertainty.items())
    assert_same(session, Session.load(file, session.world))


def test_peek_returns_what_step_returns() -> None:
    session = Session(wild_world("echo"), BATCH_SIZE, seed=1)
    for number in range(5):
        action = np.array([number, 1])
        assert same(session.peek(action), session.peek(action)) and same(session.peek(action), session.step(action))
    assert session.num_steps.tolist() == [5, 5]


# -- rewinding --------------------------------------------------------------------------------------------------------
def test_each_dream_rewinds_by_its_own_number_of_steps() -> None:
    session, other = (Session(wild_world("echo"), BATCH_SIZE, seed=1) for _ in range(2))
    for number in range(9):
        session.step(np.array([number % 5, 1]))
        if number < 7:
            other.step(np.array([number % 5, 1]))
    session.rewind([2, 6])
    assert session.num_steps.tolist() == [7, 3]
    assert torch.equal(session.tokens[0], other.tokens[0])
    assert torch.equal(session.peek(np.array([1, 1])).tokens[0], other.peek(np.array([1, 1])).tokens[0])


def test_rewind_beyond_the_start_is_refused() -> None:
    session = Session(wild_world(), BATCH_SIZE)
    session.step(np.array([1, 2]))
    for number in (2, -1, [0, 2], [1]):
        with pytest.raises(MagratheaError, match=r"it has \[1, 1\] to go back|give one each"):
            session.rewind(number)
    assert session.num_steps.tolist() == [1, 1]


def test_rewind_writes_only_the_steps_since_a_snapshot() -> None:
    """Snapshots of the memory are kept, more densely near the end."""
    session = Session(wild_world("echo"), 1, start=0)
    _observe_many(session, 1_000)
    session.prepare()
    for number, most in ((10, 2 * CHUNK), (300, 6 * CHUNK)):
        before = EchoMemory.num_written
        session.rewind(number)
        session.prepare()
        assert EchoMemory.num_written - before <= most
    assert len(session._histories[0].snapshots.numbers) < 16


def _observe_many(session: Session, num_steps: int) -> None:
    """Extend a session by random steps, without dreaming them."""
    log = np.repeat(session.log_of(0, -1), num_steps)
    log["kind"] = StepKind.OBSERVED
    log["tokens"] = np.random.default_rng(0).integers(2, size=log["tokens"].shape)
    session.extend([log] * session.batch_size)


# -- forks ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("num_steps", [1_000, 100_000])
def test_fork_of_a_long_history_takes_kilobytes(num_steps: int) -> None:
    session = Session(wild_world("spatial_map"), 1, start=0)
    _observe_many(session, num_steps)
    tracemalloc.start()
    fork = session.fork(seed=1)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 16 * 1024
    assert fork._context._ring is None and "memory" not in fork._context.__dict__
    own, forked = session._histories[0], fork._histories[0]
    assert own.shared_with(forked) == len(own) // CHUNK * CHUNK and own._chunks is forked._chunks
    assert not np.shares_memory(own._tail, forked._tail) and torch.equal(session.history, fork.history)


def test_forks_diverge_when_seeds_or_actions_differ() -> None:
    session = Session(wild_world(), 1, seed=4)
    session.step([1])
    forks = [session.fork(), session.fork(), session.fork(seed=9)]
    for step in range(5):
        forks[0].step([2]), forks[1].step([2 if step < 3 else 3]), forks[2].step([2])
    assert session.num_steps.tolist() == [1]
    assert [fork.diff(forks[0])[0].first for fork in forks[1:]] == [3 + 1 + 3, 3 + 1]


def test_fork_batch() -> None:
    session = Session(wild_world("echo"), 3, seed=0)
    for step in range(4):
        session.step(np.array([0, 1, step]))
    forks = session.fork_batch([2, 0, 2], seeds=[7, 8, 7])
    assert [torch.equal(forks.history_of(index), session.history_of(origin)) for index, origin in enumerate((2, 0, 2))]
    result = forks.step(np.array([1, 1, 1]))
    assert torch.equal(result.tokens[0], result.tokens[2]) and not torch.equal(result.tokens[0], result.tokens[1])
    many = session.fork_batch([1]).fork_batch(4, seeds=range(4))
    assert many.batch_size == 4 and len(many.step(np.full(4, 2)).tokens.unique(dim=0)) > 1
    for batch_indices in ([], [3], [-1], 2):
        with pytest.raises(MagratheaError, match=r"fork_batch a list|not one or more"):
            session.fork_batch(batch_indices)
    with pytest.raises(MagratheaError, match="give one each"):
        session.fork(seed=[1, 2])


# -- logs -------------------------------------------------------------------------------------------------------------
def test_log_holds_the_kind_and_seed_of_every_step() -> None:
    session = Session(wild_world(), BATCH_SIZE, seed=5, start=2)
    take_step(session, ("observe", [1, 2], 4))
    session.step(np.array([3, 3]))
    session = session.fork(seed=[70, 80])
    session.step(np.array([3, 3]))
    log = session.log_of(1)
    assert log["kind"].tolist() == [StepKind.START] * 3 + [StepKind.OBSERVED, StepKind.DREAMT, StepKind.DREAMT]
    assert log["seed"].tolist() == [6] * 5 + [80] and session.num_start_of(1) == 3
    assert torch.equal(session.history[1, :3], wild_world().starts[2])
    assert torch.equal(session.history_of(1, -2), session.history_of(1)[-2:])
    session.reset(np.array([True, False]))
    with pytest.raises(MagratheaError, match=r"history_of\(index\)"):
        _ = session.history


@given(num_steps=st.integers(0, 300), first=st.integers(-310, 310), last=st.one_of(st.none(), st.integers(-310, 310)))
@settings(deadline=None)
def test_history_reads_any_slice_of_its_log(num_steps: int, first: int, last: int | None) -> None:
    history, numbers = History(wild_world().layout), np.arange(num_steps)
    log = np.zeros(num_steps, record_of(wild_world().layout))
    log["seed"] = numbers
    history.extend(log)
    assert np.array_equal(history.read(first, last)["seed"], numbers[first:last])
    for length in sorted({num_steps, num_steps // 2, num_steps // 7}, reverse=True):
        other = history.fork()
        history.truncate(length)
        assert np.array_equal(history.read()["seed"], numbers[:length]) and len(other) >= len(history)


def test_extend_restores_a_session_from_its_log() -> None:
    """An early file and the log since then are enough to restore a session."""
    session = Session(wild_world("echo"), BATCH_SIZE, seed=5)
    early = session.to_bytes()
    for number in range(70):
        take_step(session, ("step", [1, number % 5]) if number % 2 else ("observe", [1, 2], number % 9))
    again = Session.from_bytes(early, session.world)
    again.extend([session.log_of(index, 3) for index in range(BATCH_SIZE)])
    assert_same(session, again)
    invalid = session.log_of(0, -1)
    invalid["tokens"][:] = 200
    for logs in ([invalid] * BATCH_SIZE, [session.log_of(0, -1)], [np.zeros(3)] * BATCH_SIZE):
        with pytest.raises(MagratheaError, match="log"):
            again.extend(logs)
    assert_same(session, again)


# -- replaying and comparing ------------------------------------------------------------------------------------------
def test_replay_gives_the_same_session() -> None:
    session = Session(wild_world("echo"), BATCH_SIZE, seed=2)
    for number in range(12):
        take_step(session, ("observe", [1, 2], number) if number % 4 == 1 else ("step", [number % 5, 3]))
        if number == 5:
            session.reset(np.array([False, True]))
        if number == 8:
            session = session.fork(seed=50)
    again = session.replay()
    assert_same(session, again)
    assert again._histories[0].shared_with(session._histories[0]) == 0
    other = session.replay(wild_world("window"))
    assert (other.log_of(0)["kind"] == session.log_of(0)["kind"]).all() and not other.diff(session)[0].same


def test_diff_counts_from_the_first_different_step() -> None:
    session = Session(wild_world(), BATCH_SIZE, seed=2)
    for _ in range(2 * CHUNK):
        session.step(np.array([1, 1]))
    fork = session.fork()
    session.rewind(10), fork.rewind(10)
    for number in range(7):
        session.step(np.array([1, 2]))
        fork.step(np.array([3 if number == 4 else 1, 2]))
    fork.step(np.array([1, 1]))
    one, other = session.diff(fork)
    differs = session.history != fork.history[:, :-1]
    assert one.first == int(differs[0].any(-1).nonzero()[0]) == 3 + 2 * CHUNK - 10 + 4
    assert one.num_steps == int(differs[0].any(-1).sum()) and one.lengths == (
        len(session.history[0]),
        len(fork.history[0]),
    )
    assert one.num_tokens == {
        slot.name: int(differs[0][:, session.world.layout.span(slot.name)].sum()) for slot in session.world.layout.slots
    }
    assert other.first == len(session.history[1]) and other.num_steps == 0 and not other.same
    with pytest.raises(MagratheaError, match="same batch size"):
        session.diff(fork.fork_batch([0]))


# -- joining and leaving a batch ---------------------------------------------------------------------------------------
def test_appended_sessions_step_as_they_do_alone() -> None:
    world = wild_world("echo")
    alone = [Session(world, seed=seed, start=seed) for seed in range(3)]
    batch = alone[0].fork()
    batch.step([4], batch_indices=[0]), alone[0].step([4])
    for session in alone[1:]:
        batch.append(session.fork())
    for number, batch_indices in enumerate([[0, 1, 2], [2], [2, 0], [0, 1], [1], [1, 2, 0], [0, 1, 2]]):
        result = batch.step(np.full(len(batch_indices), number % 5), batch_indices=batch_indices)
        for position, index in enumerate(batch_indices):
            assert torch.equal(result.tokens[position], alone[index].step([number % 5]).tokens[0])
    batch.keep([2, 0])
    assert batch.batch_size == 2 and batch.seeds == (2, 0)
    result = batch.step(np.array([1, 2]))
    assert torch.equal(result.tokens, torch.cat([alone[2].step([1]).tokens, alone[0].step([2]).tokens]))
    with pytest.raises(MagratheaError, match="can be joined only"):
        batch.append(Session(wild_world("window")))


# -- random numbers ---------------------------------------------------------------------------------------------------
def test_derived_seeds_never_change() -> None:
    """Saved sessions and published seeds depend on these numbers."""
    assert derive_seed(0, "step", 0) == 7316601067076945981 and derive_seed(-3, "episode") == 2926550447205943039


def test_every_step_has_its_own_random_numbers() -> None:
    """With the same random numbers nearly all steps of an untrained world would be the same."""
    session = Session(wild_world(), 1, seed=1)
    for _ in range(40):
        session.step([1])
    steps = session.history_of(0, 3)
    assert (steps[1:] == steps[:-1]).float().mean() < 0.6


def test_reset_without_a_seed_derives_the_next_seed() -> None:
    session, other = (Session(wild_world(), BATCH_SIZE, seed=1) for _ in range(2))
    other.step(np.array([1, 1]))
    session.reset(), other.reset()
    assert session.seeds == other.seeds != (1, 2)
    assert same(session.step(np.array([1, 1])), other.step(np.array([1, 1])))
    for seed in (2**63, [1], [1, -(2**64)]):
        with pytest.raises(MagratheaError, match=r"64 bits|give one each"):
            session.reset(seed=seed)
