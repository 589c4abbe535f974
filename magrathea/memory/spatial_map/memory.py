"""A map of what was seen where, without being told where one is.

How the picture moves tells where one stands (see `motion`, and `chart` for when that is in doubt); each place that was
seen keeps the token that it showed last, and what one would see after the next action, had nothing changed, is read
from there. What only passes over a place (creatures, oneself, the grain of the night) does not overwrite it: which
tokens pass is counted in recordings.

A place costs a few bytes and a step the same however long it has been: the map grows with the places, not the steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.interfaces import EpisodeReadout, MemoryOutputs, MemoryReadout
from magrathea.layout import Layout, Slot
from magrathea.memory.base import reset_indices
from magrathea.memory.spatial_map.map import DOUBT, MapSpec, SpatialMap
from magrathea.memory.spatial_map.odometry import Odometry, fit_odometry, leads
from magrathea.model.config import ModelConfig

MOST_FITTED_STEPS = 20_000
PASSES = 0.85  # share of a token's appearances after which what was there before is there again
ONLY_OVER = 0.95  # share of them after one and the same token from which the two are states of one thing
LEAST_APPEARANCES = 20  # of a token between two others,
LEAST_BETWEEN = 0.02  # and the share of all its appearances that they must be
LEAST_STILL_TOKENS = 0.5  # share that stays in a step, of a picture in which nothing is seen to move


@dataclass(frozen=True)
class SpatialMapSpec:
    """What a memory of places knows before anything has happened: how the picture moves, and what passes over.

    Attributes:
        layout: of the steps.
        motions: of the picture.
        passing: (V + 1,) bool, the tokens that do not overwrite what a place showed before.
    """

    size: ClassVar[int | None] = None  # most places; as many as there are

    layout: Layout
    motions: Odometry
    passing: np.ndarray

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> SpatialMapSpec:
        """Learn from the tokens (T, N) of recorded episodes; raises MagratheaError where they show no places."""
        slot, steps, count = layout.picture, [], 0
        for tokens in episodes:
            steps.append(tokens.numpy())
            count += len(tokens)
            if count >= MOST_FITTED_STEPS:
                break
        num_actions = _action_slot(layout).vocab_size
        span = layout.span(slot.name)
        before, after = (np.concatenate([x[part, span] for x in steps]) for part in (slice(-1), slice(1, None)))
        actions = np.concatenate([_actions(layout, x[1:]) for x in steps])
        motions = fit_odometry(before, after, actions, slot.grid, slot.vocab_size, num_actions)
        if len(motions.table) == 1 and (before == after).mean() < LEAST_STILL_TOKENS:
            raise MagratheaError(
                "This picture changes, but not by whole tokens that move, as a 3D view does not: the memory 'places' "
                "cannot tell where one stands; choose the memory 'window', or another that needs no places."
            )
        anything_stays = cls(layout, motions, np.zeros(slot.vocab_size + 1, bool))
        return cls(layout, motions, _passing(anything_stays, steps, slot.vocab_size))

    def tensors(self) -> dict[str, Tensor]:
        arrays = {
            name: getattr(self.motions, name) for name in ("region", "table", "log_prior", "affinity", "ahead", "way")
        }
        return {name: torch.from_numpy(array) for name, array in (arrays | {"passing": self.passing}).items()}

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> SpatialMapSpec:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        passing = arrays.pop("passing")
        return cls(layout, Odometry(layout.picture.grid, **arrays), passing)

    @property
    def ground(self) -> MapSpec:
        """What the charts of its worlds have in common."""
        return MapSpec(self.motions, self.passing, self.layout.picture.absent, self.size)

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        return MemoryOutputs(slots=(layout.picture.name,))

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> None:
        return None

    def new(self, batch_size: int, model: Any = None) -> SpatialMapMemory:
        return SpatialMapMemory(self, batch_size)

    def read_episode(self, tokens: Tensor, window: int = 0) -> EpisodeReadout:
        """The pictures that are recalled just before each step of a recorded episode (T, N)."""
        slot = self.layout.picture
        pictures, actions = tokens.numpy()[:, self.layout.span(slot.name)], _actions(self.layout, tokens.numpy())
        chart, recalled = SpatialMap(self.ground), []
        foretold = [0, *self.motions.foretell(pictures[:-1], actions[1:]).tolist()]
        scores = [None, *self.motions.scores(pictures[:-1], pictures[1:], actions[1:])]
        for picture, score, meant in zip(pictures, scores, foretold, strict=True):
            recalled.append([chart.look(0), chart.look(meant)])
            chart.see(picture, score)
        return EpisodeReadout({slot.name: torch.from_numpy(np.array(recalled))})


class SpatialMapMemory:
    """The charts of B running worlds."""

    def __init__(self, places: SpatialMapSpec, batch_size: int) -> None:
        self.places, self.batch_size = places, batch_size
        self._span, self._ground = places.layout.span(places.layout.picture.name), places.ground
        self.charts = [SpatialMap(self._ground) for _ in range(batch_size)]

    def reset(self, env_mask: Tensor | None = None) -> None:
        for index in reset_indices(env_mask, self.batch_size):
            self.charts[index] = SpatialMap(self._ground)

    def write(self, tokens: Tensor, encodings: Tensor, batch_indices: Sequence[int]) -> None:
        """Steps (R, N) of these batch_indices are final."""
        steps = tokens.numpy()
        pictures, actions = steps[:, self._span], _actions(self.places.layout, steps)
        charts = [self.charts[index] for index in batch_indices]
        scores = self.places.motions.scores(self._lasts(charts), pictures, actions)
        for chart, picture, score in zip(charts, pictures, scores, strict=True):
            chart.see(picture, None if chart.last is None else score)

    def read(self, tokens: Tensor, hole_mask: Tensor, batch_indices: Sequence[int]) -> MemoryReadout:
        """What the next steps (R, N) of these batch_indices would show if nothing had changed."""
        actions = _actions(self.places.layout, tokens.numpy())
        slots = self.places.layout.of_role("action")
        unknown = hole_mask[:, : sum(slot.num_tokens for slot in slots)].any(dim=1).numpy()
        actions = np.where(unknown, len(self.places.motions.log_prior) - 1, actions)
        charts = [self.charts[index] for index in batch_indices]
        motions = self.places.motions.foretell(self._lasts(charts), actions)
        pictures = [chart.look(motion) for chart, motion in zip(charts, motions.tolist(), strict=True)]
        return MemoryReadout({self.places.layout.picture.name: torch.from_numpy(np.stack(pictures))})

    def _lasts(self, charts: list[SpatialMap]) -> np.ndarray:
        """The pictures (R, C) that were seen last, absent at first."""
        absent = np.full(len(self.places.motions.region), self.places.layout.picture.absent)
        return np.stack([absent if chart.last is None else chart.last for chart in charts])

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        return self.charts[batch_index].state_dict()

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        self.charts[batch_index] = SpatialMap(self._ground)
        self.charts[batch_index].load_state_dict(state)


def _action_slot(layout: Layout) -> Slot:
    return layout.of_role("action")[0]


def _actions(layout: Layout, tokens: np.ndarray) -> np.ndarray:
    """(S,) the first action token of steps (S, N)."""
    return tokens[:, layout.span(_action_slot(layout).name).start]


def _passing(places: SpatialMapSpec, episodes: list[np.ndarray], num_tokens: int) -> np.ndarray:
    """(V + 1,) which tokens come and go, and leave a place as it was.

    Of two tokens that take turns, as the dark of what is hidden and a wall, either might be what passes. So the one
    that does it most often is taken first, and the others are looked at as if it had never been there. And what passes
    does so over this and that: a door that is open or closed in turns is neither.
    """
    place, token = _runs(places, episodes)
    passing = np.zeros(num_tokens + 1, bool)
    while True:
        new = np.ones(len(place), bool)
        new[1:] = (place[1:] != place[:-1]) | (token[1:] != token[:-1])
        place, token = place[new], token[new]
        inside = np.flatnonzero((place[2:] == place[:-2]) & (place[1:-1] == place[:-2])) + 1
        came, shown = (np.bincount(tokens, minlength=num_tokens + 1) for tokens in (token[inside], token))
        over = inside[token[inside - 1] == token[inside + 1]]
        behind = np.zeros((num_tokens + 1, num_tokens + 1))
        np.add.at(behind, (token[over], token[over - 1]), 1)
        went = behind.sum(axis=1)
        seldom = came < np.maximum(LEAST_APPEARANCES, LEAST_BETWEEN * shown)
        went[seldom | (went <= PASSES * came) | (behind.max(axis=1) > ONLY_OVER * went)] = 0
        if not went.any():
            return passing
        passing[went.argmax()] = True
        kept = token != went.argmax()
        place, token = place[kept], token[kept]


def _runs(places: SpatialMapSpec, episodes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of places, and the tokens that they showed, in the order of time for each: (S,) and (S,). After a motion
    that is in doubt all places are new ones."""
    span, motions, ground = places.layout.span(places.layout.picture.name), places.motions, places.ground
    keys, shown, number = [], [], 0
    for tokens in episodes:
        pictures, actions, pose = tokens[:, span], _actions(places.layout, tokens), (0, 0, 0)
        scores = motions.scores(pictures[:-1], pictures[1:], actions[1:])
        followed, doubtful = scores.argmax(axis=1), leads(scores) < DOUBT
        numbers = number + np.cumsum([1, *doubtful])
        for picture, motion, number in zip(pictures, [0, *followed.tolist()], numbers.tolist(), strict=True):
            pose = motions.moved(pose, motion)
            keys.append([(number, key) for key in ground.keys(pose)])
            shown.append(picture[ground.region])
    flat = np.array(keys, np.int64).reshape(-1, 2)
    place = np.unique(flat, axis=0, return_inverse=True)[1].reshape(-1)
    order = place.argsort(kind="stable")
    return place[order], np.concatenate(shown)[order]
