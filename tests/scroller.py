"""A map that is known by hand, and bodies that see a piece of it around or before them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from magrathea.evaluate.cells import TileView, VisibleTiles, move
from magrathea.evaluate.recall import TileKinds
from magrathea.evaluate.travel import STILL, Journey, Tracker

NUM_KINDS = 8  # tokens 1…8 show kinds 0…7, of which 0 is a wall; 0 shows a thing that covers its cell
WALL = 0
AROUND = TileView(grid=(6, 7), shape=(5, 7), body=(2, 3))
BEFORE = TileView(grid=(5, 5), shape=(5, 5), body=(4, 2), turns=True)
STEPS = {1: (0, -1, 0), 2: (0, 1, 0), 3: (-1, 0, 0), 4: (1, 0, 0)}
TURNS = {1: (0, 0, 3), 2: (0, 0, 1), 3: (-1, 0, 0)}
KINDS = TileKinds(np.arange(-1, NUM_KINDS + 1), frequent_kind=1, frequent_token=2)


def travel(view: TileView) -> dict[int, tuple[int, ...]]:
    return TURNS if view.turns else STEPS


def random_map(seed: int, size: int = 60) -> np.ndarray:
    """(size, size) kinds, with a wall around and some within."""
    dice = np.random.default_rng(seed)
    kinds = dice.integers(1, NUM_KINDS, (size, size))
    kinds[dice.random((size, size)) < 0.1] = WALL
    kinds[:8] = kinds[-8:] = kinds[:, :8] = kinds[:, -8:] = WALL
    return kinds


def look(view: TileView, kinds: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The tokens (rows, columns) that a body sees; its own tile is covered by it."""
    places = view.places(pose)
    return np.where(view.beside_body, kinds[places[..., 0], places[..., 1]] + 1, 0)


def walk(view: TileView, kinds: np.ndarray, pose: np.ndarray, action: int) -> np.ndarray:
    """The pose after an action; walls stop the body."""
    after = move(pose, np.array(travel(view).get(action, STILL)))
    return pose if kinds[after[0], after[1]] == WALL else after


def free_pose(kinds: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    free = np.argwhere(kinds != WALL)
    return np.array([*free[dice.integers(len(free))], 0])


def record(view: TileView, kinds: np.ndarray, num_steps: int, seed: int = 0) -> tuple[VisibleTiles, np.ndarray]:
    """Random travel over the map, and its actions (T,)."""
    dice = np.random.default_rng(seed)
    actions = np.repeat(dice.integers(0, len(travel(view)) + 1, num_steps), 3)[:num_steps]
    poses = [free_pose(kinds, dice)]
    for action in actions:
        poses.append(walk(view, kinds, poses[-1], int(action)))
    tokens = np.stack([look(view, kinds, pose) for pose in poses])
    clear = np.ones(len(tokens), dtype=bool)
    return VisibleTiles(view, np.stack(poses), tokens, tokens > 0, tokens - 1, clear), actions


def journeys(view: TileView, num_rows: int, remembered: float = np.inf) -> Callable[[int], Journey]:
    """Dreams of a random map each, which draws cells anew that were out of sight for more than `remembered` steps."""

    def begin(seed: int) -> Journey:
        dice = np.random.default_rng(seed)
        maps = [random_map(seed + row) for row in range(num_rows)]
        poses = [free_pose(kinds, dice) for kinds in maps]
        last_seen = np.zeros((num_rows, *maps[0].shape), dtype=np.int64)
        moment = 0

        def see(row: int) -> np.ndarray:
            places = view.places(poses[row])
            rows, columns = places[..., 0], places[..., 1]
            forgotten = (moment - last_seen[row, rows, columns] > remembered) & (maps[row][rows, columns] != WALL)
            maps[row][rows[forgotten], columns[forgotten]] = dice.integers(1, NUM_KINDS, int(forgotten.sum()))
            last_seen[row, rows, columns] = moment
            return look(view, maps[row], poses[row])

        def step(actions: np.ndarray) -> np.ndarray:
            nonlocal moment
            moment += 1
            for row, action in enumerate(actions):
                poses[row] = walk(view, maps[row], poses[row], int(action))
            return np.stack([see(row) for row in range(num_rows)])

        return Journey(Tracker(view, KINDS, travel(view)), step, np.stack([see(row) for row in range(num_rows)]))

    return begin
