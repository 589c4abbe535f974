"""The sessions of a server: their steps in the store, and those that somebody plays in the engine."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.server.engine import BatchSlot, Engine, Row
from magrathea.server.picture import Painter, png
from magrathea.server.store import Store, StoredStep
from magrathea.session.history import record_of
from magrathea.spaces import row_of

SNAPSHOT_STEPS, SNAPSHOT_SHARE = 256, 8  # a snapshot after so many steps, and after so great a part of all of them

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server keeps and does at most."""

    awake: int = 32  # sessions that somebody plays or watches at a time
    viewers: int = 16  # connections to one session
    sessions: int = 2000
    branches: int = 500  # of one session
    steps: int = 1_000_000  # of one branch, with those that it shares
    upload_bytes: int = 256 << 20
    name_letters: int = 80
    new_per_second: float = 5.0  # sessions opened, forked or uploaded, with bursts of four times as many


class SessionManager:
    """Brings sessions from the store into the engine and back. Its own methods block; those of a `Life` do not.

    Args:
        store: where steps are kept.
        session_class: `Session`, or what has of it what the app uses.
    """

    def __init__(self, store: Store, session_class: Any, limits: Limits | None = None) -> None:
        self.store, self.session_class, self.limits = store, session_class, limits or Limits()
        self.engine = Engine(self._keep)
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="snapshot")

    async def close(self) -> None:
        """Stop the engine, finish the snapshots under way, close the store."""
        await self.engine.close()
        self._saver.shutdown(wait=True)
        self.store.close()

    # -- sessions that sleep ------------------------------------------------------------------------------------------
    def add(self, world_id: str, name: str = "") -> str:
        """A new session, still without a branch; refused where there are too many."""
        if self.store.num_sessions() >= self.limits.sessions:
            raise MagratheaError(f"This server keeps {self.limits.sessions} sessions at most; delete one first.")
        return self.store.add_session(world_id, name)

    def fork(self, session: str, branch: int, number: int, name: str = "") -> str:
        """A new session that goes on from a step of another; the steps up to it are shared, not copied."""
        self.check_step(session, branch, number)
        other = self.add(self.store.session(session).world, name)
        self.store.add_fork(other, branch, number)
        return other

    def check_step(self, session: str, branch: int, number: int) -> None:
        """Raises MagratheaError unless the session has this branch, and the branch this step."""
        here = {found.id: found for found in self.store.branches(session)}
        if branch not in here or not 0 <= number <= here[branch].num_steps:
            raise MagratheaError(f"This session has no step {number} on branch {branch}.")

    def wake(self, world: Any, branch: int, number: int) -> tuple[Any, int]:
        """The session as it was after a step of a branch, and how far its snapshot brought it."""
        file, at, shared = self.store.snapshot(branch, number)
        session = self.session_class.from_bytes(file, world, source="This session")
        if at > shared:
            session.rewind(at - shared)
        steps = self.store.steps(branch, shared, number)
        if len(steps) != number - shared:
            raise MagratheaError(f"Store '{self.store.path}' has lost steps of branch {branch}.")
        if steps:
            session.extend([np.concatenate([_record(world, step.record) for step in steps])])
        session.prepare()
        return session, shared

    def total_reward(self, branch: int, number: int) -> float:
        """All reward up to a step."""
        return sum(step.total_reward for step in self.store.steps(branch, number - 1, number))

    def picture(self, world: Any, branch: int, number: int) -> bytes:
        """What was seen after a step of a branch, as a PNG file."""
        if number:
            steps = self.store.steps(branch, number - 1, number)
            if not steps:
                raise MagratheaError(f"There is no step {number} on this branch.")
            record = steps[0].record
        else:
            record = self.store.first(branch)
        seen = world.decode_observation(torch.from_numpy(_record(world, record)["tokens"].astype(np.int64)))
        return png(Painter(world.observation_space).paint(row_of(seen, 0)))

    # -- files --------------------------------------------------------------------------------------------------------
    def download(self, world: Any, session: str) -> bytes:
        """The session file of a session's branch, as it is now."""
        found = self.store.session(session)
        return self.wake(world, found.head, found.num_steps)[0].to_bytes()

    def upload(self, world_id: str, world: Any, file: bytes, name: str = "") -> str:
        """A new session from a session file; raises MagratheaError if it is damaged, foreign or too long."""
        session = self.session_class.from_bytes(file, world, source="This file")
        if session.batch_size != 1:
            raise MagratheaError(f"This file holds {session.batch_size} dreams; save one: session.fork_batch([0]).")
        log, num_start = session.log_of(0), session.num_start_of(0)
        if len(log) - num_start > self.limits.steps:
            raise MagratheaError(f"A session may have {self.limits.steps} steps at most; this one has {len(log)}.")
        rewards = world.decode_reward(torch.from_numpy(log["tokens"][num_start:].astype(np.int64)))
        totals = np.cumsum(np.where(np.isfinite(rewards), rewards, 0.0), dtype=float)
        rows = [(step.tobytes(), float(total)) for step, total in zip(log[num_start:], totals, strict=True)]
        added = self.add(world_id, name)
        self.store.add_root(added, log[num_start - 1].tobytes(), file, rows)
        return added

    # -- sessions that are played -------------------------------------------------------------------------------------
    def _keep(self, rows: Sequence[tuple[BatchSlot, Row]]) -> None:
        """In the engine's thread: the steps of a batch are kept before anybody sees them."""
        steps = [lane.keeper.after(row, lane.group.last_log(lane)) for lane, row in rows]
        self.store.append(steps)
        for (lane, _), step in zip(rows, steps, strict=True):
            lane.keeper.kept = step
            self._snapshot_if_due(lane, step)

    def _snapshot_if_due(self, lane: BatchSlot, step: StoredStep) -> None:
        since = step.number - lane.keeper.snapshot_at
        if since >= SNAPSHOT_STEPS and since * SNAPSHOT_SHARE >= step.number:
            lane.keeper.snapshot_at = step.number
            self._saver.submit(self._snapshot, lane.group.fork(lane), step.branch, step.number)

    def _snapshot(self, session: Any, branch: int, number: int) -> None:
        try:
            self.store.put_snapshot(branch, number, session.to_bytes())
        except MagratheaError as error:  # waking will take longer, and nothing is lost
            log.warning("no snapshot of branch %s at step %s: %s", branch, number, error)


