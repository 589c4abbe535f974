"""Sessions that are in the engine: one of them, and the pool of all that a server has active."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.server.engine import BatchSlot, StepOutput
from magrathea.server.session_manager import LoadedSession, SessionManager
from magrathea.server.store import Branch, Store, StoredStep

if TYPE_CHECKING:
    from magrathea.server.player import Player

IDLE_SECONDS = 60.0  # that a session without a connection stays active, for the connection to come back


class LiveSession:
    """One session while it is active: the branch it is on, the number of its last step, and its slot in the engine.

    Attributes:
        name, branches: as they were stored when `refresh` was called last.
        committed: the newest stored step; set in the engine's thread.
    """

    def __init__(self, manager: SessionManager, world: Any, session: str) -> None:
        self.manager, self.world, self.session = manager, world, session
        self.branch = self.num_steps = self.snapshot_at = 0
        self.total_reward = 0.0
        self.name, self.branches = "", list[Branch]()
        self.committed: StoredStep | None = None
        self._slot: BatchSlot | None = None

    @property
    def active(self) -> bool:
        """Whether it can be stepped."""
        return self._slot is not None and not self._slot.closed

    async def start(self, seed: int, start: Any) -> Tensor:
        """A new branch, from a stored start state or from given steps; returns the tokens (N,) of its last step."""
        await self.manager.store.run(self._check_branches)
        await self.suspend()

        def make() -> tuple[Any, bytes, bytes]:
            session = self.manager.session_class(self.world, seed=seed, start=start)
            session.prepare()
            return session, session.log_of(0, -1).tobytes(), session.to_bytes()

        session, first, file = await asyncio.to_thread(make)
        branch = await self.manager.store.run(Store.add_root, self.session, first, file)
        return await self._activate(LoadedSession(session, 0.0, 0), branch, 0)

    async def resume(self) -> Tensor:
        """Continue where the session was left; returns the tokens (N,) of its last step."""
        found = await self.manager.store.run(Store.session, self.session)
        await self.suspend()
        loaded = await self.manager.load(self.world, found.head, found.num_steps)
        return await self._activate(loaded, found.head, found.num_steps)

    async def go_to(self, branch: int, number: int) -> Tensor:
        """Continue from a step of a branch: on it from its last step, on a new branch from any other."""

        def check(store: Store) -> bool:
            store.check_step(self.session, branch, number)
            forks = any(found.id == branch and number < found.num_steps for found in store.branches(self.session))
            if forks:
                self._check_branches(store)
            return forks

        forks = await self.manager.store.run(check)
        await self.suspend()
        loaded = await self.manager.load(self.world, branch, number)
        if forks:
            branch = await self.manager.store.run(Store.add_fork, self.session, branch, number)
        else:
            await self.manager.store.run(Store.switch, self.session, branch)
        return await self._activate(loaded, branch, number)

    async def step(self, action: int) -> StepOutput:
        """Take an action of the action space; when this returns, the step is stored."""
        if self._slot is None or self._slot.closed:
            raise MagratheaError("This session is not active; load the page again.")
        if self.num_steps >= self.manager.limits.steps:
            raise MagratheaError(f"A session may have {self.manager.limits.steps} steps at most; fork or reset it.")
        output = await self._slot.step(action)
        assert self.committed is not None
        self.num_steps, self.total_reward = self.committed.number, self.committed.total_reward
        return output

    async def suspend(self) -> None:
        """Leave the engine; the session takes no memory until it is resumed."""
        slot, self._slot = self._slot, None
        if slot is not None:
            await slot.close()

    async def refresh(self) -> None:
        """Read the name and the branches from the store."""

        def read(store: Store) -> tuple[str, list[Branch]]:
            return store.session(self.session).name, store.branches(self.session)

        self.name, self.branches = await self.manager.store.run(read)

    def stored_step(self, output: StepOutput, record: np.ndarray) -> StoredStep:
        """The step of an output as it is to be stored, given its record (1,) in the session's log."""
        reward = float(output.result.reward[output.index])
        total_reward = self.total_reward + (reward if math.isfinite(reward) else 0.0)
        return StoredStep(self.branch, self.num_steps + 1, record.tobytes(), total_reward)

    async def _activate(self, loaded: LoadedSession, branch: int, number: int) -> Tensor:
        tokens = loaded.session.tokens[0]
        self.branch, self.num_steps = branch, number
        self.snapshot_at, self.total_reward = loaded.snapshot_at, loaded.total_reward
        await self.refresh()
        self._slot = await self.manager.engine.open(loaded.session, self)
        return tokens

    def _check_branches(self, store: Store) -> None:
        if len(store.branches(self.session)) >= self.manager.limits.branches:
            raise MagratheaError(f"A session has {self.manager.limits.branches} branches at most; start another one.")


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
        """Suspend the longest idle session if the pool is full; raises MagratheaError if none is idle."""
        self.suspend_idle(need_one=True)
        if len(self._pooled) >= self.max_active:
            raise MagratheaError(f"This server has {self.max_active} active sessions, the most allowed; try later.")

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
        tasks: Sequence[asyncio.Task[None]] = [self._end(session) for session in list(self._pooled)]
        await asyncio.gather(*tasks, *self._ending.values(), return_exceptions=True)
