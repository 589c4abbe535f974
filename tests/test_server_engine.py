"""Sessions in one batch: each is what it would be alone, none waits for long, and a failure stays with its session."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lights import lights_world
from server_square_world import SquareSession, SquareWorld
from session_worlds import MEMORIES, play_board, wild_world

from magrathea.sampler import FillSettings
from magrathea.server.engine import BatchSlot, Engine
from magrathea.session import Session

WORLD = lights_world()


def run(scene: Callable[[Engine], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        engine = Engine(**options)
        try:
            async with asyncio.timeout(60):
                await scene(engine)
        finally:
            await engine.close()

    asyncio.run(main())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["step", "join", "keep"]), st.integers(0, 2**20)), max_size=12))
def test_sessions_that_step_join_and_leave_a_batch_equal_sessions_alone(events: list[tuple[str, int]]) -> None:
    alone = [Session(WORLD, seed=0)]
    batch, next_seed = Session(WORLD, seed=0), 1
    for kind, number in events:
        rng = random.Random(number)
        if kind == "join":
            alone.append(Session(WORLD, seed=next_seed))
            batch.append(Session(WORLD, seed=next_seed))
            next_seed += 1
        elif kind == "keep" and len(alone) > 1:
            indices = sorted(rng.sample(range(len(alone)), len(alone) - 1))
            alone = [alone[index] for index in indices]
            batch.keep(indices)
        else:
            indices = rng.sample(range(len(alone)), rng.randint(1, len(alone)))
            actions = [rng.randrange(2) for _ in indices]
            result = batch.step(np.array(actions), batch_indices=indices)
            for place, (index, action) in enumerate(zip(indices, actions, strict=True)):
                lone = alone[index].step(np.array([action]))
                assert (result.tokens[place] == lone.tokens[0]).all()
                for name, unsure in lone.uncertainty.items():
                    np.testing.assert_allclose(result.uncertainty[name][place], unsure[0], atol=1e-4)
    assert batch.batch_size == len(alone)
    for index, lone in enumerate(alone):
        assert (batch.history_of(index) == lone.history_of(0)).all()


@pytest.mark.parametrize("memory", MEMORIES)
def test_joining_and_leaving_a_batch_keeps_each_memory_and_writes_no_other(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, rng = wild_world(memory), random.Random(0)
    seen, actions, rewards, ends = play_board(60, seed=2)

    def observe(session: Session, numbers: list[int]) -> None:
        """Each session observes the next of its own steps, so that its memory is known."""
        session.observe(actions[numbers], seen[numbers], rewards[numbers], ends[numbers])
        session.prepare()

    alone = [Session(world, seed=seed, start=seed) for seed in range(6)]
    ages = [0] * len(alone)
    batch, inside = Session(world, seed=0, start=0), [0]
    loaded: list[int] = []  # batch indices whose memory state was set
    kind = type(batch.memory)
    load = kind.load_state_dict

    def noted(memory: Any, index: int, state: dict[str, torch.Tensor]) -> None:
        if memory is vars(batch._context).get("memory"):
            loaded.append(index)
        load(memory, index, state)

    monkeypatch.setattr(kind, "load_state_dict", noted)
    for _ in range(30):
        absent = [number for number in range(len(alone)) if number not in inside]
        loaded.clear()
        if absent and (rng.random() < 0.5 or len(inside) == 1):
            number, capacity = rng.choice(absent), batch._context._capacity
            batch.append(alone[number].fork())
            inside.append(number)
            assert len(inside) > capacity or set(loaded) <= {len(inside) - 1}
        else:
            place = rng.randrange(len(inside))
            inside[place] = inside[-1]
            inside.pop()
            batch.keep([*range(place), *[len(inside)] * (place < len(inside)), *range(place + 1, len(inside))])
            assert 4 * len(inside) < batch._context._capacity or set(loaded) <= {place}
        observe(batch, [ages[number] for number in inside])
        for number in inside:
            observe(alone[number], [ages[number]])
            ages[number] += 1
    for place, number in enumerate(inside):
        states = batch.memory.state_dict(place), alone[number].memory.state_dict(0)
        for name, tensor in states[0].items():
            torch.testing.assert_close(tensor, states[1][name], rtol=1e-3, atol=1e-3)
        results = batch.peek(np.zeros(len(inside), int)), alone[number].peek(np.zeros(1, int))
        for name, unsure in results[0].uncertainty.items():
            np.testing.assert_allclose(unsure[place], results[1].uncertainty[name][0], atol=1e-3)


def test_slots_that_are_due_together_step_as_one_batch() -> None:
    sizes: list[int] = []

    async def scene(engine: Engine) -> None:
        slots = [await engine.open(Session(WORLD, seed=seed)) for seed in range(5)]

        async def play(slot: BatchSlot, seed: int) -> list[np.ndarray]:
            outputs = [await slot.step(step % 2) for step in range(8)]
            return [np.asarray(output.result.tokens[output.index]) for output in outputs]

        played = await asyncio.gather(*(play(slot, seed) for seed, slot in enumerate(slots)))
        for seed, tokens in enumerate(played):
            lone = Session(WORLD, seed=seed)
            assert (np.stack(tokens) == np.concatenate([lone.step(np.array([s % 2])).tokens for s in range(8)])).all()
        assert np.mean(sizes) > 4

    run(scene, commit=lambda outputs: sizes.append(len(outputs)))


def test_sessions_of_other_settings_of_one_world_play_at_the_same_time() -> None:
    """Each as it would be alone, whichever came first, and without a trace when they have left."""
    kinds = [
        {},
        {"settings": FillSettings(order="maskgit", max_passes=3)},
        {"settings": FillSettings(temperature=0.5)},
        {"inference": "naive"},
    ]

    async def scene(engine: Engine) -> None:
        slots = [await engine.open(Session(WORLD, seed=7, **kind)) for kind in (*kinds, *kinds)]
        for step in range(4):
            outputs = await asyncio.gather(*(slot.step(step % 2) for slot in slots))
        for index, (slot, output) in enumerate(zip(slots, outputs, strict=True)):
            lone = Session(WORLD, seed=7, **kinds[index % len(kinds)])
            for step in range(4):
                lone.step(np.array([step % 2]))
            assert (output.result.tokens[output.index] == lone.tokens[0]).all()
            await slot.close()
        assert engine.num_slots == 0 and not engine._batches
        slot = await engine.open(Session(WORLD))
        await slot.step(1)

    run(scene)


def test_a_slot_opens_and_closes_while_others_step() -> None:
    async def scene(engine: Engine) -> None:
        world = SquareWorld(step_seconds=0.002)
        first = await engine.open(SquareSession(world, start=0))
        stop = asyncio.Event()

        async def play() -> int:
            count = 0
            while not stop.is_set():
                await first.step(2)
                count += 1
            return count

        playing = asyncio.create_task(play())
        for _ in range(5):
            guest = await engine.open(SquareSession(world, start=1))
            output = await guest.step(4)
            assert output.result.tokens[output.index].tolist()[:3] == [4, 4, 3]
            fork = await engine.call(guest.batch.fork, guest)
            assert fork.batch_size == 1 and fork.tokens[0].tolist()[:3] == [4, 4, 3]
            await guest.close()
            await guest.close()
        stop.set()
        assert await playing >= 5 and engine.num_slots == 1
        await first.close()
        assert engine.num_slots == 0

    run(scene)


def test_no_slot_starves_beside_many_that_never_pause() -> None:
    async def scene(engine: Engine) -> None:
        world = SquareWorld(step_seconds=0.001)
        slots = [await engine.open(SquareSession(world, start=0)) for _ in range(100)]  # more than a batch holds
        counts = [0] * len(slots)

        async def play(index: int) -> None:
            while True:
                await slots[index].step(0)
                counts[index] += 1

        tasks = [asyncio.create_task(play(index)) for index in range(len(slots))]
        while max(counts) < 20:
            await asyncio.sleep(0.01)
        assert min(counts) >= 18
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(scene)


def test_a_failing_session_does_not_affect_others(caplog: pytest.LogCaptureFixture) -> None:
    class Fragile(SquareSession):
        def step(self, action: np.ndarray, batch_indices: Any = None) -> Any:
            if 6 in action:
                raise RuntimeError("broke")
            return super().step(action, batch_indices)

    async def scene(engine: Engine) -> None:
        world = SquareWorld()
        slots = [await engine.open(Fragile(world, start=0)) for _ in range(3)]
        outcomes = await asyncio.gather(slots[0].step(2), slots[1].step(6), slots[2].step(4), return_exceptions=True)
        assert isinstance(outcomes[1], RuntimeError)
        for index, place in ((0, [2, 3, 4]), (2, [4, 4, 3])):
            output = outcomes[index]
            assert output.result.tokens[output.index].tolist()[:3] == place
        await slots[1].step(2)

    run(scene)


def test_a_step_that_is_not_committed_raises_and_closes_its_slot(caplog: pytest.LogCaptureFixture) -> None:
    def full(outputs: Any) -> None:
        raise OSError("no space left")

    async def scene(engine: Engine) -> None:
        slot = await engine.open(SquareSession(SquareWorld(), start=0))
        with pytest.raises(OSError, match="no space left"):
            await slot.step(2)
        assert slot.closed and engine.num_slots == 0

    run(scene, commit=full)
