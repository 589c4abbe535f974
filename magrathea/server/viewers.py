"""The connections that watch a session: what each is still to be sent, and which of them has control."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from magrathea.errors import MagratheaError
from magrathea.server.auth import CLOSE_REFUSED
from magrathea.server.protocol import ErrorMessage, Frame, SessionMessage, WorldMessage, encode_frame
from magrathea.server.store import Branch

MAX_UNSEEN = 8  # frames under way that the page has not yet drawn
MAX_TEXTS = 16
IDLE_SECONDS = 10.0  # without input, after which control passes to whoever requested it
TURN_SECONDS = 60.0  # with control, after which it passes to whoever requested it


class Viewer:
    """Outbox of one connection. A frame that is not taken in time is replaced and counted.

    At most one frame of each kind waits, and at most `MAX_UNSEEN` are under way: the page says which frame it has
    drawn, so a slow page or connection drops frames instead of falling behind.
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
        """Queue a frame, in place of the one of its kind that waits."""
        if frame.kind in self._frames:
            self.num_dropped += 1
        self._frames[frame.kind] = frame
        self._changed.set()

    def send(self, message: WorldMessage | SessionMessage | ErrorMessage) -> None:
        """Queue a text message; the oldest is lost if many wait."""
        self._texts.append(msgspec.json.encode(message).decode())
        self._changed.set()

    def seen(self, number: int) -> None:
        """The page has drawn frame `number` (and is done with all before it)."""
        while self._unseen and self._unseen[0] <= number:
            self._unseen.popleft()
        self._changed.set()

    def end(self) -> None:
        """Close the connection after the texts that wait."""
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
                frame = self._frames.pop(min(self._frames, key=lambda kind: self._frames[kind].header.frame))
                self._unseen.append(frame.header.frame)
                self.num_sent += 1
                return encode_frame(frame, self.num_dropped)
            self._changed.clear()
            await self._changed.wait()

    async def send_all(self, websocket: WebSocket) -> None:
        """Send what is queued until the connection ends."""
        with suppress(WebSocketDisconnect, RuntimeError, OSError):
            while True:
                item = await self.take()
                if item is None:
                    await websocket.close(CLOSE_REFUSED)
                    return
                await (websocket.send_text(item) if isinstance(item, str) else websocket.send_bytes(item))


@dataclass
class ControlLock:
    """Which viewer has control. A free lock goes to the first who acts. Others request it and get it in order: when
    the holder releases it, leaves, has been idle for `IDLE_SECONDS` or has held it for `TURN_SECONDS`.

    Attributes:
        requests: the viewers who wait for it, the first in line first.
        since, used: when the holder got it, and acted last.
    """

    holder: Viewer | None = None
    requests: list[Viewer] = field(default_factory=list)
    since: float = 0.0
    used: float = 0.0

    def acquire(self, viewer: Viewer, now: float) -> bool:
        """A viewer acts: take the lock if it is free. Returns whether the viewer holds it."""
        if self.holder is None:
            self._pass_to(viewer, now)
        if self.holder is viewer:
            self.used = now
        return self.holder is viewer

    def request(self, viewer: Viewer, now: float) -> None:
        """Take the lock if it is free, else wait for it."""
        if self.holder is None:
            self._pass_to(viewer, now)
        elif viewer is not self.holder and viewer not in self.requests:
            self.requests.append(viewer)
        self.expire(now)

    def release(self, viewer: Viewer, now: float) -> None:
        """Withdraw a viewer's request; the holder passes the lock to the first in line, or leaves it free."""
        if viewer in self.requests:
            self.requests.remove(viewer)
        if viewer is self.holder:
            self.holder = None
            if self.requests:
                self._pass_to(self.requests[0], now)

    def expire(self, now: float) -> float:
        """Pass the lock on if the holder's time is over; returns the seconds until that is to be checked again."""
        if self.holder is None or not self.requests:
            return math.inf
        left = min(self.used + IDLE_SECONDS, self.since + TURN_SECONDS) - now
        if left > 0:
            return left
        self._pass_to(self.requests[0], now)
        return self.expire(now)

    def _pass_to(self, viewer: Viewer, now: float) -> None:
        self.holder, self.since, self.used = viewer, now, now
        if viewer in self.requests:
            self.requests.remove(viewer)


