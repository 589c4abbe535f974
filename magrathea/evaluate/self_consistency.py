"""Self-consistency of dreams: whether a location that a dream shows again shows what it showed there before.

A dream has no recorded pose; it is inferred by matching the tiles of successive pictures. Of all possible motions the
one under which most tiles agree is taken; of equal ones the intended effect of the action, then no motion. In the dark,
where motions may be equal because nothing is seen, the motion counts as ambiguous.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import torch

from magrathea.evaluate.cells import TileView, VisibleTiles, motion_between, move, opposite
from magrathea.evaluate.recall import TileKinds, summarize_ages, tally_ages, tile_ages
from magrathea.evaluate.recordings import Budget, Recording
from magrathea.evaluate.results import Recall
from magrathea.evaluate.rollouts import recent_steps
from magrathea.evaluate.statistics import Tally
from magrathea.layout import Slot
from magrathea.session import Session
from magrathea.world import World

Motion = tuple[int, ...]
ActionMotions = dict[int, Motion]  # action that moves the agent -> its motion where no obstacle prevents it

STILL: Motion = (0, 0, 0)
MIN_KNOWN = 10  # tiles of known content from which only these are compared
WELL_KNOWN = 0.75  # share of tiles of known content from which the intended motion is unambiguous among equal ones
MIN_AGREEMENT = 0.5  # share of tiles that agree below which the pose is lost
UNINTENDED_MARGIN = 0.1  # share of tiles by which another motion must agree better than the intended one
MIN_MOVING = 0.1  # share of an action's uses that move the agent, from which the action has a motion
LOST_OFFSET = 100_000  # rows that are added to a lost pose, so that later locations differ from all earlier ones

NUM_STEPS = 512
TURN_PROBABILITY = 0.05  # of changing direction without an obstacle

Begin = Callable[[int], "TrackedDreams"]  # seed -> dreams at their first step


def motions_of_actions(episodes: Iterable[tuple[np.ndarray, np.ndarray]]) -> ActionMotions:
    """The most frequent motion of each action that moves the agent, from episodes of poses (T + 1, 3), actions (T,)."""
    seen: dict[int, Counter[Motion]] = {}
    for poses, actions in episodes:
        for action, motion in zip(actions.tolist(), motion_between(poses[:-1], poses[1:]).tolist(), strict=True):
            seen.setdefault(action, Counter())[tuple(motion)] += 1
    action_motions = {}
    for action, motions in sorted(seen.items()):
        num_uses = motions.total()
        motions.pop(STILL, None)
        if motions.total() >= max(1, MIN_MOVING * num_uses):
            action_motions[action] = motions.most_common(1)[0][0]
    return action_motions


class Tracker:
    """Finds the motion between two pictures."""

    def __init__(self, view: TileView, kinds: TileKinds, action_motions: ActionMotions) -> None:
        self.view, self.kinds, self.action_motions = view, kinds, action_motions
        steps = [(row, column, 0) for row in (-1, 0, 1) for column in (-1, 0, 1)]
        around = sorted(steps, key=lambda motion: motion != STILL)
        self.motions = np.array([STILL, (-1, 0, 0), (0, 0, 1), (0, 0, 3)] if view.turns else around)
        self._sources = np.stack([self._source(motion) for motion in self.motions])

    def _source(self, motion: np.ndarray) -> np.ndarray:
        """(rows * columns,) the flat index of the tile before that shows the cell of each tile after; -1 if none."""
        before, after = (self.view.locations(pose).reshape(-1, 2) for pose in (np.zeros(3, dtype=np.int64), motion))
        agent_free = self.view.agent_free.ravel()
        index = {tuple(location): tile for tile, location in enumerate(before.tolist()) if agent_free[tile]}
        found = [index.get(tuple(location), -1) for location in after.tolist()]
        return np.where(agent_free, found, -1)

    def motion(
        self, before: np.ndarray, after: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens (B, rows, columns) of tiles before and after actions (B,) -> motions (B, 3), the share (B,) of tiles
        that agree with them, and whether they are unambiguous (B,)."""
        overlap = self._sources >= 0
        old = before.reshape(len(before), -1)[:, self._sources]
        new = np.broadcast_to(after.reshape(len(after), 1, -1), old.shape)
        old_kind, new_kind = self.kinds.of_token[old], self.kinds.of_token[new]
        known = overlap & (old_kind >= 0) & (new_kind >= 0)
        enough = known.sum(axis=-1, keepdims=True) >= MIN_KNOWN
        counted = np.where(enough, known, overlap)
        agrees = np.where(enough, old_kind == new_kind, old == new) & counted
        share = agrees.sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)
        intended = np.array([self.action_motions.get(action, STILL) for action in actions.tolist()])
        preference = np.full((len(actions), len(self.motions)), -UNINTENDED_MARGIN)
        preference[:, 0] = 0
        preference[(self.motions == intended[:, None]).all(axis=-1)] = 1e-6
        best = (share + preference).argmax(axis=1)
        most, moves = share[np.arange(len(best)), best], (intended != STILL).any(axis=1)
        several = (share == most[:, None]).sum(axis=1) > 1
        seen = (known.sum(axis=-1) / overlap.sum(axis=-1)).min(axis=1)
        return self.motions[best], most, ~(moves & several & (seen < WELL_KNOWN))


