"""Playing one episode and writing down all of it, checked against the environment's own spaces."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from magrathea.data.episode import Episode, stack
from magrathea.data.policies import policy_named
from magrathea.errors import MagratheaError


def play_episode(env: gymnasium.Env, policy: str, seed: int, max_steps: int | None = None) -> Episode:
    """One episode, played with the seed.

    Args:
        env: as `make_env` makes it.
        policy: "random", "sticky", one of the environment's plug-in ("explorer") or "module:function".
        seed: of the environment's reset and of the policy.
        max_steps: the episode is cut (truncated) there.

    Raises:
        MagratheaError: for observations, actions or rewards that are not in their spaces or not finite numbers.
    """
    act = policy_named(policy, _name(env))(env, np.random.default_rng(seed))
    observation, info = env.reset(seed=seed)
    observations, infos = [_observed(env, observation)], [_recordable(info)]
    actions, rewards, terminations, truncations = [], [], [], []
    done = False
    while not done:
        action = conform(env.action_space, act(observation, info), f"An action of policy '{policy}'")
        observation, reward, terminated, truncated, info = env.step(plain_action(env.action_space, action))
        truncated = truncated or (max_steps is not None and len(actions) + 1 >= max_steps and not terminated)
        done = terminated or truncated
        observations.append(_observed(env, observation))
        actions.append(action)
        rewards.append(_rewarded(env, reward))
        terminations.append(bool(terminated))
        truncations.append(bool(truncated))
        infos.append(_recordable(info))
    return Episode(
        observation=stack(observations),
        action=stack(actions),
        reward=np.array(rewards, dtype=np.float32),
        terminated=np.array(terminations),
        truncated=np.array(truncations),
        infos=_stacked_infos(infos),
        seed=seed,
    )


def conform(space: gymnasium.Space, value: Any, what: str) -> Any:
    """A copy of a value of `space`, as arrays of the space's types.

    Raises MagratheaError, whose line begins with `what`, for a foreign shape and for numbers that are not finite.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(value, dict) or set(value) != set(space.spaces):
            raise MagratheaError(f"{what} is no dict of {sorted(space.spaces)}, as its space says; mend it.")
        return {key: conform(part, value[key], what) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            raise MagratheaError(f"{what} is no tuple of {len(space.spaces)}, as its space says; mend it.")
        return tuple(conform(part, each, what) for part, each in zip(space.spaces, value, strict=True))
    raw = np.asarray(value)
    if raw.dtype.kind not in "biuf":
        raise MagratheaError(f"{what} holds {type(value).__name__} where its space says {space}; mend it.")
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        raise MagratheaError(f"{what} has NaN or infinite numbers; mend it, or wrap the environment to replace them.")
    array = np.array(raw, dtype=space.dtype)
    if array.shape != (space.shape or ()):
        raise MagratheaError(f"{what} has shape {array.shape} where its space says {space.shape}; mend it.")
    if isinstance(space, spaces.Discrete) and not space.start <= array < space.start + space.n:
        raise MagratheaError(f"{what} is {array}, outside of its space {space}; mend it.")
    return array


def _observed(env: gymnasium.Env, observation: Any) -> Any:
    return conform(env.observation_space, observation, f"An observation of '{_name(env)}'")


def _rewarded(env: gymnasium.Env, reward: Any) -> float:
    if not np.isfinite(float(reward)):
        raise MagratheaError(f"A reward of '{_name(env)}' is {reward}; mend it, or wrap the environment to replace it.")
    return float(reward)


def _name(env: gymnasium.Env) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def plain_action(space: gymnasium.Space, action: Any) -> Any:
    """An action as environments expect it: a plain number where the space is Discrete."""
    if isinstance(space, spaces.Dict):
        return {key: plain_action(part, action[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(plain_action(part, each) for part, each in zip(space.spaces, action, strict=True))
    return space.dtype.type(action) if isinstance(space, spaces.Discrete) and space.dtype is not None else action


def _recordable(info: dict[str, Any]) -> dict[str, np.ndarray]:
    """The infos that are numbers."""
    numbers = int | float | bool | np.generic | np.ndarray
    arrays = {key: np.array(value) for key, value in info.items() if isinstance(value, numbers)}
    return {key: array for key, array in arrays.items() if array.dtype.kind in "biuf"}


def _stacked_infos(infos: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Those infos that every step has, in one shape."""
    first = infos[0]
    kept = [key for key in first if all(key in each and each[key].shape == first[key].shape for each in infos)]
    return {key: np.stack([each[key] for each in infos]) for key in kept}
