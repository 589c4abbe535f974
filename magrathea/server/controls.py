"""Which action the next step of a session takes, and when: keys, single steps, pause and speed."""

from __future__ import annotations

import math
from collections import deque

from magrathea.server.protocol import ProtocolError
from magrathea.server.rate_limiter import RateLimiter

REPEAT_DELAY = 0.25  # seconds until a held key repeats while the world waits for keys, so that a tap is one step
MAX_PENDING = 4  # key presses, or single steps, that wait for their step; more would be lag
BURST = 1.5  # steps: a late step is made up for by at most half a period


class Controls:
    """Turns the input of whoever has control into actions. A key press is never lost, a held key repeats, and the
    latest key wins.

    Args:
        steps_per_second: the world's own speed.
        noop: the action of a step without a key, or None if the world has none.

    Attributes:
        realtime: whether steps go on without a key; needs a no-op.
        speed: multiple of the world's own speed; None is as fast as the model runs.
        started: whether a key was pressed since the last reset.
        paused: whether steps are only taken one by one.
    """

    def __init__(self, steps_per_second: float, noop: int | None) -> None:
        self.noop, self.realtime = noop, noop is not None
        self.speed: float | None = 1
        self.started = self.paused = False
        self._steps_per_second = steps_per_second
        self._limiter = RateLimiter(steps_per_second, BURST)
        self._pressed: deque[int] = deque(maxlen=MAX_PENDING)
        self._held: dict[int, float] = {}  # action -> when it was pressed; the latest is last
        self._single_steps: deque[int] = deque(maxlen=MAX_PENDING)

    @property
    def next_action(self) -> int | None:
        """The action chosen for the next single step."""
        return self._pressed[0] if self.paused and self._pressed else None

    def seconds_until_step(self, now: float, playing: bool) -> float:
        """Seconds until the next step is due; infinity if none is."""
        if self._single_steps:
            return 0.0
        return max(self._seconds_until_action(now), self._limiter.seconds_left()) if playing else math.inf

    def _seconds_until_action(self, now: float) -> float:
        if self._pressed or self.realtime:
            return 0.0
        return max(0.0, next(reversed(self._held.values())) + REPEAT_DELAY - now) if self._held else math.inf

    def take_action(self, now: float) -> int | None:
        """The action of a step at `now` seconds, or None if there should be no step."""
        action = self._single_steps.popleft() if self._single_steps else self._key_action(now)
        if action is not None:
            self._limiter.take()
        return action

    def _key_action(self, now: float) -> int | None:
        if self._pressed:
            return self._pressed.popleft()
        if self._held and self._seconds_until_action(now) <= 0:
            return next(reversed(self._held))
        return self.noop if self.realtime else None

    # -- input --------------------------------------------------------------------------------------------------------
    def press(self, action: int, now: float) -> None:
        """A key went down; while paused it chooses the action of the next single step."""
        if self.paused:
            self._pressed.clear()
            self._pressed.append(action)
            return
        if not self.started:
            self.started = True
            self._restart_clock()
        self._pressed.append(action)
        self._held.pop(action, None)
        self._held[action] = now

    def release(self, action: int | None) -> None:
        """A key went up; None: all keys."""
        if action is None:
            self._held.clear()
        else:
            self._held.pop(action, None)

    def pause(self, on: bool) -> None:
        """Pause or resume; forgets the keys."""
        self.paused = on
        self.release_keys()
        self._restart_clock()

    def single_step(self, action: int | None) -> None:
        """Ask for one step, then pause. Without an action it takes the chosen one, else the held one, else the no-op.

        Raises ProtocolError if there is none of these.
        """
        if action is None:
            action = self._pressed.popleft() if self._pressed else next(reversed(self._held), self.noop)
        if action is None:
            raise ProtocolError("This world has no no-op: press the key of an action first, then step.")
        self.started = self.paused = True
        self._single_steps.append(action)

    def set_speed(self, speed: float | None) -> None:
        """Change the speed."""
        self.speed = speed
        self._restart_clock()

    def set_realtime(self, on: bool) -> None:
        """Let steps go on without a key, or not; raises ProtocolError if the world has no no-op."""
        if on and self.noop is None:
            raise ProtocolError("This world has no no-op, so it can only wait for keys.")
        self.realtime = on
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._limiter.reset(None if self.speed is None else self._steps_per_second * self.speed)

    # -- forgetting input ---------------------------------------------------------------------------------------------
    def release_keys(self) -> None:
        """Forget key presses and held keys."""
        self._pressed.clear()
        self._held.clear()

    def clear(self) -> None:
        """Forget all input that has not become a step."""
        self.release_keys()
        self._single_steps.clear()

    def stop(self) -> None:
        """The last step was refused: pause."""
        self.paused = True
        self._single_steps.clear()

    def reset(self) -> None:
        """Wait for the first key again."""
        self.clear()
        self.started = self.paused = False
