"""The exploring policy of each of the plug-in's environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from magrathea.environments.vizdoom.explorer import Explorer
from magrathea.environments.vizdoom.gunner import Gunner
from magrathea.environments.vizdoom.line import ViZDoomLineEnv


def explorer(env: gymnasium.Env, rng: np.random.Generator) -> Callable[[Any, dict[str, Any]], int]:
    """The policy that explores an environment: rooms by walking, the hall by shooting."""
    return Gunner(env, rng) if isinstance(env.unwrapped, ViZDoomLineEnv) else Explorer(env, rng)
