"""Crafter as a Gymnasium environment: the same game and the same random draws, drawn several times faster.

The `crafter` package has the old Gym API and draws its picture cell by cell. Here the dynamics are the package's, and
the picture is composed from tables of tiles; it is equal to the package's, pixel for pixel. One thing differs on
purpose: the package keeps the creatures of a chunk in a `set`, whose order depends on memory addresses, so a seed could
give different episodes in different processes. Here they keep their order of insertion.
"""

from __future__ import annotations

import collections
from typing import Any

import crafter
import gymnasium
import numpy as np
from crafter import constants, engine, objects
from gymnasium import spaces

ACTION_NAMES: tuple[str, ...] = tuple(constants.actions)
ITEM_NAMES: tuple[str, ...] = tuple(constants.items)
ACHIEVEMENT_NAMES: tuple[str, ...] = tuple(constants.achievements)
SEMANTIC_NAMES: tuple[str, ...] = (
    "nothing",
    *constants.materials,
    "player",
    "cow",
    "zombie",
    "skeleton",
    "arrow",
    "plant",
)
KEYS = {
    "move_left": ("ArrowLeft", "a"),
    "move_right": ("ArrowRight", "d"),
    "move_up": ("ArrowUp", "w"),
    "move_down": ("ArrowDown", "s"),
    "do": (" ",),
    "sleep": ("z",),
    "place_stone": ("r",),
    "place_table": ("t",),
    "place_furnace": ("f",),
    "place_plant": ("p",),
    "make_wood_pickaxe": ("1",),
    "make_stone_pickaxe": ("2",),
    "make_iron_pickaxe": ("3",),
    "make_wood_sword": ("4",),
    "make_stone_sword": ("5",),
    "make_iron_sword": ("6",),
    "noop": ("n",),
}


class _OrderedSet(dict):
    """A set that iterates in the order of insertion."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


class _World(engine.World):
    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self._chunks = collections.defaultdict(_OrderedSet)


class _LocalView(engine.LocalView):
    """The package's local view, composed from tables: (columns * unit, rows * unit, 3), before the transposition."""

    def __init__(self, world: engine.World, textures: engine.Textures, grid: list[int]) -> None:
        super().__init__(world, textures, grid)
        self._tables: dict[tuple[int, int], np.ndarray] = {}
        self._blended: dict[tuple, np.ndarray] = {}

    def _table(self, unit: tuple[int, int]) -> np.ndarray:
        """Textures of all materials: (materials + 1, unit, unit, 3) uint8; the last is drawn outside of the area."""
        if unit not in self._tables:
            names = [self._world._mat_names[index] for index in range(len(self._world._mat_names))]
            textures = [self._textures.get(name, unit)[..., :3] for name in names]
            self._tables[unit] = np.stack([*textures, np.full((*unit, 3), 127, np.uint8)])
        return self._tables[unit]

    def __call__(self, player: objects.Player, unit: Any) -> np.ndarray:
        unit = (int(unit[0]), int(unit[1]))
        (columns, rows), (width, height) = self._grid.tolist(), unit
        left, top = (np.asarray(player.pos) - self._offset).tolist()
        materials = crop(self._world._mat_map, left, top, columns, rows, len(self._world._mat_names))
        indices = crop(self._world._obj_map, left, top, columns, rows, 0)
        table = self._table(unit)
        canvas = table[materials].transpose(0, 2, 1, 3, 4).reshape(columns * width, rows * height, 3)
        for x, y in np.argwhere(indices).tolist():
            creature = self._world._objects[indices[x, y]]
            tile = self._tile(creature.texture, int(materials[x, y]), unit)
            canvas[x * width : (x + 1) * width, y * height : (y + 1) * height] = tile
        canvas = self._light(canvas, self._world.daylight)
        return self._sleep(canvas) if player.sleeping else canvas

    def _tile(self, texture: str, material: int, unit: tuple[int, int]) -> np.ndarray:
        """The picture of a creature over a material, blended as the package does: (unit, unit, 3) uint8."""
        key = (texture, material, unit)
        if key not in self._blended:
            tile = self._table(unit)[material].copy()
            engine._draw_alpha(tile, (0, 0), self._textures.get(texture, unit))
            self._blended[key] = tile
        return self._blended[key]


def crop(values: np.ndarray, left: int, top: int, columns: int, rows: int, outside: int) -> np.ndarray:
    """The (columns, rows) patch of a map whose corner is at (left, top), filled with `outside` beyond the map."""
    patch = np.full((columns, rows), outside, values.dtype)
    x, y = max(left, 0), max(top, 0)
    right, bottom = min(left + columns, values.shape[0]), min(top + rows, values.shape[1])
    if right > x and bottom > y:
        patch[x - left : right - left, y - top : bottom - top] = values[x:right, y:bottom]
    return patch


class _ItemView(engine.ItemView):
    """The package's inventory view, with a cache of pictures by inventory."""

    def __init__(self, textures: engine.Textures, grid: list[int]) -> None:
        super().__init__(textures, grid)
        self._pictures: dict[tuple, np.ndarray] = {}

    def __call__(self, inventory: dict[str, int], unit: Any) -> np.ndarray:
        key = (*inventory.values(), int(unit[0]), int(unit[1]))
        if key not in self._pictures:
            if len(self._pictures) > 10_000:
                self._pictures.clear()
            self._pictures[key] = super().__call__(inventory, unit)
        return self._pictures[key]


