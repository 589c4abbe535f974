"""An environment whose observation has a part of every kind, each of which tells all others."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

PLACES, SIDE, LENGTH = 8, 16, 12
RATE, SAMPLES = 8000, 400
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven")


class Dial(gymnasium.Env):
    """A hand that is at another of 8 places in every step, whatever is done."""

    metadata = {"render_modes": [], "render_fps": 4, "sound_rates": {"sound": RATE}}
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            choice=spaces.Discrete(PLACES),
            labels=spaces.Box(0, 255, (SIDE, SIDE), np.uint8),
            number=spaces.Box(-10, 10, (2,), np.float32),
            picture=spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8),
            sound=spaces.Box(0, 255, (SAMPLES,), np.uint8),
            text=spaces.Text(8, charset="abcdefghijklmnopqrstuvwxyz"),
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.num_steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.num_steps += 1
        return self._seen(), 0.0, False, self.num_steps == LENGTH, {}

    def _seen(self) -> dict[str, Any]:
        place = int(self.np_random.integers(PLACES))
        picture, labels = np.full((SIDE, SIDE, 3), np.arange(20, 20 + SIDE)[:, None], np.uint8), np.zeros((SIDE, SIDE))
        picture[:, 2 * place : 2 * place + 2], labels[4:, 2 * place : 2 * place + 2] = (200, 90, 40), 100
        labels[8:, 2 * place : 2 * place + 2] = 255
        wave = 100 * np.sin(2 * np.pi * 200 * (1 + place) * np.arange(SAMPLES) / RATE)
        return {
            "choice": np.int64(place),
            "labels": labels.astype(np.uint8),
            "number": np.float32([place, -place]),
            "picture": picture,
            "sound": (128 + wave).astype(np.uint8),
            "text": WORDS[place],
        }


gymnasium.register("recorded/Dial-v0", entry_point=Dial)
