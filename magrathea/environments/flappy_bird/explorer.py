"""A scripted player of Flappy Bird that is sometimes careless, for collecting data."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class Explorer:
    """Policy that flaps where it sinks below the middle of the next gap, aims beside it now and then, and takes random
    actions for a while."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        self.rng = rng
        self._aim, self._num_random = 0.0, 0

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        above, speed = info["gap"]
        if self.rng.random() < 0.04:
            self._aim = float(self.rng.normal(0, 6))
        if self.rng.random() < 0.01:
            self._num_random = int(self.rng.integers(2, 12))
        if self._num_random:
            self._num_random -= 1
            return int(self.rng.random() < 0.2)
        return int(above - 2 * speed < self._aim - 26 and speed > -4)
