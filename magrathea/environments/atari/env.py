"""Making Atari games."""

from __future__ import annotations

from typing import Any

import ale_py
import gymnasium

MACHINE_FPS = 60


def make_game(env_id: str, **env_kwargs: Any) -> gymnasium.Env:
    """An Atari game whose "render_fps" counts the steps of the environment, which skips frames of the machine."""
    gymnasium.register_envs(ale_py)
    env = gymnasium.make(env_id, disable_env_checker=True, **env_kwargs)
    num_skipped = getattr(env.unwrapped, "_frameskip", None)
    if isinstance(num_skipped, int):
        env.unwrapped.metadata = dict(env.unwrapped.metadata) | {"render_fps": MACHINE_FPS / num_skipped}
    return env
