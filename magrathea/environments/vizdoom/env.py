"""ViZDoom's `my_way_home` as a test of memory: nine rooms in first person, with other objects in every episode.

The map is always the same, so a model can store it in its weights. Which objects stand in which corners depends on the
seed, and must be remembered.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import vizdoom
from gymnasium import spaces

from magrathea.data.pictures import resize

TICS_PER_SECOND = 35  # of the game
TICS = 4  # in a step
TURN = 15.0  # degrees of a turning step; all headings are multiples of it
ACTIONS = {
    "noop": (0, 0.0), "forward": (1, 0.0), "turn left": (0, -TURN), "turn right": (0, TURN),
    "forward left": (1, -TURN), "forward right": (1, TURN),
}  # name -> whether to walk, and degrees to turn  # fmt: skip
ACTION_NAMES = tuple(ACTIONS)
KEYS = {
    "n": "noop", "ArrowUp": "forward", "w": "forward", "ArrowLeft": "turn left", "a": "turn left",
    "ArrowRight": "turn right", "d": "turn right", "q": "forward left", "e": "forward right",
}  # fmt: skip
ROOMS = {
    "A": (464, 48), "B": (688, 48), "C": (1040, 48), "D": (240, -176), "E": (464, -176), "F": (688, -176),
    "G": (1040, -176), "H": (464, -464), "vest": (1040, -330), "nook": (464, -660),
}  # fmt: skip
DOORS = ("AB", "BC", "AE", "BF", "DE", "EF", "EH", "CG")
FURNISHED = "ABCDEFGH"
THINGS = ("TallGreenColumn", "TallRedColumn", "ShortGreenColumn", "TorchTree", "BigTree", "HeadOnAStick", "Stalagtite")
CORNER = 54.0  # distance from a room's centre, along both axes
REACH = 47.4  # distance at which the game summons an object ahead of the player


class ViZDoomEnv(gymnasium.Env):
    """`my_way_home` without weapon, bobbing and score: find the vest.

    Observation: (height, width, 3) uint8. Action: Discrete(6), named in ACTIONS. `info` holds, for evaluation only,
    pose (3,) float32: x, y in units of the map, and the angle in degrees, counterclockwise from east.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"],
        "render_fps": TICS_PER_SECOND / TICS,
        "action_names": ACTION_NAMES,
        "key_map": {key: ACTION_NAMES.index(name) for key, name in KEYS.items()},
    }

    def __init__(
        self, size: tuple[int, int] = (64, 64), furnished: bool = True, render_mode: str | None = None
    ) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (size[0], size[1], 3), np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self._size, self._furnished = (int(size[0]), int(size[1])), furnished
        self._frame = np.zeros(self.observation_space.shape, np.uint8)
        self._pose = np.zeros(3, np.float32)
        self._game = _start_game()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Place objects in the rooms and the player in one of them; the same seed gives the same episode."""
        super().reset(seed=seed, options=options)
        self._game.set_seed(int(self.np_random.integers(2**31 - 1)))
        self._game.new_episode()
        self._look()
        x, y, angle = self._pose.tolist()
        if self._furnished:
            for room in FURNISHED:
                self._furnish(*ROOMS[room])
        self._stand(round(x), round(y), TURN * round(angle / TURN))
        self._look()
        return self._frame, {"pose": self._pose}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one action of four tics; `terminated` means that the vest was found, `truncated` that time ran out."""
        walk, turn = tuple(ACTIONS.values())[int(action)]
        reward = self._game.make_action([walk, turn / TICS], TICS)
        done = self._game.is_episode_finished()
        found = done and not self._game.is_episode_timeout_reached()
        if not done:
            self._look()
        return self._frame, float(reward), bool(found), bool(done and not found), {"pose": self._pose}

    def render(self) -> np.ndarray:
        return self._frame

    def close(self) -> None:
        self._game.close()

    def _look(self) -> None:
        state = self._game.get_state()
        assert state is not None
        self._frame = resize(state.screen_buffer, self._size)
        self._pose = np.array(state.game_variables, np.float32)

    def _furnish(self, x: float, y: float) -> None:
        """Put an object, or none, into a corner of the room around (x, y)."""
        right, up = self.np_random.integers(2, size=2) * 2 - 1
        kind = int(self.np_random.integers(len(THINGS) + 1))
        if kind < len(THINGS):
            behind = CORNER - REACH / math.sqrt(2)
            self._stand(x + right * behind, y + up * behind, math.degrees(math.atan2(up, right)))
            self._game.send_game_command(f"summon {THINGS[kind]}")
            self._game.make_action([0, 0.0], 1)

    def _stand(self, x: float, y: float, angle: float) -> None:
        """Move the player to (x, y), facing an angle in degrees."""
        self._game.send_game_command(f"warp {x:.0f} {y:.0f}")
        now = self._game.get_game_variable(vizdoom.GameVariable.ANGLE)
        self._game.make_action([0, (now - angle + 180) % 360 - 180], 1)


def _start_game() -> vizdoom.DoomGame:
    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / "my_way_home.cfg"))
    game.set_window_visible(False)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_render_weapon(False)
    game.set_render_crosshair(False)
    game.set_available_buttons([vizdoom.Button.MOVE_FORWARD, vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    variables = vizdoom.GameVariable
    game.set_available_game_variables([variables.POSITION_X, variables.POSITION_Y, variables.ANGLE])
    game.add_game_args("+movebob 0 +sv_cheats 1")
    with scratch_folder():
        game.init()
    return game


@contextlib.contextmanager
def scratch_folder() -> Iterator[None]:
    """Change into a temporary folder for a while: the game writes files into the folder that it starts in."""
    folder = Path(tempfile.gettempdir()) / "magrathea-scratch"
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        yield