class TrackedDreams:
    """B dreams and their inferred poses.

    Args:
        step: function of actions (B,) that returns the tokens (B, rows, columns) of the tiles seen next.
        first: (B, rows, columns) the tokens of the first tiles.

    Attributes:
        tiles, poses: of all steps so far, (B, rows, columns) and (B, 3) each; poses begin at 0.
        num_ambiguous: of all steps so far, (B,) the number of ambiguous motions up to then.
    """

    def __init__(self, tracker: Tracker, step: Callable[[np.ndarray], np.ndarray], first: np.ndarray) -> None:
        self.tracker, self._step = tracker, step
        self.tiles, self.poses = [first], [np.zeros((len(first), 3), dtype=np.int64)]
        self.num_ambiguous = [np.zeros(len(first), dtype=np.int64)]

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Take actions (B,); returns the inferred motions (B, 3)."""
        tiles = self._step(actions)
        motions, agreement, unambiguous = self.tracker.motion(self.tiles[-1], tiles, actions)
        lost = agreement < MIN_AGREEMENT
        poses = move(self.poses[-1], motions)
        poses[lost, 0] += LOST_OFFSET
        self.tiles.append(tiles)
        self.poses.append(poses)
        self.num_ambiguous.append(self.num_ambiguous[-1] + ~unambiguous)
        return motions

    def shown(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What one dream showed: poses (T + 1, 3), and of all tiles the tokens, whether they show their cell, and the
        kind of what is there (T + 1, rows, columns)."""
        poses, tokens = (np.stack([each[index] for each in moments]) for moments in (self.poses, self.tiles))
        kinds = self.tracker.kinds.of_token[tokens]
        return poses, tokens, (kinds >= 0) & self.tracker.view.agent_free, kinds


def track_dreams(
    world: World, tracker: Tracker, slot: Slot, recordings: list[Recording], tiles: list[VisibleTiles], num_dreams: int
) -> Begin:
    """A function that starts dreams at clear steps of recordings, drawn by the seed."""
    window, span = world.config.model.window, world.layout.span(slot.name)

    def begin(seed: int) -> TrackedDreams:
        rng, starts = np.random.default_rng(seed), []
        for number in range(num_dreams):
            index = number % len(recordings)
            moments = np.flatnonzero(tiles[index].clear[window - 1 :]) + window - 1
            if not len(moments):
                moments = np.array([len(recordings[index].tokens) - 1])
            starts.append((index, int(rng.choice(moments))))
        context = torch.from_numpy(recent_steps(recordings, starts, window))
        session = Session(world, batch_size=num_dreams, seed=seed, start=context)

        def step(actions: np.ndarray) -> np.ndarray:
            return tracker.view.tiles(session.step(actions).tokens[:, span].numpy())

        return TrackedDreams(tracker, step, tracker.view.tiles(session.tokens[:, span].numpy()))

    return begin


class ExplorePolicy:
    """Repeats an action while it moves the agent, then draws one of another direction, but not the opposite; after a
    turn it draws a step."""

    def __init__(self, action_motions: ActionMotions, rng: np.random.Generator) -> None:
        self._action_motions, self._rng = action_motions, rng
        self._steps = [action for action, motion in action_motions.items() if motion[2] == 0]
        self._last: int | None = None

    def __call__(self, motion: Motion) -> int:
        """The next action, given the motion of the last one; any motion at first."""
        if self._last is None or motion[2]:
            self._last = self._draw(self._steps or list(self._action_motions))
        elif motion == STILL or self._rng.random() < TURN_PROBABILITY:
            now = self._action_motions[self._last]
            aside = [action for action, other in self._action_motions.items() if other not in (now, opposite(now))]
            self._last = self._draw(aside or list(self._action_motions))
        return self._last

    def _draw(self, actions: list[int]) -> int:
        return actions[int(self._rng.integers(len(actions)))]


def measure_self_consistency(
    begin: Begin, tracker: Tracker, window: int, budget: Budget, num_steps: int = NUM_STEPS
) -> dict[str, Recall]:
    """Explore, and count by age how many tiles whose cell was seen before show the same again, of "all" cells and of
    "landmarks".

    After an ambiguous motion all locations count as new ones.
    """
    dreams = begin(0)
    num_dreams = len(dreams.poses[0])
    policies = [ExplorePolicy(tracker.action_motions, np.random.default_rng(index)) for index in range(num_dreams)]
    motions = [STILL] * num_dreams
    for _ in range(num_steps):
        actions = np.array([policy(motion) for policy, motion in zip(policies, motions, strict=True)])
        motions = [tuple(motion) for motion in dreams.step(actions).tolist()]
        if budget.spent():
            break
    tally = Tally(num_dreams)
    for index in range(num_dreams):
        poses, tokens, shown, kinds = dreams.shown(index)
        poses[:, 0] += LOST_OFFSET * np.array([number[index] for number in dreams.num_ambiguous])
        ages = tile_ages(tracker.view, poses, tokens, shown, kinds)
        correct = {"dream": kinds == ages.last_content}
        landmarks = ages.again & (ages.last_content != tracker.kinds.frequent_kind)
        tally_ages(tally, "all", index, ages.age, correct, ages.again, window)
        tally_ages(tally, "landmarks", index, ages.age, correct, landmarks, window)
    return {cells: summarize_ages(tally, cells, window) for cells in ("all", "landmarks")}
