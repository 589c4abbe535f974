"""The worlds that a server offers: loaded on first use, described for the page."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from magrathea.errors import MagratheaError
from magrathea.joint import choose_start, choose_world, text_of
from magrathea.server.action_inputs import ActionInputs
from magrathea.server.frame import is_text
from magrathea.server.protocol import SoundInfo, WorldInfo
from magrathea.sounds import sounds_of
from magrathea.spaces import counter_names

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
        """The loaded world; blocks while it loads. Raises MagratheaError if it is unknown."""
        if world_id not in self.sources:
            raise MagratheaError(f"No world '{world_id}' here; there are: {', '.join(self.sources) or 'none'}.")
        with self._lock:
            if world_id not in self._worlds:
                self._worlds[world_id] = self._load(self.sources[world_id])
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

    def find(self, prompt: str) -> tuple[str, int | None]:
        """The id of the world that is nearest to a prompt in words, and the stored start that is, if its texts say so;
        loads that world. Raises MagratheaError where no world has a word of the prompt."""
        known = {each: {"name": each} | self._metadata(each) for each in self.sources}
        texts = {each: text_of(self._config(each) | {"metadata": metadata}) for each, metadata in known.items()}
        chosen = choose_world(prompt, texts)
        return chosen, choose_start(self.world(chosen), prompt)

    def _metadata(self, world_id: str) -> dict[str, Any]:
        """A world's metadata as far as it is at hand; loading says what is wrong with a world."""
        if world_id in self._worlds:
            return self._worlds[world_id].metadata
        metadata = self._config(world_id).get("metadata")
        return metadata if isinstance(metadata, dict) else {}

    def _config(self, world_id: str) -> dict[str, Any]:
        """What a world's config.json holds, {} where it cannot be read."""
        try:
            config = json.loads((Path(self.sources[world_id]) / "config.json").read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return config if isinstance(config, dict) else {}

    def card(self, world_id: str) -> str | None:
        """The text of the world's model card (README.md of its folder), or None if it has none."""
        path = Path(self.sources[world_id]) / "README.md"
        return path.read_text("utf-8", errors="replace") if path.is_file() else None

    def describe(self, world_id: str, world: Any) -> WorldInfo:
        """What the page shows of a loaded world."""
        inputs, space = ActionInputs(world.action_space, world.metadata), world.observation_space
        return WorldInfo(
            id=world_id,
            name=str(world.metadata.get("name") or world_id),
            description=str(world.metadata.get("description") or ""),
            env_id=str(world.metadata.get("env_id") or ""),
            license=str(world.metadata.get("license") or ""),
            fps=frames_per_second(world),
            buttons=inputs.buttons_info(),
            axes=inputs.axes_info(),
            texts=inputs.texts_info(),
            is_text=is_text(space),
            has_noop=inputs.has_noop,
            num_starts=int(world.num_starts),
            has_card=self.card(world_id) is not None,
            counters=counter_names(space, world.metadata),
            sound=next((SoundInfo(each.sample_rate, each.num_channels) for _, each in sounds_of(space)), None),
        )


def frames_per_second(world: Any) -> float:
    """The world's own speed, in steps per second."""
    fps = float(world.metadata.get("fps") or DEFAULT_FPS)
    return fps if np.isfinite(fps) and fps > 0 else DEFAULT_FPS
