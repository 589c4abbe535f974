"""The spatial map: predicts a picture from the tokens that each location of a map showed last.

The pose of the viewpoint is not given. It is found from how the picture moves (`odometry.py`), also where motions are
ambiguous (`map.py`). Each location that was seen keeps the token that it showed last, and the picture after the next
action is read from there. Transient tokens (creatures, one's own body, noise) do not overwrite a location; which tokens
are transient is counted in recordings.

The state grows with the locations that were seen, 12 bytes each, not with the steps; a step always costs the same.

I batch indices, S steps, T steps of an episode, N tokens of a step, C cells of the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from magrathea.interfaces import EpisodeReadout, MemoryOutputs, MemoryReadout
from magrathea.layout import Layout
from magrathea.memory.base import checked, reset_indices
from magrathea.memory.spatial_map.fit import fit_spatial_map
from magrathea.memory.spatial_map.map import MapSpec, SpatialMap
from magrathea.memory.spatial_map.odometry import Odometry
from magrathea.model.config import ModelConfig


@dataclass(frozen=True)
class SpatialMapSpec:
    """The memory spec of a spatial map.

    Attributes:
        layout: of the steps.
        odometry: of the picture.
        transient: the tokens that do not overwrite what a location showed before.
    """

    size: ClassVar[int | None] = None  # most locations of a layer; None for all

    layout: Layout
    odometry: Odometry
    transient: Bool[np.ndarray, " V"]

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Int[Tensor, "_ N"]]) -> SpatialMapSpec:
        """See `fit_spatial_map`."""
        return cls(layout, *fit_spatial_map(layout, episodes))

    def tensors(self) -> dict[str, Tensor]:
        return self.odometry.tensors() | {"passing": torch.from_numpy(self.transient)}

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> SpatialMapSpec:
        transient = checked(tensors, "passing", "b", (layout.picture.vocab_size + 1,))
        return cls(layout, Odometry.from_tensors(layout, tensors), transient)

    @property
    def map_spec(self) -> MapSpec:
        """What the maps of its worlds have in common."""
        return MapSpec(self.odometry, self.transient, self.layout.picture.absent, self.size)

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        return MemoryOutputs(slots=(layout.picture.name,))

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> None:
        return None

    def new(self, batch_size: int, model: Any = None) -> SpatialMapMemory:
        return SpatialMapMemory(self, batch_size)

    def read_episode(self, tokens: Int[Tensor, "T N"], window: int = 0) -> EpisodeReadout:
        """The predicted pictures before each step of a recorded episode."""
        slot, steps = self.layout.picture, tokens.numpy()
        pictures = steps[:, self.layout.span(slot.name)]
        actions = steps[:, self.layout.role_span("action").start]
        spatial_map, predicted = SpatialMap(self.map_spec), []
        motions = [0, *self.odometry.predict_motions(pictures[:-1], actions[1:]).tolist()]
        scores = [None, *self.odometry.scores(pictures[:-1], pictures[1:], actions[1:])]
        for picture, score, motion in zip(pictures, scores, motions, strict=True):
            predicted.append([spatial_map.predict(0), spatial_map.predict(motion)])
            spatial_map.update(picture, score)
        return EpisodeReadout({slot.name: torch.from_numpy(np.array(predicted))})


class SpatialMapMemory:
    """The running spatial maps of B worlds."""

    def __init__(self, spec: SpatialMapSpec, batch_size: int) -> None:
        self._odometry, self._map_spec = spec.odometry, spec.map_spec
        self._picture, self._span = spec.layout.picture, spec.layout.span(spec.layout.picture.name)
        self._actions = spec.layout.role_span("action")
        self._no_picture = np.full(len(spec.odometry.region), self._picture.absent)
        self.maps = [SpatialMap(self._map_spec) for _ in range(batch_size)]

    def reset(self, env_mask: Bool[Tensor, " B"] | None = None) -> None:
        for index in reset_indices(env_mask, len(self.maps)):
            self.maps[index] = SpatialMap(self._map_spec)

    def write(self, tokens: Int[Tensor, "I N"], encodings: Tensor, batch_indices: Sequence[int]) -> None:
        """Infer the motions that led to final steps, and write their pictures to the maps."""
        steps = tokens.numpy()
        pictures, actions = steps[:, self._span], steps[:, self._actions.start]
        maps = [self.maps[index] for index in batch_indices]
        scores = self._odometry.scores(self._last_pictures(maps), pictures, actions)
        for spatial_map, picture, score in zip(maps, pictures, scores, strict=True):
            spatial_map.update(picture, None if spatial_map.last_picture is None else score)

    def read(
        self, tokens: Int[Tensor, "I N"], hole_mask: Bool[Tensor, "I N"], batch_indices: Sequence[int]
    ) -> MemoryReadout:
        """The pictures that the actions of the next steps lead to if no location has changed; those at the present
        pose where an action is a hole."""
        unknown = hole_mask[:, self._actions].any(dim=1).numpy()
        no_action = len(self._odometry.log_prior) - 1
        actions = np.where(unknown, no_action, tokens.numpy()[:, self._actions.start])
        maps = [self.maps[index] for index in batch_indices]
        motions = self._odometry.predict_motions(self._last_pictures(maps), actions)
        pictures = [spatial_map.predict(motion) for spatial_map, motion in zip(maps, motions.tolist(), strict=True)]
        return MemoryReadout({self._picture.name: torch.from_numpy(np.stack(pictures))})

    def _last_pictures(self, maps: list[SpatialMap]) -> Int[np.ndarray, "I C"]:
        """The newest pictures, absent before the first."""
        return np.stack([self._no_picture if each.last_picture is None else each.last_picture for each in maps])

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        return self.maps[batch_index].state_dict()

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        self.maps[batch_index] = SpatialMap(self._map_spec)
        self.maps[batch_index].load_state_dict(state)
