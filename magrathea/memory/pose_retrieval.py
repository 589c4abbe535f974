"""Past steps from near where the next one will be: their key is the pose, which is found from how the picture moves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from magrathea.layout import Layout
from magrathea.memory.episodic_buffer import NUM_RECALLED, EpisodicBuffer, EpisodicSpec
from magrathea.memory.spatial_map.memory import SpatialMapSpec
from magrathea.memory.spatial_map.odometry import Odometry, Pose

FARTHEST = 6  # rows and columns, together, from where a step is still read
TURN = 2  # a quarter turn is as far as so many rows
APART = 3  # how far from each other the steps that are read have to be


@dataclass(frozen=True)
class PoseRetrievalSpec(EpisodicSpec):
    """Knows how the picture moves."""

    layout: Layout
    motions: Odometry

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> PoseRetrievalSpec:
        return cls(layout, SpatialMapSpec.fit(layout, episodes).motions)

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> PoseRetrievalSpec:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return cls(layout, Odometry(layout.picture.grid, **arrays))

    def tensors(self) -> dict[str, Tensor]:
        names = (field.name for field in fields(Odometry) if field.init and field.name != "grid")
        return {name: torch.from_numpy(getattr(self.motions, name)) for name in names}

    def trail(self, window: int) -> PoseBuffer:
        return PoseBuffer(self, window)


class PoseBuffer(EpisodicBuffer):
    """Finds steps by where they were made."""

    def __init__(self, kind: PoseRetrievalSpec, window: int) -> None:
        super().__init__(kind.layout, window, kind.size, (3, np.dtype(np.int32)))
        self._motions, layout = kind.motions, kind.layout
        self._span = layout.span(layout.picture.name)
        self._action = layout.span(layout.of_role("action")[0].name).start
        self._entry_at: dict[Pose, int] = {}
        self._offsets = _offsets()

    def key_of(self, step: np.ndarray) -> np.ndarray:
        if not len(self.newest):
            return np.zeros(3, np.int32)
        last = self.newest[-1]
        before, after = last["tokens"].astype(np.int64)[None, self._span], step[None, self._span]
        motion = self._motions.follow(before, after, step[self._action, None])
        return self._moved(int(motion[0]))

    def query(self, action: int | None) -> np.ndarray:
        intended = self._motions.intended
        return self._moved(0 if action is None else int(intended[min(action, len(intended) - 1)]))

    def _moved(self, motion: int) -> np.ndarray:
        """The pose (3,) that a motion leads to from the newest step's."""
        quarters, row, column = self.newest["key"][-1].tolist()
        return np.array(self._motions.moved((quarters, row, column), motion), np.int32)

    def nearest(self, query: np.ndarray) -> list[int]:
        quarters, row, column = query.tolist()
        found: dict[int, Pose] = {}
        for turn, rows, columns in self._offsets:
            pose = ((quarters + turn) % 4, row + rows, column + columns)
            entry = self._entry_at.get(pose)
            if entry is not None and all(_distance(pose, other) >= APART for other in found.values()):
                found[entry] = pose
                if len(found) == NUM_RECALLED:
                    break
        return list(found)

    def same(self, key: np.ndarray) -> int | None:
        return self._entry_at.get(tuple(key.tolist()))

    def indexed(self, entry: int, key: np.ndarray) -> None:
        old = tuple(self.entries["key"][entry].tolist())
        if self._entry_at.get(old) == entry:
            del self._entry_at[old]
        self._entry_at[tuple(key.tolist())] = entry


def _distance(one: Pose, other: Pose) -> int:
    turns = (one[0] - other[0]) % 4
    return TURN * min(turns, 4 - turns) + abs(one[1] - other[1]) + abs(one[2] - other[2])


def _offsets() -> list[Pose]:
    """Turns, rows and columns of all poses near by, the nearest first."""
    reach = range(-FARTHEST, FARTHEST + 1)
    near = [(turn, row, column) for turn in range(4) for row in reach for column in reach]
    near = [pose for pose in near if _distance(pose, (0, 0, 0)) <= FARTHEST]
    return sorted(near, key=lambda pose: _distance(pose, (0, 0, 0)))
