"""Teacher forcing through a running session: history is real, its memory runs along, every next step is predicted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from magrathea.data.episode import stack
from magrathea.evaluate.recordings import Budget, Recording
from magrathea.session import Session
from magrathea.spaces import index_batch
from magrathea.world import World

BATCH_SIZE = 16


@dataclass
class Forced:
    """The likeliest next steps of recordings.

    Attributes:
        predicted: for each recording (T + 1, N) tokens; those of step 0, and of steps not reached, are -1.
        memory_bytes: of the largest state that the memory of one world had when a recording ended.
        bytes_per_step: of that state, for each step that it had taken in.
    """

    predicted: list[np.ndarray]
    memory_bytes: int
    bytes_per_step: float


def predict_recordings(
    world: World, recordings: list[Recording], budget: Budget, batch_size: int = BATCH_SIZE
) -> Forced:
    """Live through recordings in a batch of worlds, one after another in each row, and predict every step before it is
    observed: all tokens at once, the likeliest of each."""
    waiting = sorted(range(len(recordings)), key=lambda index: len(recordings[index].tokens))
    rows = [waiting.pop() for _ in range(min(batch_size, len(waiting)))]
    predicted = [np.full(recording.tokens.shape, -1) for recording in recordings]
    at_once = replace(world.config.fill, order="one_shot", temperature=0.0)
    session = Session(world, batch_size=len(rows), start=_first_steps(recordings, rows), settings=at_once)
    step, done, sizes = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=bool), []
    while not done.all() and not budget.spent():
        step += ~done
        actions = [
            index_batch(recordings[index].episode.action, now - 1)
            for index, now in zip(rows, step.tolist(), strict=True)
        ]
        guesses = session.peek(stack(actions)).tokens.numpy()
        for row in np.flatnonzero(~done):
            predicted[rows[row]][step[row]] = guesses[row]
        session.observe(stack(actions), *_observed(recordings, rows, step))
        ended = ~done & (step + 1 == [len(recordings[index].tokens) for index in rows])
        again = np.zeros(len(rows), dtype=bool)
        for row in np.flatnonzero(ended).tolist():
            sizes.append((state_bytes(session, row), int(step[row]) + 1))
            again[row] = bool(waiting)
            if waiting:
                rows[row], step[row] = waiting.pop(), 0
        done |= ended & ~again
        if again.any():
            session.reset(again, start=_first_steps(recordings, rows))
    sizes += [(state_bytes(session, row), int(step[row]) + 1) for row in np.flatnonzero(~done).tolist()]
    num_bytes, num_steps = max(sizes)
    return Forced(predicted, num_bytes, num_bytes / num_steps)


def state_bytes(session: Session, row: int) -> int:
    """Bytes of the state of one row's memory; what the attention window keeps is not counted."""
    return sum(tensor.nbytes for tensor in session.memory.state_dict(row).values())


def _first_steps(recordings: list[Recording], rows: list[int]) -> torch.Tensor:
    """(B, 1, N)"""
    return torch.from_numpy(np.stack([recordings[index].tokens[:1] for index in rows]))


def _observed(recordings: list[Recording], rows: list[int], step: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    """Observation, reward and ending of these steps, stacked."""
    episodes = [recordings[index].episode for index in rows]
    now = list(zip(episodes, step.tolist(), strict=True))
    return (
        stack([index_batch(episode.observation, index) for episode, index in now]),
        np.array([episode.reward[index - 1] for episode, index in now]),
        np.array([episode.terminated[index - 1] for episode, index in now]),
    )
