"""What the one who drives a session wants: which actions, when, and how fast."""

from __future__ import annotations

import math
import time
from collections import deque

from magrathea.server.controls import Controls
from magrathea.server.protocol import ProtocolError
from magrathea.server.rate_limiter import RateLimiter

MOST_SINGLES = 4  # single steps that wait


class Steering:
    """The keys, the clock and the pauses of one player.

    Args:
        rate: the world's own speed, in steps a second.
        noop: the action of a tick without a key, or None if the world has none.

    Attributes:
        begun, paused: whether a key was ever pressed since the beginning; whether time stands still.
    """

    def __init__(self, rate: float, noop: int | None) -> None:
        self.pace, self.controls = RateLimiter(rate), Controls(noop=noop, realtime=noop is not None)
        self.begun = self.paused = False
        self._singles: deque[int] = deque(maxlen=MOST_SINGLES)

    @property
    def armed(self) -> int | None:
        """The action of the next single step, where one was chosen."""
        return self.controls.pending[0] if self.paused and self.controls.pending else None

    def due_in(self, now: float, playing: bool) -> float:
        """Seconds until the next step; infinity if there is none to come."""
        if self._singles:
            return 0.0
        return max(self.controls.ready_in(now), self.pace.due_in(now)) if playing else math.inf

    def take(self, now: float) -> int | None:
        """The action of a step at `now`, or None if it should not happen."""
        return self._singles.popleft() if self._singles else self.controls.take(now)

    # What is wanted

    def press(self, action: int) -> None:
        if self.paused:
            self.controls.arm(action)
            return
        if not self.begun:
            self.begun = True
            self.pace.restart()
        self.controls.press(action, time.monotonic())

    def pause(self, on: bool) -> None:
        self.paused = on
        self.controls.clear()
        self.pace.restart()

    def step(self, action: int | None) -> None:
        """One step, then a pause; with the no-op where no action is given. Raises ProtocolError if there is none."""
        action = self.controls.single() if action is None else action
        if action is None:
            raise ProtocolError("this world has no no-op: press the key of an action first, then step")
        self.begun = self.paused = True
        self._singles.append(action)

    def speed(self, factor: float) -> None:
        self.pace.speed = factor
        self.pace.restart()

    def realtime(self, on: bool) -> None:
        if on and self.controls.noop is None:
            raise ProtocolError("this world has no no-op, so it can only wait for keys")
        self.controls.realtime = on
        self.pace.restart()

    # What is no longer wanted

    def clear(self) -> None:
        """Forget what was asked for and has not been done."""
        self.controls.clear()
        self._singles.clear()

    def refused(self) -> None:
        """What was asked for last could not be done: stand still."""
        self.paused = True
        self._singles.clear()

    def begin(self) -> None:
        """Wait for the first key again."""
        self.clear()
        self.begun = self.paused = False
