"""MiniGrid as the agent's own view in pixels: rooms, doors, a key, a ball behind a locked door."""

from __future__ import annotations

from typing import Any

import gymnasium
import minigrid  # noqa: F401  registers its levels
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.world_object import WorldObj

LEVEL = "BabyAI-KeyCorridorS4R3-v0"
ACTION_NAMES = ("turn left", "turn right", "forward", "pick up", "drop", "toggle", "done")
TURN_LEFT, TURN_RIGHT, FORWARD, PICK_UP, DROP, TOGGLE, DONE = range(7)
KEYS = {
    "ArrowLeft": TURN_LEFT, "a": TURN_LEFT, "ArrowRight": TURN_RIGHT, "d": TURN_RIGHT, "ArrowUp": FORWARD, "w": FORWARD,
    "p": PICK_UP, "o": DROP, " ": TOGGLE, "Enter": DONE,
}  # fmt: skip
TILE = 9  # pixels
NUM_COLORS, NUM_STATES = len(COLOR_TO_IDX), 4
NUM_CODES = len(OBJECT_TO_IDX) * NUM_COLORS * NUM_STATES
UP = 3  # the agent's direction in its own view
MAX_MISSION = 300  # characters
LETTERS = "".join(map(chr, range(32, 127)))


class TilePicture(gymnasium.ObservationWrapper):
    """The picture of MiniGrid's RGBImgPartialObsWrapper, composed from a table of tiles: equal, and much faster.

    Observation: (rows * tile_size, columns * tile_size, 3) uint8. It depends only on the codes of the tiles in view.
    """

    def __init__(self, env: gymnasium.Env, tile_size: int) -> None:
        super().__init__(env)
        codes_space: Any = env.observation_space["image"]  # type: ignore[index]
        columns, rows, _ = codes_space.shape
        self.tile_size = tile_size
        self.observation_space = spaces.Box(0, 255, (rows * tile_size, columns * tile_size, 3), np.uint8)
        self._agent_place = (rows - 1, columns // 2)
        self._tiles = np.zeros((2 * NUM_CODES, tile_size, tile_size, 3), np.uint8)  # of codes, then with the agent
        self._drawn = np.zeros(2 * NUM_CODES, bool)

    def observation(self, observation: dict[str, Any]) -> np.ndarray:
        kind, color, state = observation["image"].astype(np.int64).transpose(2, 1, 0)
        codes = (kind * NUM_COLORS + color) * NUM_STATES + state
        codes[self._agent_place] += NUM_CODES
        for code in codes[~self._drawn[codes]].tolist():
            self._draw(code)
        (rows, columns), size = codes.shape, self.tile_size
        return self._tiles[codes].transpose(0, 2, 1, 3, 4).reshape(rows * size, columns * size, 3)

    def _draw(self, code: int) -> None:
        """Draw a tile into the table with MiniGrid, which shades tiles that are not visible."""
        direction, (rest, state) = UP if code >= NUM_CODES else None, divmod(code % NUM_CODES, NUM_STATES)
        kind, color = divmod(rest, NUM_COLORS)
        content = WorldObj.decode(kind, color, state)
        is_visible = kind != OBJECT_TO_IDX["unseen"]
        self._tiles[code] = Grid.render_tile(content, direction, is_visible, self.tile_size)
        self._drawn[code] = True


class PictureAndMission(gymnasium.ObservationWrapper):
    """What the agent sees, as `TilePicture` draws it, and the sentence that says what to do.

    Observation: "image" (rows * tile_size, columns * tile_size, 3) uint8 and "mission", a text.
    """

    def __init__(self, env: gymnasium.Env, tile_size: int) -> None:
        super().__init__(env)
        self._picture = TilePicture(env, tile_size)
        mission = spaces.Text(MAX_MISSION, min_length=0, charset=LETTERS)
        self.observation_space = spaces.Dict(image=self._picture.observation_space, mission=mission)

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {"image": self._picture.observation(observation), "mission": observation["mission"][:MAX_MISSION]}


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

    def privileged(self) -> dict[str, Any]:
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
    return _with_names(PrivilegedState(TilePicture(env, TILE)))


def make_level(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """A MiniGrid or BabyAI level by its own id: the picture of `make_minigrid`, and the mission in words."""
    env = gymnasium.make(env_id, disable_env_checker=True, **kwargs)
    return _with_names(PrivilegedState(PictureAndMission(env, TILE)))


def _with_names(env: gymnasium.Env) -> gymnasium.Env:
    env.unwrapped.metadata = dict(env.unwrapped.metadata) | {
        "render_fps": 8,
        "action_names": ACTION_NAMES,
        "key_map": KEYS,
        "counters": (),  # what `info` holds is privileged
    }
    return env
