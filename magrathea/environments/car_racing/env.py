"""Gymnasium's CarRacing-v3 for playing by keys: pedals and steering at once, fewer steps a second, the road alone."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.box2d.car_racing import CarRacing

from magrathea.data.pictures import resize

TICKS_PER_SECOND = 50  # of the game
TICKS = 4  # in a step
ZOOM_TICKS = 50  # at the start, in which the camera comes down
SIDE = 84  # pixels of the game's picture, in the middle of its width and without the instruments below
ACTIONS = {
    "coast": (0.0, 0.0, 0.0), "gas": (0.0, 1.0, 0.0), "brake": (0.0, 0.0, 0.8), "left": (-0.6, 0.0, 0.0),
    "right": (0.6, 0.0, 0.0), "gas left": (-0.4, 0.7, 0.0), "gas right": (0.4, 0.7, 0.0),
}  # name -> steering, gas, brake  # fmt: skip
ACTION_NAMES = tuple(ACTIONS)
KEYS = {
    "n": "coast", "ArrowUp": "gas", "w": "gas", "ArrowDown": "brake", "s": "brake", "ArrowLeft": "left", "a": "left",
    "ArrowRight": "right", "d": "right", "q": "gas left", "e": "gas right",
}  # fmt: skip


class _Game(CarRacing):
    """The game, which draws a picture only where it is asked to: drawing takes most of its time."""

    is_drawn = True

    def _render(self, mode: str) -> Any:
        return super()._render(mode) if self.is_drawn else None


class CarRacingEnv(gymnasium.Env):
    """Drive around the track: 1000 / (its number of tiles) for each new tile, −0.1 for each fiftieth of a second.

    Observation: (height, width, 3) uint8. Action: Discrete(7), named in ACTIONS. `info` holds, for policies and
    evaluation only, pose (3,) float32: x, y and heading in radians, and track (2,) float32: the point of the road some
    tiles ahead.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"],
        "render_fps": TICKS_PER_SECOND / TICKS,
        "action_names": ACTION_NAMES,
        "key_map": {key: ACTION_NAMES.index(name) for key, name in KEYS.items()},
    }

    def __init__(self, size: tuple[int, int] = (64, 64), render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (size[0], size[1], 3), np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self._size = int(size[0]), int(size[1])
        self._frame = np.zeros(self.observation_space.shape, np.uint8)
        self._game = _Game(continuous=True)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Put the car on a new track; the same seed gives the same track."""
        super().reset(seed=seed, options=options)
        self._game.reset(seed=int(self.np_random.integers(2**31 - 1)))
        self._tick(ACTIONS["coast"], ZOOM_TICKS)
        return self._frame, self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one action for four ticks of the game; `terminated` is a lap, or the end of the playfield."""
        reward, terminated = self._tick(ACTIONS[ACTION_NAMES[int(action)]], TICKS)
        return self._frame, reward, terminated, False, self._info()

    def render(self) -> np.ndarray:
        """The last picture."""
        return self._frame

    def close(self) -> None:
        self._game.close()

    def _tick(self, action: tuple[float, float, float], num_ticks: int) -> tuple[float, bool]:
        """The sum of the rewards, and whether the game ended, of ticks with the same action."""
        total, terminated = 0.0, False
        for number in range(num_ticks):
            self._game.is_drawn = number == num_ticks - 1
            picture, reward, terminated, _, _ = self._game.step(np.array(action, np.float32))
            total += float(reward)
            if terminated:
                break
        self._game.is_drawn = True
        frame = np.asarray(self._game._render("state_pixels") if picture is None else picture)
        left = (frame.shape[1] - SIDE) // 2
        self._frame = resize(frame[:SIDE, left : left + SIDE], self._size)
        return total, bool(terminated)

    def _info(self) -> dict[str, Any]:
        hull, track = self._game.car.hull, np.array(self._game.track)[:, 2:]  # type: ignore[union-attr]
        here = np.array(hull.position)
        nearest = int(np.square(track - here).sum(1).argmin())
        ahead = track[(nearest + 5) % len(track)]
        pose = np.array([*here, hull.angle + np.pi / 2], np.float32)
        return {"pose": pose, "track": ahead.astype(np.float32)}
