"""Dreams that go on for thousands of steps, and pieces of them beside pieces of recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from magrathea.dice import roll
from magrathea.evaluate.recordings import Budget, Recording
from magrathea.session import Session
from magrathea.world import World

PIECE = 50  # steps
BACK = 16  # steps that a dream goes back when it has ended
PATIENCE = 1.5  # steps that a dream may take, over those wanted


class Lived(Protocol):
    """Attributes:
    tokens: (T, N) steps.
    recalled: (T, 2, C) what the memory recalls at each of them, as in a Recording, or None.
    """

    tokens: np.ndarray
    recalled: np.ndarray | None


@dataclass
class Life:
    """A dream; see Lived."""

    tokens: np.ndarray
    recalled: np.ndarray | None

    @classmethod
    def of(cls, world: World, tokens: np.ndarray) -> Life:
        """With what the world's memory recalls."""
        recalled = world.memory.recall_episode(torch.from_numpy(tokens))
        return cls(tokens, None if recalled is None else recalled.numpy())


def dream_on(
    world: World,
    recordings: list[Recording],
    starts: list[tuple[int, int]],
    num_steps: int,
    budget: Budget,
    seed: int = 0,
) -> tuple[list[Life], int]:
    """Dream from each start (recording, last real step), acting as the data's actors do by the world's own cloning.

    Returns the dreams, the W real steps first, and how often all of them together ended.

    A dream that ends itself goes back 16 steps and takes another road, with other dice: twice as far each time that it
    has come no further. So what is seen at a great age are the dreams that live so long, as they are. A dream may be
    shorter than asked, where the budget is spent or too many steps went into going back.
    """
    window = world.config.model.window
    past = np.stack([recordings[index].tokens[step - window + 1 : step + 1] for index, step in starts])
    session = Session(world, batch_size=len(starts), seed=seed, start=torch.from_numpy(past))
    furthest, back = np.zeros(len(starts), dtype=int), np.full(len(starts), BACK)
    num_endings = 0
    for step in count(1):
        ended = session.step(session.act()).terminated
        if ended.any():
            age = session.num_steps
            back = np.where(ended, np.where(age > furthest + BACK, BACK, 2 * back), back)
            furthest = np.where(ended, np.maximum(age, furthest), furthest)
            session = _go_back(session, np.where(ended, np.minimum(back, age), 0))
            num_endings += int(ended.sum())
        wanted = PIECE if budget.spent() else num_steps
        if session.num_steps.min() >= wanted or step >= PATIENCE * wanted:
            break
    lives = [session.history_of(row, 0, window + num_steps).numpy() for row in range(len(starts))]
    return [Life.of(world, tokens) for tokens in lives], num_endings


def _go_back(session: Session, num_steps: np.ndarray) -> Session:
    """The rows that go back do so to other dice."""
    session.rewind(num_steps.tolist())
    seeds = [roll(own, "episode") if back else own for own, back in zip(session.seeds, num_steps, strict=True)]
    return session.fork_batch(range(session.batch_size), seeds)


@dataclass
class Pieces:
    """Pieces of dreams or recordings, each with the W steps before it, P steps long.

    Attributes:
        sources: (R,) index of the dream or the recording that each is of.
        tokens: (R, W + P, N) int64.
        valid: (R, P) False beyond the end of a recording.
        recalled: (R, P, 2, C) what the memory recalls, as in a Recording, or None.
    """

    sources: np.ndarray
    tokens: Tensor
    valid: np.ndarray
    recalled: Tensor | None

    @property
    def window(self) -> int:
        return self.tokens.shape[1] - self.valid.shape[1]

    @property
    def steps(self) -> Tensor:
        """(R, P, N)"""
        return self.tokens[:, self.window :]

    def predict(self, world: World, hole_mask: Tensor, rows: slice) -> dict[str, Tensor]:
        """For each slot the logits (R', P, its tokens, its vocabulary) at the steps of some pieces, with hole_mask
        (N,), given what was before."""
        asks_action = bool(hole_mask[world.layout.span(world.layout.of_role("action")[0].name)].any())
        recalled = None if self.recalled is None else self.recalled[rows, :, 0 if asks_action else 1]
        return world.predict_segment(self.tokens[rows], hole_mask, self.window, recalled=recalled)


def pieces_of(world: World, lives: Sequence[Lived], starts: list[tuple[int, int]], length: int = PIECE) -> Pieces:
    """The `length` steps after each start (index, last step before it), as far as the life goes."""
    window = world.config.model.window
    steps = np.stack([np.arange(start - window + 1, start + length + 1) for _, start in starts])
    ends = np.array([len(lives[index].tokens) for index, _ in starts])
    inside = np.minimum(steps, ends[:, None] - 1)
    parts = [(lives[index], rows) for (index, _), rows in zip(starts, inside, strict=True)]
    recalled = [life.recalled[rows[window:]] for life, rows in parts if life.recalled is not None]
    return Pieces(
        np.array([index for index, _ in starts]),
        torch.from_numpy(np.stack([life.tokens[rows] for life, rows in parts])),
        (steps < ends[:, None])[:, window:],
        torch.from_numpy(np.stack(recalled)) if recalled else None,
    )
