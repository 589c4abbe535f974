"""Limits and measures how often something happens."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

RATE_WINDOW = 2.0  # seconds over which steps per second are counted
MAX_VISITORS = 1024  # whose events are counted
SMOOTHING = 0.1  # weight of the newest step in the smoothed model time


class RateLimiter:
    """A token bucket: events at `rate` per second, and up to `burst` at once after a pause.

    Args:
        rate: events per second; None does not limit.
        burst: capacity of the bucket, at least 1; by default as many as in one second.
        clock: returns seconds.
    """

    def __init__(
        self, rate: float | None, burst: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self._clock = rate, clock
        self._burst = burst if burst is not None else rate or 1.0
        self._tokens, self._updated = self._burst, clock()

    def seconds_left(self) -> float:
        """Seconds until the next event is allowed."""
        now = self._clock()
        if self.rate is None:
            self._updated = now
            return 0.0
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self.rate)
        self._updated = now
        return max(0.0, 1 - self._tokens) / self.rate

    def take(self) -> None:
        """Count an event, whether it was allowed or not."""
        self.seconds_left()
        self._tokens = max(0.0, self._tokens - 1)

    def allow(self) -> bool:
        """Count an event if it is allowed now; returns whether it is."""
        allowed = self.seconds_left() <= 0
        if allowed:
            self.take()
        return allowed

    def reset(self, rate: float | None) -> None:
        """Change the rate; one event is allowed now."""
        self.rate, self._tokens, self._updated = rate, 1.0, self._clock()


class RateLimiters:
    """A limiter for each visitor; of more than `MAX_VISITORS`, the longest unused ones are forgotten. Arguments as of
    `RateLimiter`."""

    def __init__(self, rate: float, burst: float | None = None) -> None:
        self._rate, self._burst = rate, burst
        self._limiters: OrderedDict[str, RateLimiter] = OrderedDict()  # the longest unused first

    def of(self, visitor: str) -> RateLimiter:
        """The limiter of a visitor."""
        limiter = self._limiters.setdefault(visitor, RateLimiter(self._rate, self._burst))
        self._limiters.move_to_end(visitor)
        if len(self._limiters) > MAX_VISITORS:
            self._limiters.popitem(last=False)
        return limiter


class StepMeter:
    """Measures steps per second, and the smoothed seconds that the model takes for one (`model_seconds`)."""

    def __init__(self) -> None:
        self.model_seconds = 0.0
        self._times: deque[float] = deque(maxlen=512)

    @property
    def rate(self) -> float:
        """Steps per second over the last two seconds."""
        now = time.monotonic()
        recent = [moment for moment in self._times if now - moment < RATE_WINDOW]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0

    def add(self, model_seconds: float) -> None:
        """Count a step."""
        self.model_seconds += (model_seconds - self.model_seconds) * (SMOOTHING if self.model_seconds else 1.0)
        self._times.append(time.monotonic())

    def clear(self) -> None:
        """Forget the steps so far; the model time stays."""
        self._times.clear()
