"""What the cells of a picture show of the map: which location, whether it was seen before, what is there.

Plug-ins of environments fill in `Cells` and `VisibleTiles` from privileged state; all other worlds are described by
their tokens alone. The privileged state is used for nothing else.

A pose is (row, column, quarter turns clockwise) of the agent on the map. A motion is a change of pose in the
agent's own frame: (rows down, columns right, quarter turns clockwise) of its picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

TURNS = np.array([[[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]]])


@dataclass
class Cells:
    """Groups of observation tokens and conditions on steps of one episode, for steps 1…T.

    Attributes:
        groups: name -> (T, tokens of the slot) bool.
        conditions: name -> (T,) bool, in addition to "all" steps.
        step_conditions: conditions on which whole steps are counted; those of `conditions` if there are none.
    """

    groups: dict[str, np.ndarray]
    conditions: dict[str, np.ndarray]
    step_conditions: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        return len(next(iter(self.groups.values())))


def changed_cells(tokens: np.ndarray) -> Cells:
    """For any world: tokens (T + 1, tokens of the slot) that are unchanged since the step before, and changed ones."""
    unchanged = tokens[1:] == tokens[:-1]
    return Cells({"unchanged": unchanged, "changed": ~unchanged}, {})


def last_seen(locations: np.ndarray, shown: np.ndarray, window: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """When each cell's location was last shown, and where in that picture.

    locations (T + 1, R, C, 2) whole coordinates on the map of every cell; shown (T + 1, R, C) whether it can be seen.
    Returns for steps 0…T the latest step before that showed the location, -1 if none of the last `window` did, and the
    flat index of the cell that showed it: both (T + 1, R, C).
    """
    numbers = number_locations(locations)
    step_of, cell_of = np.full(numbers.max() + 1, -1), np.zeros(numbers.max() + 1, dtype=np.int64)
    last, cell = np.empty(shown.shape, dtype=np.int64), np.empty(shown.shape, dtype=np.int64)
    for step, (here, seen) in enumerate(zip(numbers, shown, strict=True)):
        last[step], cell[step] = step_of[here], cell_of[here]
        step_of[here[seen]], cell_of[here[seen]] = step, np.flatnonzero(seen)
    if window is not None:
        last[last < np.arange(len(last))[:, None, None] - window] = -1
    return last, cell


def number_locations(locations: np.ndarray) -> np.ndarray:
    """locations (…, 2) whole coordinates -> (…) numbers from 0 on, the same for the same location."""
    joined = (locations[..., 0].astype(np.int64) << 32) + locations[..., 1]
    return np.unique(joined, return_inverse=True)[1].reshape(joined.shape)


@dataclass(frozen=True)
class TileView:
    """How a picture shows the map.

    Attributes:
        grid: rows and columns of tokens of the picture; a tile is a token.
        shape: rows and columns of the tiles that show the map, from the picture's top left on.
        agent: row and column of the tile in which the agent stands.
        turns: whether the picture turns with the agent.
    """

    grid: tuple[int, int]
    shape: tuple[int, int]
    agent: tuple[int, int]
    turns: bool = False

    def locations(self, poses: np.ndarray) -> np.ndarray:
        """poses (…, 3) -> (…, rows, columns, 2): the cell (row, column) of the map that each tile shows."""
        rows, columns = (np.arange(size) - origin for size, origin in zip(self.shape, self.agent, strict=True))
        offsets = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
        return poses[..., None, None, :2] + rotate(offsets, poses[..., None, None, 2])

    def tiles(self, tokens: np.ndarray) -> np.ndarray:
        """tokens (…, tokens of the slot) -> (…, rows, columns) of the tiles that show the map."""
        rows, columns = self.shape
        return tokens.reshape(*tokens.shape[:-1], *self.grid)[..., :rows, :columns]

    @property
    def agent_free(self) -> np.ndarray:
        """(rows, columns) True for all tiles but the one that the agent covers."""
        agent_free = np.ones(self.shape, dtype=bool)
        agent_free[self.agent] = False
        return agent_free


@dataclass(frozen=True)
class VisibleTiles:
    """What the tiles of an episode show, T + 1 pictures.

    Attributes:
        view: how pictures show the map.
        poses: (T + 1, 3).
        tokens: (T + 1, rows, columns) of the tiles.
        shown: (T + 1, rows, columns) False where a tile is hidden, beyond the map, or covered by agent or creature.
        content: (T + 1, rows, columns) what is there, a number of 0 or more; means nothing where not shown. The tokens
            themselves where nothing else tells it.
        clear: (T + 1,) False in the dark, when the same content may look different.
    """

    view: TileView
    poses: np.ndarray
    tokens: np.ndarray
    shown: np.ndarray
    content: np.ndarray
    clear: np.ndarray


def rotate(offsets: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """offsets (…, 2) of (rows, columns), turned clockwise by quarter turns (…)."""
    return np.einsum("...ij,...j->...i", TURNS[turns % 4], offsets)


def move(poses: np.ndarray, motions: np.ndarray) -> np.ndarray:
    """poses (…, 3) after motions (…, 3)."""
    locations = poses[..., :2] + rotate(motions[..., :2], poses[..., 2])
    return np.concatenate([locations, (poses[..., 2:] + motions[..., 2:]) % 4], axis=-1)


def motion_between(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The motions (…, 3) that lead from poses (…, 3) to poses (…, 3)."""
    steps = rotate(after[..., :2] - before[..., :2], -before[..., 2])
    return np.concatenate([steps, (after[..., 2:] - before[..., 2:]) % 4], axis=-1)


def opposite(motion: tuple[int, ...]) -> tuple[int, ...]:
    """The motion that undoes a motion that is a step or a turn, not both."""
    return (-motion[0], -motion[1], -motion[2] % 4)
