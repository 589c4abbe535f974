"""A scripted player of ViZDoom's rooms that comes back to where it was, for collecting data."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from magrathea.environments.vizdoom.env import ACTION_NAMES, DOORS, ROOMS, TURN


class Explorer:
    """Policy that walks from room to room and back, looks around, and sometimes takes random actions."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        self.rng = rng
        self._path: list[tuple[float, float]] = []
        self._return_path: list[tuple[float, float]] = []
        self._queue: list[str] = []
        self._action, self._tries, self._last = "noop", 0, np.zeros(2)

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        here, angle = info["pose"][:2], float(info["pose"][2])
        if self._is_stuck(here):
            self._queue, self._path = self._random_actions(), []
        if not self._queue and not self._path:
            self._choose(here)
        self._action = self._queue.pop() if self._queue else self._walk(here, angle)
        return ACTION_NAMES.index(self._action)

    def _is_stuck(self, here: np.ndarray) -> bool:
        """Whether it has walked for some steps without moving."""
        walks = self._action == "forward" and not self._queue
        self._tries = self._tries + 1 if walks and np.linalg.norm(here - self._last) < 1 else 0
        self._last = here
        return self._tries > 3

    def _choose(self, here: np.ndarray) -> None:
        """Choose what to do next: look around, random actions, return the same way, or go to another room."""
        what = self.rng.random()
        if what < 0.2:
            self._queue = [("turn left", "turn right")[int(self.rng.integers(2))]] * int(self.rng.choice([6, 12, 24]))
        elif what < 0.3:
            self._queue = self._random_actions()
        elif what < 0.6 and self._return_path:
            self._path, self._return_path = self._return_path[::-1], []
        else:
            self._path = self._path_to(here, str(self.rng.choice(list(ROOMS), p=self._room_probabilities())))
            self._return_path = [(float(here[0]), float(here[1])), *self._path[:-1]]

    def _room_probabilities(self) -> np.ndarray:
        chances = np.array([{"vest": 0.03, "nook": 0.3}.get(room, 1.0) for room in ROOMS])
        return chances / chances.sum()

    def _random_actions(self) -> list[str]:
        """Random actions, each repeated 1 to 5 times."""
        return [name for name in self.rng.choice(ACTION_NAMES, 4) for _ in range(int(self.rng.integers(1, 6)))]

    def _walk(self, here: np.ndarray, angle: float) -> str:
        """The action toward the next point of the path; turns on the spot where its direction is far off."""
        x, y = np.array(self._path[0]) - here
        if math.hypot(x, y) < 28:
            del self._path[0]
            return "forward" if self._path else "noop"
        aside = (math.degrees(math.atan2(y, x)) - angle + 180) % 360 - 180
        if abs(aside) <= TURN / 2 + 1:
            return "forward"
        side = "left" if aside > 0 else "right"
        return f"turn {side}" if abs(aside) > 2 * TURN else f"forward {side}"

    def _path_to(self, here: np.ndarray, goal: str) -> list[tuple[float, float]]:
        """Centres of the rooms on the shortest path to a room."""
        begin = min(ROOMS, key=lambda room: float(np.linalg.norm(np.array(ROOMS[room]) - here)))
        came_from, queue = {begin: begin}, [begin]
        for room in queue:
            for other in _neighbours(room):
                if other not in came_from:
                    came_from[other] = room
                    queue.append(other)
        way = [goal]
        while way[-1] != begin:
            way.append(came_from[way[-1]])
        return [ROOMS[room] for room in reversed(way)]


def _neighbours(room: str) -> list[str]:
    """The rooms that have a door to this one."""
    pairs = [*(tuple(door) for door in DOORS), ("G", "vest"), ("H", "nook")]
    return [other for pair in pairs if room in pair for other in pair if other != room]