class Viewers:
    """The viewers of one session and their control lock. Used on the event loop.

    Args:
        on_control_change: called when control is requested (False), or has passed to another viewer or become
            free (True).
    """

    def __init__(self, on_control_change: Callable[[bool], None]) -> None:
        self.lock = ControlLock()
        self._viewers: set[Viewer] = set()
        self._on_control_change = on_control_change
        self._num_frames = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._viewers)

    def close(self) -> None:
        """Stop the control lock's timer."""
        if self._timer:
            self._timer.cancel()

    def add(self, max_viewers: int) -> Viewer:
        """One more viewer; raises MagratheaError if there are `max_viewers`."""
        if len(self._viewers) >= max_viewers:
            raise MagratheaError(f"This session has {max_viewers} viewers, the most allowed; try again in a moment.")
        viewer = Viewer()
        self._viewers.add(viewer)
        return viewer

    def remove(self, viewer: Viewer) -> None:
        """A viewer has left; its control passes on."""
        self._viewers.discard(viewer)
        self.release_control(viewer)

    def disconnect(self, reason: str) -> None:
        """Close all connections, with a reason."""
        self.send(ErrorMessage(reason, fatal=True))
        for viewer in self._viewers:
            viewer.end()

    # -- sending ------------------------------------------------------------------------------------------------------
    def show(self, frame: Frame) -> None:
        """Number a frame and offer it to all viewers."""
        self._num_frames += 1
        frame.header.frame = self._num_frames
        for viewer in self._viewers:
            viewer.offer(frame)

    def send(self, message: ErrorMessage) -> None:
        """The same text message to all."""
        for viewer in self._viewers:
            viewer.send(message)

    def send_session(self, session: str, name: str, branch: int, branches: Sequence[Branch]) -> None:
        """How the session is now, to each viewer with its own part in the control lock."""
        lock = self.lock
        for viewer in self._viewers:
            viewer.send(
                SessionMessage(
                    id=session,
                    name=name,
                    branch=branch,
                    branches=branches,
                    viewers=len(self._viewers),
                    requests=len(lock.requests),
                    free=lock.holder is None,
                    in_control=lock.holder is viewer,
                    requested=viewer in lock.requests,
                )
            )

    # -- control ------------------------------------------------------------------------------------------------------
    def acquire_control(self, viewer: Viewer) -> bool:
        """A viewer acts: returns whether it has control, which it gets if nobody has."""
        was_free = self.lock.holder is None
        acquired = self.lock.acquire(viewer, time.monotonic())
        if was_free:
            self._on_control_change(True)
        return acquired

    def request_control(self, viewer: Viewer) -> None:
        """A viewer requests control."""
        holder = self.lock.holder
        self.lock.request(viewer, time.monotonic())
        self._on_control_change(self.lock.holder is not holder)
        self._watch_lock()

    def release_control(self, viewer: Viewer) -> None:
        """A viewer releases control, or withdraws its request."""
        holder = self.lock.holder
        self.lock.release(viewer, time.monotonic())
        self._on_control_change(self.lock.holder is not holder)
        self._watch_lock()

    def _watch_lock(self) -> None:
        """While control is requested, end the holder's turn in time."""
        self.close()
        holder = self.lock.holder
        left = self.lock.expire(time.monotonic())
        if self.lock.holder is not holder:
            self._on_control_change(True)
        self._timer = None if math.isinf(left) else asyncio.get_running_loop().call_later(left, self._watch_lock)
