"""A small environment of pixels and numbers that move: what a person's own game looks like to the default settings."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ENV_ID = "tests/SteeredSquare-v0"
SIDE, LENGTH = 24, 40
MOVES = ((0, 0), (-2, 0), (2, 0), (0, -2), (0, 2))


class SteeredSquare(gymnasium.Env):
    """A square of 5 x 5 pixels that the action moves by two, another that drifts, and the first one's place."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(len(MOVES))
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8),
                "place": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            }
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.own, self.other = self.np_random.integers(2, SIDE - 3, (2, 2))
        self.velocity = self.np_random.choice([-1, 1], 2)
        self.count = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.own = np.clip(self.own + MOVES[action], 2, SIDE - 3)
        self.other = self.other + self.velocity
        self.velocity = np.where((self.other <= 2) | (self.other >= SIDE - 3), -self.velocity, self.velocity)
        self.other = np.clip(self.other, 2, SIDE - 3)
        self.count += 1
        return self._observation(), float(np.abs(self.own - self.other).max() < 4), False, self.count >= LENGTH, {}

    def render(self) -> np.ndarray:
        return self._observation()["image"]

    def _observation(self) -> dict[str, np.ndarray]:
        image = np.full((SIDE, SIDE, 3), (30, 60, 30), np.uint8)
        for place, colour in ((self.other, (220, 90, 40)), (self.own, (240, 240, 250))):
            image[place[0] - 2 : place[0] + 3, place[1] - 2 : place[1] + 3] = colour
        return {"image": image, "place": (self.own / 7.0).astype(np.float32)}
