"""Bodies that travel in dreams: does what they see again agree with what they saw?

A dream does not tell its pose; it is found by laying the tiles of successive pictures over each other. Of all possible
motions the one is taken under which most tiles agree; between equal ones the intended effect of the action, then
standing still. In the dark, where equal ones may be due to what is not seen, that is a guess, and is reported as one.
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
Travel = dict[int, Motion]  # the motion of each action that moves the body, if nothing is in the way

STILL: Motion = (0, 0, 0)
MIN_KNOWN = 10  # tiles of known content from which these alone decide
WELL_KNOWN = 0.75  # share of tiles of known content from which the intended motion is believed between equal ones
MIN_AGREEMENT = 0.5  # share of tiles that agree below which the body is lost
SURPRISE = 0.1  # share of tiles by which a motion that was not intended must agree better
MIN_MOVING = 0.1  # share of an action's uses that move the body, from which it is an action of travel
FAR_AWAY = 100_000  # rows to another part of the map, where a body that is lost starts again

WANDER_STEPS = 512
TURN_PROBABILITY = 0.05  # of taking another way though nothing is in the way

Begin = Callable[[int], "Journey"]  # seed -> a journey that has not begun


def travel_of(episodes: Iterable[tuple[np.ndarray, np.ndarray]]) -> Travel:
    """What each action does to the body most often, of those that move it: from poses (T + 1, 3), actions (T,)."""
    seen: dict[int, Counter[Motion]] = {}
    for poses, actions in episodes:
        for action, motion in zip(actions.tolist(), motion_between(poses[:-1], poses[1:]).tolist(), strict=True):
            seen.setdefault(action, Counter())[tuple(motion)] += 1
    travel = {}
    for action, motions in sorted(seen.items()):
        num_uses = motions.total()
        motions.pop(STILL, None)
        if motions.total() >= max(1, MIN_MOVING * num_uses):
            travel[action] = motions.most_common(1)[0][0]
    return travel


class Tracker:
    """Finds the motion between two pictures."""

    def __init__(self, view: TileView, kinds: TileKinds, travel: Travel) -> None:
        self.view, self.kinds, self.travel = view, kinds, travel
        steps = [(row, column, 0) for row in (-1, 0, 1) for column in (-1, 0, 1)]
        around = sorted(steps, key=lambda motion: motion != STILL)
        self.motions = np.array([STILL, (-1, 0, 0), (0, 0, 1), (0, 0, 3)] if view.turns else around)
        self._sources = np.stack([self._source(motion) for motion in self.motions])

    def _source(self, motion: np.ndarray) -> np.ndarray:
        """(rows * columns,) the flat index of the tile before that shows the cell of each tile after; -1 if none."""
        before, after = (self.view.places(pose).reshape(-1, 2) for pose in (np.zeros(3, dtype=np.int64), motion))
        beside = self.view.beside_body.ravel()
        index = {tuple(place): tile for tile, place in enumerate(before.tolist()) if beside[tile]}
        found = [index.get(tuple(place), -1) for place in after.tolist()]
        return np.where(beside, found, -1)

    def motion(
        self, before: np.ndarray, after: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens (B, rows, columns) of tiles before and after actions (B,) -> motions (B, 3), the share (B,) of tiles
        that agree with them, and whether the pictures tell them (B,) (or they are guesses)."""
        overlap = self._sources >= 0
        old = before.reshape(len(before), -1)[:, self._sources]
        new = np.broadcast_to(after.reshape(len(after), 1, -1), old.shape)
        old_kind, new_kind = self.kinds.of_token[old], self.kinds.of_token[new]
        known = overlap & (old_kind >= 0) & (new_kind >= 0)
        enough = known.sum(axis=-1, keepdims=True) >= MIN_KNOWN
        counted = np.where(enough, known, overlap)
        agrees = np.where(enough, old_kind == new_kind, old == new) & counted
        share = agrees.sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)
        intended = np.array([self.travel.get(action, STILL) for action in actions.tolist()])
        preference = np.full((len(actions), len(self.motions)), -SURPRISE)
        preference[:, 0] = 0
        preference[(self.motions == intended[:, None]).all(axis=-1)] = 1e-6
        best = (share + preference).argmax(axis=1)
        most, moves = share[np.arange(len(best)), best], (intended != STILL).any(axis=1)
        several = (share == most[:, None]).sum(axis=1) > 1
        seen = (known.sum(axis=-1) / overlap.sum(axis=-1)).min(axis=1)
        return self.motions[best], most, ~(moves & several & (seen < WELL_KNOWN))


