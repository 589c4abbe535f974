"""Continuous batching: steps of different sessions that are due at the same time run through the model as one batch.

A `BatchSlot` is one session's place. All slots of a world that have asked for a step when the model becomes free run
together, first come first served, so that none waits longer than the batch under way and the one after it. Sessions of
one world with the same settings share one batched `Session`, whose batch indices are the slots: joining and leaving
copies the state of one session, stepping copies none where all are due. Sessions of other settings have other batches.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from magrathea.errors import MagratheaError
from magrathea.spaces import stack

MAX_BATCH = 64  # slots that step together
IDLE_SECONDS = 0.005  # without a step, after which the engine counts as idle
IDLE_SHARE = 0.5  # of the time that calls while it is idle may take
GATHER_SHARE, GATHER_SECONDS = 0.1, 0.01  # a batch waits for slots: this share of the last one's time, at most so long

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepOutput:
    """The step of one slot: batch index `index` of a `StepResult`, and the seconds that the batch took."""

    result: Any
    index: int
    seconds: float


Commit = Callable[[Sequence[tuple["BatchSlot", StepOutput]]], None]


@dataclass(eq=False)
class BatchSlot:
    """One session's place in a batch. `owner` is what the engine's `commit` needs to know the session by."""

    batch: _SessionBatch
    owner: Any
    request: tuple[int, asyncio.Future[StepOutput]] | None = None
    closed: bool = False

    async def step(self, action: Any) -> StepOutput:
        """Take one step, one at a time; raises what the model or `commit` raised."""
        assert self.request is None, "a slot takes one step at a time"
        future = asyncio.get_running_loop().create_future()
        self.request = action, future
        self.batch.waiting.append(self)
        self.batch.engine.wake()
        return await future

    async def close(self) -> None:
        """Leave the batch."""
        self.batch.withdraw(self)
        await self.batch.engine.call(self.batch.engine.leave, self)


@dataclass(eq=False)
class _SessionBatch:
    """The slots of one batched session. `session` and `slots` are used in the engine's thread only."""

    engine: Engine
    key: Hashable
    session: Any = None
    slots: list[BatchSlot] = field(default_factory=list)
    waiting: deque[BatchSlot] = field(default_factory=deque)
    last: set[BatchSlot] = field(default_factory=set)
    gather_until: float = 0.0

    # -- in the engine's thread ---------------------------------------------------------------------------------------
    def join(self, session: Any, owner: Any) -> BatchSlot:
        slot = BatchSlot(self, owner)
        if self.session is None:
            self.session = session
        else:
            self.session.append(session)
        self.slots.append(slot)
        return slot

    def leave(self, slot: BatchSlot) -> None:
        if slot.closed:
            return
        slot.closed = True
        index, last = self.slots.index(slot), self.slots.pop()
        kept = list(range(len(self.slots)))
        if last is not slot:  # the last slot moves to the free index, the others keep theirs
            self.slots[index], kept[index] = last, len(kept)
        if kept:
            self.session.keep(kept)
        else:
            self.session = None

    def fork(self, slot: BatchSlot) -> Any:
        """A fork of the slot's session, of batch size 1."""
        return self.session.fork_batch([self.slots.index(slot)])

    def last_records(self, slot: BatchSlot, number: int = 1) -> np.ndarray:
        """The log records (T,) of up to `number` newest steps of the slot."""
        return self.session.log_of(self.slots.index(slot), -number)

    def features(self, slot: BatchSlot) -> Any:
        """What the model knows of the slot's newest step, (1, S, F)."""
        return self.session.features_of([self.slots.index(slot)])

    def step(self, slots: list[BatchSlot], actions: list[Any]) -> list[StepOutput]:
        """One step of some slots; the others stay as they are."""
        chosen = {self.slots.index(slot): action for slot, action in zip(slots, actions, strict=True)}
        indices = sorted(chosen)  # if all slots step in their own order, nothing is copied
        started = time.perf_counter()
        result = self.session.step(stack([chosen[index] for index in indices]), indices)
        seconds = time.perf_counter() - started
        return [StepOutput(result, indices.index(index), seconds) for index in chosen]

    # -- on the event loop --------------------------------------------------------------------------------------------
    def withdraw(self, slot: BatchSlot) -> None:
        """Cancel a slot's request for a step."""
        self.last.discard(slot)
        if slot in self.waiting:
            self.waiting.remove(slot)
            assert slot.request is not None
            slot.request[1].cancel()
            slot.request = None

    def gather_seconds(self, now: float) -> float:
        """How long to wait for the slots of the last batch; 0 if all of them are waiting."""
        return max(0.0, self.gather_until - now) if self.last - set(self.waiting) else 0.0


