"""Which cells of a picture could have been foretold: seen before in the window, new, still or in motion.

For worlds with privileged state the answer comes from the map, for all others from the picture alone. The privileged
state serves for nothing but this.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from magrathea.layout import Slot

DAYLIGHT = 0.5  # Crafter draws noise where daylight < 0.5 and none at all from there on: 58% of its day of 300 steps
FAINT = 4.0  # root-mean-square grey levels that a picture may be off and still count as the same to the eye
CRAFTER_WINDOW = (7, 9)  # rows and columns of tiles that show the map; two rows of inventory lie below them
CRAFTER_MATERIALS = 12  # semantic numbers 1…12 are materials, above are player and creatures, 0 is beyond the map


@dataclass
class Cells:
    """Groups of observation tokens and conditions on steps of one episode, for steps 1…T.

    Attributes:
        groups: name -> (T, tokens of the slot) bool.
        conditions: name -> (T,) bool; "all" is always among them.
        tolerance: (T, tokens of the slot) root-mean-square grey levels within which two renderings are the same.
        copied: (T, tokens of the slot) the token that showed the same place when it was last seen in the window, -1
            where none did: how far a perfect memory of the map comes, which tells how steady the tokens are.
        exact_steps: conditions for which whole steps are counted, where those differ.
    """

    groups: dict[str, np.ndarray]
    conditions: dict[str, np.ndarray]
    tolerance: np.ndarray
    copied: np.ndarray | None = None
    exact_steps: dict[str, np.ndarray] = field(default_factory=dict)


def describe_cells(
    env_id: str, infos: dict[str, np.ndarray], frames: np.ndarray, tokens: np.ndarray, slot: Slot, window: int
) -> Cells:
    """Sort the tokens of a slot.

    Args:
        env_id: decides which privileged state is understood.
        infos: the episode's, each (T + 1, …); may be empty.
        frames: (T + 1, …) the slot's values in the real episode.
        tokens: (T + 1, tokens of the slot) of them.
        window: W, past steps that the model sees.
    """
    if "Crafter" in env_id and {"position", "semantic", "daylight"} <= infos.keys() and min(slot.grid) >= 9:
        return crafter_cells(infos, tokens, slot.grid, window)
    if "MiniGrid" in env_id and "cells" in infos and frames.ndim == 4 and min(slot.grid) >= 7:
        return minigrid_cells(infos, frames, tokens, slot.grid, window)
    return changed_cells(tokens)


def changed_cells(tokens: np.ndarray) -> Cells:
    """Any world: tokens that are as they were a step before, and tokens that are not."""
    unchanged = tokens[1:] == tokens[:-1]
    steps = np.ones(len(unchanged), dtype=bool)
    return Cells({"unchanged": unchanged, "changed": ~unchanged}, {"all": steps}, np.full(unchanged.shape, FAINT))


def last_sights(places: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When each cell's place was last shown, and where in that picture.

    places (T + 1, R, C, 2) whole coordinates on the map of every cell; shown (T + 1, R, C) whether it can be seen.
    Returns for steps 0…T the latest step before that showed the place, -1 if none did, and the flat index of the cell
    that showed it: both (T + 1, R, C).
    """
    numbers = number_places(places)
    step_of, cell_of = np.full(numbers.max() + 1, -1), np.zeros(numbers.max() + 1, dtype=np.int64)
    last, cell = np.empty(shown.shape, dtype=np.int64), np.empty(shown.shape, dtype=np.int64)
    for step, (here, seen) in enumerate(zip(numbers, shown, strict=True)):
        last[step], cell[step] = step_of[here], cell_of[here]
        step_of[here[seen]], cell_of[here[seen]] = step, np.flatnonzero(seen)
    return last, cell


def number_places(places: np.ndarray) -> np.ndarray:
    """places (…, 2) whole coordinates -> (…) numbers from 0 on, the same for the same place."""
    joined = (places[..., 0].astype(np.int64) << 32) + places[..., 1]
    return np.unique(joined, return_inverse=True)[1].reshape(joined.shape)


