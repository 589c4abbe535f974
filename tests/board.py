"""A tiny real environment for tests: a square moves on a board of 4 × 4 fields towards a corner."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE, FIELD = 4, 4
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # noop, up, down, left, right


class Board(gymnasium.Env[np.ndarray, np.int64]):
    """Reaching the bottom right corner gives 1 and ends the episode; moves off the board are clipped."""

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"],
        "render_fps": 20,
        "action_names": ("noop", "up", "down", "left", "right"),
        "key_map": {"ArrowUp": 1, "ArrowDown": 2, "ArrowLeft": 3, "ArrowRight": 4},
    }
    render_mode = "rgb_array"
    observation_space = spaces.Box(0, 255, (SIZE * FIELD, SIZE * FIELD, 3), np.uint8)
    action_space = spaces.Discrete(len(MOVES))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place = self.np_random.integers(0, SIZE - 1, 2)
        return self.render(), {"place": self.place.copy()}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place = np.clip(self.place + MOVES[int(action)], 0, SIZE - 1)
        won = bool((self.place == SIZE - 1).all())
        return self.render(), float(won), won, False, {"place": self.place.copy()}

    def render(self) -> np.ndarray:
        picture = np.full((SIZE, SIZE, 3), (30, 40, 60), np.uint8)
        picture[-1, -1] = (250, 200, 60)
        picture[tuple(self.place)] = (240, 90, 90)
        return picture.repeat(FIELD, 0).repeat(FIELD, 1)
