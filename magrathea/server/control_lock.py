"""Who drives a session that several watch: one at a time, in turns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from magrathea.server.viewer import Viewer

IDLE = 10.0  # seconds without a key after which the driver gives way to whoever asks
TURN = 60.0  # seconds after which the driver gives way to whoever asks


@dataclass
class ControlLock:
    """A free wheel belongs to the first who acts. Others ask for it, and get it in the order in which they asked:
    when the driver hands it over, leaves, has been idle for a while, or has had a turn.
    """

    driver: Viewer | None = None
    asking: list[Viewer] = field(default_factory=list)
    since: float = 0.0
    used: float = 0.0

    def take(self, viewer: Viewer, now: float) -> bool:
        """Somebody acts: whether they drive."""
        if self.driver is None:
            self._pass_to(viewer, now)
        if self.driver is viewer:
            self.used = now
        return self.driver is viewer

    def ask(self, viewer: Viewer, now: float) -> None:
        """Somebody wants to drive."""
        if self.driver is None:
            self._pass_to(viewer, now)
        elif viewer is not self.driver and viewer not in self.asking:
            self.asking.append(viewer)
        self.pass_on(now)

    def give(self, viewer: Viewer, now: float) -> None:
        """The driver hands over to who asked first, or leaves the wheel free; who asked no longer does."""
        if viewer in self.asking:
            self.asking.remove(viewer)
        if viewer is self.driver:
            self.driver = None
            if self.asking:
                self._pass_to(self.asking[0], now)

    def pass_on(self, now: float) -> float:
        """Let the turn end if it is time; returns the seconds until it may be time again."""
        if self.driver is None or not self.asking:
            return math.inf
        left = min(self.used + IDLE, self.since + TURN) - now
        if left > 0:
            return left
        self._pass_to(self.asking[0], now)
        return self.pass_on(now)

    def _pass_to(self, viewer: Viewer, now: float) -> None:
        self.driver, self.since, self.used = viewer, now, now
        if viewer in self.asking:
            self.asking.remove(viewer)
