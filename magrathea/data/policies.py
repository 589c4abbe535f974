"""Policies that record data: functions of an environment and a generator that return observation, info -> action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from magrathea.errors import MagratheaError
from magrathea.plugins import environment_plugin, load_reference

Policy = Callable[[Any, dict[str, Any]], Any]
PolicyMaker = Callable[[gymnasium.Env, np.random.Generator], Policy]
LONGEST_HOLD = 8


def _sampler(env: gymnasium.Env, rng: np.random.Generator) -> Callable[[], Any]:
    space = env.action_space
    space.seed(int(rng.integers(2**31)))
    return space.sample


def random(env: gymnasium.Env, rng: np.random.Generator) -> Policy:
    """Draws every action uniformly."""
    sample = _sampler(env, rng)
    return lambda observation, info: sample()


def sticky(env: gymnasium.Env, rng: np.random.Generator) -> Policy:
    """Repeats each action for 1 to 8 steps, so that it gets farther than single random actions."""
    sample = _sampler(env, rng)
    left, action = 0, None

    def act(observation: Any, info: dict[str, Any]) -> Any:
        nonlocal left, action
        if left == 0:
            left, action = int(rng.integers(1, LONGEST_HOLD + 1)), sample()
        left -= 1
        return action

    return act


def policy_named(name: str, env_id: str = "") -> PolicyMaker:
    """The function that makes a policy.

    Args:
        name: "random", "sticky", a policy of the environment's plug-in ("explorer"), or "module:function".
        env_id: Gymnasium id of the environment that it plays.

    Raises:
        MagratheaError: for a name that is unknown, and a function that cannot be imported.
    """
    plugin = environment_plugin(env_id)
    own = plugin.policies if plugin is not None else {}
    name = current_policy_name(name)
    if name in _POLICIES:
        return _POLICIES[name]
    if name not in own and ":" not in name:
        known = ", ".join([*_POLICIES, *own])
        raise MagratheaError(f"Unknown policy '{name}' of '{env_id}'; choose {known}, or give module:function.")
    try:
        return load_reference(own.get(name, name))
    except (ImportError, AttributeError) as error:
        raise MagratheaError(f"Policy '{name}' cannot be imported: {error}.") from error


def current_policy_name(name: str) -> str:
    """The name of a policy that a dataset stores: until version 0.1 "magrathea.data.ENVIRONMENT:explorer"."""
    return name.partition(":")[2] if name.startswith("magrathea.data.") else name


_POLICIES: dict[str, PolicyMaker] = {"random": random, "sticky": sticky}
