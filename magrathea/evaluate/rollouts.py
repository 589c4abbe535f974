"""Open-loop dreams: from real steps on, the dream gets nothing of the recording but its actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from magrathea.errors import MagratheaError
from magrathea.evaluate.recordings import Budget, Recording
from magrathea.sampler import FillSettings
from magrathea.session import Session
from magrathea.world import World

BATCH_SIZE = 16
LEAST_STEPS = 8
MOST_LIVED = 512  # steps of the recording that a dream goes on from; what is beyond the window, its memory has


@dataclass
class Rollouts:
    """Dreams beside what was recorded. R rollouts, W past steps, H dreamt steps.

    Attributes:
        episodes: (R,) indices of the recordings.
        starts: (R,) index in its recording of the last real step.
        real, dream: (R, W + H, N) tokens; the first W are the same.
        valid: (R, H) False beyond the recording's end.
        uncertainty: (R, H) mean over the observation's tokens of 1 - confidence.
        num_passes: (R, H) passes of `fill`.
    """

    episodes: np.ndarray
    starts: np.ndarray
    real: np.ndarray
    dream: np.ndarray
    valid: np.ndarray
    uncertainty: np.ndarray
    num_passes: np.ndarray

    @property
    def horizon(self) -> int:
        return self.valid.shape[1]

    @property
    def dreamt(self) -> np.ndarray:
        """(R, H, N) the dreamt steps."""
        return self.dream[:, -self.horizon :]

    @property
    def recorded(self) -> np.ndarray:
        """(R, H, N) the real steps that they stand for; the last one repeats beyond the recording's end."""
        return self.real[:, -self.horizon :]


def choose_starts(
    recordings: list[Recording], window: int, horizon: int, num_rollouts: int, seed: int = 0
) -> list[tuple[int, int]]:
    """(recording, last real step) of rollouts, spread over the recordings in turns, `horizon` steps apart or more.

    Recordings that are too short for the whole horizon serve as far as they reach, if that is 8 steps or more. Raises
    MagratheaError where there is none.
    """
    rng = np.random.default_rng(seed)
    least = min(horizon, LEAST_STEPS)
    choices = []
    for recording in recordings:
        last = len(recording.tokens) - 1
        room = last - (window - 1)
        offset = int(rng.integers(max(1, room % horizon + 1))) if room >= horizon else 0
        places = range(window - 1 + offset, last - least + 1, horizon)
        choices.append(rng.permutation(np.array(list(places), dtype=np.int64)).tolist())
    if not any(choices):
        raise MagratheaError(
            f"No held-out episode is long enough to dream from: it takes {window} steps and {least} more; collect "
            "longer ones."
        )
    starts = []
    for turn in range(max(map(len, choices), default=0)):
        starts += [(index, places[turn]) for index, places in enumerate(choices) if turn < len(places)]
    return starts[:num_rollouts]


def roll_out(
    world: World,
    recordings: list[Recording],
    starts: list[tuple[int, int]],
    horizon: int,
    *,
    budget: Budget,
    settings: FillSettings | None = None,
    seed: int = 0,
) -> Rollouts:
    """Dream from each start under the recording's actions; stops after the batch in which the budget is spent."""
    batches = []
    for begin in range(0, len(starts), BATCH_SIZE):
        chosen = starts[begin : begin + BATCH_SIZE]
        batches.append(_dream_batch(world, recordings, chosen, horizon, settings, seed + begin))
        if budget.spent():
            break
    fields = ("episodes", "starts", "real", "dream", "valid", "uncertainty", "num_passes")
    return Rollouts(*(np.concatenate([getattr(batch, name) for batch in batches]) for name in fields))


def _dream_batch(
    world: World,
    recordings: list[Recording],
    starts: list[tuple[int, int]],
    horizon: int,
    settings: FillSettings | None,
    seed: int,
) -> Rollouts:
    window = world.config.model.window
    steps = np.stack([np.arange(start - window + 1, start + horizon + 1) for _, start in starts])
    lengths = np.array([len(recordings[index].tokens) for index, _ in starts])
    inside = np.minimum(steps, lengths[:, None] - 1)
    real = np.stack([recordings[index].tokens[rows] for (index, _), rows in zip(starts, inside, strict=True)])
    lived = [
        torch.from_numpy(recordings[index].tokens[max(0, start + 1 - MOST_LIVED) : start + 1])
        for index, start in starts
    ]
    session = Session(world, batch_size=len(starts), seed=seed, start=lived, settings=settings)
    dream, uncertainty, num_passes = [], [], []
    for step in range(horizon):
        result = session.step(world.decode_action(torch.from_numpy(real[:, window + step])))
        dream.append(result.tokens.numpy())
        uncertainty.append(mean_uncertainty(result.uncertainty))
        num_passes.append(np.asarray(result.num_passes))
    return Rollouts(
        np.array([index for index, _ in starts]),
        np.array([start for _, start in starts]),
        real,
        np.concatenate([real[:, :window], np.stack(dream, axis=1)], axis=1),
        (steps < lengths[:, None])[:, window:],
        np.stack(uncertainty, axis=1),
        np.stack(num_passes, axis=1),
    )


def mean_uncertainty(uncertainty: dict[str, np.ndarray]) -> np.ndarray:
    """Uncertainty of each slot (B, rows, cols) -> (B,) mean over the tokens of the observation."""
    parts = [
        np.asarray(values).reshape(len(values), -1)
        for name, values in uncertainty.items()
        if name.partition("/")[0] == "observation"
    ]
    return np.concatenate(parts, axis=1).mean(axis=1)
