"""Real returns: episodes of the real environment, played by an agent, at random, or by PPO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import gymnasium
import numpy as np

from magrathea.agents.agent import Agent, Player
from magrathea.data import make_env
from magrathea.data.make_env import closed_after
from magrathea.data.playing import DEFAULT_EPISODE_STEPS
from magrathea.data.recorder import checked_copy, plain_action
from magrathea.errors import MagratheaError
from magrathea.evaluate.statistics import figure
from magrathea.spaces import index_batch, stack

MAX_ENVS = 25
Acting = Callable[[Any, np.ndarray], Any]  # observations (B, …), which of them begin an episode -> actions (B, …)
ActingMaker = Callable[[int], Acting]  # of a number B of environments


def episode_limit(env: gymnasium.Env, max_episode_steps: int | None = None) -> int:
    """Steps after which an episode is cut: what was asked for, the environment's own limit, or the default one."""
    own = None if env.spec is None else env.spec.max_episode_steps
    return max_episode_steps or own or DEFAULT_EPISODE_STEPS


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
    returns, waiting = np.zeros(num_episodes), list(range(num_envs, num_episodes))[::-1]
    with ExitStack() as stack_of_envs:
        envs = [
            stack_of_envs.enter_context(closed_after(make_env(env_id, **env_kwargs or {}))) for _ in range(num_envs)
        ]
        limit, space, act = episode_limit(envs[0], max_episode_steps), envs[0].action_space, acting(num_envs)
        observed = [_observed(env, env.reset(seed=seed + index)[0]) for index, env in enumerate(envs)]
        episode: list[int | None] = [*range(num_envs)]
        length, is_first = np.zeros(num_envs, int), np.ones(num_envs, bool)
        num_running = num_episodes
        while num_running:
            actions = act(stack(observed), is_first)
            is_first = np.zeros(num_envs, bool)
            for index, env in enumerate(envs):
                number = episode[index]
                if number is None:
                    continue
                observation, reward, terminated, truncated, _ = env.step(
                    plain_action(space, index_batch(actions, index))
                )
                returns[number] += float(reward)
                length[index] += 1
                if terminated or truncated or length[index] >= limit:
                    num_running -= 1
                    report(1 - num_running / num_episodes)
                    following = waiting.pop() if waiting else None
                    episode[index], length[index], is_first[index] = following, 0, following is not None
                    if following is not None:
                        observation, _ = env.reset(seed=seed + following)
                observed[index] = _observed(env, observation)
    return returns


def _observed(env: gymnasium.Env, observation: Any) -> Any:
    return checked_copy(env.observation_space, observation, "An observation")


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
