"""What a world remembers: recall of cells, self-consistency of dreams, revisited poses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from magrathea.data import Dataset
from magrathea.errors import MagratheaError
from magrathea.evaluate.environment_hooks import visible_tiles
from magrathea.evaluate.recall import kinds_of_tokens, summarize_ages, tally_recall
from magrathea.evaluate.recordings import Budget, Options, Recording, Subject, encode_episodes, other_episodes
from magrathea.evaluate.report import memory_headlines, write_memory_page
from magrathea.evaluate.results import MemoryMeasures, MemoryResult, write_result
from magrathea.evaluate.revisits import measure_revisits
from magrathea.evaluate.self_consistency import Tracker, measure_self_consistency, motions_of_actions, track_dreams
from magrathea.evaluate.slots import comparable, picture_slot
from magrathea.evaluate.statistics import Tally
from magrathea.layout import Slot
from magrathea.progress import Stages
from magrathea.session import Session
from magrathea.spaces import index_batch, stack
from magrathea.world import World

MAX_DREAMS = 16  # in one batch
BATCH_SIZE = 16  # recordings that are predicted at once
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
    predicted, largest = predict_recordings(world, recordings, subject.budget.part(PREDICTIONS_SHARE))
    seen, tally = comparable(world.layout), Tally(len(recordings))
    for index, (recording, guesses) in enumerate(zip(recordings, predicted, strict=True)):
        tally.add_mean("next step", [index], (guesses == recording.tokens)[None][..., seen], guesses[None, :, :1] >= 0)
    fields = {} if tiles is None else _measure_tiles(subject, predicted, slot)
    if has_pose:
        fields["revisits"] = measure_revisits(world, slot, recordings, predicted)
    return MemoryMeasures(
        window=world.config.model.window,
        memory=world.config.model.memory,
        state_bytes=largest,
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
        measured = measure_self_consistency(begin, tracker, window, subject.budget)
        found["self_consistency"], found["lost_dreams"] = measured
    return found


def predict_recordings(
    world: World, recordings: list[Recording], budget: Budget, batch_size: int = BATCH_SIZE
) -> tuple[list[np.ndarray], int]:
    """Observe recordings in a batch of worlds, one after another at each batch index, and predict every step before it
    is observed: all tokens at once, the likeliest of each.

    Returns for each recording the tokens (T + 1, N), -1 at step 0 and at steps not reached; and the bytes of the
    largest memory state when a recording ended.
    """
    waiting = sorted(range(len(recordings)), key=lambda index: len(recordings[index].tokens))
    current = [waiting.pop() for _ in range(min(batch_size, len(waiting)))]
    predicted = [np.full(recording.tokens.shape, -1) for recording in recordings]
    at_once = replace(world.config.fill, order="one_shot", temperature=0.0)
    session = Session(world, batch_size=len(current), start=_first_steps(recordings, current), settings=at_once)
    step, done, sizes = np.zeros(len(current), dtype=np.int64), np.zeros(len(current), dtype=bool), []
    while not done.all() and not budget.spent():
        step += ~done
        actions, *observed = _recorded_steps([recordings[index] for index in current], step)
        guesses = session.peek(actions).tokens.numpy()
        for batch_index in np.flatnonzero(~done):
            predicted[current[batch_index]][step[batch_index]] = guesses[batch_index]
        session.observe(actions, *observed)
        ended = ~done & (step + 1 == [len(recordings[index].tokens) for index in current])
        restart = np.zeros(len(current), dtype=bool)
        for batch_index in np.flatnonzero(ended).tolist():
            sizes.append(state_bytes(session, batch_index))
            restart[batch_index] = bool(waiting)
            if waiting:
                current[batch_index], step[batch_index] = waiting.pop(), 0
        done |= ended & ~restart
        if restart.any():
            session.reset(restart, start=_first_steps(recordings, current))
    sizes += [state_bytes(session, batch_index) for batch_index in np.flatnonzero(~done).tolist()]
    return predicted, max(sizes)


def state_bytes(session: Session, batch_index: int) -> int:
    """Bytes of one world's memory state; what the attention window keeps is not counted."""
    return sum(tensor.nbytes for tensor in session.memory.state_dict(batch_index).values())


def _first_steps(recordings: list[Recording], chosen: list[int]) -> torch.Tensor:
    """(B, 1, N)"""
    return torch.from_numpy(np.stack([recordings[index].tokens[:1] for index in chosen]).astype(np.int64))


def _recorded_steps(recordings: list[Recording], step: np.ndarray) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Action, observation, reward and termination of one step (B,) of each recording, stacked."""
    now = [(recording.episode, index) for recording, index in zip(recordings, step.tolist(), strict=True)]
    return (
        stack([index_batch(episode.action, index - 1) for episode, index in now]),
        stack([index_batch(episode.observation, index) for episode, index in now]),
        np.array([episode.reward[index - 1] for episode, index in now]),
        np.array([episode.terminated[index - 1] for episode, index in now]),
    )
