"""The places of a server: who plays, who lost the connection, who must wait."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from magrathea.app.player import Player
from magrathea.errors import MagratheaError

LINGER = 60.0  # seconds that a dream waits for its lost connection to come back


@dataclass
class Seat:
    """One player's place on the server, and since when nobody is connected to it."""

    player: Player
    task: asyncio.Task[None]
    empty_since: float | None = None


class Seats:
    """The dreams that run on this server; refuses more than ``most`` at a time."""

    def __init__(self, most: int, make_player: Callable[..., Player]) -> None:
        self.most = most
        self._make_player = make_player
        self._seats: dict[tuple[str, str], Seat] = {}

    def __len__(self) -> int:
        return len(self._seats)

    def join(self, world_id: str, world: Any, ticket: str | None, **options: Any) -> tuple[str, Player, bool]:
        """A seat for a connection: the one of its ticket if that still waits, else a new one.

        Returns the ticket, the player and whether it was waiting; raises MagratheaError if all seats are taken.
        """
        seat = self._seats.get((world_id, ticket or ""))
        if ticket and seat:
            seat.empty_since = None
            return ticket, seat.player, True
        self.sweep(need_one=True)
        if len(self._seats) >= self.most:
            raise MagratheaError(f"All {self.most} places of this server are taken; try again in a moment.")
        player = self._make_player(world, **options)
        ticket = secrets.token_urlsafe(12)
        self._seats[world_id, ticket] = Seat(player, asyncio.create_task(player.run()))
        return ticket, player, False

    def leave(self, world_id: str, ticket: str) -> None:
        """A connection to this seat is gone; without any other the seat waits for it for a while."""
        seat = self._seats.get((world_id, ticket))
        if seat and not seat.player.viewers:
            seat.empty_since = time.monotonic()

    def sweep(self, *, need_one: bool = False) -> None:
        """Free the seats that were empty too long, and the longest empty one if all are taken and one is needed."""
        now = time.monotonic()
        empty = sorted((seat.empty_since, key) for key, seat in self._seats.items() if seat.empty_since is not None)
        for index, (since, key) in enumerate(empty):
            if now - since > LINGER or (need_one and index == 0 and len(self._seats) >= self.most):
                self._seats.pop(key).task.cancel()

    async def close(self) -> None:
        """End all dreams."""
        tasks = [seat.task for seat in self._seats.values()]
        self._seats.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
