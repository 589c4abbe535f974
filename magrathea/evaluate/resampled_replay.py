"""Reality lived again: the same moments, the same actions, other chances.

Creatures go another way, so that an action which was meant for one meets nothing. What this second life has in common
with the recording is all that can be asked of a dream, for a dream has other chances too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from magrathea.data import Dataset, Episode
from magrathea.data.episode import stack
from magrathea.data.make_env import make_env_from_metadata
from magrathea.data.recorder import plain_action
from magrathea.errors import MagratheaError
from magrathea.evaluate.recordings import Budget, Recording
from magrathea.evaluate.rollouts import Rollouts
from magrathea.spaces import index_batch
from magrathea.world import World


def resampled_replay(
    world: World, source: Dataset, recordings: list[Recording], rollouts: Rollouts, budget: Budget, seed: int = 0
) -> Rollouts | None:
    """Rollouts with a second life of the environment, seen through the world's tokenizers, in the place of the dream.

    A rollout for which there was no time, and the steps after the second life's end, are not valid. None where the
    environment is not installed, or does not play a recorded episode again by its seed.
    """
    try:
        env = make_env_from_metadata(source.metadata)
    except MagratheaError as error:
        print(f"Not measured against reality again: {error}", flush=True)
        return None
    dream, valid = rollouts.dream.copy(), np.zeros_like(rollouts.valid)
    try:
        for row, (episode, start) in enumerate(zip(rollouts.episodes, rollouts.starts, strict=True)):
            if budget.spent():
                break
            recording = recordings[episode]
            if not _returned_to(env, recording.episode, int(start)):
                return None
            draw_anew(env, seed + row)
            tokens = _go_on(world, env, recording.episode, int(start), rollouts.horizon)
            dream[row, -rollouts.horizon :][: len(tokens)] = tokens
            valid[row, : len(tokens)] = rollouts.valid[row, : len(tokens)]
    finally:
        env.close()
    return replace(rollouts, dream=dream, valid=valid)


def draw_anew(env: gymnasium.Env, seed: int) -> None:
    """Let an environment go on with other chances: by its own `draw_anew(seed)` where it has one, else by another
    Gymnasium generator."""
    own = getattr(env.unwrapped, "draw_anew", None)
    if own is not None:
        own(seed)
    else:
        env.unwrapped.np_random = np.random.default_rng(seed)


def _returned_to(env: gymnasium.Env, episode: Episode, start: int) -> bool:
    """Play an episode again up to a step; whether it shows the same."""
    observation, _ = env.reset(seed=episode.seed)
    for step in range(start):
        observation, *_ = env.step(plain_action(env.action_space, index_batch(episode.action, step)))
    return _same(observation, index_batch(episode.observation, start))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(_same(part, other[key]) for key, part in one.items())
    if isinstance(one, tuple):
        return all(_same(*parts) for parts in zip(one, other, strict=True))
    return np.array_equal(one, other)


def _go_on(world: World, env: gymnasium.Env, episode: Episode, start: int, horizon: int) -> np.ndarray:
    """The tokens (up to H, N) of the steps that the recorded actions lead to."""
    steps, first = [], index_batch(episode.observation, start)
    for step in range(start, min(start + horizon, len(episode))):
        action = index_batch(episode.action, step)
        observation, reward, terminated, truncated, _ = env.step(plain_action(env.action_space, action))
        steps.append((observation, action, reward, terminated))
        if terminated or truncated:
            break
    observations, actions, rewards, endings = zip(*steps, strict=True)
    values = stack([first, *observations]), stack(list(actions)), np.array(rewards, np.float32), np.array(endings)
    return world.encode_episode(*values).numpy()[1:]
