"""The game of flappy-bird-gymnasium (MIT licence) as pictures, for playing by keys."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from flappy_bird_gymnasium.envs.flappy_bird_env import FlappyBirdEnv as Game
from gymnasium import spaces

from magrathea.data.pictures import resize

SIZE = (104, 72)  # a quarter of the game's sides, so that what moves does so by whole pixels
GAME_ROWS = 416  # of its picture; below them is nothing but ground
TICKS_PER_SECOND = 30  # of the game
TICKS = 2  # in a step


class FlappyBirdEnv(gymnasium.Env):
    """Flap between the pipes: 1 for each pipe, −1 for a collision, which ends the game, 0.2 for each other step.

    Observation: (104, 72, 3) uint8. Action: nothing (0) or flap (1). `info` holds "score", the number of pipes, and,
    for policies alone, "gap" (2,) float32: how far the bird is above the middle of the next gap, in pixels of the game,
    and how fast it falls, in pixels a tick.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"],
        "render_fps": TICKS_PER_SECOND / TICKS,
        "action_names": ("noop", "flap"),
        "key_map": {"ArrowDown": 0, "ArrowUp": 1, " ": 1, "w": 1},
        "counters": ("score",),
    }

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (*SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(2)
        self._game = self._new_game()

    def _new_game(self) -> Game:
        """A game is made anew each time, since `reset` leaves the ground and the wings where they are."""
        return Game(render_mode="rgb_array", use_lidar=False)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a game; the same seed gives the same pipes."""
        super().reset(seed=seed, options=options)
        self._game = self._new_game()
        self._game.reset(seed=int(self.np_random.integers(2**31 - 1)))
        return self.render(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Flap or not, and let two ticks pass."""
        total = 0.0
        for tick in range(TICKS):
            _, reward, terminated, _, _ = self._game.step(int(action) if tick == 0 else 0)
            total += float(reward)
            if terminated:
                break
        return self.render(), round(total, 2), bool(terminated), False, self._info()

    def render(self) -> np.ndarray:
        """The picture of the game."""
        return resize(np.asarray(self._game.render())[:GAME_ROWS], SIZE)

    def close(self) -> None:
        self._game.close()

    def _info(self) -> dict[str, Any]:
        game = self._game
        ahead = [pipe for pipe in game._lower_pipes if pipe["x"] + 52 > game._player_x]
        gap = min(ahead, key=lambda pipe: pipe["x"])["y"] - game._pipe_gap / 2
        above = np.array([gap - (game._player_y + 12), game._player_vel_y], np.float32)
        return {"score": game._score, "gap": above}
