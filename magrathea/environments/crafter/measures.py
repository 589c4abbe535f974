"""What Crafter's privileged state says of its pictures, and how its random choices are redrawn; for evaluation only."""

from __future__ import annotations

import gymnasium
import numpy as np

from magrathea.evaluate.cells import Cells, TileView, VisibleTiles, last_seen

DAYLIGHT = 0.5  # noise is drawn where daylight < 0.5 and none at all from there on: 58% of the day of 300 steps
MAP_SHAPE = (7, 9)  # rows and columns of tiles that show the map; two rows of inventory lie below them
NUM_MATERIALS = 12  # semantic numbers 1…12 are materials, above are player and creatures, 0 is beyond the map
VIEW = TileView((9, 9), MAP_SHAPE, (3, 4))


def resample(env: gymnasium.Env, seed: int) -> None:
    """Redraw the random choices from here on: creatures go another way, plants grow at other times."""
    env.unwrapped.world.random.seed(seed)  # pyright: ignore


def describe_cells(
    infos: dict[str, np.ndarray], frames: np.ndarray, tokens: np.ndarray, grid: tuple[int, int], window: int
) -> Cells | None:
    """Still cells show a material that has not changed since it was last seen; player, creatures, plants and
    anything that changed are in motion. The inventory is a group of its own; night and sleep are conditions."""
    if not {"position", "semantic", "daylight"} <= infos.keys() or grid != VIEW.grid:
        return None
    semantic = infos["semantic"].astype(np.int64)
    locations = VIEW.locations(_poses(infos))
    last, cell = (each[1:] for each in last_seen(locations, np.ones(semantic.shape, dtype=bool), window))
    before = np.where(last >= 0, semantic.reshape(len(semantic), -1)[last, cell], -1)
    visible = last >= 0
    still = visible & (before == semantic[1:]) & (semantic[1:] <= NUM_MATERIALS)
    groups = {"visible and still": still, "visible, in motion": visible & ~still, "new": ~visible}
    below = ((0, 0), (0, VIEW.grid[0] - MAP_SHAPE[0]), (0, 0))  # the inventory's tokens
    groups = {name: np.pad(members, below).reshape(len(members), -1) for name, members in groups.items()}
    groups["inventory"] = ~np.logical_or.reduce(list(groups.values()))
    day = infos["daylight"] >= DAYLIGHT
    conditions = {"daylight": day[1:], "night": ~day[1:]}
    if "sleeping" in infos:
        conditions["asleep"] = infos["sleeping"][1:].astype(bool)
    return Cells(groups, conditions)


def _poses(infos: dict[str, np.ndarray]) -> np.ndarray:
    """(T + 1, 3)"""
    return np.pad(infos["position"].astype(np.int64)[:, ::-1], ((0, 0), (0, 1)))


def visible_tiles(
    infos: dict[str, np.ndarray], frames: np.ndarray, tokens: np.ndarray, grid: tuple[int, int]
) -> VisibleTiles | None:
    """The view of the map: materials are shown, player and creatures cover them; it is clear in daylight."""
    if not {"position", "semantic", "daylight"} <= infos.keys() or grid != VIEW.grid:
        return None
    content = infos["semantic"].astype(np.int64)
    clear = infos["daylight"] >= DAYLIGHT
    if "sleeping" in infos:
        clear = clear & ~infos["sleeping"].astype(bool)
    shown = (content > 0) & (content <= NUM_MATERIALS)
    return VisibleTiles(VIEW, _poses(infos), VIEW.tiles(tokens), shown, content, clear)
