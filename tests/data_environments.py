"""Environments that tests record; other processes make them by "data_environments:ID"."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
from board import Board
from gymnasium import spaces


class SlowBoard(Board):
    """A board with slow steps, so that a recording can be killed half-way."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        time.sleep(0.002)
        return super().step(action)


class Odd(gymnasium.Env):
    """Episodes of five random observations of a space; the one of step `nan_at` has a NaN."""

    def __init__(self, space: str = "dict", nan_at: int = -1) -> None:
        picture, number = spaces.Box(0, 255, (4, 4, 3), np.uint8), spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space: spaces.Space = {
            "dict": spaces.Dict(picture=picture, inner=spaces.Dict(number=number, choice=spaces.Discrete(3))),
            "tuple": spaces.Tuple([number, spaces.MultiBinary(3)]),
            "number": number,
            "sequence": spaces.Sequence(spaces.Discrete(3)),
            "graph": spaces.Graph(spaces.Discrete(3), None),
        }[space]
        self.action_space = spaces.MultiDiscrete([2, 3])
        self.nan_at = nan_at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.num_steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.num_steps += 1
        observation = self.observation_space.sample()
        if self.num_steps == self.nan_at:
            observation[0] = np.nan
        return observation, 0.5, False, self.num_steps == 5, {}


def always_down(env: gymnasium.Env, rng: np.random.Generator) -> Any:
    return lambda observation, info: 2


for name, entry_point in (
    ("Board", "board:Board"),
    ("Slow", "data_environments:SlowBoard"),
    ("Odd", "data_environments:Odd"),
):
    gymnasium.register(f"recorded/{name}-v0", entry_point=entry_point)
