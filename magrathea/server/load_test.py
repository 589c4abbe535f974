"""How many players one process serves: all play at once, as fast as they are answered, and every step is kept."""

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
from magrathea.server.session_manager import LiveSession, SessionManager
from magrathea.server.store import Store
from magrathea.session import Session
from magrathea.world import World

NUM_WARM_UP = 5  # steps of each player before the clock starts
NUM_PLANNED = 512  # actions of each player, drawn beforehand; then the same again


def measure_players(
    world: World, counts: Sequence[int] = (1, 4, 16, 32), seconds: float = 5.0, seed: int = 0
) -> dict[str, Any]:
    """Let so many players play at once through the engine and the store, each so many seconds.

    Returns:
        a JSON-able dict: for each count "steps_per_second" of all players together, "p50_ms" and "p95_ms" from asking
        for a step to its answer, "fairness", the fewest steps of a player over the most, and "ratio", the steps per
        second over those of the least count.
    """
    results: dict[str, dict[str, float | int]] = {}
    for count in sorted(counts):
        waits = asyncio.run(_play(world, count, seconds, seed))
        took, numbers = np.concatenate(waits), [len(each) for each in waits]
        results[str(count)] = {
            "steps_per_second": round(len(took) / seconds, 2),
            "p50_ms": round(1000 * float(np.quantile(took, 0.5)), 2),
            "p95_ms": round(1000 * float(np.quantile(took, 0.95)), 2),
            "fairness": round(min(numbers) / max(numbers), 3),
        }
    least = results[str(min(counts))]["steps_per_second"]
    for result in results.values():
        result["ratio"] = round(result["steps_per_second"] / least, 2)
    return {"world": world.metadata.get("name"), "seconds": seconds, "players": results}


async def _play(world: World, count: int, seconds: float, seed: int) -> list[list[float]]:
    """For each player the seconds that each step took, from asking to the answer."""
    with tempfile.TemporaryDirectory() as folder:
        library = SessionManager(Store(Path(folder) / "sessions.db"), Session)
        lives = [LiveSession(library, world, library.add("bench")) for _ in range(count)]
        held = HeldActions(world, count, seed)
        plan = np.stack([np.asarray(held.next()) for _ in range(NUM_PLANNED)])
        actions = [itertools.cycle(plan[:, number].tolist()) for number in range(count)]
        waits: list[list[float]] = [[] for _ in lives]
        try:
            for number, life in enumerate(lives):
                await life.begin(seed + number, None)
            for _ in range(NUM_WARM_UP):
                await asyncio.gather(*(_step(life, own) for life, own in zip(lives, actions, strict=True)))
            end = time.perf_counter() + seconds
            several = zip(lives, actions, waits, strict=True)
            await asyncio.gather(*(_play_until(end, *each) for each in several))
        finally:
            await library.close()
    return waits


async def _play_until(end: float, life: LiveSession, actions: Iterator[int], waits: list[float]) -> None:
    """Steps without a pause; one that is answered after the end does not count, if it is not the first."""
    while True:
        took = await _step(life, actions)
        if time.perf_counter() >= end and waits:
            return
        waits.append(took)


async def _step(life: LiveSession, actions: Iterator[int]) -> float:
    """One step; a dream that ended begins anew. Returns the seconds that the step took."""
    action = next(actions)
    began = time.perf_counter()
    row = await life.step(action)
    took = time.perf_counter() - began
    if row.result.terminated[row.index]:
        await life.begin(life.num_steps, None)
    return took
