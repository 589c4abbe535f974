"""What a dream starts from: the ``options`` of ``reset`` become a start state's number or recorded steps as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optree
import torch
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.spaces import text_array
from magrathea.world import World

OPTIONS = ("start", "observation", "action", "reward", "terminated")


def parse_start(world: World, options: Mapping[str, Any] | None) -> Any:
    """What ``Session.reset`` takes as ``start``: None, start-state numbers, or tokens (T, N) of recorded steps.

    Args:
        world: the world that is going to dream.
        options: the options of ``reset``. ``{"start": k}`` names a stored start state.
            ``{"observation": [T, ...], "action": [T-1, ...]}`` gives recorded steps, oldest first: T observations and
            the T-1 actions taken between them; "reward" and "terminated" (T-1) may be
            given too, and are absent tokens otherwise.

    Raises:
        MagratheaError: for an unknown option, or steps that do not fit each other or the world.
    """
    options = {} if options is None else options
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise MagratheaError(f"Reset option '{unknown[0]}' is unknown; a dream knows {', '.join(OPTIONS)}.")
    if options.get("start") is not None:
        if "observation" in options:
            raise MagratheaError("Reset options hold both 'start' and 'observation'; give one of them.")
        return _start_numbers(world, options["start"])
    if "observation" not in options:
        if options:
            name = next(iter(options))
            raise MagratheaError(f"Reset option '{name}' needs 'observation' too: the recorded observations.")
        return None
    return recorded_tokens(world, options)


def recorded_tokens(world: World, steps: Mapping[str, Any]) -> torch.Tensor:
    """Tokens (T, N) int64 of recorded steps; ``steps`` as in :func:`parse_start`."""
    observation = _stack("observation", world.observation_space, steps["observation"])
    num_observations = _length(observation)
    if num_observations == 0:
        raise MagratheaError("Reset option 'observation' is empty; give at least one observation.")
    action = _stack("action", world.action_space, steps.get("action", ()))
    num_actions = num_observations - 1
    reward, terminated = steps.get("reward"), steps.get("terminated")
    for name, values in (("action", action), ("reward", reward), ("terminated", terminated)):
        if values is not None and _length(values) != num_actions:
            raise MagratheaError(
                f"Reset option '{name}' has {_length(values)} entries for {num_observations} observations; "
                f"give {num_actions}, one between each two."
            )
    if terminated is not None and np.any(terminated):
        raise MagratheaError("Reset option 'terminated' ends the recorded steps; a dream cannot go on from their end.")
    rewards = None if reward is None else np.asarray(reward, np.float32)
    endings = None if terminated is None else np.asarray(terminated, bool)
    return world.encode_episode(observation, action, rewards, endings)


def _start_numbers(world: World, start: Any) -> Any:
    numbers = np.asarray(start)
    if numbers.ndim > 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise MagratheaError(f"Reset option 'start' is {start!r}; give the number of a start state, or one per dream.")
    if np.any(numbers < 0) or np.any(numbers >= world.num_starts):
        raise MagratheaError(f"Start state {start!r} does not exist; the world has 0 to {world.num_starts - 1}.")
    return numbers.tolist()


def _stack(name: str, space: spaces.Space, values: Any) -> Any:
    """Members of a space along time as arrays (T, ...).

    A Dict comes as a dict of arrays, a Tuple as a tuple of arrays; either may come as a list of its members too.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(values, Mapping):
            values = {key: [value[key] for value in values] for key in space.spaces}
        missing = [key for key in space.spaces if key not in values]
        if missing:
            raise MagratheaError(f"Reset option '{name}' has no '{missing[0]}'; it needs {', '.join(space.spaces)}.")
        return {key: _stack(f"{name}/{key}", child, values[key]) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(values, tuple) or not values:
            values = tuple([value[index] for value in values] for index in range(len(space.spaces)))
        return tuple(_stack(f"{name}/{i}", child, values[i]) for i, child in enumerate(space.spaces))
    shape = space.shape or ()
    try:
        array = text_array(values) if isinstance(space, spaces.Text) else np.asarray(values)
    except ValueError as error:
        raise MagratheaError(f"Reset option '{name}' mixes shapes; give arrays of shape (T, {shape}).") from error
    if array.size == 0:
        return np.zeros((0, *shape), array.dtype if isinstance(space, spaces.Text) else space.dtype)
    if array.shape[1:] != shape:
        raise MagratheaError(
            f"Reset option '{name}' has shape {array.shape}; this world needs (T, {', '.join(map(str, shape))})."
        )
    return array


def _length(values: Any) -> int:
    is_sequence = lambda node: isinstance(node, list)  # noqa: E731 (a list of values is a leaf)
    return min(map(len, optree.tree_leaves(values, is_leaf=is_sequence)))
