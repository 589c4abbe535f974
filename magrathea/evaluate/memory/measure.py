"""What a world remembers: all measures of remembering, on held-out episodes, which play on other maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from magrathea.data import Dataset
from magrathea.errors import MagratheaError
from magrathea.evaluate.memory.forced import predict_recordings
from magrathea.evaluate.memory.journeys import dream_journeys, measure_trips, measure_wandering, real_journeys
from magrathea.evaluate.memory.poses import measure_poses
from magrathea.evaluate.memory.recall import summarize_ages, tally_recall
from magrathea.evaluate.memory.tracking import Tracker, travel_of
from magrathea.evaluate.memory.views import TileView, kinds_of_tokens, sights_of, view_of
from magrathea.evaluate.recordings import Budget, Recording, encode_episodes, other_episodes
from magrathea.evaluate.slots import picture_slot, role_span
from magrathea.evaluate.statistics import Tally
from magrathea.layout import Slot
from magrathea.world import World

NUM_KIND_EPISODES = 24  # whose frames tell what tokens stand for
SHARES = {"forced": 0.4, "wandering": 0.25, "trips": 0.8}  # of the time that is left when each begins


def measure_memory(
    world: World,
    source: Dataset,
    recordings: list[Recording],
    *,
    num_dreams: int = 16,
    budget: Budget,
    seed: int = 0,
) -> dict[str, Any]:
    """All measures of remembering that the dataset's privileged state allows, as a JSON-able dict.

    "recall", "dreams", "trips" and "tracking" where it says which cell each tile shows (Crafter, MiniGrid), of which
    only "recall" without dreams; "poses" where `infos["pose"]` is (x, y, angle). Raises MagratheaError where it says
    neither.
    """
    slot = picture_slot(world)
    infos = recordings[0].episode.infos
    view = None if slot is None else view_of(source.env_id, infos, slot)
    if slot is None or (view is None and "pose" not in infos):
        raise MagratheaError(
            f"Dataset '{source.folder}' does not say which place a picture shows, or this world's tokens are no tiles; "
            "measure memory on Crafter or MiniGrid, or record infos['pose'] (x, y, degrees)."
        )
    forced = predict_recordings(world, recordings, budget.part(SHARES["forced"]))
    measured: dict[str, Any] = {
        "window": world.config.model.window,
        "memory": world.config.model.memory,
        "bytes": forced.memory_bytes,
        "bytes per step": forced.bytes_per_step,
        "next step": _next_step(world, recordings, forced.predicted),
    }
    if view is not None:
        measured |= _measure_tiles(world, source, recordings, forced.predicted, view, slot, num_dreams, budget, seed)
    if "pose" in infos:
        measured["poses"] = measure_poses(world, slot, recordings, forced.predicted)
    return measured


def _next_step(world: World, recordings: list[Recording], predicted: list[np.ndarray]) -> dict[str, Any]:
    """The share of the observation's tokens that are right."""
    span, tally = role_span(world.layout, "observation"), Tally(len(recordings))
    for index, (recording, guesses) in enumerate(zip(recordings, predicted, strict=True)):
        known = guesses[:, :1] >= 0
        tally.add_mean("right", [index], (guesses == recording.tokens)[None, :, span], known[None])
    return tally.figure("right")


def _measure_tiles(
    world: World,
    source: Dataset,
    recordings: list[Recording],
    predicted: list[np.ndarray],
    view: TileView,
    slot: Slot,
    num_dreams: int,
    budget: Budget,
    seed: int,
) -> dict[str, Any]:
    window, span = world.config.model.window, world.layout.span(slot.name)
    sights = [sights_of(world, view, recording, slot) for recording in recordings]
    known = encode_episodes(world, source, other_episodes(world, source, recordings)[:NUM_KIND_EPISODES])
    known_sights = [sights_of(world, view, recording, slot) for recording in known]
    kinds = kinds_of_tokens(known_sights, slot.vocab_size)
    tally = Tally(len(recordings))
    for index, (each, tokens) in enumerate(zip(sights, predicted, strict=True)):
        tally_recall(tally, index, view, each, view.tiles(tokens[:, span]), kinds, window)
    measures = dict.fromkeys(name.split("/")[0] for name in tally.names())
    measured: dict[str, Any] = {"recall": {name: summarize_ages(tally, name, window) for name in measures}}
    moves = zip(known_sights, known, strict=True)
    travel = travel_of((each.poses, recording.episode.action) for each, recording in moves)
    if not travel or not num_dreams:
        return measured
    tracker = Tracker(view, kinds, travel)
    for index, (each, recording) in enumerate(zip(sights, recordings, strict=True)):
        right, told = tracker.accuracy(each, recording.episode.action)
        tally.add_mean("tracking", [index], right[None], told[None])
    measured["tracking"] = tally.figure("tracking")
    dreams = dream_journeys(world, tracker, slot, recordings, sights, num_dreams)
    measured["dreams"] = measure_wandering(dreams, tracker, window, budget.part(SHARES["wandering"]))
    measured["trips"] = {"dream": measure_trips(dreams, tracker, window, budget.part(SHARES["trips"]))}
    with real_journeys(world, tracker, slot, source) as reality:
        if reality is not None:
            measured["trips"]["real"] = measure_trips(reality, tracker, window, budget)
    return measured
