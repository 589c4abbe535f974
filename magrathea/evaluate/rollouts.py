"""Open-loop dreams, and the real environment under chosen actions; both are given nothing else of the recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import optree
import torch

from magrathea.data import Dataset, Episode
from magrathea.data.make_env import close_env, make_env_from_metadata
from magrathea.data.recorder import checked_copy, plain_action
from magrathea.errors import MagratheaError
from magrathea.evaluate.environment_hooks import resample
from magrathea.evaluate.recordings import Budget, EncodedEpisode, Recording, batch_sizes
from magrathea.memory import WindowSpec
from magrathea.session import Session
from magrathea.spaces import index_batch, stack
from magrathea.world import World

MIN_STEPS = 8
MAX_CONTEXT = 512  # steps of the recording before a dream; those beyond the window are in its memory

Start = tuple[int, int]  # (index of the recording, last real step)


@dataclass
class Steps:
    """What followed, dreamt or real: R times H steps.

    Attributes:
        observation: by leaf of the observation space (R, 1 + H, *shape); the first is the last real one.
        reward: (R, H) float32.
        terminated: (R, H) bool.
    """

    observation: list[np.ndarray]
    reward: np.ndarray
    terminated: np.ndarray


@dataclass
class Rollouts:
    """Dreams and the recorded steps that they stand for: R rollouts of H steps.

    Attributes:
        starts: (R,) where each begins.
        real, dream: what followed, under the same actions.
        valid: (R, H) False beyond the recording's end, where its last observation repeats.
    """

    starts: list[Start]
    real: Steps
    dream: Steps
    valid: np.ndarray

    @property
    def episodes(self) -> np.ndarray:
        """(R,) indices of the recordings."""
        return np.array([index for index, _ in self.starts])

    @property
    def horizon(self) -> int:
        return self.valid.shape[1]


# -- where dreams begin -----------------------------------------------------------------------------------------------
def context_and_least(recordings: list[Recording], window: int) -> tuple[int, int]:
    """Recorded steps that dreams begin with, and steps at least that they are measured for: the window and 8, or fewer
    where most recordings are shorter than that."""
    typical = int(np.median([len(recording.tokens) for recording in recordings]))
    context = max(1, min(window, typical - MIN_STEPS))
    return context, max(1, min(MIN_STEPS, typical - context))


def choose_starts(
    recordings: list[Recording],
    window: int,
    horizon: int,
    num_rollouts: int,
    seed: int = 0,
    least: int = MIN_STEPS,
    apart: int | None = None,
) -> list[Start]:
    """Where rollouts begin: drawn from the recordings in turns, `apart` steps (by default the horizon) or more apart.

    Recordings that are too short for the whole horizon are used as far as they reach, if that is `least` steps or more.
    Raises MagratheaError where there is none.
    """
    rng, apart = np.random.default_rng(seed), horizon if apart is None else apart
    least = min(horizon, least)
    choices = []
    for recording in recordings:
        last = len(recording.tokens) - 1
        room = last - (window - 1)
        offset = int(rng.integers(max(1, room % apart + 1))) if room >= horizon else 0
        steps = range(window - 1 + offset, last - least + 1, apart)
        choices.append(rng.permutation(np.array(list(steps), dtype=np.int64)).tolist())
    if not any(choices):
        raise MagratheaError(
            f"No held-out episode is long enough to dream from: it takes {window} steps and {least} more; collect "
            "longer ones."
        )
    starts = []
    for turn in range(max(map(len, choices), default=0)):
        starts += [(index, steps[turn]) for index, steps in enumerate(choices) if turn < len(steps)]
    return starts[:num_rollouts]


def recent_steps(episodes: Sequence[EncodedEpisode], starts: list[Start], num_steps: int) -> np.ndarray:
    """The tokens (R, num_steps, N) of the steps up to each start."""
    recent = [episodes[index].tokens[step - num_steps + 1 : step + 1] for index, step in starts]
    return np.stack(recent).astype(np.int64)


# -- dreams -----------------------------------------------------------------------------------------------------------
def roll_out(
    world: World, recordings: list[Recording], starts: list[Start], horizon: int, *, budget: Budget, seed: int = 0
) -> Rollouts:
    """Dream from each start under the recording's actions; stops after the batch in which the budget is spent."""
    real, dreams, valid = [], [], []
    begin, sizes = 0, batch_sizes()
    while begin < len(starts):
        part = starts[begin : begin + next(sizes)]
        recorded = [_recorded(recordings[index].episode, step, horizon) for index, step in part]
        real.append(_stacked([steps for steps, _, _ in recorded]))
        valid.append(np.stack([inside for _, inside, _ in recorded]))
        seeds = range(seed + begin, seed + begin + len(part))
        dreams.append(dream(world, recordings, part, stack([actions for *_, actions in recorded]), seeds))
        begin += len(part)
        if budget.spent():
            break
    num_rollouts = sum(map(len, valid))
    return Rollouts(starts[:num_rollouts], _joined(real), _joined(dreams), np.concatenate(valid))


