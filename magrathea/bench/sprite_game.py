"""A game of sprites as somebody might write it: a player, a bouncing target and a shot. It has no plug-in."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE = 48
BACKGROUND, STRIPE, TARGET, SHOT, PLAYER = (
    (20, 24, 40),
    (30, 36, 56),
    (230, 80, 60),
    (255, 240, 120),
    (80, 200, 250),
)
MOVES = np.array([(0, 0), (-2, 0), (2, 0), (0, -2), (0, 2)])  # (rows, columns) a step
VELOCITIES = np.array([(1, 2), (2, 1), (-1, 2), (2, -1)])
SHOT_VELOCITY = np.array((-3, 0))
REACH = 5  # pixels between a shot and the target's centre, below which it hits
MAX_STEPS = 200


class SpriteGame(gymnasium.Env):
    """Move by MOVES, and shoot upwards at a target that bounces off the walls; a hit is a reward of 1."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = spaces.MultiDiscrete([len(MOVES), 2])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._player = self.np_random.integers(4, 40, 2)
        self._target = self.np_random.integers(4, 40, 2)
        self._velocity = VELOCITIES[self.np_random.integers(len(VELOCITIES))].copy()
        self._shot: np.ndarray | None = None
        self._num_steps = 0
        return self.render(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._player = np.clip(self._player + MOVES[action[0]], 3, SIZE - 4)
        target = self._target + self._velocity
        self._velocity = np.where((target < 4) | (target > SIZE - 5), -self._velocity, self._velocity)
        self._target = np.clip(target, 4, SIZE - 5)
        reward = self._move_shot()
        if action[1] and self._shot is None:
            self._shot = self._player.copy()
        self._num_steps += 1
        return self.render(), reward, False, self._num_steps >= MAX_STEPS, {}

    def _move_shot(self) -> float:
        """Returns 1 for a hit."""
        if self._shot is None:
            return 0.0
        self._shot = self._shot + SHOT_VELOCITY
        is_hit = bool(np.abs(self._shot - self._target).max() < REACH)
        if is_hit or self._shot[0] < 0:
            self._shot = None
        return float(is_hit)

    def render(self) -> np.ndarray:
        """(48, 48, 3) uint8."""
        picture = np.full((SIZE, SIZE, 3), BACKGROUND, np.uint8)
        picture[::12] = STRIPE
        for centre, radius, colour in ((self._target, 3, TARGET), (self._shot, 1, SHOT), (self._player, 3, PLAYER)):
            if centre is not None:
                row, column = centre
                rows, columns = (slice(max(0, each - radius), each + radius + 1) for each in (row, column))
                picture[rows, columns] = colour
        return picture


gymnasium.register("magrathea/SpriteGame-v0", entry_point=f"{__name__}:SpriteGame")
