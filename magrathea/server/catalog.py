"""The worlds that a server offers: loaded on first use, described for the page."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from magrathea.errors import MagratheaError
from magrathea.server.protocol import ActionInfo, WorldInfo

NOOP_NAMES = ("noop", "no-op", "no_op", "nothing", "idle", "none")
ARROWS = {"left": "ArrowLeft", "right": "ArrowRight", "up": "ArrowUp", "down": "ArrowDown", "forward": "ArrowUp"}
OTHER_KEYS = "1234567890qwertyuiopasdfghjklzxcvbnm"
DEFAULT_FPS = 10.0


class Catalog:
    """Worlds by id; each is loaded once, on first use, by `load(source)`."""

    def __init__(self, sources: Mapping[str, str | Path], load: Callable[[str | Path], Any]) -> None:
        self.sources = dict(sources)
        self._load = load
        self._worlds: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __contains__(self, world_id: object) -> bool:
        return world_id in self.sources

    def world(self, world_id: str) -> Any:
        """The loaded world; blocks while it loads. Raises MagratheaError if it is unknown or cannot be played."""
        if world_id not in self.sources:
            raise MagratheaError(f"No world '{world_id}' here; there are: {', '.join(self.sources) or 'none'}.")
        with self._lock:
            if world_id not in self._worlds:
                world = self._load(self.sources[world_id])
                if not isinstance(world.action_space, gymnasium.spaces.Discrete):
                    raise MagratheaError(
                        f"World '{world_id}' takes actions from {world.action_space}; only Discrete actions can be "
                        "played with keys. Step it from Python with a Session instead."
                    )
                self._worlds[world_id] = world
        return self._worlds[world_id]

    def listing(self) -> list[dict[str, str]]:
        """What is known of each world without loading it: "id", "name" and "description"."""
        return [
            {
                "id": world_id,
                "name": str(metadata.get("name") or world_id),
                "description": str(metadata.get("description") or ""),
            }
            for world_id, metadata in ((world_id, self._metadata(world_id)) for world_id in self.sources)
        ]

    def _metadata(self, world_id: str) -> dict[str, Any]:
        """A world's metadata as far as it is at hand; loading says what is wrong with a world."""
        if world_id in self._worlds:
            return self._worlds[world_id].metadata
        try:
            metadata = json.loads((Path(self.sources[world_id]) / "config.json").read_text("utf-8"))["metadata"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return {}
        return metadata if isinstance(metadata, dict) else {}

    def card(self, world_id: str) -> str | None:
        """The text of the world's model card (README.md of its folder), or None if it has none."""
        path = Path(self.sources[world_id]) / "README.md"
        return path.read_text("utf-8", errors="replace") if path.is_file() else None

    def describe(self, world_id: str, world: Any) -> WorldInfo:
        """What the page shows of a loaded world."""
        keys: dict[int, list[str]] = {}
        for key, action in key_map(world).items():
            keys.setdefault(action, []).append(key)
        return WorldInfo(
            id=world_id,
            name=str(world.metadata.get("name") or world_id),
            description=str(world.metadata.get("description") or ""),
            env_id=str(world.metadata.get("env_id") or ""),
            license=str(world.metadata.get("license") or ""),
            fps=frames_per_second(world),
            actions=[ActionInfo(index, name, keys.get(index, [])) for index, name in enumerate(action_names(world))],
            noop=noop_action(world),
            num_starts=int(world.num_starts),
            has_card=self.card(world_id) is not None,
        )


def num_actions(world: Any) -> int:
    """The number of actions."""
    return int(world.action_space.n)


def action_names(world: Any) -> list[str]:
    """A name for every action: from the world's metadata, else "action_0", …"""
    names = list(world.metadata.get("action_names") or [])[: num_actions(world)]
    return [str(name) for name in names] + [f"action_{index}" for index in range(len(names), num_actions(world))]


def noop_action(world: Any) -> int | None:
    """The index of the action that does nothing, known by its name, or None."""
    names = [name.lower() for name in action_names(world)]
    return next((names.index(name) for name in NOOP_NAMES if name in names), None)


def key_map(world: Any) -> dict[str, int]:
    """KeyboardEvent.key of a US keyboard -> index of an action: the world's own map, or arrows by name, then digits and
    letters."""
    given, first = world.metadata.get("key_map"), int(world.action_space.start)
    if given:
        indices = {str(key): int(action) - first for key, action in given.items()}
        return {key: index for key, index in indices.items() if 0 <= index < num_actions(world)}
    mapping: dict[str, int] = {}
    rest = []
    for action, name in enumerate(action_names(world)):
        arrow = next((key for word, key in ARROWS.items() if word in name.lower().replace("_", " ").split()), None)
        if arrow and arrow not in mapping:
            mapping[arrow] = action
        elif action != noop_action(world):
            rest.append(action)
    mapping.update(zip(OTHER_KEYS, rest, strict=False))
    return mapping


def frames_per_second(world: Any) -> float:
    """The world's own speed, in steps per second."""
    fps = float(world.metadata.get("fps") or DEFAULT_FPS)
    return fps if np.isfinite(fps) and fps > 0 else DEFAULT_FPS
