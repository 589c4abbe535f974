"""Many dreams at once: the steps that are due at the same time run through the model as one batch.

Continuous batching: a lane is one dream's place. Whoever wants a step asks its lane for it; all lanes of a world that
have asked when the model becomes free go together, first come first served, so that nobody waits for longer than the
batch under way and the one after it. Sessions of one world share its weights and one batched `Session`, whose rows are
the lanes: joining and leaving copies rows, stepping copies none where all are due.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST_TOGETHER = 64  # lanes in a batch
GATHER_SHARE, GATHER_SECONDS = 0.1, 0.01  # how long a batch waits for lanes: so much of the last one, at most so long

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """What a step brought to one lane: views of row ``index`` of a `StepResult`."""

    result: Any
    index: int
    seconds: float


Finish = Callable[[Sequence[tuple["BatchSlot", Row]]], None]


@dataclass(eq=False)
class BatchSlot:
    """One dream's row. ``keeper`` is whatever ``finish`` needs to know the dream by."""

    group: _Group
    keeper: Any
    asked: tuple[int, asyncio.Future[Row]] | None = None
    closed: bool = False

    async def step(self, action: int) -> Row:
        """Act, and wait for what comes back. One step at a time; raises what the model or ``finish`` raised."""
        assert self.asked is None, "a lane takes one step at a time"
        future = asyncio.get_running_loop().create_future()
        self.asked = action, future
        self.group.waiting.append(self)
        self.group.engine.wake()
        return await future

    async def session(self) -> Any:
        """A fork of the dream as a session of its own."""
        return await self.group.engine.call(self.group.fork, self)

    async def close(self) -> None:
        """Give the row back."""
        self.group.withdraw(self)
        await self.group.engine.call(self.group.leave, self)


@dataclass(eq=False)
class _Group:
    """The lanes of one world and their rows. ``batch`` and ``lanes`` are touched in the engine's thread only."""

    engine: Engine
    batch: Any = None
    lanes: list[BatchSlot] = field(default_factory=list)
    waiting: deque[BatchSlot] = field(default_factory=deque)
    last: set[BatchSlot] = field(default_factory=set)
    gather_until: float = 0.0

    def join(self, session: Any, keeper: Any) -> BatchSlot:
        lane = BatchSlot(self, keeper)
        if self.batch is None:
            self.batch = session
        else:
            self.batch.join(session)
        self.lanes.append(lane)
        return lane

    def leave(self, lane: BatchSlot) -> None:
        if lane.closed:
            return
        lane.closed = True
        place, newest = self.lanes.index(lane), self.lanes.pop()
        rows = list(range(len(self.lanes)))
        if newest is not lane:  # takes the place that is free, and the others keep theirs
            self.lanes[place], rows[place] = newest, len(rows)
        if rows:
            self.batch.keep(rows)
        else:
            self.batch = None

    def fork(self, lane: BatchSlot) -> Any:
        return self.batch.fork_batch([self.lanes.index(lane)])

    def last_log(self, lane: BatchSlot) -> np.ndarray:
        """The record (1,) of the lane's newest step; in the engine's thread."""
        return self.batch.log_of(self.lanes.index(lane), -1)

    def withdraw(self, lane: BatchSlot) -> None:
        self.last.discard(lane)
        if lane in self.waiting:
            self.waiting.remove(lane)
            assert lane.asked is not None
            lane.asked[1].cancel()
            lane.asked = None

    def gather_seconds(self, now: float) -> float:
        """How long to wait for the lanes that were in the last batch; nothing if all of them are here."""
        return max(0.0, self.gather_until - now) if self.last - set(self.waiting) else 0.0

    def run(self, lanes: list[BatchSlot], actions: list[int]) -> list[Row]:
        """One step of some lanes, which leaves the others as they are."""
        chosen = {self.lanes.index(lane): action for lane, action in zip(lanes, actions, strict=True)}
        rows = sorted(chosen)  # where all rows step, in their own order, nothing is copied
        began = time.perf_counter()
        result = self.batch.step(np.array([chosen[row] for row in rows]), rows=rows)
        seconds = time.perf_counter() - began
        return [Row(result, rows.index(row), seconds) for row in chosen]


class Engine:
    """Runs the steps of all lanes in one thread. Lives on the event loop.

    Args:
        finish: called in that thread with the lanes and rows of a batch before anybody learns of them: what it has
            not kept, nobody has seen. If it raises, the steps were not taken, and their lanes cannot go on.
    """

    def __init__(self, finish: Finish = lambda rows: None) -> None:
        self._finish = finish
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dream")
        self._groups: dict[int, _Group] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Something is due."""
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run something beside the model's steps, in their thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def open(self, session: Any, keeper: Any = None) -> BatchSlot:
        """A lane for a session of one row, which belongs to the engine from now on."""
        group = self._groups.setdefault(id(session.world), _Group(self))
        return await self.call(group.join, session, keeper)

    @property
    def num_lanes(self) -> int:
        return sum(len(group.lanes) for group in self._groups.values())

    async def close(self) -> None:
        """Stop; steps that are under way are finished first."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            due = [group for group in self._groups.values() if group.waiting]
            if not due:
                await self._wake.wait()
                continue
            wait = min(group.gather_seconds(time.monotonic()) for group in due)
            if wait > 0:
                try:
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            for group in due:
                if group.gather_seconds(time.monotonic()) <= 0:
                    await self._batch(group)

    async def _batch(self, group: _Group) -> None:
        lanes = [group.waiting.popleft() for _ in range(min(len(group.waiting), MOST_TOGETHER))]
        asked = [lane.asked for lane in lanes if lane.asked is not None]
        for lane in lanes:
            lane.asked = None
        began = time.monotonic()
        outcomes = await self.call(self._step, group, lanes, [action for action, _ in asked])
        now = time.monotonic()
        group.last = set(lanes)
        group.gather_until = now + min(GATHER_SECONDS, GATHER_SHARE * (now - began))
        for (_, future), outcome in zip(asked, outcomes, strict=True):
            if future.cancelled():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _step(self, group: _Group, lanes: list[BatchSlot], actions: list[int]) -> list[Row | Exception]:
        """In the thread: a batch, finished; where the model fails, each lane by itself, so that one spoils no other."""
        try:
            rows = group.run(lanes, actions)
        except Exception as error:
            if len(lanes) == 1:
                log.exception("a dream stopped")
                return [error]
            pairs = zip(lanes, actions, strict=True)
            return [self._step(group, [lane], [action])[0] for lane, action in pairs]
        try:
            self._finish(list(zip(lanes, rows, strict=True)))
        except Exception as error:
            log.exception("steps were not kept")
            for lane in lanes:
                group.leave(lane)  # its row is ahead of what was kept
            return [error for _ in lanes]
        return list(rows)
