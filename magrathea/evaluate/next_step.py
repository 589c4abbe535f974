"""The next step given the real ones before it: tokens, reward and termination."""

from __future__ import annotations

import numpy as np
import torch

from magrathea.evaluate.cells import Cells
from magrathea.evaluate.environment_hooks import describe_cells
from magrathea.evaluate.recordings import Budget, Recording
from magrathea.evaluate.results import NextStep
from magrathea.evaluate.segments import predict_steps
from magrathea.evaluate.statistics import Tally
from magrathea.world import World


def measure_next_step(world: World, recordings: list[Recording], budget: Budget) -> NextStep:
    """Predict every held-out step, or as many as the budget allows. Slots whose tokens mean something only relative to
    the step before are left out."""
    layout, env_id = world.layout, world.metadata.get("env_id", "")
    slots = [slot for slot in layout.of_role("observation") if slot in layout.token_slots]
    steady, seen = [slot for slot in slots if slot.name not in layout.values_slots], layout.role_span("observation")
    tallies, tally = {slot.name: Tally(len(recordings)) for slot in steady}, Tally(len(recordings))
    for index, (recording, predicted) in enumerate(
        zip(recordings, predict_steps(world, recordings, budget), strict=True)
    ):
        steps = np.flatnonzero(predicted[:, 0] >= 0)
        if not len(steps):
            continue
        actual = recording.tokens[steps]
        correct = {"model": predicted[steps] == actual, "repeat": recording.tokens[steps - 1] == actual}
        described = [describe_cells(env_id, recording, layout, slot, world.config.model.window) for slot in steady]
        for slot, cells in zip(steady, described, strict=True):
            of_slot = {source: right[:, layout.span(slot.name)] for source, right in correct.items()}
            _tally_cells(tallies[slot.name], index, cells, steps, of_slot)
        if steady == slots:
            _tally_steps(tally, index, described[0], steps, {name: each[:, seen] for name, each in correct.items()})
        _tally_events(tally, world, index, recording, steps, predicted[steps])
    return NextStep(
        tokens_correct={name: each.nested() for name, each in tallies.items()},
        steps_correct=tally.nested("steps/"),
        events=tally.nested("events/"),
    )


def _tally_cells(tally: Tally, episode: int, cells: Cells, steps: np.ndarray, sources: dict[str, np.ndarray]) -> None:
    """Count the tokens that each source has correct (S, tokens) at steps (S,), by condition and group of cells."""
    for condition, holds in {"all": np.ones(cells.num_steps, dtype=bool), **cells.conditions}.items():
        for group, members in {"all": np.ones((cells.num_steps, 1), dtype=bool), **cells.groups}.items():
            where = (members & holds[:, None])[steps - 1]
            for source, correct in sources.items():
                tally.add_mean(f"{condition}/{group}/{source}", [episode], correct[None], where[None])


def _tally_steps(tally: Tally, episode: int, cells: Cells, steps: np.ndarray, sources: dict[str, np.ndarray]) -> None:
    """Count steps (S,) whose observation each source has correct in all tokens (S, tokens), by condition."""
    conditions = cells.step_conditions or cells.conditions
    for condition, holds in {"all": np.ones(cells.num_steps, dtype=bool), **conditions}.items():
        for source, correct in sources.items():
            values, where = np.asarray(correct.all(axis=-1)), holds[steps - 1]
            tally.add_mean(f"steps/{condition}/{source}", [episode], values[None], where[None])


def _tally_events(
    tally: Tally, world: World, index: int, recording: Recording, steps: np.ndarray, predicted: np.ndarray
) -> None:
    """Count how well positive and negative rewards and terminations are predicted (S, N) at steps (S,)."""
    tokens, episode = torch.from_numpy(predicted.astype(np.int64)), recording.episode
    reward, actual = world.decode_reward(tokens), episode.reward[steps - 1]
    tally.add_f1("events/positive reward", index, reward > 0, actual > 0)
    tally.add_f1("events/negative reward", index, reward < 0, actual < 0)
    tally.add_f1("events/terminated", index, world.decode_terminated(tokens), episode.terminated[steps - 1])
