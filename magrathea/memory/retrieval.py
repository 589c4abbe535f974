"""Retrieval of past steps from an episodic buffer: by how their pictures look, or by the pose they were seen from.

N tokens of a step, R regions of the picture, V its tokens (the last is the absent token), E numbers of a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from magrathea.layout import Layout
from magrathea.memory.base import checked
from magrathea.memory.episodic_buffer import NUM_RETRIEVED, EpisodicBuffer, EpisodicSpec
from magrathea.memory.spatial_map.fit import fit_spatial_map
from magrathea.memory.spatial_map.odometry import Odometry, Pose

KEY_WIDTH = 32
GRID_OF_REGIONS = 3  # rows and columns of them
MAX_TOKEN_WEIGHT = 8  # a token's weight is -log2 of its share, up to this
DUPLICATE_COSINE = 0.95  # of two keys, from which the newer step replaces the older

MAX_DISTANCE = 6  # rows and columns, together, from where a step is retrieved
TURN_DISTANCE = 2  # rows that a quarter turn counts as
MAX_POSE = 2**28  # rows and columns that a stored pose may have
MIN_SPACING = 3  # distance between the poses of retrieved steps


# -- by content -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class RetrievalSpec(EpisodicSpec):
    """Retrieves what came after and before the past step that looked most like the newest one; needs no pose.

    A step's key says which tokens its picture shows in which region, rare tokens with more weight, projected at random
    to a few integers. With integers the products of keys are exact, so a restored session retrieves the same steps.

    Attributes:
        layout: of the steps.
        codes: int8, what a token in a region adds to a key.
    """

    layout: Layout
    codes: Int[np.ndarray, "R V E"]

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Int[Tensor, "_ N"]]) -> RetrievalSpec:
        """Count how rare tokens are in recorded episodes."""
        slot = layout.picture
        counts = np.zeros(slot.vocab_size + 1, np.int64)
        for tokens in episodes:
            counts += np.bincount(tokens[:, layout.span(slot.name)].flatten().numpy(), minlength=len(counts))
        weights = np.clip(np.round(-np.log2((counts + 1) / (counts.sum() + 1))), 1, MAX_TOKEN_WEIGHT).astype(np.int8)
        shape = (GRID_OF_REGIONS**2, len(counts), KEY_WIDTH)
        signs = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), shape)
        return cls(layout, signs * weights[:, None])

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> RetrievalSpec:
        shape = (GRID_OF_REGIONS**2, layout.picture.vocab_size + 1, KEY_WIDTH)
        codes = checked(tensors, "codes", "i", shape, -MAX_TOKEN_WEIGHT, MAX_TOKEN_WEIGHT)
        return cls(layout, codes.astype(np.int8))

    def tensors(self) -> dict[str, Tensor]:
        return {"codes": torch.from_numpy(self.codes)}

    def new_buffer(self, window: int) -> ContentBuffer:
        return ContentBuffer(self, window)


class ContentBuffer(EpisodicBuffer):
    """Past steps with keys of what their pictures show."""

    def __init__(self, spec: RetrievalSpec, window: int) -> None:
        slot = spec.layout.picture
        key_type = np.min_scalar_type(-MAX_TOKEN_WEIGHT * slot.num_tokens)
        super().__init__(spec.layout, window, spec.size, (KEY_WIDTH, key_type))
        self._codes, self._span = spec.codes, spec.layout.span(slot.name)
        rows, columns = (np.arange(size) * GRID_OF_REGIONS // size for size in slot.grid)
        self._regions = (rows[:, None] * GRID_OF_REGIONS + columns).reshape(-1)
        self._keys, self._scales = np.zeros((0, KEY_WIDTH), np.float32), np.zeros(0)

    def key_of(self, step: Int[np.ndarray, " N"]) -> Int[np.ndarray, " E"]:
        return self._codes[self._regions, step[self._span]].sum(axis=0, dtype=np.int32)

    def query_key(self, action: int | None) -> Int[np.ndarray, " E"]:
        return self.newest["key"][-1]

    def search(self, query: Int[np.ndarray, " E"]) -> list[int]:
        """What came after the most similar step, and before it: unlike that step itself, they show what is not in the
        newest picture."""
        best = int(self._cosines(query).argmax())
        neighbours = dict.fromkeys(self.entries[side][best].item() for side in ("after", "before"))
        return [entry for entry in neighbours if entry >= 0] or [best]

    def find_duplicate(self, key: Int[np.ndarray, " E"]) -> int | None:
        if not self.num_entries:
            return None
        cosines = self._cosines(key)
        best = int(cosines.argmax())
        return best if cosines[best] >= DUPLICATE_COSINE / _inverse_length(key) else None

    def index_key(self, entry: int, key: Int[np.ndarray, " E"]) -> None:
        capacity = len(self.entries["number"])
        if len(self._keys) < capacity:
            keys, scales = np.zeros((capacity, KEY_WIDTH), np.float32), np.zeros(capacity)
            keys[: len(self._keys)], scales[: len(self._keys)] = self._keys, self._scales
            self._keys, self._scales = keys, scales
        self._keys[entry], self._scales[entry] = key, _inverse_length(key)

    def _cosines(self, key: Int[np.ndarray, " E"]) -> Float[np.ndarray, " _"]:
        """(num_entries,) cosines with the keys of all entries, times the length of this key."""
        products = self._keys[: self.num_entries] @ key.astype(np.float32)  # of integers under 2^24: exact
        return products * self._scales[: self.num_entries]


def _inverse_length(key: Int[np.ndarray, " E"]) -> float:
    """One over the Euclidean length of a key."""
    return float(max(1, np.square(key, dtype=np.int64).sum())) ** -0.5


# -- by pose ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class PoseRetrievalSpec(EpisodicSpec):
    """Retrieves past steps that were seen from near the pose that the next action leads to. A step's key is its pose,
    which is the sum of the picture's motions; a pose keeps its newest step only."""

    layout: Layout
    odometry: Odometry

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Int[Tensor, "_ N"]]) -> PoseRetrievalSpec:
        """Fit the odometry; see `fit_spatial_map`."""
        odometry, _ = fit_spatial_map(layout, episodes)
        return cls(layout, odometry)

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> PoseRetrievalSpec:
        return cls(layout, Odometry.from_tensors(layout, tensors))

    def tensors(self) -> dict[str, Tensor]:
        return self.odometry.tensors()

    def new_buffer(self, window: int) -> PoseBuffer:
        return PoseBuffer(self, window)


