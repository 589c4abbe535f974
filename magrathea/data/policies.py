"""Policies that record data: functions of an environment and a generator that return observation, info -> action."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import optree
from gymnasium import spaces

from magrathea.errors import FOREIGN_ERRORS, MagratheaError, Terminated, one_line
from magrathea.plugins import environment_plugin, load_reference

Policy = Callable[[Any, dict[str, Any]], Any]
PolicyMaker = Callable[[gymnasium.Env, np.random.Generator], Policy]
LONGEST_HOLD = 8  # steps
LONG_HOLD = 32  # in half of the episodes of `explore`
EFFECT_STEPS = 25  # last ones of an action, of whose changes the median is its effect
PIXEL_NOISE = 12  # of 255, that is no change
DRIFT_MEMORY = 0.9  # of a step for the one before
AGENTS = "magrathea.agents.agent:policy_of"  # imported only where a policy is the folder of an agent


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


def explore(env: gymnasium.Env, rng: np.random.Generator) -> Policy:
    """Travels and tries everything: holds each discrete action for 1 to 8 steps, or 1 to 32 in half of the episodes, or
    until it changes nothing, and draws half of them by how much they changed the observation so far; lets continuous
    actions drift."""
    if isinstance(env.action_space, spaces.Box) and env.action_space.dtype.kind == "f":
        return _drift(env.action_space, rng)
    if isinstance(env.action_space, spaces.Discrete):
        return _by_effect(env.action_space, rng)
    return sticky(env, rng)


def _by_effect(space: spaces.Discrete, rng: np.random.Generator) -> Policy:
    changes = [deque([1.0], maxlen=EFFECT_STEPS) for _ in range(int(space.n))]  # shares of values that changed
    longest = LONG_HOLD if rng.random() < 0.5 else LONGEST_HOLD
    left, action, before = 0, 0, None

    def act(observation: Any, info: dict[str, Any]) -> Any:
        nonlocal left, action, before
        leaves = [np.asarray(leaf) for leaf in optree.tree_leaves(observation)]
        if before is not None and all(now.shape == then.shape for now, then in zip(leaves, before, strict=True)):
            changed = np.mean([_share_changed(now, then) for now, then in zip(leaves, before, strict=True)])
            changes[action].append(float(changed))
            left = left if changed else 0
        before = leaves
        if left == 0:
            effect = np.array([np.median(own) for own in changes])
            by_effect = rng.random() < 0.5 and effect.sum() > 0
            action = int(rng.choice(len(effect), p=effect / effect.sum() if by_effect else None))
            left = int(rng.integers(1, longest + 1))
        left -= 1
        return space.start + action

    return act


def _share_changed(now: np.ndarray, before: np.ndarray) -> float:
    """The share of values that differ, of pixels by more than noise."""
    if now.dtype == np.uint8:
        return float((np.abs(now.astype(np.int16) - before) > PIXEL_NOISE).mean())
    return float((now != before).mean()) if now.dtype.kind in "biufUO" else 0.0


def _drift(space: spaces.Box, rng: np.random.Generator) -> Policy:
    """An autoregressive process whose values at any moment are even over the range of each number."""
    low, high = np.where(np.isfinite(space.low), space.low, -1.0), np.where(np.isfinite(space.high), space.high, 1.0)
    state = rng.standard_normal(space.shape)

    def act(observation: Any, info: dict[str, Any]) -> Any:
        nonlocal state
        state = DRIFT_MEMORY * state + (1 - DRIFT_MEMORY**2) ** 0.5 * rng.standard_normal(space.shape)
        share = 0.5 + 0.5 * _erf(state / 2**0.5)
        return (low + share * (high - low)).astype(space.dtype)

    return act


_erf = np.vectorize(math.erf, otypes=[float])


def policy_named(name: str, env_id: str = "") -> PolicyMaker:
    """The function that makes a policy.

    Args:
        name: "random", "sticky", a policy of the environment's plug-in ("explorer"), the folder of an agent, or
            "module:function"; of several with "+" between them one is drawn for each episode.
        env_id: Gymnasium id of the environment that it plays.

    Raises:
        MagratheaError: for a name that is unknown, and a function that cannot be imported.
    """
    plugin = environment_plugin(env_id)
    own = plugin.policies if plugin is not None else {}
    name = current_policy_name(name)
    if name in _POLICIES:
        return _POLICIES[name]
    if Path(name).expanduser().is_dir():
        return load_reference(AGENTS)(name)
    if "+" in name:
        makers = [policy_named(each, env_id) for each in name.split("+")]
        return lambda env, rng: makers[int(rng.integers(len(makers)))](env, rng)
    if name not in own and ":" not in name:
        known = ", ".join([*_POLICIES, *own])
        raise MagratheaError(f"Unknown policy '{name}' of '{env_id}'; choose {known}, or give module:function.")
    try:
        return load_reference(own.get(name, name))
    except Terminated:
        raise
    except FOREIGN_ERRORS as error:
        raise MagratheaError(f"Policy '{name}' cannot be imported ({one_line(error)}); check it.") from error


def current_policy_name(name: str) -> str:
    """The name of a policy that a dataset stores: until version 0.1 "magrathea.data.ENVIRONMENT:explorer"."""
    return name.partition(":")[2] if name.startswith("magrathea.data.") else name


_POLICIES: dict[str, PolicyMaker] = {"random": random, "sticky": sticky, "explore": explore}
