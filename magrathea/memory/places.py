"""A map of what was seen where, without being told where one is.

How the picture moves tells where one stands (see `motion`); each place that was seen keeps the token that it showed
last, and what one would see after the next action, had nothing changed, is read from there. What only passes over a
place (creatures, oneself, the grain of the night) does not overwrite it: which tokens pass is counted in recordings.

A place costs a few bytes and a step the same however long it has been: the map grows with the places, not the steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from magrathea.config import ModelConfig
from magrathea.errors import MagratheaError
from magrathea.layout import Layout, Slot
from magrathea.memory.base import Part, Recall, Recorded, rows_of
from magrathea.memory.motion import Motions, fit_motions, turned

MOST_FITTED_STEPS = 20_000
PASSES = 0.75  # share of a token's appearances after which what was there before is there again
ONLY_OVER = 0.95  # share of them after one and the same token from which the two are states of one thing
LEAST_APPEARANCES = 20
LEAST_STILL_TOKENS = 0.5  # share that stays in a step, of a picture in which nothing is seen to move
_FAR = 1 << 20  # a place's key is (row + _FAR) * 2 * _FAR + column + _FAR


@dataclass(frozen=True)
class Places:
    """What a memory of places knows before anything has happened: how the picture moves, and what passes over.

    Attributes:
        layout: of the steps.
        motions: of the picture.
        passing: (V + 1,) bool, the tokens that do not overwrite what a place showed before.
    """

    recalls: ClassVar[tuple[Part, ...]] = ("picture",)

    layout: Layout
    motions: Motions
    passing: np.ndarray

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> Places:
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
        motions = fit_motions(before, after, actions, slot.grid, slot.vocab_size, num_actions)
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
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> Places:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        passing = arrays.pop("passing")
        return cls(layout, Motions(layout.picture.grid, **arrays), passing)

    @classmethod
    def recurrence(cls, config: ModelConfig) -> None:
        return None

    def new(self, batch_size: int, model: Any = None) -> PlaceMemory:
        return PlaceMemory(self, batch_size)

    def recall_episode(self, tokens: Tensor, window: int = 0) -> Recorded:
        """The pictures that are recalled just before each step of a recorded episode (T, N)."""
        slot = self.layout.picture
        pictures, actions = tokens.numpy()[:, self.layout.span(slot.name)], _actions(self.layout, tokens.numpy())
        memory, recalled = self.new(1), []
        foretold = [0, *self.motions.foretell(pictures[:-1], actions[1:]).tolist()]
        for picture, motion, meant in zip(pictures, self.motions_of(pictures, actions), foretold, strict=True):
            recalled.append(memory.look([0, 0], [0, meant]))
            memory.see(0, picture, motion)
        return Recorded(picture=torch.from_numpy(np.stack(recalled)))

    def motions_of(self, pictures: np.ndarray, actions: np.ndarray) -> list[int]:
        """The motion that led to each picture of an episode (T, C), by actions (T,); 0 to the first."""
        return [0, *self.motions.follow(pictures[:-1], pictures[1:], actions[1:]).tolist()]


class PlaceMemory:
    """The maps of B running worlds, as they stand in them."""

    def __init__(self, places: Places, batch_size: int) -> None:
        self.places, self.batch_size = places, batch_size
        slot = places.layout.picture
        self._span, self._absent = places.layout.span(slot.name), slot.absent
        rows, columns = (index.reshape(-1) for index in np.indices(slot.grid))
        self._region = np.flatnonzero(places.motions.region)
        quarters, table = np.arange(4)[:, None], places.motions.table
        self._keys_at_origin = _key(_FAR, _FAR) + _key(*turned(quarters, rows[self._region], columns[self._region]))
        moves = np.stack([np.broadcast_to(table[:, 0], (4, len(table))), *turned(quarters, *table[:, 1:].T)], axis=-1)
        self._moves: list[list[list[int]]] = moves.tolist()  # of each quarter and motion: quarters, rows, columns
        self._passing = set(np.flatnonzero(places.passing).tolist())
        self.reset()

    def reset(self, env_mask: Tensor | None = None) -> None:
        rows = rows_of(env_mask, self.batch_size)
        if env_mask is None:
            self._maps: list[dict[int, int]] = [{} for _ in rows]
            self._poses = [(0, 0, 0)] * self.batch_size  # quarter turns, row and column of the picture's corner
            self._last: dict[int, np.ndarray] = {}
        for row in rows:
            self._maps[row], self._poses[row] = {}, (0, 0, 0)
            self._last.pop(row, None)

    def write(self, tokens: Tensor, encodings: Tensor, rows: Sequence[int]) -> None:
        """Steps (R, N) of these rows are final."""
        steps = tokens.numpy()
        pictures, actions = steps[:, self._span], _actions(self.places.layout, steps)
        before = pictures.copy()
        for index, row in enumerate(rows):
            if row in self._last:
                before[index] = self._last[row]
        motions = self.places.motions.follow(before, pictures, actions)
        for row, picture, motion in zip(rows, pictures, motions.tolist(), strict=True):
            self.see(row, picture, motion if row in self._last else 0)

    def read(self, tokens: Tensor, hole_mask: Tensor, rows: Sequence[int]) -> Recall:
        """What the next steps (R, N) of these rows would show if nothing had changed."""
        actions = _actions(self.places.layout, tokens.numpy())
        slots = self.places.layout.of_role("action")
        unknown = hole_mask[:, : sum(slot.num_tokens for slot in slots)].any(dim=1).numpy()
        actions = np.where(unknown, len(self.places.motions.log_prior) - 1, actions)
        begun = [index for index, row in enumerate(rows) if row in self._last]
        motions = np.zeros(len(rows), np.int64)
        if begun:
            before = np.stack([self._last[rows[index]] for index in begun])
            motions[begun] = self.places.motions.foretell(before, actions[begun])
        return Recall(picture=torch.from_numpy(self.look(rows, motions.tolist())))

    def see(self, row: int, picture: np.ndarray, motion: int) -> None:
        """Take in the picture (C,) that a motion has led to."""
        self._poses[row] = self._moved(row, motion)
        self._last[row] = picture
        places, passing = self._maps[row], self._passing
        for key, token in zip(self._keys(self._poses[row]), picture[self._region].tolist(), strict=True):
            if token not in passing or key not in places:
                places[key] = token

    def look(self, rows: Sequence[int], motions: Sequence[int]) -> np.ndarray:
        """The pictures (R, C) that motions would lead these rows to, absent where the place was never seen."""
        pictures = np.full((len(rows), len(self.places.motions.region)), self._absent)
        pictures[:, self._region] = [
            list(map(self._maps[row].get, self._keys(self._moved(row, motion)), repeat(self._absent)))
            for row, motion in zip(rows, motions, strict=True)
        ]
        return pictures

    def _moved(self, row: int, motion: int) -> tuple[int, int, int]:
        quarters, at_row, at_column = self._poses[row]
        turn, rows, columns = self._moves[quarters][motion]
        return (quarters + turn) % 4, at_row + rows, at_column + columns

    def _keys(self, pose: tuple[int, int, int]) -> list[int]:
        """Of the places that the region's cells show."""
        return (self._keys_at_origin[pose[0]] + _key(pose[1], pose[2])).tolist()

    def state_dict(self, row: int) -> dict[str, Tensor]:
        """The keys and tokens of its places, its pose, and the picture that it saw last."""
        places, last = self._maps[row], self._last.get(row, ())
        return {
            "keys": torch.tensor(list(places), dtype=torch.int64),
            "tokens": torch.tensor(list(places.values()), dtype=torch.int32),
            "pose": torch.tensor(self._poses[row]),
            "last": torch.tensor(last, dtype=torch.int32),
        }

    def load_state_dict(self, row: int, state: dict[str, Tensor]) -> None:
        self._maps[row] = dict(zip(state["keys"].tolist(), state["tokens"].tolist(), strict=True))
        quarters, at_row, at_column = state["pose"].tolist()
        self._poses[row] = (quarters, at_row, at_column)
        self._last.pop(row, None)
        if len(state["last"]):
            self._last[row] = state["last"].numpy().astype(np.int64)


