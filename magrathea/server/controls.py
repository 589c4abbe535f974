"""Which buttons and sliders count for the next step of a session, and when it is: keys, single steps, pause, speed."""

from __future__ import annotations

import math
from collections import deque

from magrathea.server.action_inputs import ActionInputs
from magrathea.server.protocol import ProtocolError
from magrathea.server.rate_limiter import RateLimiter

REPEAT_DELAY = 0.25  # seconds until a held key repeats while the world waits for keys, so that a tap is one step
MAX_PENDING = 4  # key presses, or single steps, that wait for their step; more would be lag
BURST = 1.5  # steps: a late step is made up for by at most half a period

Buttons = tuple[int, ...]  # that are held together


class Controls:
    """Turns the input of whoever has control into steps. A key press is never lost, a held key repeats, and of buttons
    that exclude each other the latest wins.

    Args:
        steps_per_second: the world's own speed.
        inputs: the world's buttons and sliders.

    Attributes:
        realtime: whether steps go on without a key; needs a no-op.
        speed: multiple of the world's own speed; None is as fast as the model runs.
        started: whether a key was pressed since the last reset.
        paused: whether steps are only taken one by one.
        axes: values of the sliders that are not where they rest.
        texts: what was written, by index, for the step that `take_step` gave last.
        agent: whether an agent acts, until a key is pressed, a slider moves or a text is written.
    """

    def __init__(self, steps_per_second: float, inputs: ActionInputs) -> None:
        self.inputs, self.realtime = inputs, inputs.has_noop
        self.speed: float | None = 1
        self.started = self.paused = self.agent = False
        self.axes: dict[int, float] = {}
        self.texts: dict[int, str] = {}
        self._steps_per_second = steps_per_second
        self._limiter = RateLimiter(steps_per_second, BURST)
        self._pressed: deque[int] = deque(maxlen=MAX_PENDING)
        self._held: dict[int, float] = {}  # button -> when it was pressed; the latest is last
        self._single_steps: deque[Buttons] = deque(maxlen=MAX_PENDING)
        self._said: deque[tuple[int, str]] = deque(maxlen=MAX_PENDING)

    @property
    def next_buttons(self) -> Buttons:
        """The buttons chosen for the next single step."""
        return self.inputs.compatible(reversed(self._pressed)) if self.paused else ()

    def seconds_until_step(self, now: float, playing: bool) -> float:
        """Seconds until the next step is due; infinity if none is."""
        if self._single_steps or self._said:
            return 0.0
        return max(self._seconds_until_input(now), self._limiter.seconds_left()) if playing else math.inf

    def _seconds_until_input(self, now: float) -> float:
        if self._pressed or self.axes or self.realtime or self.agent:
            return 0.0
        return max(0.0, next(reversed(self._held.values())) + REPEAT_DELAY - now) if self._held else math.inf

    def take_step(self, now: float) -> Buttons | None:
        """The buttons of a step at `now` seconds, or None if there should be no step."""
        self.texts = dict([self._said.popleft()]) if self._said else {}
        if self.texts:
            buttons = self.inputs.compatible(reversed(self._held))
        else:
            buttons = self._single_steps.popleft() if self._single_steps else self._due(now)
        if buttons is not None:
            self._limiter.take()
        return buttons

    def _due(self, now: float) -> Buttons | None:
        if not self._pressed and self._seconds_until_input(now) > 0:
            return None
        pressed = self.inputs.compatible(self._pressed)
        for button in pressed:
            self._pressed.remove(button)
        return self.inputs.compatible([*pressed, *reversed(self._held)])

    # -- input --------------------------------------------------------------------------------------------------------
    def press(self, button: int, now: float) -> None:
        """A key went down; while paused it chooses a button of the next single step."""
        self.agent = False
        if self.paused:
            self._pressed.append(button)
            return
        self._begin()
        self._pressed.append(button)
        self._held.pop(button, None)
        self._held[button] = now

    def release(self, button: int | None) -> None:
        """A key went up; None: all keys."""
        if button is None:
            self._held.clear()
        else:
            self._held.pop(button, None)

    def say(self, text: int, value: str) -> None:
        """A text of the action was written, which makes a step."""
        self.agent = False
        self._said.append((text, value))
        if not self.paused:
            self._begin()

    def set_axis(self, axis: int, value: float | None) -> None:
        """A slider moved; None: it is where it rests."""
        if value is None:
            self.axes.pop(axis, None)
        else:
            self.agent = False
            if not self.paused:
                self._begin()
            self.axes[axis] = value

    def let_agent(self, on: bool) -> None:
        """Let the agent act from here on, or not; it takes no keys with it."""
        self.release_keys()
        self.agent = on
        if on and not self.paused:
            self._begin()

    def _begin(self) -> None:
        if not self.started:
            self.started = True
            self._restart_clock()

    def pause(self, on: bool) -> None:
        """Pause or resume; forgets the keys."""
        self.paused = on
        self.release_keys()
        self._restart_clock()

    def single_step(self, button: int | None) -> None:
        """Ask for one step, then pause. Without a button it takes the agent's action, if it acts, else the chosen
        buttons, else the held ones, else the no-op.

        Raises ProtocolError if there is none of these.
        """
        if button is not None:
            self.agent = False
        wanted = [*reversed(self._pressed)] or [*reversed(self._held)]
        buttons = self.inputs.compatible(wanted) if button is None else (button,)
        if not (buttons or self.axes or self.agent or self.inputs.has_noop):
            how = "write what to do" if self.inputs.texts else "press the key of an action first, then step"
            raise ProtocolError(f"This world has no no-op: {how}.")
        if button is None:
            self._pressed.clear()
        self.started = self.paused = True
        self._single_steps.append(buttons)

    def set_speed(self, speed: float | None) -> None:
        """Change the speed."""
        self.speed = speed
        self._restart_clock()

    def set_realtime(self, on: bool) -> None:
        """Let steps go on without a key, or not; raises ProtocolError if the world has no no-op."""
        if on and not self.inputs.has_noop:
            raise ProtocolError("This world has no no-op, so it can only wait for keys.")
        self.realtime = on
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._limiter.reset(None if self.speed is None else self._steps_per_second * self.speed)

    # -- forgetting input ---------------------------------------------------------------------------------------------
    def release_keys(self) -> None:
        """Forget key presses, held keys and sliders."""
        self._pressed.clear()
        self._held.clear()
        self.axes.clear()

    def clear(self) -> None:
        """Forget all input that has not become a step."""
        self.release_keys()
        self._single_steps.clear()
        self._said.clear()

    def stop(self) -> None:
        """The last step was refused: pause."""
        self.paused = True
        self._single_steps.clear()
        self._said.clear()

    def reset(self) -> None:
        """Wait for the first key again."""
        self.clear()
        self.started = self.paused = self.agent = False
