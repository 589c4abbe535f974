"""A session that sleeps, wakes and branches is, on each of its branches, what it would be had it never stopped."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lights import lights_world

from magrathea.errors import MagratheaError
from magrathea.server import session_manager as library_module
from magrathea.server.session_manager import Limits, LiveSession, SessionManager
from magrathea.server.store import Store
from magrathea.session import Session

WORLD = lights_world()
EVENTS = st.lists(
    st.tuples(st.sampled_from(["step", "step", "step", "go", "sleep", "begin"]), st.integers(0, 2**20)), max_size=20
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
@example(events=[("step", 1), ("go", 0), ("go", 1), ("go", 2)])
def test_any_life_equals_sessions_that_never_stopped(
    events: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_module, "SNAPSHOT_STEPS", 4)  # so that few steps go through snapshots too
    asyncio.run(live(events))


async def live(events: list[tuple[str, int]]) -> None:
    library = SessionManager(Store(), Session)
    session = library.add("lights")
    life = LiveSession(library, WORLD, session)
    await life.begin(0, None)
    taken: dict[int, tuple[int, list[int]]] = {life.branch: (0, [])}  # branch -> seed, actions
    for kind, number in events:
        dice = random.Random(number)
        if kind == "step":
            for _ in range(dice.randint(1, 7)):
                action = dice.randrange(2)
                await life.step(action)
                taken[life.branch][1].append(action)
        elif kind == "go":
            branch = dice.choice([found.id for found in library.store.branches(session)])
            seed, actions = taken[branch]
            step = dice.randint(0, len(actions))
            await life.go(branch, step)
            if life.branch != branch:  # a new one, which may have the number of one that was left empty
                taken[life.branch] = (seed, actions[:step])
        elif kind == "sleep":
            await life.sleep()
            life = LiveSession(library, WORLD, session)
            await life.wake()
        else:
            await life.begin(number, None)
            taken[life.branch] = (number, [])
        seed, actions = taken[life.branch]
        assert life.num_steps == len(actions)
    for found in library.store.branches(session):
        seed, actions = taken[found.id]
        lone = Session(WORLD, seed=seed)
        rewards = [lone.step(np.array([action])).reward[0] for action in actions]
        woken, _ = library.wake(WORLD, found.id, len(actions))
        assert (woken.history_of(0) == lone.history_of(0)).all() and woken.seeds == lone.seeds
        assert library.total_reward(found.id, len(actions)) == pytest.approx(sum(rewards), abs=1e-4)
        assert (woken.step(np.array([1])).tokens == lone.step(np.array([1])).tokens).all()
    await library.close()


def test_what_is_too_long_or_of_too_many_is_not_taken_in() -> None:
    library = SessionManager(Store(), Session, Limits(steps=3))
    session = Session(WORLD, batch_size=2)
    with pytest.raises(MagratheaError, match="holds 2 dreams"):
        library.upload("lights", WORLD, session.to_bytes())
    session = session.fork_batch([0])
    for _ in range(4):
        session.step(np.array([1]))
    with pytest.raises(MagratheaError, match="3 steps at most"):
        library.upload("lights", WORLD, session.to_bytes())
    session.rewind(1)
    added = library.store.session(library.upload("lights", WORLD, session.to_bytes()))
    assert added.num_steps == 3
    assert (library.wake(WORLD, added.head, 2)[0].history_of(0) == session.history_of(0, last=-1)).all()
    library.store.close()


def test_snapshots_are_kept_so_that_waking_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "SNAPSHOT_STEPS", 4)

    async def main() -> None:
        library = SessionManager(Store(), Session)
        life = LiveSession(library, WORLD, library.add("lights"))
        await life.begin(0, None)
        for _ in range(50):
            await life.step(1)
        await library.engine.close()
        library._saver.shutdown(wait=True)
        _, at, _ = library.store.snapshot(life.branch, 50)
        assert 50 - at <= 50 / library_module.SNAPSHOT_SHARE + 1
        assert len(library.store._rows("SELECT number FROM snapshot")) == 2  # the beginning, and the newest
        library.store.close()

    asyncio.run(main())