class Journey:
    """B bodies on the move, with a function `step` from actions (B,) to the tokens (B, rows, columns) of the tiles seen
    next, and the `first` tiles.

    Attributes:
        tiles, poses: of all moments up to now, (B, rows, columns) and (B, 3) each; poses begin at 0.
        guesses: (B,) of all moments up to now, how many of the motions were guesses.
        lost: (B,) whether pictures ever agreed with no motion.
    """

    def __init__(self, tracker: Tracker, step: Callable[[np.ndarray], np.ndarray], first: np.ndarray) -> None:
        self.tracker, self._step = tracker, step
        self.tiles, self.poses = [first], [np.zeros((len(first), 3), dtype=np.int64)]
        self.guesses = [np.zeros(len(first), dtype=np.int64)]
        self.lost = np.zeros(len(first), dtype=bool)

    def go(self, actions: np.ndarray) -> np.ndarray:
        """Act, and find the motion of each body: (B, 3)."""
        tiles = self._step(actions)
        motions, agreement, told = self.tracker.motion(self.tiles[-1], tiles, actions)
        lost = agreement < MIN_AGREEMENT
        poses = move(self.poses[-1], motions)
        poses[lost, 0] += FAR_AWAY
        self.lost |= lost
        self.tiles.append(tiles)
        self.poses.append(poses)
        self.guesses.append(self.guesses[-1] + ~told)
        return motions

    def shown(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What one body saw: poses (T + 1, 3), and of all tiles the tokens, whether they show their cell, and the kind
        of what is there (T + 1, rows, columns)."""
        poses, tokens = (np.stack([each[index] for each in moments]) for moments in (self.poses, self.tiles))
        kinds = self.tracker.kinds.of_token[tokens]
        return poses, tokens, (kinds >= 0) & self.tracker.view.beside_body, kinds


def dream_journeys(
    world: World, tracker: Tracker, slot: Slot, recordings: list[Recording], tiles: list[VisibleTiles], num_dreams: int
) -> Begin:
    """Journeys in dreams, which begin at clear moments of recordings, drawn by the seed."""
    window, span = world.config.model.window, world.layout.span(slot.name)

    def begin(seed: int) -> Journey:
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

        return Journey(tracker, step, tracker.view.tiles(session.tokens[:, span].numpy()))

    return begin


class Wanderer:
    """Chooses actions of travel: goes on as long as the body moves, else takes another way but straight back; after a
    turn it goes ahead."""

    def __init__(self, travel: Travel, rng: np.random.Generator) -> None:
        self._travel, self._rng = travel, rng
        self._steps = [action for action, motion in travel.items() if motion[2] == 0]
        self._last: int | None = None

    def __call__(self, motion: Motion) -> int:
        """The next action, after the last one had this motion; any at first."""
        if self._last is None or motion[2]:
            self._last = self._draw(self._steps or list(self._travel))
        elif motion == STILL or self._rng.random() < TURN_PROBABILITY:
            now = self._travel[self._last]
            aside = [action for action, other in self._travel.items() if other not in (now, opposite(now))]
            self._last = self._draw(aside or list(self._travel))
        return self._last

    def _draw(self, actions: list[int]) -> int:
        return actions[int(self._rng.integers(len(actions)))]


def measure_wandering(
    begin: Begin, tracker: Tracker, window: int, budget: Budget, num_steps: int = WANDER_STEPS
) -> tuple[dict[str, Recall], float]:
    """Wander, and count by age how many tiles whose cell was seen before show again what they showed then, of "all"
    cells and of "landmarks"; and the share of bodies that were lost.

    After a motion that the pictures do not tell, a body is taken to be in another part of the map."""
    journey = begin(0)
    num_bodies = len(journey.lost)
    wanderers = [Wanderer(tracker.travel, np.random.default_rng(index)) for index in range(num_bodies)]
    motions = [STILL] * num_bodies
    for _ in range(num_steps):
        actions = np.array([wander(motion) for wander, motion in zip(wanderers, motions, strict=True)])
        motions = [tuple(motion) for motion in journey.go(actions).tolist()]
        if budget.spent():
            break
    tally = Tally(num_bodies)
    for index in range(num_bodies):
        poses, tokens, shown, kinds = journey.shown(index)
        poses[:, 0] += FAR_AWAY * np.array([guesses[index] for guesses in journey.guesses])
        ages = tile_ages(tracker.view, poses, tokens, shown, kinds)
        correct = {"dream": kinds == ages.last_content}
        landmarks = ages.again & (ages.last_content != tracker.kinds.frequent_kind)
        tally_ages(tally, "all", index, ages.age, correct, ages.again, window)
        tally_ages(tally, "landmarks", index, ages.age, correct, landmarks, window)
    recall = {cells: summarize_ages(tally, cells, window) for cells in ("all", "landmarks")}
    return recall, float(journey.lost.mean())
