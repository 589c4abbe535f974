"""Bodies that travel in dreams and in reality: does what they see again agree with what they saw?"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from magrathea.data import Dataset
from magrathea.data.episode import stack
from magrathea.data.make_env import make_env_from_metadata
from magrathea.errors import MagratheaError
from magrathea.evaluate.memory.recall import ask, summarize_ages, tally_ages
from magrathea.evaluate.memory.tracking import FAR_AWAY, STILL, Journey, Tracker
from magrathea.evaluate.memory.trips import Trip, Wanderer, compare_return, travel_and_return, way_back
from magrathea.evaluate.memory.views import Sights
from magrathea.evaluate.recordings import Budget, Recording
from magrathea.evaluate.statistics import Tally
from magrathea.layout import Slot
from magrathea.session import Session
from magrathea.world import World

TRIP_STEPS = (16, 32, 64, 128, 256, 512)
WANDER_STEPS = 512
TRIP_FIGURES = (
    "at home",
    "at home, most frequent",
    "at home, landmarks",
    "way back",
    "way back, most frequent",
    "way back, landmarks",
    "came back",
)
NUM_REAL = 6  # bodies that travel in reality, which is only for reference
REAL_SEED = 1_000_000  # of the first real world of the trips; recordings have smaller ones

Begin = Callable[[int], Journey]  # seed -> a journey that has not begun


def dream_journeys(
    world: World, tracker: Tracker, slot: Slot, recordings: list[Recording], sights: list[Sights], num_rows: int
) -> Begin:
    """Journeys in dreams, which begin at clear moments of recordings, drawn by the seed."""
    window, span = world.config.model.window, world.layout.span(slot.name)

    def begin(seed: int) -> Journey:
        rng, starts = np.random.default_rng(seed), []
        for row in range(num_rows):
            index = row % len(recordings)
            moments = np.flatnonzero(sights[index].clear[window - 1 :]) + window - 1
            if not len(moments):
                moments = np.array([len(recordings[index].tokens) - 1])
            moment = int(rng.choice(moments))
            starts.append(recordings[index].tokens[np.maximum(0, np.arange(moment - window, moment) + 1)])
        session = Session(world, batch_size=num_rows, seed=seed, start=torch.from_numpy(np.stack(starts)))

        def step(actions: np.ndarray) -> np.ndarray:
            return tracker.view.tiles(session.step(actions).tokens[:, span].numpy())

        return Journey(tracker, step, tracker.view.tiles(session.tokens[:, span].numpy()))

    return begin


@contextlib.contextmanager
def real_journeys(
    world: World, tracker: Tracker, slot: Slot, source: Dataset, num_rows: int = NUM_REAL
) -> Iterator[Begin | None]:
    """Journeys in the environment that a dataset comes from, seen through the world's tokenizer; None where the
    environment is not installed. A body whose episode is over sees its last picture for ever."""
    try:
        envs = [make_env_from_metadata(source.metadata) for _ in range(num_rows)]
    except MagratheaError as error:
        print(f"Not measured in the real environment: {error}", flush=True)
        yield None
        return
    span = world.layout.span(slot.name)

    def see(observations: list[Any]) -> np.ndarray:
        return tracker.view.tiles(world.encode(None, stack(observations))[:, span].numpy())

    def begin(seed: int) -> Journey:
        over = [False] * num_rows
        observations = [env.reset(seed=REAL_SEED + seed + row)[0] for row, env in enumerate(envs)]

        def step(actions: np.ndarray) -> np.ndarray:
            for row, action in enumerate(actions):
                if not over[row]:
                    observations[row], _, terminated, truncated, _ = envs[row].step(action)
                    over[row] = terminated or truncated
            return see(observations)

        return Journey(tracker, step, see(observations))

    try:
        yield begin
    finally:
        for env in envs:
            env.close()


def measure_wandering(
    begin: Begin, tracker: Tracker, window: int, budget: Budget, num_steps: int = WANDER_STEPS
) -> dict:
    """Wander, and count by age how many tiles whose cell was seen before show again what they showed then. After a
    motion that the pictures do not tell, a body is taken to be in another part of the map."""
    journey = begin(0)
    num_rows = len(journey.lost)
    wanderers = [Wanderer(tracker.travel, np.random.default_rng(row)) for row in range(num_rows)]
    motions, began = [STILL] * num_rows, time.monotonic()
    for _ in range(num_steps):
        actions = np.array([wander(motion) for wander, motion in zip(wanderers, motions, strict=True)])
        motions = [tuple(motion) for motion in journey.go(actions).tolist()]
        if budget.spent():
            break
    seconds, tally = time.monotonic() - began, Tally(num_rows)
    for row in range(num_rows):
        poses, tokens, shown, kinds = journey.shown(row)
        poses[:, 0] += FAR_AWAY * np.array([guesses[row] for guesses in journey.guesses])
        asked = ask(tracker.view, poses, tokens, shown, kinds)
        common = asked.last_content == tracker.kinds.frequent_kind
        right = {"dream": kinds == asked.last_content, "most frequent": common}
        tally_ages(tally, "all", row, asked.age, right, asked.again, window)
        tally_ages(tally, "landmarks", row, asked.age, right, asked.again & ~common, window)
        moved = (poses[1:] != poses[:-1]).any(axis=1)
        tally.add_mean("steps that move", [row], moved[None])
    return {
        "all": summarize_ages(tally, "all", window),
        "landmarks": summarize_ages(tally, "landmarks", window),
        "steps": len(journey.poses) - 1,
        "steps that move": tally.figure("steps that move"),
        "dreams that lose their way": float(journey.lost.mean()),
        "motions that are guesses": float(journey.guesses[-1].mean() / (len(journey.poses) - 1)),
        "steps per second": round((len(journey.poses) - 1) * num_rows / seconds, 1),
    }


def measure_trips(
    begin: Begin, tracker: Tracker, window: int, budget: Budget, trip_steps: tuple[int, ...] = TRIP_STEPS
) -> dict:
    """Leave and return, for each number of steps that there is time for: the share of tiles shown again as they were,
    at home and on the whole way back, of trips that came back; and how many of the trips did."""
    result: dict = {}
    if way_back(list(tracker.travel.values()), tracker.travel) is None:
        return result
    for num_steps in trip_steps:
        if budget.spent():
            break
        journey = begin(num_steps)
        trips = [
            Trip(num_steps, tracker.travel, np.random.default_rng((num_steps, row))) for row in range(len(journey.lost))
        ]
        travel_and_return(journey, trips)
        result[str(num_steps)] = _compare_trips(journey, trips, window)
    return result


def _compare_trips(journey: Journey, trips: list[Trip], window: int) -> dict:
    tally, frequent = Tally(len(trips)), journey.tracker.kinds.frequent_kind
    for row, trip in enumerate(trips):
        came_back = trip.is_home and not journey.lost[row]
        tally.add_mean("came back", [row], [[came_back]])
        if not came_back:
            continue
        poses, _, shown, kinds = journey.shown(row, trip.end + 1)
        returned = compare_return(journey.tracker.view, poses, shown, kinds, trip.turning_point, window)
        common = returned.then == frequent
        places = {"at home": returned.at_home, "way back": np.ones_like(common)}
        places |= {f"{place}, landmarks": where & ~common for place, where in places.items()}
        for place, where in places.items():
            tally.add_mean(place, [row], (returned.now == returned.then)[None], where[None])
            tally.add_mean(f"{place}, most frequent", [row], common[None], where[None])
    return {name: tally.figure(name) for name in TRIP_FIGURES}
