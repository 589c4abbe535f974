"""How many players one process serves: all step without a pause, and every step is stored."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from magrathea.bench.play import HeldActions
from magrathea.server.live_session import LiveSession
from magrathea.server.session_manager import SessionManager
from magrathea.server.store import StoreThread
from magrathea.session import Session
from magrathea.spaces import index_batch
from magrathea.world import World

NUM_WARM_UP = 5  # steps of each player before the measurement
NUM_ACTIONS = 512  # of each player, drawn beforehand; then they repeat


def measure_players(
    world: World, counts: Sequence[int] = (1, 4, 16, 32), seconds: float = 5.0, seed: int = 0
) -> dict[str, Any]:
    """Let so many players step at once through the engine and the store, each count for `seconds`.

    Returns:
        a JSON-able dict: for each count "steps_per_second" of all players together, "p50_ms" and "p95_ms" from asking
        for a step to its answer, "fairness", the fewest steps of a player over the most, and "ratio", the steps per
        second over those of the least count.
    """
    results: dict[str, dict[str, float | int]] = {}
    for count in sorted(counts):
        latencies = asyncio.run(_play(world, count, seconds, seed))
        took, num_steps = np.concatenate(latencies), [len(each) for each in latencies]
        results[str(count)] = {
            "steps_per_second": round(len(took) / seconds, 2),
            "p50_ms": round(1000 * float(np.quantile(took, 0.5)), 2),
            "p95_ms": round(1000 * float(np.quantile(took, 0.95)), 2),
            "fairness": round(min(num_steps) / max(num_steps), 3),
        }
    least = results[str(min(counts))]["steps_per_second"]
    for result in results.values():
        result["ratio"] = round(result["steps_per_second"] / least, 2)
    return {"world": world.metadata.get("name"), "seconds": seconds, "players": results}


async def _play(world: World, count: int, seconds: float, seed: int) -> list[list[float]]:
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
            end = time.perf_counter() + seconds
            several = zip(players, actions, latencies, strict=True)
            await asyncio.gather(*(_play_until(end, *each) for each in several))
        finally:
            await manager.close()
    return latencies


async def _play_until(end: float, live: LiveSession, actions: Iterator[Any], latencies: list[float]) -> None:
    """Step without a pause; a step that is answered after the end does not count, unless it is the first."""
    while True:
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
