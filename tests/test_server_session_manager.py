"""A session that is suspended, resumed and forked equals, on each of its branches, one that never stopped."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lights import lights_world
from server_square_world import SquareSession, SquareWorld

from magrathea.errors import MagratheaError
from magrathea.server import session_manager
from magrathea.server.live_session import LiveSession
from magrathea.server.session_manager import Limits, SessionManager
from magrathea.server.store import Store, StoreThread
from magrathea.session import Session

WORLD = lights_world()
EVENTS = st.lists(
    st.tuples(st.sampled_from(["step", "step", "step", "go_to", "suspend", "start"]), st.integers(0, 2**20)),
    max_size=20,
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
@example(events=[("step", 1), ("go_to", 0), ("go_to", 1), ("go_to", 2)])
def test_any_sequence_of_events_equals_sessions_that_never_stopped(
    events: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_manager, "SNAPSHOT_STEPS", 4)  # so that a few steps make snapshots
    asyncio.run(run(events))


async def run(events: list[tuple[str, int]]) -> None:
    manager = SessionManager(StoreThread(), Session)
    session = await manager.add("lights")
    live = LiveSession(manager, WORLD, session)
    await live.start(0, None)
    taken: dict[int, tuple[int, list[int]]] = {live.branch: (0, [])}  # branch -> seed, actions
    for kind, number in events:
        rng = random.Random(number)
        if kind == "step":
            for _ in range(rng.randint(1, 7)):
                action = rng.randrange(2)
                await live.step(action)
                taken[live.branch][1].append(action)
        elif kind == "go_to":
            branch = rng.choice([found.id for found in await manager.store.run(Store.branches, session)])
            seed, actions = taken[branch]
            step = rng.randint(0, len(actions))
            await live.go_to(branch, step)
            if live.branch != branch:  # a new one, which may have the id of an empty one that was dropped
                taken[live.branch] = (seed, actions[:step])
        elif kind == "suspend":
            await live.suspend()
            live = LiveSession(manager, WORLD, session)
            await live.resume()
        else:
            await live.start(number, None)
            taken[live.branch] = (number, [])
        seed, actions = taken[live.branch]
        assert live.num_steps == len(actions)
    for found in await manager.store.run(Store.branches, session):
        seed, actions = taken[found.id]
        lone = Session(WORLD, seed=seed)
        rewards = [lone.step(np.array([action])).reward[0] for action in actions]
        loaded = await manager.load(WORLD, found.id, len(actions))
        restored = loaded.session
        assert (restored.history_of(0) == lone.history_of(0)).all() and restored.seeds == lone.seeds
        assert loaded.total_reward == pytest.approx(sum(rewards), abs=1e-4)
        assert (restored.step(np.array([1])).tokens == lone.step(np.array([1])).tokens).all()
    await manager.close()


def test_files_that_are_too_long_or_hold_a_batch_are_refused() -> None:
    async def main() -> None:
        manager = SessionManager(StoreThread(), Session, Limits(steps=3))
        session = Session(WORLD, batch_size=2)
        with pytest.raises(MagratheaError, match="has batch size 2"):
            await manager.upload("lights", WORLD, session.to_bytes())
        session = session.fork_batch([0])
        for _ in range(4):
            session.step(np.array([1]))
        with pytest.raises(MagratheaError, match="3 steps at most; this one has 4"):
            await manager.upload("lights", WORLD, session.to_bytes())
        session.rewind(1)
        added = await manager.store.run(Store.session, await manager.upload("lights", WORLD, session.to_bytes()))
        assert added.num_steps == 3
        loaded = await manager.load(WORLD, added.head, 2)
        assert (loaded.session.history_of(0) == session.history_of(0, last=-1)).all()
        await manager.close()

    asyncio.run(main())


def test_snapshots_keep_restoring_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_manager, "SNAPSHOT_STEPS", 4)

    async def main() -> None:
        manager = SessionManager(StoreThread(), Session)
        live = LiveSession(manager, WORLD, await manager.add("lights"))
        await live.start(0, None)
        for _ in range(50):
            await live.step(1)
        await manager.engine.close()
        manager._snapshot_thread.shutdown(wait=True)
        _, at, _ = await manager.store.run(Store.snapshot, live.branch, 50)
        assert 50 - at <= 50 / session_manager.SNAPSHOT_SHARE + 1
        kept = await manager.store.run(Store._query, "SELECT number FROM snapshot")
        assert len(kept) == 2  # the start, and the newest
        manager.store.close()

    asyncio.run(main())


def test_a_live_session_is_rewound_from_what_it_holds_and_leaves_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that going back takes no longer the more steps came after the last snapshot of the store."""

    async def main() -> None:
        manager = SessionManager(StoreThread(), SquareSession)
        live = LiveSession(manager, SquareWorld(), await manager.add("square"))
        await live.start(1, 0)
        for step in range(40):
            await live.step(5 if step % 3 else 2)
        with monkeypatch.context() as patch:
            patch.setattr(manager, "load", None)
            first = live.branch
            tokens = await live.go_to(first, 7)
        assert live.num_steps == 7 and live.branch != first and live.total_reward == 4
        assert (tokens == (await manager.load(live.world, first, 7)).session.tokens[0]).all()
        await live.step(5)
        assert live.total_reward == 5
        assert await live.go_to(first, 40) is not None and live.num_steps == 40  # from the snapshot that it left
        await live.suspend()
        await asyncio.to_thread(manager._snapshot_thread.shutdown, wait=True)
        kept = await manager.store.run(Store._query, "SELECT branch, number FROM snapshot ORDER BY number")
        assert kept == [(first, 0), (first, 40)]
        await manager.close()

    asyncio.run(main())
