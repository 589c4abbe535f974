"""A viewer's mailbox: the newest frame of each kind waits in it; the dream never waits for a viewer."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

from magrathea.server.protocol import Frame, encode_frame

MAX_UNSEEN = 8  # frames under way that the page has not yet drawn
MAX_TEXTS = 16


class Viewer:
    """What one connection is still to be sent. A frame that is not taken in time is replaced and counted.

    At most one frame of each kind waits, and at most ``MAX_UNSEEN`` are under way: the page says which frame it has
    drawn ("seen"), so a slow page or a slow line drops frames instead of falling behind.
    """

    def __init__(self) -> None:
        self.num_dropped = 0
        self.num_sent = 0
        self._frames: dict[str, Frame] = {}
        self._texts: deque[str] = deque(maxlen=MAX_TEXTS)
        self._unseen: deque[int] = deque()
        self._changed = asyncio.Event()
        self._ended = False

    def offer(self, frame: Frame) -> None:
        """Put a frame in the mailbox, in place of the one of its kind that waits there."""
        kind = frame.header["kind"]
        if kind in self._frames:
            self.num_dropped += 1
        self._frames[kind] = frame
        self._changed.set()

    def say(self, message: dict[str, Any]) -> None:
        """Put a text message in the mailbox; the oldest is lost if many wait."""
        self._texts.append(json.dumps(message))
        self._changed.set()

    def seen(self, number: int) -> None:
        """The page has drawn frame ``number`` (and is done with all before it)."""
        while self._unseen and self._unseen[0] <= number:
            self._unseen.popleft()
        self._changed.set()

    def end(self) -> None:
        """After what waits there is nothing more."""
        self._ended = True
        self._frames.clear()
        self._changed.set()

    async def take(self) -> str | bytes | None:
        """Wait for the next thing to send: a text, else the oldest waiting frame, packed; None at the end."""
        while True:
            if self._texts:
                return self._texts.popleft()
            if self._ended:
                return None
            if self._frames and len(self._unseen) < MAX_UNSEEN:
                frame = self._frames.pop(min(self._frames, key=lambda kind: self._frames[kind].header["frame"]))
                self._unseen.append(frame.header["frame"])
                self.num_sent += 1
                return encode_frame(frame, dropped=self.num_dropped)
            self._changed.clear()
            await self._changed.wait()
