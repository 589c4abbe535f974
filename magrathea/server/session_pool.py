"""The active sessions of a server: those that are in the engine, with or without a connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from magrathea.errors import MagratheaError
from magrathea.server.player import Player

INACTIVE_SECONDS = 600.0  # without input, after which a session with connections leaves a full pool
IDLE_SECONDS = 60.0  # that a session without a connection stays active, for the connection to come back


@dataclass
class PooledSession:
    """A session that is active, and since when nobody is connected to it."""

    player: Player
    task: asyncio.Task[None]
    idle_since: float | None = None


class SessionPool:
    """The active sessions of a server, at most `max_active`. Used on the event loop."""

    def __init__(self, max_active: int) -> None:
        self.max_active = max_active
        self._pooled: dict[str, PooledSession] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._pooled)

    def player(self, session: str) -> Player | None:
        """The player of a session, if it is active."""
        pooled = self._pooled.get(session)
        return pooled.player if pooled else None

    def make_room(self) -> None:
        """Suspend a session if the pool is full: the longest idle one, else one that failed or whose viewers have sent
        nothing for `INACTIVE_SECONDS`; raises MagratheaError if there is none."""
        self.suspend_idle(need_one=True)
        if len(self._pooled) >= self.max_active:
            self._suspend_inactive()
        if len(self._pooled) >= self.max_active:
            raise MagratheaError(f"This server has {self.max_active} active sessions, the most allowed; try later.")

    def _suspend_inactive(self) -> None:
        now = time.monotonic()
        inactive = [
            (pooled.player.used_at, session)
            for session, pooled in self._pooled.items()
            if pooled.player.failure or now - pooled.player.used_at > INACTIVE_SECONDS
        ]
        if inactive:
            _, session = min(inactive)
            self._pooled[session].player.viewers.disconnect("This session was idle, and its place was needed.")
            self._end(session)

    async def join(self, session: str, make_player: Callable[[], Player]) -> Player:
        """The player of a session for one more connection; starts one if the session is not active."""
        if session in self._ending:
            await asyncio.wait([self._ending[session]])
        pooled = self._pooled.get(session)
        if pooled is None:
            self.make_room()
            player = make_player()
            pooled = PooledSession(player, asyncio.create_task(player.run()), time.monotonic())
            self._pooled[session] = pooled
        return pooled.player

    def connected(self, session: str) -> None:
        """Somebody is connected to a session now."""
        self._pooled[session].idle_since = None

    def disconnected(self, session: str) -> None:
        """A connection has ended; without any other the session is suspended after `IDLE_SECONDS`."""
        pooled = self._pooled.get(session)
        if pooled and not len(pooled.player.viewers):
            pooled.idle_since = time.monotonic()

    def suspend_idle(self, *, need_one: bool = False) -> None:
        """Suspend the sessions that were idle too long, and the longest idle one if the pool is full and one place is
        needed."""
        now = time.monotonic()
        idle = sorted((pooled.idle_since, key) for key, pooled in self._pooled.items() if pooled.idle_since is not None)
        for index, (since, session) in enumerate(idle):
            if now - since > IDLE_SECONDS or (need_one and index == 0 and len(self._pooled) >= self.max_active):
                self._end(session)

    def _end(self, session: str) -> asyncio.Task[None]:
        task = self._ending[session] = self._pooled.pop(session).task
        task.cancel()
        task.add_done_callback(lambda _: self._ending.pop(session, None))
        return task

    async def evict(self, session: str, reason: str) -> None:
        """Close all connections to a session, with a reason, and suspend it."""
        if session in self._pooled:
            self._pooled[session].player.viewers.disconnect(reason)
            await asyncio.wait([self._end(session)])

    async def close(self) -> None:
        """Suspend all sessions."""
        tasks = [self._end(session) for session in list(self._pooled)]
        await asyncio.gather(*tasks, *self._ending.values(), return_exceptions=True)
