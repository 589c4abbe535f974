"""The dreams of a vector environment: a batch in one session, here or in a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from magrathea.envs.dream import begun, step_infos
from magrathea.sampler import FillSettings
from magrathea.session import Session
from magrathea.world import World

Outcome = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]  # rewards, terminated, infos, each of all rows


class Dreams:
    """R dreams in one session, which the first reset begins."""

    def __init__(self, world: World, num_dreams: int, settings: FillSettings) -> None:
        self.world, self.num_dreams, self.settings = world, num_dreams, settings
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """Raises MagratheaError before the first reset."""
        return begun(self._session)

    @property
    def observation(self) -> Any:
        """What is seen now, (R, *shape)."""
        return self.session.observation

    def reset(self, env_mask: np.ndarray, seeds: Sequence[int], start: Any = None) -> None:
        """Begin anew where env_mask (R,) is True, and everywhere at first; start as `Session` takes it."""
        if self._session is None:
            self._session = Session(self.world, self.num_dreams, seed=seeds, start=start, settings=self.settings)
        else:
            self._session.reset(env_mask, seed=seeds, start=start)

    def step(self, actions: Any) -> Outcome:
        """Dream what follows actions (R, *shape)."""
        result = self.session.step(actions)
        return np.array(result.reward, np.float64), np.array(result.terminated, bool), step_infos(result)

    def close(self) -> None:
        """There is nothing to close."""
