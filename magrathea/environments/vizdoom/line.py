"""ViZDoom's `defend_the_line` for playing by keys: monsters come from the far end of a hall; turn, and shoot them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import vizdoom
from gymnasium import spaces

from magrathea.environments.vizdoom.levels import TICS, TICS_PER_SECOND, scratch_folder
from magrathea.environments.vizdoom.panorama import Panorama

VIEW = (56, 72)  # pixels, of a degree each
TURN = 8.0  # degrees of a step, so that turning moves the view by whole pixels
BAR = 8  # rows below the view, in which the health is drawn
BAR_COLOURS = (200, 32, 32), (40, 36, 36)  # of the health that there is, and of what is lost
BAR_MARKS = 18  # of full health
MONSTERS = ("Demon", "DoomImp")
ACTIONS = {"noop": (0.0, 0), "turn left": (-TURN, 0), "turn right": (TURN, 0), "shoot": (0.0, 1)}
ACTION_NAMES = tuple(ACTIONS)
KEYS = {
    "n": "noop", "ArrowLeft": "turn left", "a": "turn left", "ArrowRight": "turn right", "d": "turn right",
    " ": "shoot", "ArrowUp": "shoot", "w": "shoot",
}  # fmt: skip
DRAWN = (600, 800)  # pixels of the game's own pictures


class ViZDoomLineEnv(gymnasium.Env):
    """Defend the line: 1 for each monster that is shot, −1 for the end, which comes when the health is gone.

    Observation: (64, 72, 3) uint8, the view of 72 degrees, each pixel one of them, and below it the health as a bar.
    Action: Discrete(4), named in ACTIONS. `info` holds, for policies alone, target (2,) float32: by how many degrees
    the nearest monster is to the left, and its distance in units of the map; NaN where there is none.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"],
        "render_fps": TICS_PER_SECOND / TICS,
        "action_names": ACTION_NAMES,
        "key_map": {key: ACTION_NAMES.index(name) for key, name in KEYS.items()},
    }

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (VIEW[0] + BAR, VIEW[1], 3), np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self._panorama = Panorama(VIEW, float(VIEW[1]), DRAWN)
        self._frame = np.zeros(self.observation_space.shape, np.uint8)
        self._target = np.full(2, np.nan, np.float32)
        self._game = _start_game()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a game; the same seed and the same actions give the same game."""
        super().reset(seed=seed, options=options)
        self._game.set_seed(int(self.np_random.integers(2**31 - 1)))
        self._game.new_episode()
        self._look()
        return self._frame, {"target": self._target}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one action of four tics."""
        turn, shoot = tuple(ACTIONS.values())[int(action)]
        reward = self._game.make_action([turn / TICS, shoot], TICS)
        ended = self._game.is_episode_finished()
        if ended:
            self._frame = np.concatenate([self._frame[: VIEW[0]], health_bar(0)])
        else:
            self._look()
        return self._frame, float(reward), bool(ended), False, {"target": self._target}

    def render(self) -> np.ndarray:
        """The last picture."""
        return self._frame

    def close(self) -> None:
        self._game.close()

    def _look(self) -> None:
        state = self._game.get_state()
        assert state is not None and state.screen_buffer is not None
        x, y, angle, health = np.asarray(state.game_variables, float)
        self._frame = np.concatenate([self._panorama(state.screen_buffer), health_bar(health)])
        there = [(thing.position_x - x, thing.position_y - y) for thing in state.objects if thing.name in MONSTERS]
        self._target = np.full(2, np.nan, np.float32)
        if there:
            ahead, aside = min(there, key=lambda way: math.hypot(*way))
            left = (math.degrees(math.atan2(aside, ahead)) - angle + 180) % 360 - 180
            self._target = np.array([left, math.hypot(ahead, aside)], np.float32)


def health_bar(health: float) -> np.ndarray:
    """The picture (BAR, width, 3) uint8 of a health of 0 to 100."""
    full, lost = (np.array(colour, np.uint8) for colour in BAR_COLOURS)
    marks = np.arange(VIEW[1]) * BAR_MARKS // VIEW[1] < math.ceil(max(0.0, health) / 100 * BAR_MARKS)
    bar = np.broadcast_to(np.where(marks[:, None], full, lost), (BAR, VIEW[1], 3)).copy()
    bar[0] = lost
    return bar


def _start_game() -> vizdoom.DoomGame:
    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / "defend_the_line.cfg"))
    game.set_window_visible(False)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_800X600)
    game.set_render_crosshair(False)
    game.set_objects_info_enabled(True)
    game.set_available_buttons([vizdoom.Button.TURN_LEFT_RIGHT_DELTA, vizdoom.Button.ATTACK])
    variables = vizdoom.GameVariable
    game.set_available_game_variables([variables.POSITION_X, variables.POSITION_Y, variables.ANGLE, variables.HEALTH])
    with scratch_folder():
        game.init()
    return game
