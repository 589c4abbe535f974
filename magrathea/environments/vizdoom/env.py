"""ViZDoom's `my_way_home` as a test of memory: nine rooms in first person, with other objects in every episode.

The map is always the same, so a model can store it in its weights. Which objects stand in which corners depends on the
seed, and must be remembered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import vizdoom
from gymnasium import spaces

from magrathea.environments.vizdoom.levels import TICS, TICS_PER_SECOND, scratch_folder
from magrathea.environments.vizdoom.parts import SOUND_RATE, SOURCES, check_parts, part_space, read_part, set_up
from magrathea.sounds import SOUND_RATES

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

    Observation: (height, width, 3) uint8, or a Dict of the parts that are named, see `part_space`. Action: Discrete(6),
    named in ACTIONS. `info` holds, for evaluation only, pose (3,) float32: x, y in units of the map, and the angle in
    degrees, counterclockwise from east.

    Args:
        resolution: (height, width) of pictures, depth and labels.
        furnished: whether there are objects in the rooms.
        parts: what is observed, of "depth", "labels", "picture", "position" and "sound"; the picture alone, not in a
            Dict, if none is named. With sound three rooms have a thing that makes it, the same in every episode, which
            is heard the louder the nearer it is, and at the side where it is.

    Raises:
        MagratheaError: for other parts, and for sound where the library that makes it is not installed.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"],
        "render_fps": TICS_PER_SECOND / TICS,
        "action_names": ACTION_NAMES,
        "key_map": {key: ACTION_NAMES.index(name) for key, name in KEYS.items()},
    }

    def __init__(
        self,
        resolution: tuple[int, int] = (64, 64),
        furnished: bool = True,
        parts: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self._size, self._furnished, self._parts = (int(resolution[0]), int(resolution[1])), furnished, tuple(parts)
        check_parts(self._parts)
        pieces = {part: part_space(part, self._size) for part in self._parts}
        self.observation_space = spaces.Dict(pieces) if pieces else part_space("picture", self._size)
        self.action_space = spaces.Discrete(len(ACTIONS))
        if "sound" in self._parts:
            self.metadata = self.metadata | {SOUND_RATES: {"sound": SOUND_RATE}}
        self._frame = np.zeros((*self._size, 3), np.uint8)
        self._observation: Any = self._frame
        self._pose = np.zeros(3, np.float32)
        self._game = _start_game(self._parts)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict[str, Any]]:
        """Place objects in the rooms and the player in one of them; the same seed gives the same episode."""
        super().reset(seed=seed, options=options)
        self._game.set_seed(int(self.np_random.integers(2**31 - 1)))
        self._game.new_episode()
        self._look()
        x, y, angle = self._pose.tolist()
        if self._furnished:
            for room in FURNISHED:
                if "sound" not in self._parts or room not in SOURCES:
                    self._furnish(*ROOMS[room])
        if "sound" in self._parts:
            for room, kind in SOURCES.items():
                self._put(kind, *ROOMS[room], 1, 1)
        self._stand(round(x), round(y), TURN * round(angle / TURN))
        self._look()
        return self._observation, {"pose": self._pose}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one action of four tics; `terminated` means that the vest was found, `truncated` that time ran out."""
        walk, turn = tuple(ACTIONS.values())[int(action)]
        reward = self._game.make_action([walk, turn / TICS], TICS)
        done = self._game.is_episode_finished()
        found = done and not self._game.is_episode_timeout_reached()
        if not done:
            self._look()
        return self._observation, float(reward), bool(found), bool(done and not found), {"pose": self._pose}

    def render(self) -> np.ndarray:
        return self._frame

    def close(self) -> None:
        self._game.close()

    def _look(self) -> None:
        state = self._game.get_state()
        assert state is not None
        self._frame = read_part("picture", state, self._size)
        pieces = {
            part: self._frame if part == "picture" else read_part(part, state, self._size) for part in self._parts
        }
        self._observation = pieces or self._frame
        self._pose = np.array(state.game_variables, np.float32)

    def _furnish(self, x: float, y: float) -> None:
        """Put an object, or none, into a corner of the room around (x, y)."""
        right, up = self.np_random.integers(2, size=2) * 2 - 1
        kind = int(self.np_random.integers(len(THINGS) + 1))
        if kind < len(THINGS):
            self._put(THINGS[kind], x, y, right, up)

    def _put(self, thing: str, x: float, y: float, right: int, up: int) -> None:
        """Put an object into a corner of the room around (x, y): 1 or -1 to its right and up on the map."""
        behind = CORNER - REACH / math.sqrt(2)
        self._stand(x + right * behind, y + up * behind, math.degrees(math.atan2(up, right)))
        self._game.send_game_command(f"summon {thing}")
        self._game.make_action([0, 0.0], 1)

    def _stand(self, x: float, y: float, angle: float) -> None:
        """Move the player to (x, y), facing an angle in degrees."""
        self._game.send_game_command(f"warp {x:.0f} {y:.0f}")
        now = self._game.get_game_variable(vizdoom.GameVariable.ANGLE)
        self._game.make_action([0, (now - angle + 180) % 360 - 180], 1)


def _start_game(parts: tuple[str, ...]) -> vizdoom.DoomGame:
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
    with scratch_folder() as folder:
        set_up(game, parts, folder)
        game.init()
    return game
