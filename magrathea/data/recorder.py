"""Playing one episode and recording it, with every value checked against the environment's spaces."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from magrathea.data.episode import Episode, stack
from magrathea.data.policies import policy_named
from magrathea.errors import MagratheaError
from magrathea.spaces import map_leaves


def play_episode(env: gymnasium.Env, policy: str, seed: int, max_steps: int | None = None) -> Episode:
    """Play one episode.

    Args:
        env: as `make_env` makes it.
        policy: "random", "sticky", one of the environment's plug-in ("explorer") or "module:function".
        seed: of the environment's reset and of the policy.
        max_steps: the episode is truncated there.

    Raises:
        MagratheaError: for observations, actions or rewards that are not in their spaces or not finite numbers.
    """
    act = policy_named(policy, _name(env))(env, np.random.default_rng(seed))
    observation, info = env.reset(seed=seed)
    observations, infos = [_observed(env, observation)], [_recordable(info)]
    actions, rewards, terminations, truncations = [], [], [], []
    done = False
    while not done:
        action = checked_copy(env.action_space, act(observation, info), f"An action of policy '{policy}'")
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


def checked_copy(space: gymnasium.Space, value: Any, what: str) -> Any:
    """A copy of a value as arrays of the space's dtypes.

    Raises:
        MagratheaError: which begins with `what`, for another structure, shape or kind of numbers than the space's, for
            numbers that are not finite, and for a choice outside of a Discrete space.
    """
    return map_leaves(lambda leaf, part: _checked_array(leaf, part, what), space, value, what)


def _checked_array(space: gymnasium.Space, value: Any, what: str) -> np.ndarray:
    raw = np.asarray(value)
    if raw.dtype.kind not in "biuf":
        raise MagratheaError(f"{what} holds {type(value).__name__} where its space says {space}; correct one of them.")
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        raise MagratheaError(f"{what} has NaN or infinite numbers; correct it, or replace them in a wrapper.")
    array = np.array(raw, dtype=space.dtype)
    if array.shape != (space.shape or ()):
        raise MagratheaError(f"{what} has shape {array.shape} where its space says {space.shape}; correct one of them.")
    if isinstance(space, spaces.Discrete) and not space.start <= array < space.start + space.n:
        raise MagratheaError(f"{what} is {array}, outside of its space {space}; correct one of them.")
    return array


def _observed(env: gymnasium.Env, observation: Any) -> Any:
    return checked_copy(env.observation_space, observation, f"An observation of '{_name(env)}'")


def _rewarded(env: gymnasium.Env, reward: Any) -> float:
    if not np.isfinite(float(reward)):
        raise MagratheaError(f"A reward of '{_name(env)}' is {reward}; correct it, or replace it in a wrapper.")
    return float(reward)


def _name(env: gymnasium.Env) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def plain_action(space: gymnasium.Space, action: Any) -> Any:
    """An action as environments expect it: a scalar where the space is Discrete."""
    return map_leaves(_plain_choice, space, action, "An action")


def _plain_choice(space: gymnasium.Space, choice: Any) -> Any:
    return space.dtype.type(choice) if isinstance(space, spaces.Discrete) and space.dtype is not None else choice


def _recordable(info: dict[str, Any]) -> dict[str, np.ndarray]:
    """The numbers and arrays of numbers of an info."""
    numbers = int | float | bool | np.generic | np.ndarray
    arrays = {key: np.array(value) for key, value in info.items() if isinstance(value, numbers)}
    return {key: array for key, array in arrays.items() if array.dtype.kind in "biuf"}


def _stacked_infos(infos: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stack the infos that every step has in the same shape: each (T + 1, …)."""
    first = infos[0]
    kept = [key for key in first if all(key in each and each[key].shape == first[key].shape for each in infos)]
    return {key: np.stack([each[key] for each in infos]) for key in kept}
