"""The hooks of environment plug-ins, which only evaluation calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from magrathea.evaluate.cells import Cells, VisibleTiles, changed_cells
from magrathea.evaluate.recordings import Recording
from magrathea.evaluate.slots import leaf_of
from magrathea.layout import Layout, Slot
from magrathea.plugins import environment_plugin, load_reference


def describe_cells(env_id: str, recording: Recording, layout: Layout, slot: Slot, window: int) -> Cells:
    """Sort the tokens of a slot by what could have been predicted, with the environment's plug-in where it can."""
    frames, tokens = leaf_of(recording.episode.observation, slot), recording.tokens[:, layout.span(slot.name)]
    cells = _call("describe_cells", env_id, recording.episode.infos, frames, tokens, slot.grid, window)
    return changed_cells(tokens) if cells is None else cells


def visible_tiles(env_id: str, recording: Recording, layout: Layout, slot: Slot) -> VisibleTiles | None:
    """What the tiles of a slot show of the map; None where no plug-in tells it, or a token is no tile."""
    frames, tokens = leaf_of(recording.episode.observation, slot), recording.tokens[:, layout.span(slot.name)]
    return _call("visible_tiles", env_id, recording.episode.infos, frames, tokens, slot.grid)


def visible_events(env_id: str, frames: np.ndarray) -> np.ndarray | None:
    """Which kind of event that makes a sound is seen in pictures (T, rows, columns, 3): (T,), 0 for none; None if not
    known."""
    return _call("visible_events", env_id, env_id, frames)


def picture_events(env_id: str, frames: np.ndarray) -> dict[str, np.ndarray]:
    """What happens in the steps between pictures (T + 1, rows, columns, 3), by name: (T,) 1 or 0, NaN where they do not
    tell; empty where no plug-in reads them."""
    return _call("picture_events", env_id, frames) or {}


def has_text_checks(env_id: str) -> bool:
    """Whether a plug-in knows what the texts of an environment must agree with."""
    plugin = environment_plugin(env_id)
    return plugin is not None and plugin.text_checks is not None


def text_checks(env_id: str, env: gymnasium.Env, texts: Sequence[str], commands: Sequence[str]) -> dict[str, Any]:
    """How many statements of the texts of an episode (T + 1), between T commands, agree with the texts before and with
    the environment, which was reset to it: by name (T, 2), the right ones and all."""
    return _call("text_checks", env_id, env, texts, commands)


def resample(env: gymnasium.Env, env_id: str, seed: int) -> None:
    """Redraw an environment's random choices from here on: by its plug-in's hook, else by Gymnasium's generator."""
    plugin = environment_plugin(env_id)
    if plugin is not None and plugin.resample is not None:
        load_reference(plugin.resample)(env, seed)
    else:
        env.unwrapped.np_random = np.random.default_rng(seed)


def _call(hook: str, env_id: str, *values: Any) -> Any:
    """What a hook of the environment's plug-in returns; None where there is none."""
    plugin = environment_plugin(env_id)
    reference = None if plugin is None else getattr(plugin, hook)
    return None if reference is None else load_reference(reference)(*values)
