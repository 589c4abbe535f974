"""The active sessions of a server: those that are in the engine, with or without a connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from magrathea.errors import MagratheaError
from magrathea.server.player import Player
from magrathea.server.session_manager import Limits

INACTIVE_SECONDS = 600.0  # without input, after which a session with connections leaves a full pool
IDLE_SECONDS = 60.0  # that a session without a connection stays active, for the connection to come back


@dataclass
class PooledSession:
    """A session that is active, who opened it, and since when nobody is connected to it."""

    player: Player
    task: asyncio.Task[None]
    visitor: str
    idle_since: float | None = None


class SessionPool:
    """The active sessions of a server, at most `limits.active`, and of one visitor a share of them. Used on the event
    loop."""

    def __init__(self, limits: Limits) -> None:
        self.max_active, self.max_of_visitor = limits.active, limits.share(limits.active)
        self._pooled: dict[str, PooledSession] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._pooled)

    def player(self, session: str) -> Player | None:
        """The player of a session, if it is active."""
        pooled = self._pooled.get(session)
        return pooled.player if pooled else None

    def make_room(self, visitor: str) -> None:
        """Suspend a session if the pool is full, or one of the visitor's if it has its share: the longest idle one,
        else one that failed or whose viewers have sent nothing for `INACTIVE_SECONDS`.

        Raises MagratheaError if there is none.
        """
        own = [session for session, pooled in self._pooled.items() if pooled.visitor == visitor]
        if len(own) >= self.max_of_visitor and not self._suspend_one(own):
            raise MagratheaError(
                f"You have {len(own)} of the {self.max_active} active sessions of this server, the most that one "
                "visitor may have; close one of their pages, and try again."
            )
        if len(self._pooled) >= self.max_active and not self._suspend_one(list(self._pooled)):
            raise MagratheaError(f"This server has {self.max_active} active sessions, the most allowed; try later.")

    def _suspend_one(self, sessions: list[str]) -> bool:
        """Suspend the one of these sessions that needs its place least; False if all are played."""
        now, unused = time.monotonic(), list[tuple[bool, float, str]]()
        for session in sessions:
            pooled = self._pooled[session]
            if pooled.idle_since is not None:
                unused.append((False, pooled.idle_since, session))
            elif pooled.player.failure or now - pooled.player.used_at > INACTIVE_SECONDS:
                unused.append((True, pooled.player.used_at, session))
        if unused:
            *_, session = min(unused)
            self._pooled[session].player.viewers.disconnect("This session was idle, and its place was needed.")
            self._end(session)
        return bool(unused)

    async def join(self, session: str, make_player: Callable[[], Player], visitor: str) -> Player:
        """The player of a session for one more connection; starts one if the session is not active."""
        if session in self._ending:
            await asyncio.wait([self._ending[session]])
        pooled = self._pooled.get(session)
        if pooled is None:
            self.make_room(visitor)
            player = make_player()
            pooled = PooledSession(player, asyncio.create_task(player.run()), visitor, time.monotonic())
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

    def suspend_idle(self) -> None:
        """Suspend the sessions that were without a connection for too long."""
        now = time.monotonic()
        for session, pooled in list(self._pooled.items()):
            if pooled.idle_since is not None and now - pooled.idle_since > IDLE_SECONDS:
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