def dream(world: World, recordings: list[Recording], starts: list[Start], actions: Any, seeds: Sequence[int]) -> Steps:
    """Dream from the recorded steps up to each of R starts, under actions (R, H, *shape), with a seed for each."""
    length = world.config.model.window if isinstance(world.memory, WindowSpec) else MAX_CONTEXT
    context = [
        torch.from_numpy(recordings[index].tokens[max(0, step + 1 - length) : step + 1].astype(np.int64))
        for index, step in starts
    ]
    session = Session(world, batch_size=len(starts), seed=list(seeds), start=context)
    first = [index_batch(recordings[index].episode.observation, step) for index, step in starts]
    observations, rewards, endings = [stack(first)], [], []
    for step in range(len(optree.tree_leaves(actions)[0][0])):
        result = session.step(optree.tree_map(lambda part, step=step: part[:, step], actions))
        observations.append(result.observation)
        rewards.append(result.reward)
        endings.append(result.terminated)
    leaves = [np.stack(part, axis=1) for part in zip(*map(optree.tree_leaves, observations), strict=True)]
    return Steps(leaves, np.stack(rewards, axis=1), np.stack(endings, axis=1))


def _recorded(episode: Episode, start: int, horizon: int) -> tuple[Steps, np.ndarray, Any]:
    """What was recorded after a step, without the first dimension of `Steps`; (H,) which of it is within the recording;
    and the actions (H, *shape). Beyond the end the last step repeats, and actions are those from the beginning on."""
    wanted = np.arange(start, start + horizon)
    steps = np.minimum(wanted, len(episode) - 1)
    seen = index_batch(episode.observation, np.minimum(np.arange(start, start + horizon + 1), len(episode)))
    recorded = Steps(list(map(np.asarray, optree.tree_leaves(seen))), episode.reward[steps], episode.terminated[steps])
    return recorded, wanted < len(episode), index_batch(episode.action, wanted % len(episode))


def _stacked(parts: Sequence[Steps]) -> Steps:
    leaves = [np.stack(leaf) for leaf in zip(*(part.observation for part in parts), strict=True)]
    return Steps(leaves, np.stack([part.reward for part in parts]), np.stack([part.terminated for part in parts]))


def _joined(parts: Sequence[Steps]) -> Steps:
    leaves = [np.concatenate(leaf) for leaf in zip(*(part.observation for part in parts), strict=True)]
    rewards, endings = ([getattr(part, name) for part in parts] for name in ("reward", "terminated"))
    return Steps(leaves, np.concatenate(rewards), np.concatenate(endings))


# -- the real environment ---------------------------------------------------------------------------------------------
class Replay:
    """The real environment of a dataset, restored to recorded moments by seed and actions.

    Raises:
        MagratheaError: where the environment cannot be made.
    """

    def __init__(self, source: Dataset) -> None:
        self._env_id, self._env = source.env_id, make_env_from_metadata(source.metadata)

    def close(self) -> None:
        close_env(self._env)

    @property
    def env(self) -> gymnasium.Env:
        return self._env

    def go_on(
        self, episode: Episode, start: int, actions: Any, resample_seed: int | None = None
    ) -> list[np.ndarray] | None:
        """What actions (H, *shape) lead to from step `start` of an episode: by leaf (1 + H or fewer, *shape), of which
        the first is the observation at the start; None where that is not the recorded one.

        resample_seed: of the random choices from there on; the recorded episode's generator goes on, if not given.
        """
        observation, _ = self._env.reset(seed=episode.seed)
        for step in range(start):
            observation, *_ = self._env.step(plain_action(self._env.action_space, index_batch(episode.action, step)))
        leaves = [optree.tree_leaves(self._copied(observation))]
        recorded = optree.tree_leaves(index_batch(episode.observation, start))
        if not all(map(np.array_equal, leaves[0], recorded)):
            return None
        if resample_seed is not None:
            resample(self._env, self._env_id, resample_seed)
        for step in range(len(optree.tree_leaves(actions)[0])):
            action = plain_action(self._env.action_space, index_batch(actions, step))
            observation, _, terminated, truncated, _ = self._env.step(action)
            leaves.append(optree.tree_leaves(self._copied(observation)))
            if terminated or truncated:
                break
        return [np.stack(leaf) for leaf in zip(*leaves, strict=True)]

    def _copied(self, observation: Any) -> Any:
        return checked_copy(self._env.observation_space, observation, "An observation of the replay")
