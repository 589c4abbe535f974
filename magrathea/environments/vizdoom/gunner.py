"""A scripted player of `defend_the_line` that is often careless, for collecting data."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from magrathea.environments.vizdoom.line import ACTION_NAMES, TURN

CARELESS = 0.25  # share of the games in which it aims at nothing


class Gunner:
    """Policy that turns to the nearest monster and shoots, and holds random actions for a while now and then."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        self.rng = rng
        self._queue: list[str] = []
        self._is_careless = rng.random() < CARELESS

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        left = float(info["target"][0])
        if not self._queue and (self._is_careless or np.isnan(left) or self.rng.random() < 0.12):
            self._queue = [str(self.rng.choice(ACTION_NAMES))] * int(self.rng.integers(1, 9))
        return ACTION_NAMES.index(self._queue.pop() if self._queue else self._aim(left))

    def _aim(self, left: float) -> str:
        """Toward a monster that is so many degrees to the left."""
        if abs(left) > TURN / 2:
            return "turn left" if left > 0 else "turn right"
        return "shoot" if self.rng.random() < 0.7 else "noop"
