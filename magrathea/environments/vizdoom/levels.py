"""Making the levels that the vizdoom package itself registers with Gymnasium."""

from __future__ import annotations

import ctypes
from typing import Any

import gymnasium

from magrathea.environments.vizdoom.env import TICS_PER_SECOND, scratch_folder
from magrathea.errors import MagratheaError
from magrathea.sounds import SOUND_RATES

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
            _check_can_sound(env_id)
            level.game.add_game_args(NO_EFFECTS)
        env.reset(seed=0)  # starts the game, which writes files into the current folder
    completed: dict[str, Any] = {"render_fps": TICS_PER_SECOND / int(getattr(level, "frame_skip", 1))}
    if level.audio:
        completed[SOUND_RATES] = {"audio": int(level.game.get_audio_sampling_rate())}
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        completed["action_names"] = _action_names(level)
    level.metadata = dict(level.metadata or {}) | completed
    return env


def _check_can_sound(env_id: str) -> None:
    """Raises MagratheaError where the game would be silent for want of a library."""
    try:
        ctypes.CDLL(OPENAL)
    except OSError as error:
        raise MagratheaError(
            f"Environment '{env_id}' has sound, which the game makes by OpenAL; install it with 'apt install "
            "libopenal1', or leave the sound out: --env-kwargs '{\"audio_buffer_enabled\": false}'."
        ) from error


def _action_names(level: Any) -> list[str]:
    """Names of the actions, such as "attack" and "attack+move_left"."""
    buttons = [button.name.lower() for button in level.game.get_available_buttons() if "DELTA" not in button.name]
    pressed = [[name for name, down in zip(buttons, each, strict=True) if down] for each in level.button_map]
    return ["+".join(names) or "noop" for names in pressed]
