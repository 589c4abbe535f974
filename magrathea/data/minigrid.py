"""MiniGrid seen through the eyes of its agent: several rooms, doors, a key, a ball behind a locked door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from magrathea.errors import MagratheaError

try:
    import minigrid  # noqa: F401  registers its levels
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import WorldObj
    from minigrid.utils.baby_ai_bot import BabyAIBot
except ImportError as error:
    raise MagratheaError(
        "Environment 'magrathea/MiniGrid-v0' needs the package 'minigrid'; install it with 'pip install minigrid'."
    ) from error

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
UP = 3  # how the agent looks in its own picture


class TilePicture(gymnasium.ObservationWrapper):
    """The picture that MiniGrid's RGBImgPartialObsWrapper draws, put together by table look-up: equal, and much faster.

    Observation: (rows * tile_size, columns * tile_size, 3) uint8. The codes of the tiles in view say all that is drawn.
    """

    def __init__(self, env: gymnasium.Env, tile_size: int) -> None:
        super().__init__(env)
        codes_space: Any = env.observation_space["image"]  # type: ignore[index]
        columns, rows, _ = codes_space.shape
        self.tile_size = tile_size
        self.observation_space = spaces.Box(0, 255, (rows * tile_size, columns * tile_size, 3), np.uint8)
        self._agent_place = (rows - 1, columns // 2)
        self._tiles = np.zeros((2 * NUM_CODES, tile_size, tile_size, 3), np.uint8)  # then the same under the agent
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
        """Have MiniGrid draw a tile into the table; it shades the tiles that are not in sight."""
        direction, (rest, state) = UP if code >= NUM_CODES else None, divmod(code % NUM_CODES, NUM_STATES)
        kind, color = divmod(rest, NUM_COLORS)
        content = WorldObj.decode(kind, color, state)
        in_sight = kind != OBJECT_TO_IDX["unseen"]
        self._tiles[code] = Grid.render_tile(content, direction, in_sight, self.tile_size)
        self._drawn[code] = True


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
    env = PrivilegedState(TilePicture(env, TILE))
    env.unwrapped.metadata = dict(env.unwrapped.metadata) | {
        "render_fps": 8,
        "action_names": ACTION_NAMES,
        "key_map": KEYS,
    }
    return env


# How an episode is played: the share of time that follows the expert, and the share of its advice that is not taken.
STYLES = ((1.0, 0.04), (0.7, 0.1), (0.3, 0.1))
MOVES = (0.22, 0.22, 0.44, 0.03, 0.03, 0.04, 0.02)  # chances of the actions where nothing is at hand
USEFUL = 0.4  # chance of the action that does something to what is at hand
DROPS = 0.5  # chance of that to be laying down what one carries


class Explorer:
    """Follows BabyAI's expert for a while, then moves at random for a while, and so on.

    Some episodes are mostly the expert's, so that the mission is accomplished often enough; in others the agent strays,
    and handles whatever it meets.
    """

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        self.env: Any = env.unwrapped
        self.rng = rng
        self._share, self._noise = STYLES[int(rng.integers(len(STYLES)))]
        self._bot: Any = None
        self._seen: np.ndarray | None = None
        self._left, self._follows, self._held, self._hold_left = 0, False, FORWARD, 0
        self._last: int | None = None
        self._frees_hands = False

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        if self._left == 0:
            self._left, self._follows = int(self.rng.integers(5, 30)), bool(self.rng.random() < self._share)
            if self._share < 1:
                self._forget()
        self._left -= 1
        advice = self._advice() if self._follows else None
        self._last = self._random() if advice is None or self.rng.random() < self._noise else advice
        return self._last

    def _forget(self) -> None:
        """Dismiss the expert, whose plan does not survive what it did not do; the next one knows what this one saw."""
        if self._bot is not None:
            self._seen, self._bot = self._bot.vis_mask, None

    def _advice(self) -> int | None:
        """What the expert would do now; None where it is lost, as it may be after random actions."""
        if not hasattr(self.env, "instrs"):
            return None
        self._frees_hands = self._frees_hands and self.env.carrying is not None
        if self._frees_hands:
            return DROP if self._ahead() is None else TURN_LEFT
        try:
            if self._bot is None:
                self._bot, self._last = BabyAIBot(self.env), None
                if self._seen is not None:
                    self._bot.vis_mask = self._seen
            return int(self._bot.replan(self._last))
        except Exception:  # the expert's code asserts what random actions break; a new expert begins from here
            self._forget()
            self._frees_hands = True
            return None

    def _random(self) -> int:
        if self._held == FORWARD and self.rng.random() < 0.8 and not self._is_free():
            self._hold_left = 0
        if self._hold_left == 0:
            useful = self._useful()
            if useful is not None and self.rng.random() < USEFUL:
                return useful
            self._held = int(self.rng.choice(len(MOVES), p=MOVES))
            if self._held == FORWARD and self.rng.random() < 0.8 and not self._is_free():
                self._held = int(self.rng.integers(2))
            self._hold_left = int(self.rng.integers(1, 6 if self._held == FORWARD else 3))
        self._hold_left -= 1
        return self._held

    def _ahead(self) -> Any:
        return self.env.grid.get(*self.env.front_pos)

    def _is_free(self) -> bool:
        return self._ahead() is None or self._ahead().can_overlap()

    def _useful(self) -> int | None:
        """The action that does something to the thing ahead, or now and then to the thing in hand."""
        ahead = self._ahead()
        if ahead is None:
            return DROP if self.env.carrying is not None and self.rng.random() < DROPS else None
        if ahead.type in ("door", "box"):
            return TOGGLE
        return PICK_UP if ahead.can_pickup() else None


def explorer(env: gymnasium.Env, rng: np.random.Generator) -> Callable[[Any, dict[str, Any]], int]:
    """The scripted policy that shows what every action does: half an expert's play, half held random actions."""
    return Explorer(env, rng)
