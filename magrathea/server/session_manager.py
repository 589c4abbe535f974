"""The sessions of a server: brings them from the store into the engine and back."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch

from magrathea.errors import MagratheaError
from magrathea.server.catalog import frames_per_second
from magrathea.server.database import Visitor, share
from magrathea.server.engine import BatchSlot, Engine, StepOutput
from magrathea.server.frame import CLIP_SECONDS, Renderer, clip_gif, clip_mp4, transcript
from magrathea.server.store import Store, StoredStep, StoreThread
from magrathea.session.file import FileLimits
from magrathea.session.history import record_bytes, record_from_bytes, tokens_of
from magrathea.sounds import sounds_of
from magrathea.spaces import index_batch

SNAPSHOT_STEPS, SNAPSHOT_SHARE = 256, 8  # a snapshot after so many steps, if they are a share of at least 1/8 of all
MAX_CLIP_STEPS = 600
TRANSCRIPT_STEPS = 200
MIN_SNAPSHOT_STEPS = 32  # after which a session that leaves the engine gets one

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server keeps and does at most."""

    active: int = 32  # sessions in the engine at a time
    per_visitor: float = 0.5  # of sessions, active or stored, their bytes and uploads, that one visitor may have
    viewers: int = 16  # connections to one session
    sessions: int = 2000
    branches: int = 500  # of one session
    steps: int = 1_000_000  # of one branch, with those that it shares
    upload_bytes: int = 256 << 20
    uploads: int = 4  # at a time
    upload_seconds: float = 60.0  # that the body of one may take
    body_seconds: float = 10.0  # that any other body may take
    upload: FileLimits = field(default_factory=FileLimits)
    new_per_second: float = 5.0  # sessions that one visitor starts, forks or uploads, with bursts of four times as many

    def share(self, limit: int) -> int:
        """How many of `limit` one visitor may have: at least one."""
        return share(self.per_visitor, limit)


@dataclass(frozen=True)
class LoadedSession:
    """A session of batch size 1 as it was after a step, the sum of rewards up to it, and the step of the snapshot that
    it was restored from."""

    session: Any
    total_reward: float
    snapshot_at: int


