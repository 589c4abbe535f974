"""Making the levels that the vizdoom package itself registers with Gymnasium."""

from __future__ import annotations

from typing import Any

import gymnasium

from magrathea.environments.vizdoom.env import TICS_PER_SECOND, scratch_folder


def make_level(env_id: str, **env_kwargs: Any) -> gymnasium.Env:
    """A level whose metadata tell its steps per second and name its actions by the buttons that are pressed."""
    with scratch_folder():
        env = gymnasium.make(env_id, disable_env_checker=True, **env_kwargs)
        env.reset(seed=0)  # starts the game, which writes files into the current folder
    level: Any = env.unwrapped
    completed: dict[str, Any] = {"render_fps": TICS_PER_SECOND / int(getattr(level, "frame_skip", 1))}
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        completed["action_names"] = _action_names(level)
    level.metadata = dict(level.metadata or {}) | completed
    return env


def _action_names(level: Any) -> list[str]:
    """Names of the actions, such as "attack" and "attack+move_left"."""
    buttons = [button.name.lower() for button in level.game.get_available_buttons() if "DELTA" not in button.name]
    pressed = [[name for name, down in zip(buttons, each, strict=True) if down] for each in level.button_map]
    return ["+".join(names) or "noop" for names in pressed]
