"""Magrathea learns generative world models from environments and runs them.

Importing it registers ``magrathea/Dream-v0`` and the ready-made environments with Gymnasium. The public names are
imported on first use, so that a command that does not need PyTorch does not wait for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import magrathea.data as _data  # noqa: F401  registers the ready-made environments
import magrathea.envs as _envs  # noqa: F401  registers the dreams
from magrathea.errors import MagratheaError

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from magrathea.agents import Agent
    from magrathea.data import Dataset
    from magrathea.envs import DreamEnv, DreamVectorEnv
    from magrathea.layout import Layout, Slot
    from magrathea.pretrained import shipped_worlds
    from magrathea.sampler import FillSettings
    from magrathea.session import Session, StepResult
    from magrathea.tokenizers import Tokenizer, tokenizer_for
    from magrathea.world import World

__all__ = [
    "Agent",
    "Dataset",
    "DreamEnv",
    "DreamVectorEnv",
    "FillSettings",
    "Layout",
    "MagratheaError",
    "Session",
    "Slot",
    "StepResult",
    "Tokenizer",
    "World",
    "__version__",
    "shipped_worlds",
    "tokenizer_for",
]

_HOMES = {
    "Agent": "agents",
    "Dataset": "data",
    "DreamEnv": "envs",
    "DreamVectorEnv": "envs",
    "FillSettings": "sampler",
    "Layout": "layout",
    "Session": "session",
    "Slot": "layout",
    "StepResult": "session",
    "Tokenizer": "tokenizers",
    "World": "world",
    "shipped_worlds": "pretrained",
    "tokenizer_for": "tokenizers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'magrathea' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"magrathea.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
