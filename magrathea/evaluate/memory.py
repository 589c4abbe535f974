"""What a world remembers: recall of cells, self-consistency of dreams, revisited poses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from magrathea.data import Dataset
from magrathea.errors import MagratheaError
from magrathea.evaluate.environment_hooks import visible_tiles
from magrathea.evaluate.recall import kinds_of_tokens, summarize_ages, tally_recall
from magrathea.evaluate.recordings import Options, Recording, Subject, encode_episodes, other_episodes
from magrathea.evaluate.report import memory_headlines, write_memory_page
from magrathea.evaluate.results import MemoryMeasures, MemoryResult, write_result
from magrathea.evaluate.revisits import measure_revisits
from magrathea.evaluate.segments import predict_steps
from magrathea.evaluate.self_consistency import Tracker, measure_self_consistency, motions_of_actions, track_dreams
from magrathea.evaluate.slots import comparable, picture_slot
from magrathea.evaluate.statistics import Tally
from magrathea.layout import Slot
from magrathea.progress import Stages
from magrathea.session import Session
from magrathea.world import World

MAX_DREAMS = 16  # in one batch
NUM_KIND_EPISODES = 24  # whose frames tell what tokens stand for
PREDICTIONS_SHARE = 0.5  # of the time


def evaluate_memory(
    world: str | Path | World, dataset: str | Path | Dataset, out: str | Path, options: Options
) -> MemoryResult:
    """Measure what a world remembers on held-out episodes; write `memory.json`, `memory.html` and a plot into a folder.

    The arguments are those of `evaluate`; there are at most 16 dreams, and none are measured if `num_dreams` is 0.
    Raises MagratheaError for a dataset that does not tell which location its pictures show.
    """
    out = Path(out)
    with Stages() as stages:
        stages.begin("reading held-out episodes")
        subject = Subject(world, dataset, options)
        stages.begin("memory")
        measured = measure_memory(subject)
    result = MemoryResult(about=subject.about(), headlines=memory_headlines(measured), memory=measured)
    out.mkdir(parents=True, exist_ok=True)
    write_result(out / "memory.json", result)
    write_memory_page(out, result)
    return result


def measure_memory(subject: Subject) -> MemoryMeasures:
    """All measures that the dataset's privileged state allows: recall and dreams where a plug-in tells which cell each
    tile shows, revisits where `infos["pose"]` is (x, y, angle). Raises MagratheaError where it tells neither."""
    world, recordings = subject.world, subject.recordings
    slot, has_pose = picture_slot(world), "pose" in recordings[0].episode.infos
    is_tiled = slot is not None and slot.name not in world.layout.values_slots
    tiles = visible_tiles(subject.dataset.env_id, recordings[0], world.layout, slot) if slot and is_tiled else None
    if slot is None or (tiles is None and not has_pose):
        raise MagratheaError(
            f"Dataset '{subject.dataset.folder}' does not tell which location a picture shows, or this world's tokens "
            "are no tiles; measure memory on Crafter or MiniGrid, or record infos['pose'] (x, y, degrees)."
        )
    predicted = predict_steps(world, recordings, subject.budget.part(PREDICTIONS_SHARE))
    seen, tally = comparable(world.layout), Tally(len(recordings))
    for index, (recording, guesses) in enumerate(zip(recordings, predicted, strict=True)):
        tally.add_mean("next step", [index], (guesses == recording.tokens)[None][..., seen], guesses[None, :, :1] >= 0)
    fields = {} if tiles is None else _measure_tiles(subject, predicted, slot)
    if has_pose:
        fields["revisits"] = measure_revisits(world, slot, recordings, predicted)
    return MemoryMeasures(
        window=world.config.model.window,
        memory=world.config.model.memory,
        state_bytes=state_bytes(world, recordings),
        next_step=tally.figure("next step"),
        **fields,
    )


def _measure_tiles(subject: Subject, predicted: list[np.ndarray], slot: Slot) -> dict[str, Any]:
    """The fields of `MemoryMeasures` that need tiles."""
    world, source, recordings = subject.world, subject.dataset, subject.recordings
    window, span = world.config.model.window, world.layout.span(slot.name)
    others = encode_episodes(world, source, other_episodes(world, source, recordings)[:NUM_KIND_EPISODES])
    found_tiles = [visible_tiles(source.env_id, each, world.layout, slot) for each in (*recordings, *others)]
    all_tiles = [each for each in found_tiles if each is not None]
    tiles, other_tiles = all_tiles[: len(recordings)], all_tiles[len(recordings) :]
    kinds = kinds_of_tokens(other_tiles, slot.vocab_size)
    tally = Tally(len(recordings))
    for index, (each, tokens) in enumerate(zip(tiles, predicted, strict=True)):
        tally_recall(tally, index, each, each.view.tiles(tokens[:, span]), kinds, window)
    measures = dict.fromkeys(name.split("/")[0] for name in tally.names())
    found: dict[str, Any] = {"recall": {name: summarize_ages(tally, name, window) for name in measures}}
    moves = zip(other_tiles, others, strict=True)
    action_motions = motions_of_actions((each.poses, recording.episode.action) for each, recording in moves)
    num_dreams = min(subject.options.num_dreams, MAX_DREAMS)
    if action_motions and num_dreams:
        tracker = Tracker(tiles[0].view, kinds, action_motions)
        begin = track_dreams(world, tracker, slot, recordings, tiles, num_dreams)
        found["self_consistency"] = measure_self_consistency(begin, tracker, window, subject.budget)
    return found


def state_bytes(world: World, recordings: list[Recording]) -> int:
    """Bytes of the largest memory state after a recording; what the attention window keeps is not counted."""
    starts = [torch.from_numpy(recording.tokens.astype(np.int64)) for recording in recordings]
    session = Session(world, batch_size=len(starts), start=starts)
    session.prepare()
    states = [session.memory.state_dict(index) for index in range(len(starts))]
    return max(sum(tensor.nbytes for tensor in state.values()) for state in states)
