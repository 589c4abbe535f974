"""Worlds that are alike in all but what happens in them, and one that is unlike them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from magrathea.data import collect

LENGTH, SIDES = 12, 8
MISSIONS = ("fetch the blue ball", "open the red door")
PROMPTS = {"up": "a counter that rises, upward", "down": "a counter that falls, downward", "rooms": "missions in rooms"}


class Counter(gymnasium.Env):
    """A number that rises, or falls, by one in a circle of eight where the action says so: other steps show nothing of
    which it does."""

    metadata = {"render_modes": [], "render_fps": 4}

    def __init__(self, step: int = 1) -> None:
        self.change = step
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.value, self.count = int(self.np_random.integers(SIDES)), 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.value = (self.value + self.change * int(action)) % SIDES
        self.count += 1
        return self._observation(), 0.0, False, self.count == LENGTH, {}

    def _observation(self) -> Any:
        return np.array([self.value], np.float32)


class Missions(gymnasium.Env):
    """A picture of 12 x 12 whose square moves by the action, and a mission in words."""

    metadata = {"render_modes": [], "render_fps": 4}

    def __init__(self) -> None:
        letters = "abcdefghijklmnopqrstuvwxyz "
        self.observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (12, 12, 3), np.uint8), mission=spaces.Text(40, charset=letters)
        )
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.place, self.count = int(self.np_random.integers(10)), 0
        self.mission = MISSIONS[int(self.np_random.integers(len(MISSIONS)))]
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.place = int(np.clip(self.place + int(action) - 1, 0, 9))
        self.count += 1
        return self._observation(), float(self.place == 9), False, self.count == LENGTH, {}

    def _observation(self) -> Any:
        image = np.full((12, 12, 3), 40, np.uint8)
        image[5:8, self.place : self.place + 3] = 220
        return {"image": image, "mission": self.mission}


def record_all(folder: Path) -> list[Path]:
    """Datasets of the worlds of `PROMPTS`, in that order."""
    for name, kind, keywords in (
        ("up", "Counter", {"step": 1}),
        ("down", "Counter", {"step": -1}),
        ("rooms", "Missions", {}),
    ):
        env_id = f"counting_worlds:tests/{kind}-v0"
        collect(env_id, 240, folder / name, policy="random", num_processes=1, env_kwargs=keywords)
    return [folder / name for name in PROMPTS]


gymnasium.register("tests/Counter-v0", entry_point="counting_worlds:Counter")
gymnasium.register("tests/Missions-v0", entry_point="counting_worlds:Missions")
