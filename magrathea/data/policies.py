"""Policies that record data: functions of an environment and a generator that return observation, info -> action."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from magrathea.errors import MagratheaError

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
    """Draws an action and holds it for 1 to 8 steps, so that it travels."""
    sample = _sampler(env, rng)
    left, action = 0, None

    def act(observation: Any, info: dict[str, Any]) -> Any:
        nonlocal left, action
        if left == 0:
            left, action = int(rng.integers(1, LONGEST_HOLD + 1)), sample()
        left -= 1
        return action

    return act


def policy_named(name: str) -> PolicyMaker:
    """'random', 'sticky', or 'module:function'; raises MagratheaError for others."""
    if name in ("random", "sticky"):
        return {"random": random, "sticky": sticky}[name]
    module, _, function = name.partition(":")
    if not function:
        raise MagratheaError(f"Unknown policy '{name}'; choose random, sticky, or give module:function.")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise MagratheaError(f"Policy '{name}' cannot be imported: {error}.") from error
