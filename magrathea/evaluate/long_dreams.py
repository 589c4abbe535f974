"""Dreams that go on for thousands of steps, and pieces of them beside pieces of recordings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from magrathea.evaluate.forcing import SegmentBatch, gather_segments
from magrathea.evaluate.recordings import Budget, Lived, Recording
from magrathea.sampler import derive_seed
from magrathea.session import Session
from magrathea.world import World

PIECE = 50  # steps
BACK = 16  # steps that a dream goes back when it has ended
PATIENCE = 1.5  # steps that a dream may take, over those wanted


def dream_on(
    world: World,
    recordings: list[Recording],
    starts: list[tuple[int, int]],
    num_steps: int,
    budget: Budget,
    seed: int = 0,
) -> tuple[list[Lived], int]:
    """Dream from each start (recording, last real step), by the actions of recordings drawn at random, one after the
    other: nobody looks at the dream, so that what changes with its age is the world and not who acts in it.

    Returns the dreams, the W real steps first, and how often all of them together ended.

    A dream that ends itself goes back 16 steps and takes another road, with other dice: twice as far each time that it
    has come no further. So what is seen at a great age are the dreams that live so long, as they are. A dream may be
    shorter than asked, where the budget is spent or too many steps went into going back.
    """
    window = world.config.model.window
    past = np.stack([recordings[index].tokens[step - window + 1 : step + 1] for index, step in starts])
    session = Session(world, batch_size=len(starts), seed=seed, start=torch.from_numpy(past))
    actions = _recorded_actions(world, recordings, len(starts), seed)
    furthest, back = np.zeros(len(starts), dtype=int), np.full(len(starts), BACK)
    num_endings = 0
    for step in itertools.count(1):
        ended = session.step(next(actions)).terminated
        if ended.any():
            age = session.num_steps
            back = np.where(ended, np.where(age > furthest + BACK, BACK, np.minimum(2 * back, num_steps)), back)
            furthest = np.where(ended, np.maximum(age, furthest), furthest)
            session = _go_back(session, np.where(ended, np.minimum(back, age), 0))
            num_endings += int(ended.sum())
        wanted = PIECE if budget.spent() else num_steps
        if session.num_steps.min() >= wanted or step >= PATIENCE * wanted:
            break
    lives = [session.history_of(row, 0, window + num_steps).numpy() for row in range(len(starts))]
    return [Lived.of(world, tokens) for tokens in lives], num_endings


def _recorded_actions(world: World, recordings: list[Recording], num_rows: int, seed: int) -> Iterator[np.ndarray]:
    """The actions (R, *shape) of R actors, each going through recordings in an order of its own."""
    dice = np.random.default_rng(seed)
    orders = [itertools.cycle(dice.permutation(len(recordings)).tolist()) for _ in range(num_rows)]
    lives = [(step for index in order for step in recordings[index].tokens[1:]) for order in orders]
    while True:
        yield world.decode_action(torch.from_numpy(np.stack([next(life) for life in lives])))


def _go_back(session: Session, num_steps: np.ndarray) -> Session:
    """The rows that go back do so to other dice."""
    session.rewind(num_steps.tolist())
    seeds = [derive_seed(own, "episode") if back else own for own, back in zip(session.seeds, num_steps, strict=True)]
    return session.fork_batch(range(session.batch_size), seeds)


def pieces_of(world: World, lives: Sequence[Lived], starts: list[tuple[int, int]], length: int = PIECE) -> SegmentBatch:
    """The `length` steps after each start (index, last step before it), as far as the life goes."""
    return gather_segments(lives, world.config.model.window, [(index, start + 1) for index, start in starts], length)
