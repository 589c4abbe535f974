"""Making the levels that the vizdoom package itself registers with Gymnasium, and what all games of it need."""

from __future__ import annotations

import contextlib
import ctypes
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium

from magrathea.errors import MagratheaError
from magrathea.sounds import SOUND_RATES

TICS_PER_SECOND = 35  # of the game
TICS = 4  # in a step of our own environment
OPENAL = "libopenal.so.1"
NO_EFFECTS = "+snd_efx 0"  # the game's echoes and filters, at which some versions of OpenAL abort the process


def make_level(env_id: str, **env_kwargs: Any) -> gymnasium.Env:
    """A level whose metadata tell its steps per second and the rate of its sound, if it has some, and name its actions
    by the buttons that are pressed.

    Raises:
        MagratheaError: for a level with sound where the library that makes it is not installed.
    """
    with scratch_folder():
        env = gymnasium.make(env_id, disable_env_checker=True, **env_kwargs)
        level: Any = env.unwrapped
        if level.audio:
            check_can_sound(env_id, "leave the sound out: --env-kwargs '{\"audio_buffer_enabled\": false}'")
            level.game.add_game_args(NO_EFFECTS)
        env.reset(seed=0)  # starts the game, which writes files into the current folder
    completed: dict[str, Any] = {"render_fps": TICS_PER_SECOND / int(getattr(level, "frame_skip", 1))}
    if level.audio:
        completed[SOUND_RATES] = {"audio": int(level.game.get_audio_sampling_rate())}
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        completed["action_names"] = _action_names(level)
    level.metadata = dict(level.metadata or {}) | completed
    return env


def check_can_sound(env_id: str, otherwise: str) -> None:
    """Raises MagratheaError, which says what to do otherwise, where the game would be silent for want of a library."""
    try:
        ctypes.CDLL(OPENAL)
    except OSError as error:
        raise MagratheaError(
            f"Environment '{env_id}' has sound, which the game makes by OpenAL; install it with 'apt install "
            f"libopenal1', or {otherwise}."
        ) from error


def _action_names(level: Any) -> list[str]:
    """Names of the actions, such as "attack" and "attack+move_left"."""
    buttons = [button.name.lower() for button in level.game.get_available_buttons() if "DELTA" not in button.name]
    pressed = [[name for name, down in zip(buttons, each, strict=True) if down] for each in level.button_map]
    return ["+".join(names) or "noop" for names in pressed]


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Change into a temporary folder for a while: the game writes files into the folder that it starts in."""
    folder = Path(tempfile.gettempdir()) / "magrathea-scratch"
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        yield folder
