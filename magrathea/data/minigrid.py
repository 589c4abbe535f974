"""MiniGrid seen through the eyes of its agent: several rooms, doors, a key, a ball behind a locked door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from magrathea.errors import MagratheaError

try:
    import minigrid  # noqa: F401  registers its levels
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
    from minigrid.utils.baby_ai_bot import BabyAIBot
    from minigrid.wrappers import ImgObsWrapper, RGBImgPartialObsWrapper
except ImportError as error:
    raise MagratheaError(
        "Environment 'magrathea/MiniGrid-v0' needs the package 'minigrid'; install it with 'pip install magrathea[worlds]'"
    ) from error

LEVEL = "BabyAI-KeyCorridorS4R3-v0"
ACTION_NAMES = ("turn left", "turn right", "forward", "pick up", "drop", "toggle", "done")
KEYS = {
    "ArrowLeft": 0, "a": 0, "ArrowRight": 1, "d": 1, "ArrowUp": 2, "w": 2,
    "p": 3, "o": 4, " ": 5, "Enter": 6,
}  # fmt: skip
TILE = 9  # pixels


class PrivilegedState(gymnasium.Wrapper):
    """Adds to `info`, for evaluation only, what the agent cannot see.

    position (2,) int16 (column, row); direction () int8 (0 right, 1 down, 2 left, 3 up); carrying (2,) int8 kind and
    color, -1 for nothing; cells (7, 7, 2) int16: the (column, row) on the map that each tile of the picture shows.
    """

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        return observation, info | self.privileged()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), terminated, truncated, info | self.privileged()

    def privileged(self) -> dict[str, np.ndarray]:
        env: Any = self.env.unwrapped
        held = env.carrying
        carrying = (-1, -1) if held is None else (OBJECT_TO_IDX[held.type], COLOR_TO_IDX[held.color])
        return {
            "position": np.array(env.agent_pos, np.int16),
            "direction": np.int8(env.agent_dir),
            "carrying": np.array(carrying, np.int8),
            "cells": _cells_in_view(env),
        }


def _cells_in_view(env: Any) -> np.ndarray:
    """(rows, columns, 2) map coordinates (column, row) of the tiles in view; the agent is at the bottom's middle."""
    size = env.agent_view_size
    ahead, right = np.array(env.dir_vec), np.array(env.right_vec)
    corner = np.array(env.agent_pos) + ahead * (size - 1) - right * (size // 2)
    rows, columns = np.arange(size)[:, None, None], np.arange(size)[None, :, None]
    return (corner - ahead * rows + right * columns).astype(np.int16)


def make_minigrid(level: str = LEVEL, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    """A MiniGrid or BabyAI level as a picture (63, 63, 3) uint8 of the 7 × 7 tiles that its agent sees."""
    env = gymnasium.make(level, render_mode=render_mode, disable_env_checker=True, **kwargs)
    env = PrivilegedState(ImgObsWrapper(RGBImgPartialObsWrapper(env, tile_size=TILE)))
    env.unwrapped.metadata = dict(env.unwrapped.metadata) | {
        "render_fps": 8,
        "action_names": ACTION_NAMES,
        "key_map": KEYS,
    }
    return env


class Explorer:
    """Follows BabyAI's expert for a while, then holds random actions for a while, and so on."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        self.env, self.rng = env.unwrapped, rng
        self._bot: Any = None
        self._left, self._follows, self._held, self._hold_left = 0, False, 2, 0
        self._last: int | None = None

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        if self._left == 0:
            self._left, self._follows = int(self.rng.integers(5, 30)), bool(self.rng.random() < 0.6)
            self._bot = None
        self._left -= 1
        advice = self._advice() if self._follows else None
        self._last = self._random() if advice is None or self.rng.random() < 0.1 else advice
        return self._last

    def _advice(self) -> int | None:
        """What the expert would do now; None where it is lost, as it may be after random actions."""
        if not hasattr(self.env, "instrs"):
            return None
        try:
            if self._bot is None:
                self._bot, self._last = BabyAIBot(self.env), None
            return int(self._bot.replan(self._last))
        except Exception:  # the expert's code asserts what random actions break; a new expert begins from here
            self._bot = None
            return None

    def _random(self) -> int:
        if self._hold_left == 0:
            self._held = int(self.rng.choice(7, p=(0.16, 0.16, 0.36, 0.09, 0.09, 0.12, 0.02)))
            self._hold_left = int(self.rng.integers(1, 6)) if self._held == 2 else int(self.rng.integers(1, 3))
        self._hold_left -= 1
        return self._held


def explorer(env: gymnasium.Env, rng: np.random.Generator) -> Callable[[Any, dict[str, Any]], int]:
    """The scripted policy that shows what every action does: half an expert's play, half held random actions."""
    return Explorer(env, rng)
