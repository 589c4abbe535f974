"""One session while it is in the engine."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.server.engine import BatchSlot, StepOutput
from magrathea.server.session_manager import LoadedSession, SessionManager
from magrathea.server.store import Branch, Store, StoredStep
from magrathea.session.history import record_bytes, tokens_of


class LiveSession:
    """One session while it is active: the branch it is on, the number of its last step, and its slot in the engine.

    Attributes:
        name, branches: as they were stored when `refresh` was called last.
        committed: the newest stored step, at first without its record; set in the engine's thread while it has a slot.
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
            return session, record_bytes(session.log_of(0, -1)), session.to_bytes()

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
        loaded = await self._rewound(branch, number) or await self.manager.load(self.world, branch, number)
        await self.suspend()
        if forks:
            branch = await self.manager.store.run(Store.add_fork, self.session, branch, number)
        else:
            await self.manager.store.run(Store.switch, self.session, branch)
        return await self._activate(loaded, branch, number)

    async def _rewound(self, branch: int, number: int) -> LoadedSession | None:
        """The active session as it was after a step of its branch, computed from the snapshots of its memory that it
        holds; None for a step of another branch."""
        slot = self._slot
        if slot is None or slot.closed or branch != self.branch:
            return None
        total_reward = await self.manager.store.run(Store.total_reward, branch, number)
        session = await self.manager.engine.call(slot.batch.fork, slot)

        def rewind() -> Any:
            session.rewind(self.num_steps - number)
            session.prepare()
            return session

        return LoadedSession(await asyncio.to_thread(rewind), total_reward, number)

    async def step(self, action: Any) -> StepOutput:
        """Take an action of the action space; when this returns, the step is stored."""
        slot = self._open_slot()
        if self.num_steps >= self.manager.limits.steps:
            raise MagratheaError(f"A session may have {self.manager.limits.steps} steps at most; fork or reset it.")
        output = await slot.step(action)
        assert self.committed is not None
        self.num_steps, self.total_reward = self.committed.number, self.committed.total_reward
        return output

    async def last_steps(self, number: int) -> Tensor:
        """The tokens (T, N) of up to `number` steps that came last, those that the session began from among them."""
        slot = self._open_slot()
        records = await self.manager.engine.call(slot.batch.last_records, slot, number)
        return tokens_of(records)

    async def features(self) -> Tensor:
        """What the model knows of the last step, (1, S, F), as `Session.features` gives it."""
        slot = self._open_slot()
        return await self.manager.engine.call(slot.batch.features, slot)

    def _open_slot(self) -> BatchSlot:
        if self._slot is None or self._slot.closed:
            raise MagratheaError("This session is not active; load the page again.")
        return self._slot

    async def suspend(self) -> None:
        """Leave the engine; the session takes no memory until it is resumed, from a snapshot that is made now."""
        slot, self._slot = self._slot, None
        if slot is not None:
            await self.manager.engine.call(self.manager.snapshot_before_leaving, slot)
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
        return StoredStep(self.branch, self.num_steps + 1, record_bytes(record), total_reward)

    async def _activate(self, loaded: LoadedSession, branch: int, number: int) -> Tensor:
        tokens = loaded.session.tokens[0]
        self.branch, self.num_steps = branch, number
        self.snapshot_at, self.total_reward = loaded.snapshot_at, loaded.total_reward
        self.committed = StoredStep(branch, number, b"", loaded.total_reward)
        await self.refresh()
        self._slot = await self.manager.engine.open(loaded.session, self)
        return tokens

    def _check_branches(self, store: Store) -> None:
        if len(store.branches(self.session)) >= self.manager.limits.branches:
            raise MagratheaError(f"A session has {self.manager.limits.branches} branches at most; start another one.")