class LiveSession:
    """One session while it is awake: the branch it is on, how far it has come, and its lane in the engine."""

    def __init__(self, library: SessionManager, world: Any, session: str) -> None:
        self.library, self.world, self.session = library, world, session
        self.branch = self.num_steps = self.snapshot_at = 0
        self.total_reward = 0.0
        self.kept: StoredStep | None = None  # the newest step, from the moment when it is kept
        self._lane: BatchSlot | None = None

    def after(self, row: Row, record: np.ndarray) -> StoredStep:
        """The step that a row brought, as it is kept, given its log's record (1,)."""
        reward = float(row.result.reward[row.index])
        total_reward = self.total_reward + (reward if math.isfinite(reward) else 0.0)
        return StoredStep(self.branch, self.num_steps + 1, record.tobytes(), total_reward)

    async def begin(self, seed: int, start: Any) -> Tensor:
        """A new branch, from a stored start or from given steps; returns the tokens (N,) that it begins with."""
        self._check_room()
        await self.sleep()
        session = await asyncio.to_thread(self._new_session, seed, start)
        branch = await asyncio.to_thread(self._add_root, session)
        return await self._enter(session, branch, 0, 0)

    def _new_session(self, seed: int, start: Any) -> Any:
        session = self.library.session_class(self.world, seed=seed, start=start)
        session.prepare()
        return session

    def _add_root(self, session: Any) -> int:
        return self.library.store.add_root(self.session, session.log_of(0, -1).tobytes(), session.to_bytes())

    async def wake(self) -> Tensor:
        """Go on where the session was left; returns the tokens (N,) of its last step."""
        found = self.library.store.session(self.session)
        await self.sleep()
        session, shared = await asyncio.to_thread(self.library.wake, self.world, found.head, found.num_steps)
        return await self._enter(session, found.head, found.num_steps, shared)

    async def go(self, branch: int, number: int) -> Tensor:
        """Go on from a step of a branch: along it from its last step, on a new branch from any other."""
        self.library.check_step(self.session, branch, number)
        tips = {found.id: found.num_steps for found in self.library.store.branches(self.session)}
        if number < tips[branch]:
            self._check_room()
        await self.sleep()
        session, shared = await asyncio.to_thread(self.library.wake, self.world, branch, number)
        if number < tips[branch]:
            branch = self.library.store.add_fork(self.session, branch, number)
        else:
            self.library.store.go_on(self.session, branch)
        return await self._enter(session, branch, number, shared)

    @property
    def awake(self) -> bool:
        """Whether it can go on."""
        return self._lane is not None and not self._lane.closed

    async def step(self, action: int) -> Row:
        """Take an action of the action space; when this returns, the step is kept."""
        if self._lane is None or self._lane.closed:
            raise MagratheaError("this session sleeps; load the page again")
        if self.num_steps >= self.library.limits.steps:
            raise MagratheaError(f"a session may have {self.library.limits.steps} steps at most; branch or begin anew")
        row = await self._lane.step(action)
        assert self.kept is not None
        self.num_steps, self.total_reward = self.kept.number, self.kept.total_reward
        return row

    async def sleep(self) -> None:
        """Leave the engine; the session costs no memory until it wakes."""
        lane, self._lane = self._lane, None
        if lane is not None:
            await lane.close()

    async def _enter(self, session: Any, branch: int, number: int, snapshot_at: int) -> Tensor:
        tokens = session.tokens[0]
        self.branch, self.num_steps, self.snapshot_at = branch, number, snapshot_at
        self.total_reward = self.library.total_reward(branch, number)
        self._lane = await self.library.engine.open(session, self)
        return tokens

    def _check_room(self) -> None:
        if len(self.library.store.branches(self.session)) >= self.library.limits.branches:
            raise MagratheaError(f"a session has {self.library.limits.branches} branches at most; open a new one")


def _record(world: Any, data: bytes) -> np.ndarray:
    """The log's record (1,) of a step: its tokens, where they came from and the seed of the dice."""
    record = record_of(world.layout)
    if len(data) != record.itemsize:
        raise MagratheaError("This session was made in another world of the same name; open it with that one.")
    return np.frombuffer(data, record)
