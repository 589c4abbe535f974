"""The pose, told by the pictures themselves: the tiles of successive frames are laid over each other.

Of all motions that are possible, the one is taken under which most tiles agree; between equals, what the action was
meant to do, then standing still. On an open meadow in daylight that is right. In the dark, where equals may be due to
all that is not seen, it is a guess, and said to be one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from magrathea.evaluate.memory.views import Kinds, Sights, TileView, motion_between, move

Motion = tuple[int, ...]
Travel = dict[int, Motion]  # what each action that moves the body does to it, if nothing is in the way

STILL: Motion = (0, 0, 0)
LEAST_KNOWN = 10  # tiles that must be told apart by what they show, before they alone decide
WELL_KNOWN = 0.75  # share of the tiles that must be so, for what was meant to be believed between equals
LEAST_AGREEMENT = 0.5  # share of tiles below which the body is lost
SURPRISE = 0.1  # share of tiles by which a motion that was not meant must agree better
LEAST_MOVING = 0.1  # share of an action's uses that moves the body, from which it is an action of travel
FAR_AWAY = 100_000  # rows to another part of the map, where one who is lost begins anew


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
        if motions.total() >= max(1, LEAST_MOVING * num_uses):
            travel[action] = motions.most_common(1)[0][0]
    return travel


class Tracker:
    """Finds the motion between two pictures.

    Args:
        view: how pictures show the map.
        kinds: what tokens stand for.
        travel: what actions are meant to do.
    """

    def __init__(self, view: TileView, kinds: Kinds, travel: Travel) -> None:
        self.view, self.kinds, self.travel = view, kinds, travel
        sides = [STILL, (-1, 0, 0), (0, 0, 1), (0, 0, 3)] if view.turns else _neighbours()
        self.motions = np.array(sides)
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
        that agree with them, and whether the pictures tell so much (B,), or it is a guess."""
        overlap = self._sources >= 0
        old = before.reshape(len(before), -1)[:, self._sources]
        new = np.broadcast_to(after.reshape(len(after), 1, -1), old.shape)
        old_kind, new_kind = self.kinds.of_token[old], self.kinds.of_token[new]
        known = overlap & (old_kind >= 0) & (new_kind >= 0)
        enough = known.sum(axis=-1, keepdims=True) >= LEAST_KNOWN
        counted = np.where(enough, known, overlap)
        agrees = np.where(enough, old_kind == new_kind, old == new) & counted
        share = agrees.sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)
        best = (share + self._preference(actions)).argmax(axis=1)
        each = np.arange(len(best))
        most, moves = share[each, best], (self._meant(actions) != STILL).any(axis=1)
        several = (share == most[:, None]).sum(axis=1) > 1
        seen = (known.sum(axis=-1) / overlap.sum(axis=-1)).min(axis=1)
        return self.motions[best], most, ~(moves & several & (seen < WELL_KNOWN))

    def _meant(self, actions: np.ndarray) -> np.ndarray:
        """(B, 3) what actions do, if nothing is in the way."""
        return np.array([self.travel.get(action, STILL) for action in actions.tolist()])

    def _preference(self, actions: np.ndarray) -> np.ndarray:
        """(B, number of motions)"""
        meant = self._meant(actions)
        preference = np.full((len(actions), len(self.motions)), -SURPRISE)
        preference[:, 0] = 0
        preference[(self.motions == meant[:, None]).all(axis=-1)] = 1e-6
        return preference

    def accuracy(self, sights: Sights, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether the motion found between the pictures of a recorded episode is the one that took place (T,), and
        whether it was no guess (T,)."""
        found, _, told = self.motion(sights.tokens[:-1], sights.tokens[1:], actions)
        return (found == motion_between(sights.poses[:-1], sights.poses[1:])).all(axis=-1), told


def _neighbours() -> list[Motion]:
    steps = [(row, column, 0) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    return sorted(steps, key=lambda motion: motion != STILL)


class Journey:
    """B bodies on the move.

    Args:
        tracker: tells their motions.
        step: actions (B,) -> tokens (B, rows, columns) of the tiles seen next; of a dream, or of reality.
        first: (B, rows, columns) the tiles seen at first.

    Attributes:
        tiles, poses: of all moments up to now, (B, rows, columns) and (B, 3) each; poses begin at 0.
        guesses: (B,) of all moments up to now, how many of the motions were guesses.
        lost: (B,) whether pictures ever did not agree with any motion.
    """

    def __init__(self, tracker: Tracker, step: Callable[[np.ndarray], np.ndarray], first: np.ndarray) -> None:
        self.tracker, self._step = tracker, step
        self.tiles, self.poses = [first], [np.zeros((len(first), 3), dtype=np.int64)]
        self.guesses = [np.zeros(len(first), dtype=np.int64)]
        self.lost = np.zeros(len(first), dtype=bool)

    def go(self, actions: np.ndarray) -> np.ndarray:
        """Act, and find out how each body moved: (B, 3)."""
        tiles = self._step(actions)
        motions, agreement, told = self.tracker.motion(self.tiles[-1], tiles, actions)
        lost = agreement < LEAST_AGREEMENT
        poses = move(self.poses[-1], motions)
        poses[lost, 0] += FAR_AWAY
        self.lost |= lost
        self.tiles.append(tiles)
        self.poses.append(poses)
        self.guesses.append(self.guesses[-1] + ~told)
        return motions

    def shown(self, row: int, end: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What one body saw up to a moment: poses (T + 1, 3), and of all tiles the tokens, whether they show their
        cell, and the kind of what is there (T + 1, rows, columns)."""
        poses, tokens = (np.stack([each[row] for each in moments[:end]]) for moments in (self.poses, self.tiles))
        kinds = self.tracker.kinds.of_token[tokens]
        return poses, tokens, (kinds >= 0) & self.tracker.view.beside_body, kinds
