"""One dream as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import optree

from magrathea.envs.start import parse_start
from magrathea.errors import MagratheaError
from magrathea.sampler import FillSettings
from magrathea.session import Session
from magrathea.spaces import COUNTERS, counter_names, find_picture, index_batch, picture_of, to_array
from magrathea.world import StepResult, World

MAX_SEED = 2**31


class DreamEnv(gymnasium.Env):
    """An environment whose every step is imagined by a world: ``gymnasium.make("magrathea/Dream-v0", world=...)``.

    ``reset(seed=...)`` starts from the stored start state that the seed chooses; ``options={"start": k}`` from start
    state k; ``options={"observation": [T, ...], "action": [T-1, ...]}`` from recorded steps, oldest first. A dream
    is never truncated; give ``gymnasium.make`` a ``max_episode_steps`` for that.

    ``info`` holds "num_passes", the passes that the model made for the step, and "uncertainty", the mean over the
    observation's tokens of one minus the model's confidence, in [0, 1]. In a world that has counters of its
    environment's `info`, they are the observation's part "counters" (K,), and by their names in ``info["counters"]``.

    Args:
        world: a World, or a folder, a name of a shipped world or a hub id, loaded onto ``device``.
        render_mode: "rgb_array" for the picture in the observation, or None.
        device: of the world; ignored where a World is given.
        settings: how holes are filled, as FillSettings or as a dict of those fields that differ from the world's own.

    Raises:
        MagratheaError: for a world that cannot be loaded, or has no picture to render.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        world: World | str | Path,
        *,
        render_mode: str | None = None,
        device: str = "cpu",
        settings: FillSettings | Mapping[str, Any] | None = None,
    ) -> None:
        self.world = load_world(world, device)
        self.observation_space = self.world.observation_space
        self.action_space = self.world.action_space
        self.metadata = dream_metadata(self.world)
        self.render_mode = check_render_mode(self.world, render_mode)
        self.settings = fill_settings(self.world, settings)
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The running dream; raises MagratheaError before the first reset."""
        return require_session(self._session)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a dream; see the class for ``options``."""
        super().reset(seed=seed)
        start = parse_start(self.world, options)
        if seed is None:
            seed = int(self.np_random.integers(MAX_SEED))
        if self._session is None:
            self._session = Session(self.world, seed=seed, start=start, settings=self.settings)
        else:
            self._session.reset(seed=seed, start=start)
        infos = {"num_passes": 0, "uncertainty": 0.0}
        return index_batch(self.session.observation, 0), infos | self._counter_infos()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Imagine what follows an action; raises MagratheaError for an action outside of the action space."""
        if not self.action_space.contains(action):
            raise MagratheaError(f"Action {action!r} is not in {self.action_space}; give one that is.")
        result = self.session.step(optree.tree_map(lambda part: to_array(part)[None], action))
        infos = step_infos(result)
        return (
            index_batch(result.observation, 0),
            float(result.reward[0]),
            bool(result.terminated[0]),
            False,
            {"num_passes": int(infos["num_passes"][0]), "uncertainty": float(infos["uncertainty"][0])}
            | self._counter_infos(),
        )

    def _counter_infos(self) -> dict[str, Any]:
        named = named_counters(self.world, self.session.observation)
        return {COUNTERS: {name: int(values[0]) for name, values in named.items()}} if named else {}

    def render(self) -> np.ndarray | None:
        """The current picture, uint8 (rows, columns, 3), in render mode "rgb_array"."""
        if self.render_mode is None:
            return None
        return picture_of(self.world.observation_space, index_batch(self.session.observation, 0))


def load_world(world: World | str | Path, device: str) -> World:
    """A world as it is, or the one that a folder, a shipped name or a hub id names."""
    return world if isinstance(world, World) else World.from_pretrained(world, device=device)


def require_session(session: Session | None) -> Session:
    """A session that is there; raises MagratheaError before the first reset."""
    if session is None:
        raise MagratheaError("The dream has not begun; call reset first.")
    return session


def fill_settings(world: World, settings: FillSettings | Mapping[str, Any] | None) -> FillSettings:
    """Settings as they are, or the world's own with some fields changed; raises MagratheaError for unknown fields."""
    if isinstance(settings, FillSettings):
        return settings
    try:
        return replace(world.config.fill, **(settings or {}))
    except TypeError as error:
        known = ", ".join(world.config.fill.to_config())
        raise MagratheaError(f"Fill settings {settings!r} are not right; they may hold {known}.") from error


def dream_metadata(world: World) -> dict[str, Any]:
    """Gymnasium's metadata of a world's dreams, with the world's own names of actions and keys."""
    metadata = {**DreamEnv.metadata, "render_fps": world.metadata.get("fps") or DreamEnv.metadata["render_fps"]}
    names = {key: world.metadata[key] for key in ("action_names", "key_map") if world.metadata.get(key)}
    return metadata | names


def check_render_mode(world: World, render_mode: str | None) -> str | None:
    """The render mode, if dreams of this world can be rendered so."""
    if render_mode not in (None, "rgb_array"):
        raise MagratheaError(f"Render mode '{render_mode}' is unknown; a dream renders 'rgb_array'.")
    if render_mode is not None and find_picture(world.observation_space) is None:
        raise MagratheaError(f"The world's observations {world.observation_space} hold no picture to render.")
    return render_mode


def named_counters(world: World, observation: Any) -> dict[str, np.ndarray]:
    """The counters of observations by name, each (B,) int32; {} in a world without."""
    names = counter_names(world.observation_space, world.metadata)
    return {name: np.array(observation[COUNTERS][:, index]) for index, name in enumerate(names)}


def step_infos(result: StepResult) -> dict[str, np.ndarray]:
    """How sure the model was of a step: "num_passes" (B,) int and "uncertainty" (B,) float32 over the observation."""
    seen = [maps for name, maps in result.uncertainty.items() if name.split("/")[0] == "observation"]
    rows = np.concatenate([np.asarray(maps, np.float32).reshape(len(maps), -1) for maps in seen], axis=1)
    return {"num_passes": np.asarray(result.num_passes), "uncertainty": rows.mean(axis=1)}
