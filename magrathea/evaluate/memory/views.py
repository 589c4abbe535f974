"""What the tiles of a picture show of the map: which cell, what stands there, and whether it can be seen.

A pose is (row, column, quarter turns clockwise) of the body on the map. A motion is a change of pose as the body sees
it: (rows down, columns right, quarter turns clockwise) in its own picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magrathea.evaluate.cells import CRAFTER_MATERIALS, CRAFTER_WINDOW, DAYLIGHT, shown_tiles
from magrathea.evaluate.recordings import Recording
from magrathea.evaluate.slots import leaf_of
from magrathea.layout import Slot
from magrathea.world import World

TURNS = np.array([[[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]]])
LOOKING_UP = 3  # MiniGrid's direction in which the map stands as its picture does


@dataclass(frozen=True)
class TileView:
    """How a picture shows the map.

    Attributes:
        grid: rows and columns of tokens of the picture; a tile is a token.
        shape: rows and columns of the tiles that show the map, from the picture's top left on.
        body: row and column of the tile in which the body stands.
        turns: whether the picture turns with the body.
    """

    grid: tuple[int, int]
    shape: tuple[int, int]
    body: tuple[int, int]
    turns: bool = False

    def places(self, poses: np.ndarray) -> np.ndarray:
        """poses (…, 3) -> (…, rows, columns, 2): the cell (row, column) of the map that each tile shows."""
        rows, columns = (np.arange(size) - origin for size, origin in zip(self.shape, self.body, strict=True))
        offsets = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
        return poses[..., None, None, :2] + rotate(offsets, poses[..., None, None, 2])

    def tiles(self, tokens: np.ndarray) -> np.ndarray:
        """tokens (…, tokens of the slot) -> (…, rows, columns) of the tiles that show the map."""
        rows, columns = self.shape
        return tokens.reshape(*tokens.shape[:-1], *self.grid)[..., :rows, :columns]

    @property
    def beside_body(self) -> np.ndarray:
        """(rows, columns) True for all tiles but the one that the body covers."""
        beside = np.ones(self.shape, dtype=bool)
        beside[self.body] = False
        return beside


def rotate(offsets: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """offsets (…, 2) of (rows, columns), turned clockwise by quarter turns (…)."""
    return np.einsum("...ij,...j->...i", TURNS[turns % 4], offsets)


def move(poses: np.ndarray, motions: np.ndarray) -> np.ndarray:
    """poses (…, 3) after motions (…, 3)."""
    places = poses[..., :2] + rotate(motions[..., :2], poses[..., 2])
    return np.concatenate([places, (poses[..., 2:] + motions[..., 2:]) % 4], axis=-1)


def motion_between(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The motions (…, 3) that lead from poses (…, 3) to poses (…, 3)."""
    steps = rotate(after[..., :2] - before[..., :2], -before[..., 2])
    return np.concatenate([steps, (after[..., 2:] - before[..., 2:]) % 4], axis=-1)


def opposite(motion: tuple[int, ...]) -> tuple[int, ...]:
    """The motion that undoes a motion that is a step or a turn, not both."""
    return (-motion[0], -motion[1], -motion[2] % 4)


@dataclass(frozen=True)
class Sights:
    """What the tiles of an episode show, T + 1 pictures.

    Attributes:
        poses: (T + 1, 3).
        tokens: (T + 1, rows, columns) of the tiles.
        shown: (T + 1, rows, columns) False where a tile is hidden, beyond the map, or covered by body or creature.
        content: (T + 1, rows, columns) what is there, a number of 0 or more; means nothing where not shown.
        clear: (T + 1,) False in the dark, when the same content may look different.
    """

    poses: np.ndarray
    tokens: np.ndarray
    shown: np.ndarray
    content: np.ndarray
    clear: np.ndarray


def view_of(env_id: str, infos: dict[str, np.ndarray], slot: Slot) -> TileView | None:
    """How the pictures of a slot show the map; None where the privileged state does not say, or a token is no tile."""
    if "Crafter" in env_id and {"position", "semantic", "daylight"} <= infos.keys():
        rows, columns = CRAFTER_WINDOW
        view = TileView((rows + 2, columns), CRAFTER_WINDOW, (rows // 2, columns // 2))
    elif "MiniGrid" in env_id and {"position", "direction", "cells"} <= infos.keys():
        rows, columns = infos["cells"].shape[1:3]
        view = TileView((rows, columns), (rows, columns), (rows - 1, columns // 2), turns=True)
    else:
        return None
    return view if view.grid == slot.grid else None


def sights_of(world: World, view: TileView, recording: Recording, slot: Slot) -> Sights:
    """What the tiles of a recorded episode show, by its privileged state."""
    infos = recording.episode.infos
    tokens = view.tiles(recording.tokens[:, world.layout.span(slot.name)])
    places = infos["position"].astype(np.int64)[:, ::-1]
    if view.turns:
        turns = (infos["direction"].astype(np.int64) - LOOKING_UP) % 4
        shown = shown_tiles(leaf_of(recording.episode.observation, slot), view.shape) & view.beside_body
        content, clear = tokens, np.ones(len(tokens), dtype=bool)
    else:
        turns = np.zeros(len(places), dtype=np.int64)
        content = infos["semantic"].astype(np.int64)
        shown = (content > 0) & (content <= CRAFTER_MATERIALS)
        clear = infos["daylight"] >= DAYLIGHT
        if "sleeping" in infos:
            clear = clear & ~infos["sleeping"].astype(bool)
    return Sights(np.concatenate([places, turns[:, None]], axis=1), tokens, shown, content, clear)


@dataclass(frozen=True)
class Kinds:
    """What tokens stand for.

    Attributes:
        of_token: (vocab_size + 1,) the content that a token shows, -1 where it shows none.
        frequent_kind, frequent_token: what cells show most often.
    """

    of_token: np.ndarray
    frequent_kind: int
    frequent_token: int


def kinds_of_tokens(sights: list[Sights], vocab_size: int) -> Kinds:
    """Give each token the content that most of its clear appearances show; none if most of them show no cell."""
    tokens = np.concatenate([each.tokens[each.clear].ravel() for each in sights])
    content = np.concatenate([np.where(each.shown, each.content, -1)[each.clear].ravel() for each in sights])
    counts = np.zeros((vocab_size + 1, int(content.max(initial=0)) + 2), dtype=np.int64)
    np.add.at(counts, (tokens, content + 1), 1)
    of_cells = counts[:, 1:]
    return Kinds(counts.argmax(axis=1) - 1, int(of_cells.sum(axis=0).argmax()), int(of_cells.sum(axis=1).argmax()))
