"""What MiniGrid's privileged state says of its pictures, for evaluation only."""

from __future__ import annotations

import numpy as np

from magrathea.evaluate.cells import Cells, TileView, VisibleTiles, last_seen

LOOKING_UP = 3  # the direction in which the map stands as its picture does


def describe_cells(
    infos: dict[str, np.ndarray], frames: np.ndarray, tokens: np.ndarray, grid: tuple[int, int], window: int
) -> Cells | None:
    """A tile is new if it shows a location that no picture of the window showed, and was never seen if none of
    the episode did; a hidden tile shows nothing.

    infos["cells"] (T + 1, rows, columns, 2) are the locations on the map that the tiles of the pictures `frames` show.
    """
    if "cells" not in infos or infos["cells"].shape[1:3] != grid:
        return None
    locations = infos["cells"].astype(np.int64)
    shown = shown_tiles(frames, grid)
    new = (last_seen(locations, shown, window)[0][1:] < 0) & shown[1:]
    never = (last_seen(locations, shown)[0][1:] < 0) & shown[1:]
    changed = (tokens[1:] != tokens[:-1]).any(axis=1)
    nothing_new = ~new.any(axis=(1, 2))
    groups = {"visible before": (~new).reshape(len(new), -1), "new": new.reshape(len(new), -1)}
    exact = {
        "nothing new": nothing_new,
        "nothing never seen": ~never.any(axis=(1, 2)),
        "nothing new, picture changed": nothing_new & changed,
        "something new": ~nothing_new,
    }
    conditions = {"nothing new": nothing_new, "picture changed": changed}
    return Cells(groups, conditions, exact)


def shown_tiles(frames: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """frames (T + 1, height, width, 3) of MiniGrid -> (T + 1, rows, columns), False for tiles that walls hide: all that
    the agent sees is lit, and what is hidden is black within its border lines."""
    (rows, columns), (height, width) = grid, frames.shape[1:3]
    tiles = frames.reshape(len(frames), rows, height // rows, columns, width // columns, -1)
    return tiles[:, :, 2:-1, :, 2:-1].max(axis=(2, 4, 5)) > 0


def visible_tiles(
    infos: dict[str, np.ndarray], frames: np.ndarray, tokens: np.ndarray, grid: tuple[int, int]
) -> VisibleTiles | None:
    """The view of the map, which turns with the agent at the middle of its lower edge."""
    if not {"position", "direction", "cells"} <= infos.keys() or infos["cells"].shape[1:3] != grid:
        return None
    rows, columns = grid
    view = TileView(grid, grid, (rows - 1, columns // 2), turns=True)
    turns = (infos["direction"].astype(np.int64) - LOOKING_UP) % 4
    poses = np.concatenate([infos["position"].astype(np.int64)[:, ::-1], turns[:, None]], axis=1)
    tiles = view.tiles(tokens)
    shown = shown_tiles(frames, grid) & view.agent_free
    return VisibleTiles(view, poses, tiles, shown, tiles, np.ones(len(tiles), dtype=bool))
