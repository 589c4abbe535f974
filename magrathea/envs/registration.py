"""The Gymnasium id of a dream. Nothing heavy is imported before an environment is made."""

from __future__ import annotations

import gymnasium

DREAM_ID = "magrathea/Dream-v0"


def register_dream() -> None:
    """Register ``magrathea/Dream-v0`` and its vector environment with Gymnasium, once."""
    if DREAM_ID not in gymnasium.registry:
        gymnasium.register(
            id=DREAM_ID,
            entry_point="magrathea.envs.dream:DreamEnv",
            vector_entry_point="magrathea.envs.vector:DreamVectorEnv",
        )
