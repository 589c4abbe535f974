"""A policy of TextWorld for recording: draws among the commands that do something, and sometimes errs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

WEIGHTS = {"go": 4.0, "examine": 0.5, "inventory": 0.7, "look": 0.7}  # of commands by their verb, 1 for others
ERRORS = 0.06  # probability of a command that did something at another moment


def explorer(env: gymnasium.Env, rng: np.random.Generator) -> Callable[[Any, dict[str, Any]], str]:
    """A function observation, info -> command."""
    game: Any = env.unwrapped
    known: list[str] = ["look"]

    def act(observation: Any, info: dict[str, Any]) -> str:
        now = game.commands or ["look"]
        known.extend(command for command in now if command not in known)
        if rng.random() < ERRORS:
            return known[int(rng.integers(len(known)))]
        weights = np.array([WEIGHTS.get(command.split()[0], 1.0) for command in now])
        return now[int(rng.choice(len(now), p=weights / weights.sum()))]

    return act
