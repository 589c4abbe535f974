"""Who watches a session, and who of them drives."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from magrathea.errors import MagratheaError
from magrathea.server.control_lock import ControlLock
from magrathea.server.protocol import Frame
from magrathea.server.viewer import Viewer


class Viewers:
    """The viewers of one session. Lives on the event loop.

    Args:
        changed: called when the wheel is asked for (False), or has gone to somebody else or become free (True).
    """

    def __init__(self, changed: Callable[[bool], None]) -> None:
        self.viewers: set[Viewer] = set()
        self.wheel = ControlLock()
        self._changed = changed
        self._num_frames = 0
        self._turn: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """No turn ends any more."""
        if self._turn:
            self._turn.cancel()

    def add(self, most: int) -> Viewer:
        """One more viewer; raises MagratheaError if there are as many as there may be."""
        if len(self.viewers) >= most:
            raise MagratheaError(f"{most} visitors watch this session already; try again in a moment.")
        viewer = Viewer()
        self.viewers.add(viewer)
        return viewer

    def remove(self, viewer: Viewer) -> None:
        """A viewer is gone, and leaves the wheel to whoever asked."""
        self.viewers.discard(viewer)
        self.wish("give", viewer)

    def dismiss(self, reason: str) -> None:
        """Send all viewers away, for good."""
        self.say({"type": "error", "reason": reason, "fatal": True})
        for viewer in self.viewers:
            viewer.end()

    # -- what they see ------------------------------------------------------------------------------------------------
    def show(self, frame: Frame) -> None:
        """Offer a frame to all; frames are numbered."""
        self._num_frames += 1
        frame.header["frame"] = self._num_frames
        for viewer in self.viewers:
            viewer.offer(frame)

    def say(self, message: dict[str, Any]) -> None:
        """The same text message to all."""
        for viewer in self.viewers:
            viewer.say(message)

    def tell(self, message: dict[str, Any]) -> None:
        """A message to each, with how it stands with the wheel and the others."""
        wheel = self.wheel
        common = {"viewers": len(self.viewers), "asking": len(wheel.asking), "free": wheel.driver is None}
        for viewer in self.viewers:
            own = {"driving": wheel.driver is viewer, "asked": viewer in wheel.asking}
            viewer.say(message | common | own)

    # -- whose turn it is ---------------------------------------------------------------------------------------------
    def drives(self, viewer: Viewer) -> bool:
        """Somebody acts: whether they drive. A free wheel is taken so."""
        was_free = self.wheel.driver is None
        drives = self.wheel.take(viewer, time.monotonic())
        if was_free:
            self._changed(True)
        return drives

    def wish(self, wish: str, viewer: Viewer) -> None:
        """Somebody asks for the wheel, or gives it or their wish for it up."""
        driver = self.wheel.driver
        (self.wheel.ask if wish == "ask" else self.wheel.give)(viewer, time.monotonic())
        self._changed(self.wheel.driver is not driver)
        self._watch_the_turn()

    def _watch_the_turn(self) -> None:
        """While somebody asks for the wheel, end the driver's turn in time."""
        self.close()
        driver = self.wheel.driver
        left = self.wheel.pass_on(time.monotonic())
        if self.wheel.driver is not driver:
            self._changed(True)
        self._turn = None if math.isinf(left) else asyncio.get_running_loop().call_later(left, self._watch_the_turn)