class PoseBuffer(EpisodicBuffer):
    """Past steps with their poses as keys."""

    def __init__(self, spec: PoseRetrievalSpec, window: int) -> None:
        super().__init__(spec.layout, window, spec.size, (3, np.dtype(np.int32)))
        self._odometry, self._span = spec.odometry, spec.layout.span(spec.layout.picture.name)
        self._action = spec.layout.role_span("action").start
        self._entry_at: dict[Pose, int] = {}
        self._offsets = _near_poses()

    @property
    def key_limits(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array([0, -MAX_POSE, -MAX_POSE]), np.array([3, MAX_POSE, MAX_POSE])

    def key_of(self, step: Int[np.ndarray, " N"]) -> Int[np.ndarray, " E"]:
        if not len(self.newest):
            return np.zeros(3, np.int32)
        before = self.newest[-1]["tokens"].astype(np.int64)[None, self._span]
        motion = self._odometry.infer_motions(before, step[None, self._span], step[self._action, None])
        return self._pose_after(int(motion[0]))

    def query_key(self, action: int | None) -> Int[np.ndarray, " E"]:
        intended = self._odometry.intended_motions
        return self._pose_after(0 if action is None else int(intended[min(action, len(intended) - 1)]))

    def _pose_after(self, motion: int) -> Int[np.ndarray, " E"]:
        """The pose after a motion from the newest step."""
        quarters, row, column = self.newest["key"][-1].tolist()
        return np.array(self._odometry.apply((quarters, row, column), motion), np.int32)

    def search(self, query: Int[np.ndarray, " E"]) -> list[int]:
        quarters, row, column = query.tolist()
        found: dict[int, Pose] = {}
        for turn, rows, columns in self._offsets:
            pose = ((quarters + turn) % 4, row + rows, column + columns)
            entry = self._entry_at.get(pose)
            if entry is not None and all(_distance(pose, other) >= MIN_SPACING for other in found.values()):
                found[entry] = pose
                if len(found) == NUM_RETRIEVED:
                    break
        return list(found)

    def find_duplicate(self, key: Int[np.ndarray, " E"]) -> int | None:
        return self._entry_at.get(tuple(key.tolist()))

    def index_key(self, entry: int, key: Int[np.ndarray, " E"]) -> None:
        old = tuple(self.entries["key"][entry].tolist())
        if self._entry_at.get(old) == entry:
            del self._entry_at[old]
        self._entry_at[tuple(key.tolist())] = entry


def _distance(pose: Pose, other: Pose) -> int:
    turns = (pose[0] - other[0]) % 4
    return TURN_DISTANCE * min(turns, 4 - turns) + abs(pose[1] - other[1]) + abs(pose[2] - other[2])


def _near_poses() -> list[Pose]:
    """Turns, rows and columns to all poses within MAX_DISTANCE, the nearest first."""
    reach = range(-MAX_DISTANCE, MAX_DISTANCE + 1)
    near = [(turn, row, column) for turn in range(4) for row in reach for column in reach]
    near = [pose for pose in near if _distance(pose, (0, 0, 0)) <= MAX_DISTANCE]
    return sorted(near, key=lambda pose: _distance(pose, (0, 0, 0)))
