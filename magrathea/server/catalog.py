"""The worlds that a server offers, and their agents: loaded on first use, described for the page."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from magrathea.errors import MagratheaError
from magrathea.joint import choose_start, choose_world, text_of
from magrathea.server.action_inputs import ActionInputs
from magrathea.server.frame import is_text
from magrathea.server.protocol import AgentInfo, RoundInfo, SoundInfo, WorldInfo
from magrathea.sounds import sounds_of
from magrathea.spaces import counter_names

DEFAULT_FPS = 10.0

log = logging.getLogger(__name__)


class Catalog:
    """Worlds by id; each is loaded once, on first use, by `load(source)`.

    Args:
        sources: folder of each world.
        agents: folder of the agent of a world, in place of the one that is in the world's own folder.
    """

    def __init__(
        self,
        sources: Mapping[str, str | Path],
        load: Callable[[str | Path], Any],
        agents: Mapping[str, str | Path] | None = None,
    ) -> None:
        self.sources, self._agent_sources = dict(sources), dict(agents or {})
        self._load = load
        self._worlds: dict[str, Any] = {}
        self._agents: dict[str, Any] = {}
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

    def agent(self, world_id: str) -> Any:
        """The `Agent` of a world, or None; blocks while it loads. Raises MagratheaError if one that was named cannot be
        loaded or does not fit the world; one that is found in the world's folder is then left out, with a warning."""
        world, folder = self.world(world_id), self._agent_folder(world_id)
        with self._lock:
            if world_id not in self._agents:
                self._agents[world_id] = None
                try:
                    if folder is not None:
                        self._agents[world_id] = _load_agent(folder, world, Path(self.sources[world_id]))
                except MagratheaError as error:
                    if world_id in self._agent_sources:
                        del self._agents[world_id]
                        raise
                    log.warning("the agent in '%s' does not play: %s", folder, error)
        return self._agents[world_id]

    def _agent_folder(self, world_id: str) -> Path | None:
        from magrathea.agents.agent import AGENT_FOLDER, is_agent  # imports packages that are slow to import

        if world_id in self._agent_sources:
            return Path(self._agent_sources[world_id])
        found = Path(self.sources[world_id]) / AGENT_FOLDER
        return found if is_agent(found) else None

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
        return _text_of(Path(self.sources[world_id]) / "README.md")

    def agent_card(self, world_id: str) -> str | None:
        """The text of the card of the world's agent, or None if it has none."""
        folder = self._agent_folder(world_id)
        return None if folder is None else _text_of(folder / "README.md")

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
            agent=_agent_info(self.agent(world_id), self.agent_card(world_id) is not None),
        )


def _text_of(path: Path) -> str | None:
    return path.read_text("utf-8", errors="replace") if path.is_file() else None


def _load_agent(folder: Path, world: Any, world_folder: Path) -> Any:
    """The agent in a folder, which shares the world that is loaded where that is its own."""
    from magrathea.agents.agent import Agent, world_folder_of

    is_own = world_folder_of(folder).resolve() == world_folder.resolve()
    agent = Agent.from_pretrained(folder, world if is_own else None)
    agent.check_fits(world)
    return agent


def _agent_info(agent: Any, has_card: bool) -> AgentInfo | None:
    """What the page shows of an agent."""
    if agent is None:
        return None
    about = agent.metadata
    try:
        learned = [
            RoundInfo(int(row["real_steps"]), float(row["dream_return"]), float(row["real_return"]))
            for row in about.get("rounds", [])
        ]
        returns = next(iter(about["returns"].values())) if about.get("returns") else []
        measured = RoundInfo(int(about["real_steps"]), float(about["dream_return"]), float(np.mean(returns)))
    except (KeyError, TypeError, ValueError):  # not measured, or by another version
        return AgentInfo(has_card=has_card)
    return AgentInfo(learned, measured, has_card)


def frames_per_second(world: Any) -> float:
    """The world's own speed, in steps per second."""
    fps = float(world.metadata.get("fps") or DEFAULT_FPS)
    return fps if np.isfinite(fps) and fps > 0 else DEFAULT_FPS