class _Simulator(crafter.Env):
    """The package's environment with an ordered world and the fast views."""

    def __init__(self, area: tuple[int, int], view: tuple[int, int], size: tuple[int, int], length: int) -> None:
        super().__init__(area=area, view=view, size=size, length=length, seed=0)
        item_rows = int(np.ceil(len(constants.items) / view[0]))
        self._world = _World(area, constants.materials, (12, 12))
        self._local_view = _LocalView(self._world, self._textures, [view[0], view[1] - item_rows])
        self._item_view = _ItemView(self._textures, [view[0], item_rows])
        self._sem_view = lambda: None

    def start(self, seed: int) -> np.ndarray:
        """Start the world of a seed and return its first picture."""
        self._seed, self._episode = seed, 0
        return self.reset()


class CrafterEnv(gymnasium.Env):
    """Crafter: survival on an island of 64x64 tiles, seen through a window of 9x7 tiles with the inventory below it.

    Observation: (height, width, 3) uint8; at the default 63x63 a tile is exactly 7x7 pixels. Action: Discrete(17).
    If not `mortal`, a player that would have died has full health again, so that episodes may be of any length.
    `info` holds the privileged state, for evaluation only: see `CrafterEnv.info`.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "action_names": ACTION_NAMES,
        "key_map": {key: ACTION_NAMES.index(name) for name, keys in KEYS.items() for key in keys},
        "counters": ("inventory", "achievements", "sleeping"),
        "info_names": {"inventory": ITEM_NAMES, "achievements": ACHIEVEMENT_NAMES},
    }

    def __init__(
        self,
        size: tuple[int, int] = (63, 63),
        area: tuple[int, int] = (64, 64),
        view: tuple[int, int] = (9, 9),
        length: int = 10_000,
        mortal: bool = True,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode, self.mortal = render_mode, mortal
        self.observation_space = spaces.Box(0, 255, (size[1], size[0], 3), np.uint8)
        self.action_space = spaces.Discrete(len(ACTION_NAMES))
        self._simulator = _Simulator((area[0], area[1]), (view[0], view[1]), (size[0], size[1]), length)
        self._frame = np.zeros(self.observation_space.shape, np.uint8)
        item_rows = int(np.ceil(len(ITEM_NAMES) / view[0]))
        self._window = (view[0], view[1] - item_rows)
        self._type_ids = {
            kind: SEMANTIC_NAMES.index(kind.__name__.lower())
            for kind in (objects.Player, objects.Cow, objects.Zombie, objects.Skeleton, objects.Arrow, objects.Plant)
        }

    @property
    def player(self) -> objects.Player:
        """The package's player object (privileged)."""
        return self._simulator._player

    @property
    def world(self) -> engine.World:
        """The package's world object: materials, creatures, daylight (privileged)."""
        return self._simulator._world

    @property
    def num_steps(self) -> int:
        """Steps taken since the reset; a day has 300."""
        return self._simulator._step

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new world; the same seed gives the same world on every machine."""
        super().reset(seed=seed, options=options)
        self._frame = self._simulator.start(int(self.np_random.integers(2**31 - 1)))
        return self._frame, self.info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one action; `terminated` means that the player died, `truncated` that the length was reached."""
        self._frame, reward, done, _ = self._simulator.step(int(action))
        dead = self.player.health <= 0
        if dead and not self.mortal:
            self.player.health = constants.items["health"]["max"]
            dead, done = False, self.num_steps >= self._simulator._length
        return self._frame, float(reward), bool(dead), bool(done and not dead), self.info()

    def render(self) -> np.ndarray:
        """The last picture; rendering again would draw other noise at night and change the random state."""
        return self._frame

    def info(self) -> dict[str, Any]:
        """The privileged state.

        position (2,) int16 (column, row); facing (2,) int8; semantic (rows, columns) uint8 of the window, numbers as in
        SEMANTIC_NAMES, 0 outside of the area; inventory (16,) uint8 as in ITEM_NAMES; achievements (22,) uint16 counts
        as in ACHIEVEMENT_NAMES; daylight () float32; sleeping () bool; time () int32 steps since the reset.
        """
        player, world = self.player, self.world
        return {
            "position": np.array(player.pos, np.int16),
            "facing": np.array(player.facing, np.int8),
            "semantic": self._semantic(),
            "inventory": np.fromiter(player.inventory.values(), np.uint8, len(ITEM_NAMES)),
            "achievements": np.fromiter(player.achievements.values(), np.uint16, len(ACHIEVEMENT_NAMES)),
            "daylight": np.float32(world.daylight),
            "sleeping": np.bool_(player.sleeping),
            "time": np.int32(self.num_steps),
        }

    def _semantic(self) -> np.ndarray:
        columns, rows = self._window
        left, top = self.player.pos[0] - columns // 2, self.player.pos[1] - rows // 2
        patch = crop(self.world._mat_map, left, top, columns, rows, 0)
        indices = crop(self.world._obj_map, left, top, columns, rows, 0)
        for x, y in np.argwhere(indices).tolist():
            patch[x, y] = self._type_ids.get(type(self.world._objects[indices[x, y]]), 0)
        return patch.T.copy()