class Engine:
    """Runs the steps of all slots in one thread. Used on the event loop.

    Args:
        commit: called in that thread with the slots and outputs of a batch before anybody gets them. If it raises, the
            steps count as not taken, and their slots are closed.
    """

    def __init__(self, commit: Commit = lambda outputs: None) -> None:
        self._commit = commit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._batches: dict[Hashable, _SessionBatch] = {}  # by `Session.batch_key`; changed in the thread only
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._one_while_idle = asyncio.Lock()
        self._num_wakes = 0
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """A slot has asked for a step."""
        self._num_wakes += 1
        self._wake.set()
        self._idle.clear()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the engine's thread, between batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def call_while_idle(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function that takes no longer than a step in the engine's thread, where no step is due: one at a time,
        and for at most `IDLE_SHARE` of the time. While slots step without a pause it waits."""
        async with self._one_while_idle:
            num_wakes = -1
            while num_wakes != self._num_wakes or not self._idle.is_set():
                await self._idle.wait()
                num_wakes = self._num_wakes
                await asyncio.sleep(IDLE_SECONDS)
            started = time.monotonic()
            try:
                return await self.call(function, *arguments)
            finally:
                await asyncio.sleep((time.monotonic() - started) * (1 / IDLE_SHARE - 1))

    async def open(self, session: Any, owner: Any = None) -> BatchSlot:
        """A slot for a session of batch size 1, which the engine owns from now on."""
        return await self.call(self._join, session, owner)

    @property
    def num_slots(self) -> int:
        """Open slots of all batches."""
        return sum(len(batch.slots) for batch in list(self._batches.values()))

    async def close(self) -> None:
        """Stop after the steps under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            due = [batch for batch in list(self._batches.values()) if batch.waiting]
            if not due:
                self._idle.set()
                await self._wake.wait()
                continue
            wait = min(batch.gather_seconds(time.monotonic()) for batch in due)
            if wait > 0:
                try:
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            for batch in due:
                if batch.gather_seconds(time.monotonic()) <= 0:
                    await self._run_batch(batch)

    async def _run_batch(self, batch: _SessionBatch) -> None:
        slots = [batch.waiting.popleft() for _ in range(min(len(batch.waiting), MAX_BATCH))]
        requests = [slot.request for slot in slots if slot.request is not None]
        for slot in slots:
            slot.request = None
        started = time.monotonic()
        outcomes = await self.call(self._step, batch, slots, [action for action, _ in requests])
        now = time.monotonic()
        batch.last = set(slots)
        batch.gather_until = now + min(GATHER_SECONDS, GATHER_SHARE * (now - started))
        for (_, future), outcome in zip(requests, outcomes, strict=True):
            if future.cancelled():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    # -- in the engine's thread ---------------------------------------------------------------------------------------
    def _join(self, session: Any, owner: Any) -> BatchSlot:
        batch = self._batches.get(session.batch_key)
        if batch is None:
            batch = self._batches[session.batch_key] = _SessionBatch(self, session.batch_key)
        return batch.join(session, owner)

    def leave(self, slot: BatchSlot) -> None:
        """Take a slot out of its batch; a batch without slots is dropped."""
        batch = slot.batch
        batch.leave(slot)
        if not batch.slots:
            self._batches.pop(batch.key, None)

    def _step(self, batch: _SessionBatch, slots: list[BatchSlot], actions: list[Any]) -> list[StepOutput | Exception]:
        """Step and commit a batch. If the model fails, each slot is stepped by itself, so that
        only the one that failed gets the error."""
        try:
            outputs = batch.step(slots, actions)
        except Exception as error:
            if len(slots) == 1:
                log.exception("step failed")
                return [error]
            pairs = zip(slots, actions, strict=True)
            return [self._step(batch, [slot], [action])[0] for slot, action in pairs]
        try:
            self._commit(list(zip(slots, outputs, strict=True)))
        except Exception as error:
            if isinstance(error, MagratheaError):
                log.warning("steps were not stored: %s", error)
            else:
                log.exception("steps were not stored")
            for slot in slots:
                self.leave(slot)  # its state is ahead of the store
            return [error for _ in slots]
        return list(outputs)