class SessionManager:
    """The stored sessions of a server, and the engine that runs those that are played. Used on the event loop.

    Args:
        session_class: `Session`, or what has of it what the server uses.
    """

    def __init__(self, store: StoreThread, session_class: Any, limits: Limits | None = None) -> None:
        self.store, self.session_class, self.limits = store, session_class, limits or Limits()
        self.engine = Engine(self._commit)
        self._snapshot_thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")

    async def close(self) -> None:
        """Stop the engine, finish the snapshots under way, close the store."""
        await self.engine.close()
        await asyncio.to_thread(self._snapshot_thread.shutdown, wait=True)
        await asyncio.to_thread(self.store.close)

    # -- stored sessions ----------------------------------------------------------------------------------------------
    async def add(self, world_id: str, visitor: str = "") -> str:
        """A new session, still without a branch; returns its id. Raises MagratheaError if there are too many, of all
        visitors or of this one."""
        return await self.store.run(Store.add_session, world_id, "", self.limits.sessions, self._visitor(visitor))

    def _visitor(self, address: str, num_bytes: int = 0) -> Visitor | None:
        if not address:
            return None
        return Visitor(address=address, of_limit=self.limits.per_visitor, num_bytes=num_bytes)

    async def fork(
        self, session: str, branch: int | None, number: int | None, name: str = "", visitor: str = ""
    ) -> str:
        """A new session that continues from a step of another, by default its last; steps up to it are shared."""

        def fork(store: Store) -> str:
            found = store.session(session)
            parent, forked_at = found.head if branch is None else branch, found.num_steps if number is None else number
            store.check_step(session, parent, forked_at)
            other = store.add_session(found.world, name, self.limits.sessions, self._visitor(visitor))
            store.add_fork(other, parent, forked_at)
            return other

        return await self.store.run(fork)

    async def load(self, world: Any, branch: int, number: int) -> LoadedSession:
        """The session as it was after a step of a branch, restored from the nearest snapshot and the steps after it."""

        def read(store: Store) -> tuple[bytes, int, int, list[StoredStep], float]:
            file, at, shared = store.snapshot(branch, number)
            steps = store.steps(branch, shared, number)
            if len(steps) != number - shared:
                raise MagratheaError(f"Store '{store.path}' has lost steps of branch {branch}.")
            return file, at, shared, steps, store.total_reward(branch, number)

        file, at, shared, steps, total_reward = await self.store.run(read)

        def restore() -> Any:
            session = self.session_class.from_bytes(file, world, source="This session")
            if at > shared:
                session.rewind(at - shared)
            if steps:
                session.extend([np.concatenate([_record(world, step.record) for step in steps])])
            session.prepare()
            return session

        return LoadedSession(await asyncio.to_thread(restore), total_reward, shared)

    async def picture(self, world: Any, session: str, branch: int, number: int) -> bytes:
        """The observation after a step of a session's branch, as a PNG file."""

        def read(store: Store) -> bytes:
            store.check_step(session, branch, number)
            return store.record(branch, number)

        record = await self.store.run(read)

        def render() -> bytes:
            tokens = tokens_of(_record(world, record))
            return Renderer(world.observation_space).png(world, tokens)

        return await asyncio.to_thread(render)

    async def clip(self, world: Any, session: str, branch: int, number: int) -> bytes:
        """The last CLIP_SECONDS up to a step of a session's branch, as an animated GIF."""

        def write(renderer: Renderer, observations: list[Any]) -> bytes:
            return clip_gif([renderer.render(each) for each in observations], frames_per_second(world))

        return await self._of_last_seconds(world, session, branch, number, write)

    async def clip_with_sound(self, world: Any, session: str, branch: int, number: int) -> bytes:
        """The same as a video with sound; raises MagratheaError where the world has none."""
        rate = next((sound.sample_rate for _, sound in sounds_of(world.observation_space)), None)
        if rate is None:
            raise MagratheaError("This world has no sound; ask for the clip as .gif.")

        def write(renderer: Renderer, observations: list[Any]) -> bytes:
            pictures = [renderer.render(each) for each in observations]
            sounds = [sound for each in observations if (sound := renderer.sound(each)) is not None]
            return clip_mp4(pictures, sounds, rate, frames_per_second(world))

        return await self._of_last_seconds(world, session, branch, number, write)

    async def _of_last_seconds(
        self, world: Any, session: str, branch: int, number: int, write: Callable[[Renderer, list[Any]], bytes]
    ) -> bytes:
        """What is written of the observations of the last CLIP_SECONDS up to a step of a session's branch."""
        fps = frames_per_second(world)

        def read(store: Store) -> list[bytes]:
            store.check_step(session, branch, number)
            first = max(0, number - min(MAX_CLIP_STEPS, math.ceil(CLIP_SECONDS * fps)))
            before = [store.record(branch, 0)] if first == 0 else []
            return before + [step.record for step in store.steps(branch, first, number)]

        records = await self.store.run(read)

        def render() -> bytes:
            renderer = Renderer(world.observation_space)
            tokens = np.concatenate([_record(world, record)["tokens"] for record in records]).astype(np.int64)
            observations = world.decode_observation(torch.from_numpy(tokens))
            return write(renderer, [index_batch(observations, n) for n in range(len(tokens))])

        return await asyncio.to_thread(render)

    async def transcript(self, world: Any, session: str, branch: int, number: int) -> bytes:
        """What was said and seen in the last TRANSCRIPT_STEPS up to a step of a session's branch, as JSON."""
        first = max(0, number - TRANSCRIPT_STEPS)

        def read(store: Store) -> list[bytes]:
            store.check_step(session, branch, number)
            return [store.record(branch, first), *(step.record for step in store.steps(branch, first, number))]

        records = await self.store.run(read)

        def write() -> bytes:
            tokens = np.concatenate([_record(world, record)["tokens"] for record in records]).astype(np.int64)
            return msgspec.json.encode(transcript(world, tokens, first))

        return await asyncio.to_thread(write)

    # -- session files ------------------------------------------------------------------------------------------------
    async def download(self, world: Any, session: str) -> bytes:
        """The session file of a session at the end of its branch; raises MagratheaError where it is longer than one
        that may be uploaded."""
        found = await self.store.run(Store.session, session)
        self._check_file_steps(found.num_steps)
        loaded = await self.load(world, found.head, found.num_steps)
        self._check_file_steps(found.num_steps + loaded.session.num_start_of(0))
        return await asyncio.to_thread(loaded.session.to_bytes)

    def _check_file_steps(self, num_steps: int) -> None:
        if num_steps > self.limits.upload.steps:
            raise MagratheaError(
                f"This session has {num_steps} steps, and {self.limits.upload.steps} are the most that a file may "
                "have; keep all sessions with 'magrathea sessions backup'."
            )

    async def upload(self, world_id: str, world: Any, file: bytes, name: str = "", visitor: str = "") -> str:
        """A new session from a session file; raises MagratheaError if it is damaged, too long or of another world."""
        first, steps = await asyncio.to_thread(self._read_file, world, file)

        def add(store: Store) -> str:
            session = store.add_session(world_id, name, self.limits.sessions, self._visitor(visitor, len(file)))
            store.add_root(session, first, file, steps)
            return session

        return await self.store.run(add)

    def _read_file(self, world: Any, file: bytes) -> tuple[bytes, list[tuple[bytes, float]]]:
        """The record that a session file starts from, and its steps: record, sum of rewards."""
        session = self.session_class.from_bytes(file, world, source="This file", limits=self.limits.upload)
        if session.batch_size != 1:
            raise MagratheaError(f"This file has batch size {session.batch_size}; save one: session.fork_batch([0]).")
        records, num_start = session.log_of(0), session.num_start_of(0)
        num_steps = len(records) - num_start
        if num_steps > self.limits.steps:
            raise MagratheaError(f"A session may have {self.limits.steps} steps at most; this one has {num_steps}.")
        rewards = world.decode_reward(tokens_of(records[num_start:]))
        totals = np.cumsum(np.where(np.isfinite(rewards), rewards, 0.0), dtype=float)
        packed = [record_bytes(records[index : index + 1]) for index in range(num_start - 1, len(records))]
        return packed[0], [(step, float(total)) for step, total in zip(packed[1:], totals, strict=True)]

    # -- in the engine's thread ---------------------------------------------------------------------------------------
    def _commit(self, outputs: Sequence[tuple[BatchSlot, StepOutput]]) -> None:
        """Store the steps of a batch, before anybody sees them."""
        steps = [slot.owner.stored_step(output, slot.batch.last_records(slot)) for slot, output in outputs]
        self.store.call(Store.append, steps)
        for (slot, _), step in zip(outputs, steps, strict=True):
            slot.owner.committed = step
            self._snapshot_if_due(slot, step)

    def _snapshot_if_due(self, slot: BatchSlot, step: StoredStep) -> None:
        since = step.number - slot.owner.snapshot_at
        if since >= SNAPSHOT_STEPS and since * SNAPSHOT_SHARE >= step.number:
            self._snapshot_later(slot)

    def snapshot_before_leaving(self, slot: BatchSlot) -> None:
        """Make a snapshot of a session that leaves the engine, if some steps came after the last one."""
        if not slot.closed and slot.owner.committed.number - slot.owner.snapshot_at >= MIN_SNAPSHOT_STEPS:
            self._snapshot_later(slot)

    def _snapshot_later(self, slot: BatchSlot) -> None:
        live, step = slot.owner, slot.owner.committed
        live.snapshot_at = step.number
        self._snapshot_thread.submit(self._snapshot, slot.batch.fork(slot), step.branch, step.number)

    def _snapshot(self, session: Any, branch: int, number: int) -> None:
        try:
            self.store.call(Store.put_snapshot, branch, number, session.to_bytes())
        except MagratheaError as error:  # loading will take longer, and nothing is lost
            log.warning("no snapshot of branch %s at step %s: %s", branch, number, error)


def _record(world: Any, data: bytes) -> np.ndarray:
    """A step's record (1,) in the session's log: its tokens, kind and seed."""
    try:
        return record_from_bytes(data, world.layout)
    except ValueError as error:
        raise MagratheaError(
            "This session was made in another world of the same name; open it with that one."
        ) from error
