"""Open-loop dreams, and the real environment under the same actions; both are given nothing else of the recording."""

from __future__ import annotations

from dataclasses import dataclass, replace

import gymnasium
import numpy as np
import optree
import torch

from magrathea.data import Dataset, Episode
from magrathea.data.episode import stack
from magrathea.data.make_env import make_env_from_metadata
from magrathea.data.recorder import plain_action
from magrathea.errors import MagratheaError
from magrathea.evaluate.environment_hooks import resample
from magrathea.evaluate.recordings import Budget, EncodedEpisode, Recording
from magrathea.session import Session
from magrathea.spaces import index_batch
from magrathea.world import World

BATCH_SIZE = 16
MIN_STEPS = 8
MAX_CONTEXT = 512  # steps of the recording before a dream; those beyond the window are in its memory


@dataclass
class Rollouts:
    """Dreams and the recorded steps that they stand for. R rollouts, W past steps, H dreamt steps.

    Attributes:
        episodes: (R,) indices of the recordings.
        starts: (R,) index in its recording of the last real step.
        real, dream: (R, W + H, N) tokens; the first W are the same.
        valid: (R, H) False beyond the recording's end.
    """

    episodes: np.ndarray
    starts: np.ndarray
    real: np.ndarray
    dream: np.ndarray
    valid: np.ndarray

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
    """(recording, last real step) of rollouts, taken from the recordings in turns, `horizon` steps apart or more.

    Recordings that are too short for the whole horizon are used as far as they reach, if that is 8 steps or more.
    Raises MagratheaError where there is none.
    """
    rng = np.random.default_rng(seed)
    least = min(horizon, MIN_STEPS)
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


def recent_steps(episodes: list[EncodedEpisode] | list[Recording], starts: list[tuple[int, int]], num_steps: int):
    """The tokens (R, num_steps, N) of the steps up to each start (index, step)."""
    return np.stack([episodes[index].tokens[step - num_steps + 1 : step + 1] for index, step in starts])


def roll_out(
    world: World,
    recordings: list[Recording],
    starts: list[tuple[int, int]],
    horizon: int,
    *,
    budget: Budget,
    seed: int = 0,
) -> Rollouts:
    """Dream from each start under the recording's actions; stops after the batch in which the budget is spent."""
    batches = []
    for begin in range(0, len(starts), BATCH_SIZE):
        batches.append(_dream_batch(world, recordings, starts[begin : begin + BATCH_SIZE], horizon, seed + begin))
        if budget.spent():
            break
    return Rollouts(**{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in vars(batches[0])})


def _dream_batch(
    world: World, recordings: list[Recording], starts: list[tuple[int, int]], horizon: int, seed: int
) -> Rollouts:
    window = world.config.model.window
    steps = np.stack([np.arange(start - window + 1, start + horizon + 1) for _, start in starts])
    lengths = np.array([len(recordings[index].tokens) for index, _ in starts])
    inside = np.minimum(steps, lengths[:, None] - 1)
    real = np.stack([recordings[index].tokens[chosen] for (index, _), chosen in zip(starts, inside, strict=True)])
    context = [
        torch.from_numpy(recordings[index].tokens[max(0, start + 1 - MAX_CONTEXT) : start + 1])
        for index, start in starts
    ]
    session, dream = Session(world, batch_size=len(starts), seed=seed, start=context), []
    for step in range(horizon):
        actions = world.decode_action(torch.from_numpy(real[:, window + step]))
        dream.append(session.step(actions).tokens.numpy())
    return Rollouts(
        np.array([index for index, _ in starts]),
        np.array([start for _, start in starts]),
        real,
        np.concatenate([real[:, :window], np.stack(dream, axis=1)], axis=1),
        (steps < lengths[:, None])[:, window:],
    )


def resampled_replay(
    world: World, source: Dataset, recordings: list[Recording], rollouts: Rollouts, budget: Budget, seed: int = 0
) -> Rollouts | None:
    """Rollouts of the real environment in place of the dream: restored to the same moments by seed and actions, then
    stepped by the recorded actions with its random choices redrawn.

    A dream has other random choices than the recording too, so no dream can be expected to agree with the recording
    better than this. Rollouts for which there was no time, and steps after the replay's end, are not valid. None where
    the environment is not installed, or does not reproduce a recorded episode from its seed.
    """
    try:
        env = make_env_from_metadata(source.metadata)
    except MagratheaError as error:
        print(f"Not measured against a resampled replay: {error}", flush=True)
        return None
    dream, valid = rollouts.dream.copy(), np.zeros_like(rollouts.valid)
    try:
        for index, (episode, start) in enumerate(zip(rollouts.episodes, rollouts.starts, strict=True)):
            if budget.spent():
                break
            recording = recordings[episode]
            if not _restored(env, recording.episode, int(start)):
                return None
            resample(env, source.env_id, seed + index)
            tokens = _replay(world, env, recording.episode, int(start), rollouts.horizon)
            dream[index, -rollouts.horizon :][: len(tokens)] = tokens
            valid[index, : len(tokens)] = rollouts.valid[index, : len(tokens)]
    finally:
        env.close()
    return replace(rollouts, dream=dream, valid=valid)


def _restored(env: gymnasium.Env, episode: Episode, start: int) -> bool:
    """Replay an episode up to a step; whether the observation is the recorded one."""
    observation, _ = env.reset(seed=episode.seed)
    for step in range(start):
        observation, *_ = env.step(plain_action(env.action_space, index_batch(episode.action, step)))
    recorded = optree.tree_leaves(index_batch(episode.observation, start))
    return all(map(np.array_equal, optree.tree_leaves(observation), recorded))


def _replay(world: World, env: gymnasium.Env, episode: Episode, start: int, horizon: int) -> np.ndarray:
    """The tokens (up to H, N) of the steps that the recorded actions lead to."""
    steps, first = [], index_batch(episode.observation, start)
    for step in range(start, min(start + horizon, len(episode))):
        action = index_batch(episode.action, step)
        observation, reward, terminated, truncated, _ = env.step(plain_action(env.action_space, action))
        steps.append((observation, action, reward, terminated))
        if terminated or truncated:
            break
    observations, actions, rewards, terminations = zip(*steps, strict=True)
    values = stack([first, *observations]), stack(list(actions)), np.array(rewards, np.float32), np.array(terminations)
    return world.encode_episode(*values).numpy()[1:]
