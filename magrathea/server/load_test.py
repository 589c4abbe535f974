"""How many players one process serves, and what an agent that plays beside them costs them; every step is stored."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from magrathea.agents import Agent
from magrathea.bench.play import HeldActions
from magrathea.server.action_inputs import ActionInputs
from magrathea.server.agent_control import AgentControl
from magrathea.server.catalog import frames_per_second
from magrathea.server.live_session import LiveSession
from magrathea.server.protocol import Frame
from magrathea.server.session_manager import SessionManager
from magrathea.server.store import StoreThread
from magrathea.session import Session
from magrathea.spaces import index_batch
from magrathea.world import World

NUM_WARM_UP = 5  # steps of each player before the measurement
NUM_ACTIONS = 512  # of each player, drawn beforehand; then they repeat


def measure_players(
    world: World,
    counts: Sequence[int] = (1, 4, 16, 32),
    seconds: float = 5.0,
    seed: int = 0,
    *,
    own_speed: bool = False,
    agent: Agent | None = None,
) -> dict[str, Any]:
    """Let so many players step at once through the engine and the store, each count for `seconds`.

    Args:
        own_speed: whether they step at the world's own speed; else without a pause.
        agent: that plays one more session at the world's own speed, and imagines futures.

    Returns:
        a JSON-able dict: for each count "steps_per_second" of all players together, "p50_ms" and "p95_ms" from asking
        for a step to its answer, "fairness", the fewest steps of a player over the most, and "ratio", the steps per
        second over those of the least count; with an agent its "agent_steps" and how often it showed "futures".
    """
    pause = 1 / frames_per_second(world) if own_speed else 0.0
    results: dict[str, dict[str, float | int]] = {}
    for count in sorted(counts):
        beside = None if agent is None else _PlayingAgent(agent, world)
        latencies = asyncio.run(_play(world, count, seconds, seed, pause, beside))
        took, num_steps = np.concatenate(latencies), [len(each) for each in latencies]
        results[str(count)] = {
            "steps_per_second": round(len(took) / seconds, 2),
            "p50_ms": round(1000 * float(np.quantile(took, 0.5)), 2),
            "p95_ms": round(1000 * float(np.quantile(took, 0.95)), 2),
            "fairness": round(min(num_steps) / max(num_steps), 3),
        }
        if beside is not None:
            results[str(count)] |= {"agent_steps": beside.num_steps, "futures": beside.num_futures}
    least = results[str(min(counts))]["steps_per_second"]
    for result in results.values():
        result["ratio"] = round(result["steps_per_second"] / least, 2)
    return {"world": world.metadata.get("name"), "seconds": seconds, "players": results}


class _PlayingAgent:
    """An agent that plays a session of its own until it is cancelled; counts its steps, and the futures it shows."""

    def __init__(self, agent: Agent, world: World) -> None:
        self.agent, self.world = agent, world
        self.num_steps = self.num_futures = 0

    def _show(self, frame: Frame) -> None:
        self.num_futures += 1

    async def run(self, live: LiveSession) -> None:
        inputs = ActionInputs(self.world.action_space, self.world.metadata)
        control, pause = AgentControl(self.agent, live, inputs, self._show), 1 / frames_per_second(self.world)
        await live.start(0, None)
        try:
            while True:
                started = time.perf_counter()
                output = await live.step(await control.decide())
                if output.result.terminated[output.index]:
                    await live.start(live.num_steps, None)
                self.num_steps += 1
                control.moved()
                await asyncio.sleep(max(0.0, started + pause - time.perf_counter()))
        finally:
            control.stop()


async def _play(
    world: World, count: int, seconds: float, seed: int, pause: float = 0.0, beside: _PlayingAgent | None = None
) -> list[list[float]]:
    """For each player the seconds of each step, from asking to the answer."""
    with tempfile.TemporaryDirectory() as folder:
        manager = SessionManager(StoreThread(Path(folder) / "sessions.db"), Session)
        try:
            players = [LiveSession(manager, world, await manager.add("bench")) for _ in range(count)]
            held = HeldActions(world, count, seed)
            drawn = [held.next() for _ in range(NUM_ACTIONS)]
            actions = [itertools.cycle([index_batch(several, index) for several in drawn]) for index in range(count)]
            latencies: list[list[float]] = [[] for _ in players]
            for index, live in enumerate(players):
                await live.start(seed + index, None)
            for _ in range(NUM_WARM_UP):
                await asyncio.gather(*(_step(live, own) for live, own in zip(players, actions, strict=True)))
            playing = None
            if beside is not None:
                playing = asyncio.create_task(beside.run(LiveSession(manager, world, await manager.add("bench"))))
            end = time.perf_counter() + seconds
            several = zip(players, actions, latencies, strict=True)
            await asyncio.gather(*(_play_until(end, pause, *each) for each in several))
            if playing is not None:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
        finally:
            await manager.close()
    return latencies


async def _play_until(
    end: float, pause: float, live: LiveSession, actions: Iterator[Any], latencies: list[float]
) -> None:
    """Step, each time `pause` seconds after the step before, or as soon as that is there; a step that is answered after
    the end does not count, unless it is the first."""
    due = time.perf_counter()
    while True:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        due = time.perf_counter() + pause
        took = await _step(live, actions)
        if time.perf_counter() >= end and latencies:
            return
        latencies.append(took)


async def _step(live: LiveSession, actions: Iterator[Any]) -> float:
    """One step; a session that terminated starts anew. Returns the seconds that the step took."""
    action = next(actions)
    started = time.perf_counter()
    output = await live.step(action)
    took = time.perf_counter() - started
    if output.result.terminated[output.index]:
        await live.start(live.num_steps, None)
    return took
