"""The places of a server: which sessions are awake, and since when nobody is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from magrathea.errors import MagratheaError
from magrathea.server.player import Player

LINGER = 60.0  # seconds that a session stays awake for a lost connection to come back


@dataclass
class PooledSession:
    """A session that is awake, and since when nobody is connected to it."""

    player: Player
    task: asyncio.Task[None]
    empty_since: float | None = None


class SessionPool:
    """The sessions that are awake on this server; refuses more than ``most`` at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._seats: dict[str, PooledSession] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._seats)

    def player(self, session: str) -> Player | None:
        """Who plays a session, if it is awake."""
        seat = self._seats.get(session)
        return seat.player if seat else None

    def make_room(self) -> None:
        """Raises MagratheaError if one more session cannot wake; puts an empty one to sleep for it if that helps."""
        self.sweep(need_one=True)
        if len(self._seats) >= self.most:
            raise MagratheaError(f"All {self.most} places of this server are taken; try again in a moment.")

    async def join(self, session: str, make_player: Callable[[], Player]) -> Player:
        """The player of a session for one more connection; the session wakes if it slept."""
        if session in self._ending:
            await asyncio.wait([self._ending[session]])
        seat = self._seats.get(session)
        if seat is None:
            self.make_room()
            player = make_player()
            seat = self._seats[session] = PooledSession(player, asyncio.create_task(player.run()), time.monotonic())
        return seat.player

    def stay(self, session: str) -> None:
        """Somebody is connected now."""
        self._seats[session].empty_since = None

    def leave(self, session: str) -> None:
        """A connection is gone; without any other the session will sleep after a while."""
        seat = self._seats.get(session)
        if seat and not seat.player.audience.viewers:
            seat.empty_since = time.monotonic()

    def sweep(self, *, need_one: bool = False) -> None:
        """Put to sleep what was empty too long, and the longest empty one if all seats are taken and one is needed."""
        now = time.monotonic()
        empty = sorted((seat.empty_since, key) for key, seat in self._seats.items() if seat.empty_since is not None)
        for index, (since, session) in enumerate(empty):
            if now - since > LINGER or (need_one and index == 0 and len(self._seats) >= self.most):
                self._end(session)

    def _end(self, session: str) -> asyncio.Task[None]:
        task = self._ending[session] = self._seats.pop(session).task
        task.cancel()
        task.add_done_callback(lambda _: self._ending.pop(session, None))
        return task

    async def dismiss(self, session: str, reason: str) -> None:
        """Send everybody away from a session and put it to sleep."""
        if session in self._seats:
            self._seats[session].player.audience.dismiss(reason)
            await asyncio.wait([self._end(session)])

    async def close(self) -> None:
        """Put all sessions to sleep."""
        tasks = [self._end(session) for session in list(self._seats)] + list(self._ending.values())
        await asyncio.gather(*tasks, return_exceptions=True)
