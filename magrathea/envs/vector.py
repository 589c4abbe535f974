"""Many dreams at once as a Gymnasium vector environment: one session dreams the whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from magrathea.envs.dream import (
    MAX_SEED,
    check_render_mode,
    dream_metadata,
    fill_settings,
    load_world,
    named_counters,
    require_session,
    step_infos,
)
from magrathea.envs.start import parse_start
from magrathea.errors import MagratheaError
from magrathea.sampler import FillSettings
from magrathea.session import Session
from magrathea.spaces import COUNTERS, from_gymnasium_batch, index_batch, picture_of, to_gymnasium_batch
from magrathea.world import World


class DreamVectorEnv(VectorEnv):
    """``gymnasium.make_vec("magrathea/Dream-v0", num_envs=..., world=...)``: a batch of dreams in one session.

    Dream i of a batch seeded with s dreams what a DreamEnv seeded with s + i dreams. ``reset`` takes the options of
    DreamEnv ("start" may give one number for each dream), and Gymnasium's "reset_mask".

    Args:
        world: a World, or a folder, a name of a shipped world or a hub id, loaded onto ``device``.
        num_envs: number of dreams.
        max_episode_steps: steps after which a dream is truncated; None never does.
        render_mode: "rgb_array" for the pictures in the observations, or None.
        device: of the world; ignored where a World is given.
        settings: how holes are filled, as FillSettings or as a dict of those fields that differ from the world's own.
        autoreset_mode: Gymnasium's: "NextStep", "SameStep" or "Disabled".

    Raises:
        MagratheaError: for a world that cannot be loaded, arguments that make no sense.
    """

    def __init__(
        self,
        world: World | str | Path,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        device: str = "cpu",
        settings: FillSettings | Mapping[str, Any] | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        if num_envs < 1:
            raise MagratheaError(f"num_envs is {num_envs}; a vector environment needs at least 1.")
        self.world = load_world(world, device)
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**dream_metadata(self.world), "autoreset_mode": self.autoreset_mode}
        self.render_mode = check_render_mode(self.world, render_mode)
        self.single_observation_space = self.world.observation_space
        self.single_action_space = self.world.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.settings = fill_settings(self.world, settings)
        self._session: Session | None = None
        self._generators: list[np.random.Generator] = [seeding.np_random()[0] for _ in range(num_envs)]
        self._num_steps = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, bool)

    @property
    def session(self) -> Session:
        """The running batch of dreams; raises MagratheaError before the first reset."""
        return require_session(self._session)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start every dream, or those where ``options["reset_mask"]`` (num_envs,) bool is True."""
        options = dict(options or {})
        env_mask = self._reset_mask(options.pop("reset_mask", None))
        seeds = self._seeds(seed)
        if isinstance(seed, int):
            super().reset(seed=seed)
        for index in np.flatnonzero(env_mask):
            if seeds[index] is not None:
                self._generators[index] = seeding.np_random(seeds[index])[0]
        self._reset_dreams(env_mask, seeds, parse_start(self.world, options))
        infos = {"num_passes": np.zeros(self.num_envs, np.int64), "uncertainty": np.zeros(self.num_envs, np.float32)}
        return self._observations(), _with_masks(infos, env_mask) | self._counter_infos()

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Imagine what follows each dream's action; dreams that ended begin anew as the autoreset mode says.

        Raises:
            MagratheaError: for actions outside of the action space, or ended dreams in autoreset mode "Disabled".
        """
        if not self.action_space.contains(actions):
            raise MagratheaError(f"Actions {actions!r} are not in {self.action_space}; give {self.num_envs} that are.")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            ended = np.flatnonzero(self._ended).tolist()
            raise MagratheaError(f"Dreams {ended} have ended; reset them with options={{'reset_mask': mask}}.")
        restarted = self._ended.copy()
        result = self.session.step(
            from_gymnasium_batch(self.single_action_space, actions)
        )  # ended dreams go on, and are reset right after
        rewards, terminated = np.array(result.reward, np.float64), np.array(result.terminated, bool)
        infos = step_infos(result)
        self._num_steps += 1
        if restarted.any():
            self._reset_dreams(restarted)
            rewards[restarted], terminated[restarted] = 0.0, False
            infos["num_passes"][restarted], infos["uncertainty"][restarted] = 0, 0.0
        truncated = self._truncations(terminated)
        self._ended = terminated | truncated
        infos = _with_masks(infos, np.ones(self.num_envs, bool))
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._ended.any():
            infos |= self._final_infos(infos)
            self._reset_dreams(self._ended.copy())
        return self._observations(), rewards, terminated, truncated, infos | self._counter_infos()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current pictures, each uint8 (rows, columns, 3), in render mode "rgb_array"."""
        if self.render_mode is None:
            return None
        space, observations = self.single_observation_space, self.session.observation
        return tuple(picture_of(space, index_batch(observations, index)) for index in range(self.num_envs))

    def _reset_dreams(self, env_mask: np.ndarray, seeds: Sequence[int | None] | None = None, start: Any = None) -> None:
        """Restart some dreams, each by its given seed or by the next number of its own generator."""
        seeds = seeds or [None] * self.num_envs
        chosen = [
            int(self._generators[index].integers(MAX_SEED)) if seed is None and env_mask[index] else int(seed or 0)
            for index, seed in enumerate(seeds)
        ]
        if self._session is None:
            self._session = Session(self.world, self.num_envs, seed=chosen, start=start, settings=self.settings)
        else:
            self._session.reset(env_mask, seed=chosen, start=start)
        self._num_steps[env_mask], self._ended[env_mask] = 0, False

    def _observations(self) -> Any:
        return to_gymnasium_batch(self.single_observation_space, self.session.observation)

    def _counter_infos(self) -> dict[str, Any]:
        """The counters of all dreams by name, as Gymnasium nests infos; {} in a world without."""
        named, every = named_counters(self.world, self.session.observation), np.ones(self.num_envs, bool)
        return _with_masks({COUNTERS: _with_masks(named, every)}, every) if named else {}

    def _truncations(self, terminated: np.ndarray) -> np.ndarray:
        if self.max_episode_steps is None:
            return np.zeros_like(terminated)
        return self._num_steps >= self.max_episode_steps

    def _final_infos(self, infos: dict[str, Any]) -> dict[str, Any]:
        """What dreams that have just ended saw last, as Gymnasium's SAME_STEP mode gives it."""
        final_obs = np.full(self.num_envs, None, dtype=object)
        for index in np.flatnonzero(self._ended):
            final_obs[index] = index_batch(self.session.observation, int(index))
        final_info = _with_masks({key: infos[key].copy() for key in ("num_passes", "uncertainty")}, self._ended.copy())
        return _with_masks({"final_obs": final_obs, "final_info": final_info}, self._ended.copy())

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + index for index in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise MagratheaError(f"Got {len(seed)} seeds for {self.num_envs} dreams; give one for each.")
        return list(seed)

    def _reset_mask(self, env_mask: Any) -> np.ndarray:
        if env_mask is None:
            return np.ones(self.num_envs, bool)
        env_mask = np.asarray(env_mask)
        if env_mask.shape != (self.num_envs,) or env_mask.dtype != np.bool_ or not env_mask.any():
            raise MagratheaError(f"Reset option 'reset_mask' must be {self.num_envs} booleans with at least one True.")
        return env_mask


def _with_masks(infos: dict[str, Any], env_mask: np.ndarray) -> dict[str, Any]:
    """Infos with Gymnasium's "_key" arrays, which say for which dreams a key holds."""
    return infos | {f"_{key}": env_mask.copy() for key in infos}
