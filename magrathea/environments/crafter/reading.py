"""What pictures of Crafter show, read by comparison with everything that the game can draw; for evaluation only.

T pictures of 63 x 63 pixels: 7 rows of 9 tiles show the map, two below the inventory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from crafter import engine
from PIL import Image, ImageEnhance

from magrathea.environments.crafter.env import ITEM_NAMES, SEMANTIC_NAMES, CrafterEnv

TILE = 7  # pixels
GRID = (9, 9)  # tiles
NUM_MAP_TILES = 63
GROUND = ("grass", "sand", "path")
DIRECTIONS = ("left", "right", "up", "down")
TEXTURES: dict[str, tuple[str, ...]] = {
    "player": (*(f"player-{direction}" for direction in DIRECTIONS), "player-sleep"),
    "cow": ("cow",),
    "zombie": ("zombie",),
    "skeleton": ("skeleton",),
    "arrow": tuple(f"arrow-{direction}" for direction in DIRECTIONS),
    "plant": ("plant", "plant-ripe", "sapling"),
}
CREATURES = ("cow", "zombie", "skeleton", "arrow", "plant")
DAYLIGHT = np.linspace(0.5, 1, 6)  # below it noise is drawn, and creatures cannot be told
MAP_ERROR = 260.0  # mean squared grey levels up to which a map is read: that of a codebook's tiles is around 100
ITEM_ERROR = 400.0  # and up to which a tile of the inventory is
GAINS = {"wood": "wood", "sapling": "sapling", "drinking": "drink", "eating": "food", "health regained": "health"}
LOSSES = {"damage": "health", "thirst": "drink", "hunger": "food"}


@dataclass(frozen=True)
class Reading:
    """What T pictures show.

    Attributes:
        tiles: (T, 63) numbers as in SEMANTIC_NAMES.
        map_error: (T,) mean squared difference from what the game draws, in grey levels.
        inventory: (T, 16) as in ITEM_NAMES.
        item_error: (T, 16)
    """

    tiles: np.ndarray
    map_error: np.ndarray
    inventory: np.ndarray
    item_error: np.ndarray


def read(frames: np.ndarray) -> Reading:
    """frames (T, 63, 63, 3) uint8."""
    tiles = frames.reshape(-1, GRID[0], TILE, GRID[1], TILE, 3).transpose(0, 1, 3, 2, 4, 5)
    tiles = tiles.reshape(len(frames), GRID[0] * GRID[1], -1).astype(np.float32)
    numbers, drawn = _map_tiles()
    lit = [_nearest(tiles[:, :NUM_MAP_TILES], each) for each in drawn]
    errors = np.stack([error.mean(axis=1) for _, error in lit])
    light, pictures = errors.argmin(axis=0), np.arange(len(frames))
    shown = np.stack([nearest for nearest, _ in lit])[light, pictures]
    below = tiles[:, NUM_MAP_TILES:, None]
    items = [_nearest(below[:, index], _item_tiles()[index]) for index in range(len(ITEM_NAMES))]
    amounts, item_errors = (np.concatenate(part, axis=1) for part in zip(*items, strict=True))
    return Reading(numbers[shown], errors[light, pictures], amounts, item_errors)


def picture_events(frames: np.ndarray) -> dict[str, np.ndarray]:
    """What happens between pictures (T + 1, 63, 63, 3): (T,) by name, 1 or 0, NaN where they do not say."""
    if frames.shape[1:] != (GRID[0] * TILE, GRID[1] * TILE, 3):
        return {}
    seen = read(frames)
    bright = seen.map_error < MAP_ERROR
    readable = np.asarray((seen.item_error < ITEM_ERROR).all(axis=1))
    events = {
        f"{name} in view": np.where(bright, (seen.tiles == SEMANTIC_NAMES.index(name)).any(axis=1), np.nan)[1:]
        for name in CREATURES
    }
    both = readable[1:] & readable[:-1]
    change = np.diff(seen.inventory.astype(np.int64), axis=0)
    for names, sign in ((GAINS, 1), (LOSSES, -1)):
        for name, item in names.items():
            events[name] = np.where(both, sign * change[:, ITEM_NAMES.index(item)] > 0, np.nan)
    tables = (seen.tiles == SEMANTIC_NAMES.index("table")).sum(axis=1)
    paid = change[:, ITEM_NAMES.index("wood")] < 0
    events["table placed"] = np.where(both, (np.diff(tables) > 0) & paid, np.nan)
    tools = [index for index, name in enumerate(ITEM_NAMES) if name.endswith(("pickaxe", "sword"))]
    events["tool made"] = np.where(both, (change[:, tools] > 0).any(axis=1), np.nan)
    return events | {"unreadable inventory": (~readable[1:]).astype(np.float64)}


def _nearest(tiles: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of D drawn tiles (D, P) each of (T, C, P) is nearest to, and the mean squared difference: (T, C) both."""
    flat = tiles.reshape(-1, drawn.shape[-1])
    squares = np.square(flat).sum(axis=-1, keepdims=True) - 2 * (flat @ drawn.T) + np.square(drawn).sum(axis=-1)
    nearest, error = squares.argmin(axis=-1), squares.min(axis=-1) / drawn.shape[-1]
    return nearest.reshape(tiles.shape[:-1]), error.reshape(tiles.shape[:-1])


@cache
def _map_tiles() -> tuple[np.ndarray, list[np.ndarray]]:
    """The semantic numbers (D,) of all tiles that the game draws, and for each daylight their pixels (D, P)."""
    view = CrafterEnv()._simulator._local_view
    unit, world = (TILE, TILE), view._world
    materials = {name: view._table(unit)[number] for number, name in world._mat_names.items() if name}
    named = list(materials.items())
    named.append(("nothing", view._table(unit)[-1]))
    for name, textures in TEXTURES.items():
        ground = (*GROUND, "water", "lava") if name == "arrow" else GROUND
        for texture in textures:
            for below in ground:
                tile = materials[below].copy()
                engine._draw_alpha(tile, (0, 0), view._textures.get(texture, unit))
                named.append((name, tile))
    pixels = np.stack([tile.swapaxes(0, 1) for _, tile in named])
    numbers = np.array([SEMANTIC_NAMES.index(name) for name, _ in named])
    return numbers, [_lit(pixels, float(daylight)) for daylight in DAYLIGHT]


def _lit(tiles: np.ndarray, daylight: float) -> np.ndarray:
    """Tiles (D, 7, 7, 3) as the game darkens them where it draws no noise: (D, P) float32."""
    grey = np.stack([np.asarray(ImageEnhance.Color(Image.fromarray(tile)).enhance(0.4)) for tile in tiles])
    night = 0.5 * grey + 0.5 * np.array([0, 16, 64])
    return (daylight * tiles + (1 - daylight) * night).reshape(len(tiles), -1).astype(np.float32)


@cache
def _item_tiles() -> np.ndarray:
    """What each tile of the inventory shows of 0…9 of an item: (18, 10, P) float32."""
    view = CrafterEnv()._simulator._item_view
    amounts = [view(dict.fromkeys(ITEM_NAMES, amount), (TILE, TILE)).swapaxes(0, 1) for amount in range(10)]
    tiles = np.stack(amounts).reshape(10, 2, TILE, GRID[1], TILE, 3).transpose(1, 3, 0, 2, 4, 5)
    return tiles.reshape(2 * GRID[1], 10, -1).astype(np.float32)
