"""A scripted player of ViZDoom's rooms that comes back to where it was, for collecting data."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from magrathea.environments.vizdoom.env import ACTION_NAMES, DOORS, ROOMS, TURN


class Explorer:
    """Walks from room to room and back, looks around in rooms, and now and then does anything for a while."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        self.rng = rng
        self._way: list[tuple[float, float]] = []
        self._came_by: list[tuple[float, float]] = []
        self._doing: list[str] = []
        self._action, self._tries, self._last = "noop", 0, np.zeros(2)

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        here, angle = info["pose"][:2], float(info["pose"][2])
        if self._bumps(here):
            self._doing, self._way = self._anything(), []
        if not self._doing and not self._way:
            self._choose(here)
        self._action = self._doing.pop() if self._doing else self._walk(here, angle)
        return ACTION_NAMES.index(self._action)

    def _bumps(self, here: np.ndarray) -> bool:
        """Whether it has walked on for some steps and is still where it was."""
        walks = self._action == "forward" and not self._doing
        self._tries = self._tries + 1 if walks and np.linalg.norm(here - self._last) < 1 else 0
        self._last = here
        return self._tries > 3

    def _choose(self, here: np.ndarray) -> None:
        """What to do next: look around, anything, go back the way one came, or go to another room."""
        what = self.rng.random()
        if what < 0.2:
            self._doing = [("turn left", "turn right")[int(self.rng.integers(2))]] * int(self.rng.choice([6, 12, 24]))
        elif what < 0.3:
            self._doing = self._anything()
        elif what < 0.6 and self._came_by:
            self._way, self._came_by = self._came_by[::-1], []
        else:
            self._way = self._way_to(here, str(self.rng.choice(list(ROOMS), p=self._chances())))
            self._came_by = [(float(here[0]), float(here[1])), *self._way[:-1]]

    def _chances(self) -> np.ndarray:
        chances = np.array([{"vest": 0.03, "nook": 0.3}.get(room, 1.0) for room in ROOMS])
        return chances / chances.sum()

    def _anything(self) -> list[str]:
        """Random actions, each held for a while."""
        return [name for name in self.rng.choice(ACTION_NAMES, 4) for _ in range(int(self.rng.integers(1, 6)))]

    def _walk(self, here: np.ndarray, angle: float) -> str:
        """Toward the next point of the way; turns on the spot where it lies far aside."""
        x, y = np.array(self._way[0]) - here
        if math.hypot(x, y) < 28:
            del self._way[0]
            return "forward" if self._way else "noop"
        aside = (math.degrees(math.atan2(y, x)) - angle + 180) % 360 - 180
        if abs(aside) <= TURN / 2 + 1:
            return "forward"
        side = "left" if aside > 0 else "right"
        return f"turn {side}" if abs(aside) > 2 * TURN else f"forward {side}"

    def _way_to(self, here: np.ndarray, goal: str) -> list[tuple[float, float]]:
        """The middles of the rooms on the shortest way."""
        begin = min(ROOMS, key=lambda room: float(np.linalg.norm(np.array(ROOMS[room]) - here)))
        came_from, queue = {begin: begin}, [begin]
        for room in queue:
            for other in _beside(room):
                if other not in came_from:
                    came_from[other] = room
                    queue.append(other)
        way = [goal]
        while way[-1] != begin:
            way.append(came_from[way[-1]])
        return [ROOMS[room] for room in reversed(way)]


def _beside(room: str) -> list[str]:
    """The rooms with a door to this one."""
    pairs = [*(tuple(door) for door in DOORS), ("G", "vest"), ("H", "nook")]
    return [other for pair in pairs if room in pair for other in pair if other != room]