def moved(motions: Motions, pose: tuple[int, int, int], motion: int) -> tuple[int, int, int]:
    """The pose that a motion leads to: quarter turns, row and column of the picture's corner."""
    quarters, at_row, at_column = pose
    turn, rows, columns = motions.table[motion]
    rows, columns = turned(np.array(quarters), rows, columns)
    return (quarters + int(turn)) % 4, at_row + int(rows), at_column + int(columns)


def _key(rows: Any, columns: Any) -> Any:
    """What a place adds to a key that is this far away: keys add up as places do."""
    return rows * (2 * _FAR) + columns


def _action_slot(layout: Layout) -> Slot:
    return layout.of_role("action")[0]


def _actions(layout: Layout, tokens: np.ndarray) -> np.ndarray:
    """(S,) the first action token of steps (S, N)."""
    return tokens[:, layout.span(_action_slot(layout).name).start]


def _passing(places: Places, episodes: list[np.ndarray], num_tokens: int) -> np.ndarray:
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
        came = np.bincount(token[inside], minlength=num_tokens + 1)
        over = inside[token[inside - 1] == token[inside + 1]]
        behind = np.zeros((num_tokens + 1, num_tokens + 1))
        np.add.at(behind, (token[over], token[over - 1]), 1)
        went = behind.sum(axis=1)
        went[(went <= PASSES * came) | (came < LEAST_APPEARANCES) | (behind.max(axis=1) > ONLY_OVER * went)] = 0
        if not went.any():
            return passing
        passing[went.argmax()] = True
        kept = token != went.argmax()
        place, token = place[kept], token[kept]


def _runs(places: Places, episodes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of places, and the tokens that they showed, in the order of time for each: (S,) and (S,)."""
    span, region = places.layout.span(places.layout.picture.name), np.flatnonzero(places.motions.region)
    keys, shown = [], []
    for number, tokens in enumerate(episodes):
        memory, pictures = places.new(1), tokens[:, span]
        for picture, motion in zip(pictures, places.motions_of(pictures, _actions(places.layout, tokens)), strict=True):
            memory._poses[0] = memory._moved(0, motion)
            keys.append([(number, key) for key in memory._keys(memory._poses[0])])
            shown.append(picture[region])
    flat = np.array(keys, np.int64).reshape(-1, 2)
    place = np.unique(flat, axis=0, return_inverse=True)[1].reshape(-1)
    order = place.argsort(kind="stable")
    return place[order], np.concatenate(shown)[order]
