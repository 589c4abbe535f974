"""A scripted driver of CarRacing that leaves the road and comes back to it, for collecting data."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from magrathea.environments.car_racing.env import ACTION_NAMES

FAST = 45.0  # units of the track a second


class Explorer:
    """Policy that follows the road at a speed of its own, and takes random actions for a while now and then."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        self.rng = rng
        self._queue: list[str] = []
        self._last: np.ndarray | None = None
        self._speed_limit = FAST

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        here, heading = info["pose"][:2], float(info["pose"][2])
        if self._last is None or self.rng.random() < 0.01:
            self._speed_limit = float(self.rng.uniform(10, FAST))
        speed = 0.0 if self._last is None else float(np.linalg.norm(here - self._last)) * 12.5
        self._last = here
        if not self._queue and self.rng.random() < 0.06:
            action = str(self.rng.choice(ACTION_NAMES))
            self._queue = [action] * int(self.rng.integers(1, 9))
        return ACTION_NAMES.index(
            self._queue.pop() if self._queue else self._drive(here, heading, speed, info["track"])
        )

    def _drive(self, here: np.ndarray, heading: float, speed: float, ahead: np.ndarray) -> str:
        """Toward a point of the road ahead."""
        wanted = np.arctan2(*(ahead - here)[::-1])
        turn = (wanted - heading + np.pi) % (2 * np.pi) - np.pi  # to the left where it is positive
        may_go = speed < self._speed_limit
        if abs(turn) > 0.12:
            side = "left" if turn > 0 else "right"
            return f"gas {side}" if may_go and abs(turn) < 0.6 else side
        return "gas" if may_go else "coast" if speed < 1.3 * self._speed_limit else "brake"
