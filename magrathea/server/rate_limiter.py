"""When the next step of a session is due, and how fast its steps come."""

from __future__ import annotations

import time
from collections import deque

RATE_WINDOW = 2.0  # seconds over which frames per second are counted
SMOOTHING = 0.1  # share of the newest step in the model's time


class RateLimiter:
    """The pace of one session: the world's natural one times its speed.

    Attributes:
        speed: times the natural pace; None is as fast as the model can.
        model_seconds: what a step takes the model, about.
    """

    def __init__(self, frames_per_second: float) -> None:
        self.speed: float | None = 1
        self.model_seconds = 0.0
        self._natural = frames_per_second
        self._due = 0.0
        self._times: deque[float] = deque(maxlen=512)

    @property
    def rate(self) -> float:
        """Steps per second over the last two seconds."""
        now = time.monotonic()
        recent = [moment for moment in self._times if now - moment < RATE_WINDOW]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0

    def due_in(self, now: float) -> float:
        """Seconds until the next step is due."""
        return self._due - now

    def restart(self) -> None:
        """The next step is due now."""
        self._due = time.monotonic()

    def begin_step(self, now: float) -> None:
        """A step is taken; a late one does not make the next ones come faster."""
        period = 0.0 if self.speed is None else 1.0 / (self._natural * self.speed)
        self._due = self._due + period if now - self._due < period else now + period

    def end_step(self, model_seconds: float) -> None:
        """The step is there."""
        self.model_seconds += (model_seconds - self.model_seconds) * (SMOOTHING if self.model_seconds else 1.0)
        self._times.append(time.monotonic())

    def clear(self) -> None:
        """Steps so far no longer count for the rate."""
        self._times.clear()
