"""What the keys ask for: which action the dream takes at its next tick."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

REPEAT_DELAY = 0.25  # seconds a key is held, in a turn-based world, before it repeats: a tap is one step
MAX_PENDING = 4  # taps that wait for their tick; more would be lag


@dataclass
class Controls:
    """The keys of one player. A tap is never lost, a held key repeats, and the latest key wins.

    Attributes:
        noop: the action of a tick without a key, or None if the world has none.
        realtime: whether ticks go on without a key (needs a noop).
    """

    noop: int | None
    realtime: bool
    pending: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_PENDING))
    held: dict[int, float] = field(default_factory=dict)  # action -> when pressed, in seconds; latest last

    def press(self, action: int, now: float) -> None:
        """A key went down at ``now`` seconds."""
        self.pending.append(action)
        self.held.pop(action, None)
        self.held[action] = now

    def arm(self, action: int) -> None:
        """Choose the action of the next single step, while paused."""
        self.pending.clear()
        self.pending.append(action)

    def release(self, action: int | None) -> None:
        """A key went up; None: all of them."""
        if action is None:
            self.held.clear()
        else:
            self.held.pop(action, None)

    def clear(self) -> None:
        """Forget taps and held keys."""
        self.pending.clear()
        self.held.clear()

    def take(self, now: float) -> int | None:
        """The action of a tick at ``now`` seconds, or None if this tick should not happen."""
        if self.pending:
            return self.pending.popleft()
        if self.held and self.ready_in(now) <= 0:
            return next(reversed(self.held))
        return self.noop if self.realtime else None

    def ready_in(self, now: float) -> float:
        """Seconds until ``take`` gives an action if no key changes; infinity if it never would."""
        if self.pending or self.realtime:
            return 0.0
        if not self.held:
            return math.inf
        return max(0.0, next(reversed(self.held.values())) + REPEAT_DELAY - now)

    def single(self) -> int | None:
        """The action of a single step: the armed one, else the held one, else the noop, else None."""
        if self.pending:
            return self.pending.popleft()
        return next(reversed(self.held)) if self.held else self.noop
