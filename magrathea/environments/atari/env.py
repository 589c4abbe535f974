"""Making Atari games."""

from __future__ import annotations

import re
from typing import Any

import ale_py
import gymnasium
import numpy as np
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.sounds import SOUND_RATES

MACHINE_FPS = 60
FRAME_SAMPLES = 512  # of sound in a frame of the machine
SILENT = 128  # a sample of no sound


def make_game(env_id: str, **env_kwargs: Any) -> gymnasium.Env:
    """An Atari game whose "render_fps" counts the steps of the environment, which skips frames of the machine, and
    whose actions are named in words ("up right fire"); with `sound_obs=True` its steps have the sound of all their
    frames."""
    gymnasium.register_envs(ale_py)
    env = gymnasium.make(env_id, disable_env_checker=True, **env_kwargs)
    game: Any = env.unwrapped
    num_skipped = getattr(game, "_frameskip", None)
    title = re.sub(r"(?<=[a-z])(?=[A-Z0-9])", " ", env_id.removeprefix("ALE/").partition("-")[0])
    names = [re.sub("(UP|DOWN|RIGHT|LEFT)(?=.)", r"\1 ", name).lower() for name in game.get_action_meanings()]
    about = {"description": f"{title}, a game of the Atari 2600.", "action_names": names}
    game.metadata = dict(game.metadata) | about
    if isinstance(num_skipped, int):
        game.metadata = dict(game.metadata) | {"render_fps": MACHINE_FPS / num_skipped}
    if getattr(game, "sound_obs", False):
        _hear_all_frames(game, num_skipped)
    return env


def _hear_all_frames(game: Any, num_skipped: Any) -> None:
    """Let a game's observations hold the sound of the skipped frames too, of which it gives the last one's alone."""
    if not isinstance(num_skipped, int):
        raise MagratheaError(f"Sound needs steps of one length; give one number as 'frameskip', not {num_skipped}.")
    game.ale = _HearingALE(game.ale, num_skipped)
    sound = spaces.Box(0, 255, (num_skipped * FRAME_SAMPLES,), np.uint8)
    game.observation_space = spaces.Dict({"image": game.observation_space["image"], "sound": sound})
    game.metadata = dict(game.metadata) | {SOUND_RATES: {"sound": MACHINE_FPS * FRAME_SAMPLES}}


class _HearingALE:
    """The emulator, whose `getAudio` is the sound of the last frames, silence before the first."""

    def __init__(self, ale: Any, num_frames: int) -> None:
        self._ale, self._num_frames = ale, num_frames
        self._frames: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ale, name)

    def reset_game(self) -> None:
        self._ale.reset_game()
        self._frames = []

    def act(self, *action: Any) -> Any:
        reward = self._ale.act(*action)
        heard = np.array(self._ale.getAudio(), np.uint8)
        self._frames = [*self._frames[1 - self._num_frames :], heard] if self._num_frames > 1 else [heard]
        return reward

    def getAudio(self) -> np.ndarray:
        missing = [np.full(FRAME_SAMPLES, SILENT, np.uint8)] * (self._num_frames - len(self._frames))
        return np.concatenate([*missing, *self._frames])
