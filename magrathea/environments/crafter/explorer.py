"""A scripted Crafter player that shows every mechanic of the game, for collecting data.

It reads the privileged state. About half of the time it pursues goals (drink, eat, gather, build, craft, fight, sleep,
travel), otherwise it repeats random actions, and at any time one action in ten is drawn uniformly: the data show what
every action does, including where it fails or does nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from crafter import constants, objects

from magrathea.environments.crafter.env import ACTION_NAMES, CrafterEnv

ACTIONS = {name: index for index, name in enumerate(ACTION_NAMES)}
MOVES = {(-1, 0): "move_left", (1, 0): "move_right", (0, -1): "move_up", (0, 1): "move_down"}
UNIFORM_SHARE = 0.1
RANDOM_SLEEP_SHARE = 0.3  # of the sleep actions that are drawn: a player that sleeps in the open is mostly killed
DEFENCE_SHARE = 0.95
NIGHT_GOAL_SHARE = 0.9
GOAL_SHARE = 0.45  # of segments; they are longer than the random ones
HELD_WEIGHTS = {"noop": 0.05, "do": 0.16, "sleep": 0.004, "place_stone": 0.05, "place_plant": 0.02} | dict.fromkeys(
    MOVES.values(), 0.14
)
IMPASSABLE = 1_000.0
TOOLS = ("wood_pickaxe", "wood_sword", "stone_pickaxe", "stone_sword", "iron_pickaxe", "iron_sword")

Plan = Iterator[str | None]


class Explorer:
    """Callable policy (observation, info) -> action for one episode after another of a CrafterEnv."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        unwrapped = env.unwrapped
        assert isinstance(unwrapped, CrafterEnv), "the Crafter explorer plays 'magrathea/Crafter-v0' only"
        self.env, self.rng = unwrapped, rng
        self._plan: Plan = iter(())
        self._left, self._num_steps = 0, 0
        others = [name for name in ACTION_NAMES if name not in HELD_WEIGHTS]
        weights = np.array([HELD_WEIGHTS.get(name, 0.15 / len(others)) for name in ACTION_NAMES])
        self._weights = weights / weights.sum()

    def __call__(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        if self._left <= 0:
            self._begin_segment()
        self._left -= 1
        self._num_steps += 1
        if self.rng.random() < UNIFORM_SHARE:
            name = ACTION_NAMES[self.rng.integers(len(ACTION_NAMES))]
            return ACTIONS[name if name != "sleep" or self.rng.random() < RANDOM_SLEEP_SHARE else "noop"]
        reflex = self._defend()
        if reflex is not None:
            return ACTIONS[reflex]
        for _ in range(4):
            action = next(self._plan, None)
            if action is not None:
                return ACTIONS[action]
            self._plan = self._goal()
        return ACTIONS[self._random_move()]

    def _begin_segment(self) -> None:
        if self._num_steps == 0 or self.rng.random() < (NIGHT_GOAL_SHARE if self._is_dark() else GOAL_SHARE):
            self._left, self._plan = int(self.rng.integers(40, 140)), self._goal()
        else:
            self._left, self._plan = int(self.rng.integers(10, 80)), self._sticky()

    # --- what the player has and sees

    def _have(self, item: str) -> int:
        return self.env.player.inventory[item]

    def _is_dark(self) -> bool:
        return bool(self.env.world.daylight < 0.4)

    def _facing(self) -> tuple[str | None, Any]:
        player = self.env.player
        return self.env.world[(player.pos[0] + player.facing[0], player.pos[1] + player.facing[1])]

    def _can_collect(self, material: str | None) -> bool:
        need = constants.collect.get(material)
        return need is not None and all(self._have(item) >= amount for item, amount in need["require"].items())

    def _near(self, material: str) -> bool:
        return material in self.env.world.nearby(self.env.player.pos, 1)[0]

    def _where(self, *materials: str) -> np.ndarray:
        world = self.env.world
        return np.isin(world._mat_map, [world._mat_ids[name] for name in materials])

    def _where_objects(self, kind: type) -> np.ndarray:
        where = np.zeros(self.env.world.area, bool)
        for item in self.env.world.objects:
            if isinstance(item, kind):
                where[tuple(item.pos)] = True
        return where

    def _random_move(self) -> str:
        return list(MOVES.values())[self.rng.integers(4)]

    def _defend(self) -> str | None:
        """Mostly attack an adjacent zombie or skeleton, after turning to it; None if there is none."""
        if self.env.player.sleeping or self.rng.random() > DEFENCE_SHARE:
            return None
        for direction, move in MOVES.items():
            creature = self.env.world[self.env.player.pos + np.array(direction)][1]
            if isinstance(creature, (objects.Zombie, objects.Skeleton)):
                return "do" if tuple(self.env.player.facing) == direction else move
        return None

    # --- choosing what to do

    def _goal(self) -> Plan:
        """A plan for the most urgent need, else mostly for the next tool, else one of the other activities."""
        rng = self.rng
        if self._have("drink") < 4:
            return self._collect("water", times=int(rng.integers(2, 7)))
        if self._have("food") < 4:
            return self._eat()
        if self._have("energy") < 3 or (self._have("energy") < 8 and rng.random() < 0.02):
            return self._shelter()
        if self._is_dark() and self._can_collect("stone") and rng.random() < 0.8:
            return self._shelter() if self._have("energy") < 9 else self._tunnel()
        if rng.random() < (0.9 if self._num_steps < 150 else 0.7):
            return self._technology()
        activities: list[Callable[[], Plan]] = [
            self._travel,
            self._travel,
            self._bump,
            self._build,
            self._plant,
            self._eat,
            self._fight_zombie,
            self._fight_skeleton,
            self._tunnel,
            lambda: self._collect("water", times=2),
            lambda: self._collect("tree", times=2),
            self._craft_anything,
        ]
        return activities[rng.integers(len(activities))]()

    def _technology(self) -> Plan:
        """Gather or build what is missing for the next tool, and then diamonds."""
        missing = [tool for tool in TOOLS if self._have(tool) == 0]
        if not missing:
            if self.rng.random() < 0.6:
                return self._collect("diamond", times=1)
            return self._collect(["coal", "iron", "stone", "tree"][self.rng.integers(4)], times=3)
        tool = missing[0] if self.rng.random() < 0.7 else missing[min(1, len(missing) - 1)]
        for item, amount in constants.make[tool]["uses"].items():
            if self._have(item) < amount:
                source = "tree" if item == "wood" else item
                return self._collect(source, times=amount - self._have(item) + int(self.rng.integers(0, 4)))
        for station in constants.make[tool]["nearby"]:
            if not self._near(station):
                return self._approach_station(station)
        return self._repeat(f"make_{tool}", 1)

    def _approach_station(self, station: str) -> Plan:
        """Go to a nearby table or furnace, or place one, or gather the materials for it."""
        where = self._where(station)
        x, y = self.env.player.pos
        if where[max(x - 12, 0) : x + 13, max(y - 12, 0) : y + 13].any() and self.rng.random() < 0.9:
            return self._go(where)
        for item, amount in constants.place[station]["uses"].items():
            if self._have(item) < amount:
                return self._collect("tree" if item == "wood" else item, times=amount - self._have(item) + 1)
        return self._place(station)

    # --- plans: generators of action names, which end when done or impossible

    def _sticky(self) -> Plan:
        while True:
            name = ACTION_NAMES[self.rng.choice(len(ACTION_NAMES), p=self._weights)]
            yield from [name] * int(self.rng.integers(1, 9))

    def _repeat(self, name: str, times: int) -> Plan:
        yield from [name] * times

    def _collect(self, material: str, times: int) -> Plan:
        for _ in range(times):
            if not self._can_collect(material):
                return
            yield from self._go(self._where(material))
            for _ in range(8 if material == "grass" else 1):
                if self._facing()[0] == material and self._facing()[1] is None:
                    yield "do"

    def _hunt(self, kind: type) -> Plan:
        for _ in range(20):
            if isinstance(self._facing()[1], kind):
                yield "do"
                continue
            where = self._where_objects(kind)
            if not where.any():
                return
            yield from self._go(where, most=6)

    def _eat(self) -> Plan:
        ripe = np.zeros(self.env.world.area, bool)
        for item in self.env.world.objects:
            if isinstance(item, objects.Plant) and item.ripe:
                ripe[tuple(item.pos)] = True
        if ripe.any() and self.rng.random() < 0.8:
            yield from self._go(ripe)
            yield "do"
        else:
            yield from self._hunt(objects.Cow)

    def _fight_zombie(self) -> Plan:
        yield from self._hunt(objects.Zombie)

    def _fight_skeleton(self) -> Plan:
        yield from self._hunt(objects.Skeleton)

    def _plant(self) -> Plan:
        if self._have("sapling") == 0:
            yield from self._collect("grass", times=3)
        yield from self._place("plant")

    def _place(self, name: str) -> Plan:
        """Turn to a cell where `name` can stand, and place it."""
        for _ in range(8):
            material, item = self._facing()
            if material in constants.place[name]["where"] and item is None:
                yield f"place_{name}"
                return
            yield self._random_move()

    def _build(self) -> Plan:
        """Place stones while walking, on land and water, and collect half of them again."""
        for _ in range(int(self.rng.integers(2, 8))):
            if self._have("stone") == 0:
                yield from self._collect("stone", times=2)
            yield from self._place("stone")
            if self.rng.random() < 0.5:
                yield "do"
            for _ in range(int(self.rng.integers(1, 3))):
                yield self._random_move()

    def _shelter(self) -> Plan:
        """Dig into stone, close the tunnel, and sleep there; without a pickaxe, mostly stay awake."""
        if not self._can_collect("stone"):
            if self._have("energy") > 1 and self.rng.random() < 0.85:
                yield from self._technology()
                return
        else:
            yield from self._go(self._where("stone"))
            move = MOVES[tuple(int(v) for v in self.env.player.facing)]  # type: ignore[index]
            for _ in range(4):
                if self._facing()[0] != "stone" and self._facing()[0] not in constants.walkable:
                    break
                yield from ("do", move)
            yield MOVES[tuple(-int(v) for v in self.env.player.facing)]  # type: ignore[index]
            yield "place_stone"
        yield "sleep"

    def _craft_anything(self) -> Plan:
        where = self._where("table")
        if where.any():
            yield from self._go(where)
        for _ in range(int(self.rng.integers(1, 5))):
            yield ACTION_NAMES[self.rng.integers(ACTIONS["place_stone"], len(ACTION_NAMES))]

    def _bump(self) -> Plan:
        """Walk against an obstacle, several times."""
        yield from self._go(self._where("water", "tree", "stone", "table", "coal"))
        move = MOVES[tuple(int(v) for v in self.env.player.facing)]  # type: ignore[index]
        yield from [move] * int(self.rng.integers(1, 5))

    def _tunnel(self) -> Plan:
        move = self._random_move()
        yield from self._go(self._where("stone"))
        for _ in range(int(self.rng.integers(4, 16))):
            yield move
            if self._can_collect(self._facing()[0]):
                yield "do"

    def _travel(self) -> Plan:
        """Walk to a far cell of the map, through whatever can be dug or bridged."""
        for _ in range(8):
            target = self.rng.integers(2, np.array(self.env.world.area) - 2)
            if np.abs(target - self.env.player.pos).sum() > 15:
                where = np.zeros(self.env.world.area, bool)
                where[tuple(target)] = True
                yield from self._go(where)
                return

    # --- path finding

    def _go(self, targets: np.ndarray, most: int = 120) -> Plan:
        """Walk, dig and bridge to the cheapest target and face it; the path is planned again every 12 steps."""
        path: list[tuple[int, int]] = []
        for count in range(most):
            player = self.env.player
            position = (int(player.pos[0]), int(player.pos[1]))
            facing = (position[0] + int(player.facing[0]), position[1] + int(player.facing[1]))
            if self._inside(facing) and targets[facing]:
                return
            if not path or position not in path or count % 12 == 0:
                path = self._path(position, targets)
            if not path or position == path[-1]:
                return
            yield self._step_toward(position, path[path.index(position) + 1], facing)

    def _step_toward(self, position: tuple[int, int], cell: tuple[int, int], facing: tuple[int, int]) -> str:
        material, item = self.env.world[cell]
        if facing == cell and item is not None:
            return "do" if not isinstance(item, objects.Plant) else self._random_move()
        if facing == cell and material in ("water", "lava") and self._have("stone"):
            return "place_stone"
        if facing == cell and material not in constants.walkable and self._can_collect(material):
            return "do"
        return MOVES[(cell[0] - position[0], cell[1] - position[1])]

    def _inside(self, cell: tuple[int, int]) -> bool:
        return 0 <= cell[0] < self.env.world.area[0] and 0 <= cell[1] < self.env.world.area[1]

    def _costs(self) -> list[list[float]]:
        """Cost of entering each cell, in steps: [column][row]."""
        world = self.env.world
        table = np.full(len(world._mat_names), IMPASSABLE)
        for material, index in world._mat_ids.items():
            if material in constants.walkable:
                table[index] = 1.0
            elif material == "water" and self._have("stone") > 1:
                table[index] = 6.0
            elif material != "water" and self._can_collect(material):
                table[index] = 2.5 if constants.collect[material]["leaves"] != material else IMPASSABLE
        costs = table[world._mat_map] + 4.0 * (world._obj_map > 0)
        lava = np.pad(world._mat_map == world._mat_ids["lava"], 1)
        costs += 3.0 * (lava[2:, 1:-1] | lava[:-2, 1:-1] | lava[1:-1, 2:] | lava[1:-1, :-2])
        return costs.tolist()

    def _path(self, start: tuple[int, int], targets: np.ndarray) -> list[tuple[int, int]]:
        """The cheapest path from `start` to a target cell, both included, by Dijkstra; empty when there is none."""
        if not targets.any():
            return []
        costs, wanted = self._costs(), targets.tolist()
        width, height = self.env.world.area
        best, parent = {start: 0.0}, {start: start}
        queue = [(0.0, start)]
        while queue:
            cost, cell = heapq.heappop(queue)
            x, y = cell
            if wanted[x][y] and cell != start:
                return _unwind(parent, cell)
            if cost > best[cell] or cost > 400:
                continue
            for nx, ny in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
                if not (0 <= nx < width and 0 <= ny < height):
                    continue
                price = cost + (1.0 if wanted[nx][ny] else costs[nx][ny])
                if price < best.get((nx, ny), IMPASSABLE):
                    best[nx, ny], parent[nx, ny] = price, cell
                    heapq.heappush(queue, (price, (nx, ny)))
        return []


def _unwind(parent: dict[tuple[int, int], tuple[int, int]], cell: tuple[int, int]) -> list[tuple[int, int]]:
    path = [cell]
    while parent[cell] != cell:
        cell = parent[cell]
        path.append(cell)
    return path[::-1]
