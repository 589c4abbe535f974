"""A map of what was seen where, without being told where one is.

How the picture moves tells where one stands (see `motion`); each place that was seen keeps the token that it showed
last, and what one would see after the next action, had nothing changed, is read from there. What only passes over a
place (creatures, oneself, the grain of the night) does not overwrite it: which tokens pass is counted in recordings.

A place costs a few bytes and a step the same however long it has been: the map grows with the places, not the steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.layout import Layout, Slot
from magrathea.memory.base import Recall
from magrathea.memory.motion import Motions, fit_motions, turned

MOST_FITTED_STEPS = 20_000
PASSES = 0.5  # share of a token's appearances after which what was there before is there again
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

    recalls_pictures: ClassVar[bool] = True

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

    def new(self, batch_size: int) -> PlaceMemory:
        return PlaceMemory(self, batch_size)

    def recall_episode(self, tokens: Tensor) -> Tensor:
        """What is recalled just before each step of a recorded episode (T, N), without and with its action:
        (T, 2, C)."""
        slot = self.layout.picture
        pictures, actions = tokens.numpy()[:, self.layout.span(slot.name)], _actions(self.layout, tokens.numpy())
        memory, unknown = self.new(1), len(self.motions.log_prior) - 1
        recalled = np.empty((len(pictures), 2, slot.num_tokens), np.int64)
        for index, motion in enumerate(self.motions_of(pictures, actions)):
            recalled[index] = memory.look(0, unknown), memory.look(0, actions[index])
            memory.see(0, pictures[index], motion)
        return torch.from_numpy(recalled)

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
        self._rows, self._columns = rows[self._region], columns[self._region]
        self._passing = set(np.flatnonzero(places.passing).tolist())
        self.reset()

    def reset(self, env_mask: Tensor | None = None) -> None:
        rows = range(self.batch_size) if env_mask is None else env_mask.nonzero().flatten().tolist()
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
        return Recall(
            picture=torch.from_numpy(np.stack([self.look(row, a) for row, a in zip(rows, actions, strict=True)]))
        )

    def see(self, row: int, picture: np.ndarray, motion: int) -> None:
        """Take in the picture (C,) that a motion has led to."""
        self._poses[row] = self._moved(row, motion)
        self._last[row] = picture
        places, passing = self._maps[row], self._passing
        for key, token in zip(self._keys(self._poses[row]), picture[self._region].tolist(), strict=True):
            if token not in passing or key not in places:
                places[key] = token

    def look(self, row: int, action: int) -> np.ndarray:
        """The picture (C,) that an action would lead to, absent where the place was never seen."""
        motions, places, absent = self.places.motions, self._maps[row], self._absent
        picture = np.full(len(motions.region), absent)
        pose = self._poses[row]
        if row in self._last:
            pose = self._moved(row, int(motions.foretell(self._last[row][None], np.array([action]))[0]))
        picture[self._region] = [places.get(key, absent) for key in self._keys(pose)]
        return picture

    def _moved(self, row: int, motion: int) -> tuple[int, int, int]:
        quarters, at_row, at_column = self._poses[row]
        turn, rows, columns = self.places.motions.table[motion]
        rows, columns = turned(np.array(quarters), rows, columns)
        return (quarters + int(turn)) % 4, at_row + int(rows), at_column + int(columns)

    def _keys(self, pose: tuple[int, int, int]) -> list[int]:
        """Of the places that the region's cells show."""
        rows, columns = turned(np.array(pose[0]), self._rows, self._columns)
        return ((rows + (pose[1] + _FAR)) * (2 * _FAR) + columns + (pose[2] + _FAR)).tolist()

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


def _action_slot(layout: Layout) -> Slot:
    return layout.of_role("action")[0]


def _actions(layout: Layout, tokens: np.ndarray) -> np.ndarray:
    """(S,) the first action token of steps (S, N)."""
    return tokens[:, layout.span(_action_slot(layout).name).start]


def _passing(places: Places, episodes: list[np.ndarray], num_tokens: int) -> np.ndarray:
    """(V + 1,) which tokens come and go, and leave a place as it was."""
    span, region = places.layout.span(places.layout.picture.name), np.flatnonzero(places.motions.region)
    came, went = np.zeros(num_tokens + 1), np.zeros(num_tokens + 1)
    for tokens in episodes:
        memory, runs = places.new(1), {}
        pictures = tokens[:, span]
        for picture, motion in zip(pictures, places.motions_of(pictures, _actions(places.layout, tokens)), strict=True):
            memory._poses[0] = memory._moved(0, motion)
            for key, token in zip(memory._keys(memory._poses[0]), picture[region].tolist(), strict=True):
                before, now = runs.get(key, (-1, -1))
                if token != now:
                    if before >= 0:
                        came[now] += 1
                        went[now] += token == before
                    runs[key] = (now, token)
    return (went > PASSES * came) & (came >= LEAST_APPEARANCES)
