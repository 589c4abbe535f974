"""Real returns: episodes of the real environment, played by an agent, at random, or by PPO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import gymnasium
import numpy as np

from magrathea.agents.agent import Agent, Player
from magrathea.data import make_env
from magrathea.data.lockstep import Acting, ActingMaker, play_in_lockstep
from magrathea.data.make_env import closed_after
from magrathea.data.playing import episode_limit
from magrathea.data.recorder import checked_copy, plain_action
from magrathea.errors import MagratheaError
from magrathea.evaluate.statistics import figure
from magrathea.spaces import stack

MAX_ENVS = 25


def real_returns(
    env_id: str,
    acting: ActingMaker,
    num_episodes: int,
    *,
    seed: int,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    report: Callable[[float], None] = lambda fraction: None,
) -> np.ndarray:
    """The returns (E,) of whole episodes in the real environment, episode i seeded with seed + i."""
    num_envs = min(num_episodes, MAX_ENVS)
    returns, numbers = np.zeros(num_episodes), iter(range(num_episodes))
    with ExitStack() as opened:
        envs = [opened.enter_context(closed_after(make_env(env_id, **env_kwargs or {}))) for _ in range(num_envs)]
        limit = episode_limit(envs[0], max_episode_steps)

        def begin(index: int) -> _CountedEpisode | None:
            number = next(numbers, None)
            return None if number is None else _CountedEpisode(envs[index], number, seed + number, limit)

        for num_ended, (_, episode) in enumerate(play_in_lockstep(begin, acting, num_envs), start=1):
            returns[episode.number] = episode.total
            report(num_ended / num_episodes)
    return returns


class _CountedEpisode:
    """An episode of which only the return is kept.

    Attributes:
        total: the rewards so far.
    """

    def __init__(self, env: gymnasium.Env, number: int, seed: int, limit: int) -> None:
        self.number, self.total, self.is_done = number, 0.0, False
        self._env, self._limit, self._num_steps = env, limit, 0
        self.observation = self._checked(env.reset(seed=seed)[0])

    def step(self, action: Any) -> None:
        env = self._env
        observation, reward, terminated, truncated, _ = env.step(plain_action(env.action_space, action))
        self.total, self._num_steps = self.total + float(reward), self._num_steps + 1
        self.is_done = bool(terminated or truncated) or self._num_steps >= self._limit
        self.observation = self._checked(observation)

    def _checked(self, observation: Any) -> Any:
        return checked_copy(self._env.observation_space, observation, "An observation")


def agent_acting(agent: Agent, *, sample: bool = True) -> ActingMaker:
    """The agent's policy: drawn actions, as in its dreams, or the likeliest."""

    def make(num_envs: int) -> Acting:
        player = Player(agent, num_envs)
        return lambda observations, is_first: player.act(observations, is_first, sample=sample)

    return make


def random_acting(space: gymnasium.Space, seed: int) -> ActingMaker:
    """Every action drawn from the space."""

    def make(num_envs: int) -> Acting:
        space.seed(seed)
        return lambda observations, is_first: stack([space.sample() for _ in range(num_envs)])

    return make


def ppo_acting(env_id: str, num_steps: int, *, seed: int, env_kwargs: Mapping[str, Any] | None = None) -> ActingMaker:
    """PPO of Stable-Baselines3 with its default settings after so many real steps; rollouts are shorter where there
    would be fewer than eight. Raises MagratheaError where the package is missing."""
    try:
        from stable_baselines3 import PPO
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv
    except ImportError as error:
        raise MagratheaError(
            "Comparing with PPO needs the package 'stable-baselines3'; install it with 'pip install "
            "magrathea[agents]', or give --no-baselines."
        ) from error
    with closed_after(DummyVecEnv([lambda: Monitor(make_env(env_id, **env_kwargs or {}))])) as env:  # type: ignore[arg-type]
        space = env.observation_space
        shape = space.shape or ()
        is_picture = isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8 and len(shape) == 3
        kind = "MultiInputPolicy" if isinstance(space, gymnasium.spaces.Dict) else "MlpPolicy"
        kind = "CnnPolicy" if is_picture and min(shape[:2]) >= 36 else kind
        rollout_steps = max(64, min(2048, num_steps // 8 // 64 * 64))
        model = PPO(kind, env, n_steps=rollout_steps, seed=seed, device="cpu")
        model.learn(num_steps // rollout_steps * rollout_steps)
    return lambda num_envs: lambda observations, is_first: model.predict(observations, deterministic=False)[0]


def mean_interval(returns: np.ndarray) -> tuple[float, float, float]:
    """The mean of two returns or more (E,) and its 95% percentile interval over resampled episodes."""
    mean = figure(np.stack([returns, np.ones(len(returns))], axis=-1))
    assert mean.value is not None and mean.low is not None and mean.high is not None
    return mean.value, mean.low, mean.high