def seen_before(places: np.ndarray, shown: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """`last_sights` of steps 1…T, where they lie within the window."""
    last, cell = last_sights(places, shown)
    within = last >= np.arange(len(last))[:, None, None] - window
    return np.where(within, last, -1)[1:], cell[1:]


def content_at(values: np.ndarray, last: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """values (T + 1, R, C) of cells -> (…): the values of `cell` at step `last`, -1 where that is -1."""
    return np.where(last >= 0, values.reshape(len(values), -1)[last, cell], -1)


def crafter_cells(infos: dict[str, np.ndarray], tokens: np.ndarray, grid: tuple[int, int], window: int) -> Cells:
    """Crafter: still cells show a material that has not changed since it was last seen; player, creatures, plants and
    anything that changed are in motion. The inventory is a group of its own; night and sleep are conditions."""
    semantic = infos["semantic"].astype(np.int64)
    rows, columns = CRAFTER_WINDOW
    offsets = np.stack(np.meshgrid(np.arange(rows) - rows // 2, np.arange(columns) - columns // 2, indexing="ij"), -1)
    places = infos["position"].astype(np.int64)[:, None, None, ::-1] + offsets  # (T + 1, rows, columns, (row, column))
    shown = np.ones(semantic.shape, dtype=bool)
    last, cell = seen_before(places, shown, window)
    before = content_at(semantic, last, cell)
    visible = last >= 0
    still = visible & (before == semantic[1:]) & (semantic[1:] <= CRAFTER_MATERIALS)
    groups = {"visible and still": still, "visible, in motion": visible & ~still, "new": ~visible}
    spread_groups = {name: _place(mask, grid) for name, mask in groups.items()}
    spread_groups["inventory"] = _place(np.ones((len(still), 2, 9), dtype=bool), grid, top=rows)
    light = infos["daylight"][1:].astype(np.float64)
    asleep = infos["sleeping"][1:].astype(bool) if "sleeping" in infos else np.zeros(len(light), dtype=bool)
    day = light >= DAYLIGHT
    conditions = {"all": np.ones(len(day), dtype=bool), "daylight": day, "night": ~day, "asleep": asleep}
    noise = _place(crafter_noise(light), grid)
    copied = None
    if grid == (rows + 2, columns):
        copied = np.full((len(still), *grid), -1)
        copied[:, :rows] = content_at(tokens.reshape(-1, *grid)[:, :rows], last, cell)
        copied = copied.reshape(len(still), -1)
    return Cells(spread_groups, conditions, np.maximum(noise, FAINT), copied)


def crafter_noise(daylight: np.ndarray) -> np.ndarray:
    """daylight (T,) -> (T, 7, 9) root-mean-square grey levels between two draws of the night's noise over one scene.

    From the game's renderer: a uniform draw from 32…127 is mixed in with 2 (0.5 - daylight) times a vignette, then
    halved by a tint, then mixed in with 1 - daylight.
    """
    rows, columns = (np.linspace(-1, 1, 2 * size + 1)[1::2] for size in CRAFTER_WINDOW)
    vignette = 1 - np.exp(-0.5 * (rows[:, None] ** 2 + columns[None] ** 2) / 0.5**2)
    amount = np.clip(2 * (0.5 - daylight), 0, None) * 0.5 * (1 - daylight)
    deviation = (127 - 32) / np.sqrt(12)
    return np.sqrt(2) * deviation * amount[:, None, None] * vignette


def minigrid_cells(
    infos: dict[str, np.ndarray], frames: np.ndarray, tokens: np.ndarray, grid: tuple[int, int], window: int
) -> Cells:
    """MiniGrid: a tile is new if it shows a place that no picture of the window showed, and was never seen if none of
    the episode did; a hidden tile shows nothing.

    infos["cells"] (T + 1, rows, columns, 2) are the places on the map that the tiles of the pictures `frames` show.
    """
    places = infos["cells"].astype(np.int64)
    shown = shown_tiles(frames, places.shape[1:3])
    last, cell = seen_before(places, shown, window)
    new = (last < 0) & shown[1:]
    changed = (tokens[1:] != tokens[:-1]).any(axis=1)
    nothing_new = ~new.any(axis=(1, 2))
    groups = {"visible before": _place(~new, grid), "new": _place(new, grid)}
    steps = np.ones(len(new), dtype=bool)
    conditions = {"all": steps, "nothing new": nothing_new, "picture changed": changed}
    ever, _ = seen_before(places, shown, len(places))
    exact = {
        "nothing new": nothing_new,
        "nothing never seen": ~((ever < 0) & shown[1:]).any(axis=(1, 2)),
        "nothing new, picture changed": nothing_new & changed,
        "something new": ~nothing_new,
        "all": steps,
    }
    copied = None
    if grid == places.shape[1:3]:
        copied = content_at(tokens.reshape(-1, *grid), last, cell)
        copied = np.where(shown[1:], copied, -1).reshape(len(new), -1)
    return Cells(groups, conditions, np.full(tokens[1:].shape, FAINT), copied, exact)


def shown_tiles(frames: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """frames (T + 1, height, width, 3) of MiniGrid -> (T + 1, rows, columns), False for tiles that walls hide: all that
    the agent sees is lit, and what is hidden is black within its border lines."""
    height, width = frames.shape[1] // grid[0], frames.shape[2] // grid[1]
    tiles = frames.reshape(len(frames), grid[0], height, grid[1], width, -1).swapaxes(2, 3)
    return tiles[:, :, :, 2:-1, 2:-1].max(axis=(3, 4, 5)) > 0


def _place(values: np.ndarray, grid: tuple[int, int], top: int = 0) -> np.ndarray:
    """Spread tiles (T, r, c), of a picture of c x c tiles, whose first row is `top`, over a token grid, flat.

    Tokens outside of the tiles get False or 0. Returns (T, grid rows * grid columns).
    """
    num_rows, num_columns = values.shape[1:]
    row = ((np.arange(grid[0]) + 0.5) * num_columns / grid[0]).astype(int) - top
    column = ((np.arange(grid[1]) + 0.5) * num_columns / grid[1]).astype(int)
    inside = (row >= 0) & (row < num_rows)
    spread = values[:, np.clip(row, 0, num_rows - 1)][:, :, column]
    spread = np.where(inside[None, :, None], spread, np.zeros((), dtype=values.dtype))
    return spread.reshape(len(values), -1)
