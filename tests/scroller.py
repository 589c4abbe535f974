"""A random map, and an agent that sees the part of it that is around it, or before it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from magrathea.evaluate.cells import TileView, VisibleTiles, move
from magrathea.evaluate.recall import TileKinds
from magrathea.evaluate.self_consistency import STILL, TrackedDreams, Tracker

NUM_KINDS = 8  # tokens 1…8 show kinds 0…7, of which 0 is a wall; 0 shows a thing that covers its cell
WALL = 0
AROUND = TileView(grid=(6, 7), shape=(5, 7), agent=(2, 3))
BEFORE = TileView(grid=(5, 5), shape=(5, 5), agent=(4, 2), turns=True)
STEPS = {1: (0, -1, 0), 2: (0, 1, 0), 3: (-1, 0, 0), 4: (1, 0, 0)}
TURNS = {1: (0, 0, 3), 2: (0, 0, 1), 3: (-1, 0, 0)}
KINDS = TileKinds(np.arange(-1, NUM_KINDS + 1), frequent_kind=1, frequent_token=2)


def action_motions(view: TileView) -> dict[int, tuple[int, ...]]:
    return TURNS if view.turns else STEPS


def random_map(seed: int, size: int = 60) -> np.ndarray:
    """(size, size) kinds, with a wall around and some within."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(1, NUM_KINDS, (size, size))
    kinds[rng.random((size, size)) < 0.1] = WALL
    kinds[:8] = kinds[-8:] = kinds[:, :8] = kinds[:, -8:] = WALL
    return kinds


def look(view: TileView, kinds: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The tokens (rows, columns) that the agent sees; it covers its own tile."""
    locations = view.locations(pose)
    return np.where(view.agent_free, kinds[locations[..., 0], locations[..., 1]] + 1, 0)


def walk(view: TileView, kinds: np.ndarray, pose: np.ndarray, action: int) -> np.ndarray:
    """The pose after an action; walls stop the agent."""
    after = move(pose, np.array(action_motions(view).get(action, STILL)))
    return pose if kinds[after[0], after[1]] == WALL else after


def free_pose(kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    free = np.argwhere(kinds != WALL)
    return np.array([*free[rng.integers(len(free))], 0])


def record(view: TileView, kinds: np.ndarray, num_steps: int, seed: int = 0) -> tuple[VisibleTiles, np.ndarray]:
    """An episode of random actions on the map, and the actions (T,)."""
    rng = np.random.default_rng(seed)
    actions = np.repeat(rng.integers(0, len(action_motions(view)) + 1, num_steps), 3)[:num_steps]
    poses = [free_pose(kinds, rng)]
    for action in actions:
        poses.append(walk(view, kinds, poses[-1], int(action)))
    tokens = np.stack([look(view, kinds, pose) for pose in poses])
    clear = np.ones(len(tokens), dtype=bool)
    return VisibleTiles(view, np.stack(poses), tokens, tokens > 0, tokens - 1, clear), actions


def start_dreams(view: TileView, num_dreams: int, remembered: float = np.inf) -> Callable[[int], TrackedDreams]:
    """Dreams of a random map each, which draws cells anew that were out of sight for more than `remembered` steps."""

    def begin(seed: int) -> TrackedDreams:
        rng = np.random.default_rng(seed)
        maps = [random_map(seed + index) for index in range(num_dreams)]
        poses = [free_pose(kinds, rng) for kinds in maps]
        last_seen = np.zeros((num_dreams, *maps[0].shape), dtype=np.int64)
        moment = 0

        def see(index: int) -> np.ndarray:
            locations = view.locations(poses[index])
            rows, columns = locations[..., 0], locations[..., 1]
            forgotten = (moment - last_seen[index, rows, columns] > remembered) & (maps[index][rows, columns] != WALL)
            maps[index][rows[forgotten], columns[forgotten]] = rng.integers(1, NUM_KINDS, int(forgotten.sum()))
            last_seen[index, rows, columns] = moment
            return look(view, maps[index], poses[index])

        def step(actions: np.ndarray) -> np.ndarray:
            nonlocal moment
            moment += 1
            for index, action in enumerate(actions):
                poses[index] = walk(view, maps[index], poses[index], int(action))
            return np.stack([see(index) for index in range(num_dreams)])

        return TrackedDreams(
            Tracker(view, KINDS, action_motions(view)), step, np.stack([see(index) for index in range(num_dreams)])
        )

    return begin
