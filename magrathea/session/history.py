"""The log of one dream: every step's tokens, where it came from, and the seed of its random numbers.

A log is a chain of full chunks, which never change and are shared by all forks, and a tail of its own. So a step costs
the same however long the log is, and so does a fork.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.layout import Layout
from magrathea.session.snapshots import Snapshots

CHUNK = 64  # steps
LARGE_STEP = 4096  # bytes; steps that are larger are kept compressed


class StepKind(IntEnum):
    """Where a step came from."""

    START = 0
    DREAMT = 1
    OBSERVED = 2


def record_of(layout: Layout) -> np.dtype:
    """The type of a logged step: tokens (N,) in the smallest unsigned type that holds them, kind, seed."""
    tokens = np.min_scalar_type(max(slot.absent for slot in layout.slots))
    return np.dtype([("tokens", tokens, (layout.num_tokens,)), ("kind", np.uint8), ("seed", np.int64)])


def tokens_of(log: np.ndarray) -> Int[Tensor, "*n N"]:
    """The tokens int64 of logged steps (*n,)."""
    return torch.from_numpy(log["tokens"].astype(np.int64))


def check_log(log: np.ndarray, layout: Layout) -> None:
    """Raises MagratheaError unless these are steps (T,) of such a layout."""
    record, most = record_of(layout), layout.absent_tokens.numpy()
    if log.ndim != 1 or log.dtype != record:
        raise MagratheaError(f"A log is an array of {record}; got shape {log.shape} of {log.dtype}.")
    if (log["tokens"] > most).any() or (log["kind"] > max(StepKind)).any():
        raise MagratheaError("A log has tokens or kinds of steps that its world does not have; take it from its world.")
    is_absent = log["tokens"] == most
    if is_absent[:, layout.role_span("observation")].any() or is_absent[log["kind"] == StepKind.DREAMT].any():
        raise MagratheaError("A log has steps without an observation, or dreamt steps without all; take a whole one.")


@dataclass(frozen=True)
class PackedSteps:
    """Records (T,) of steps, compressed: most of what a step holds is as it was in the step before.

    Attributes:
        data: by zlib.
        length: T.
        record: their type.
    """

    data: bytes
    length: int
    record: np.dtype

    @classmethod
    def pack(cls, steps: np.ndarray) -> PackedSteps:
        changes = steps.copy()
        changes["tokens"][1:] -= steps["tokens"][:-1]  # wraps around
        return cls(zlib.compress(changes.tobytes(), level=1), len(steps), steps.dtype)

    def unpack(self) -> np.ndarray:
        """The records again; raises ValueError where the data are not those of so many."""
        size = self.length * self.record.itemsize
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(self.data, size)
        except zlib.error as error:
            raise ValueError("its steps are not compressed as they should be") from error
        if len(data) != size or unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError("its steps are not compressed as they should be")
        steps = np.frombuffer(data, self.record).copy()
        np.cumsum(steps["tokens"], axis=0, dtype=steps["tokens"].dtype, out=steps["tokens"])
        return steps


def record_bytes(record: np.ndarray) -> bytes:
    """One record (1,) as bytes, compressed where a step is large."""
    return PackedSteps.pack(record).data if record.itemsize > LARGE_STEP else record.tobytes()


def record_from_bytes(data: bytes, layout: Layout) -> np.ndarray:
    """The inverse of `record_bytes`; raises ValueError for the bytes of another record."""
    record = record_of(layout)
    if record.itemsize > LARGE_STEP:
        return PackedSteps(data, 1, record).unpack()
    if len(data) != record.itemsize:
        raise ValueError("its steps are of another size")
    return np.frombuffer(data, record)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """CHUNK steps that no longer change, and those before them."""

    before: _Chunk | None
    packed: np.ndarray | PackedSteps
    end: int  # number of steps up to here

    @property
    def begin(self) -> int:
        return self.end - CHUNK

    @property
    def steps(self) -> np.ndarray:
        """(CHUNK,) records."""
        return self.packed if isinstance(self.packed, np.ndarray) else self.packed.unpack()


@dataclass(frozen=True)
class Difference:
    """How two histories differ. Steps are counted from 0, those of the start included.

    Attributes:
        first: the first step that differs, or that only one of them has; None where they are the same.
        num_steps: how many of the steps that both have differ.
        num_tokens: for each slot's name, how many tokens of those steps differ.
        lengths: number of steps of each.
    """

    first: int | None
    num_steps: int
    num_tokens: dict[str, int]
    lengths: tuple[int, int]

    @property
    def same(self) -> bool:
        return self.first is None


class History:
    """All steps of one dream since it was started, oldest first.

    Attributes:
        num_start: how many of them it was started from.
        snapshots: states of the memory along the way.
    """

    def __init__(self, layout: Layout | np.dtype, num_start: int = 0) -> None:
        self.num_start = num_start
        self.snapshots = Snapshots()
        self._chunks: _Chunk | None = None
        self._tail = np.zeros(CHUNK, layout if isinstance(layout, np.dtype) else record_of(layout))
        self._begin = self._num_tail = 0  # where the tail begins, how many steps it has

    def __len__(self) -> int:
        return self._begin + self._num_tail

    @property
    def num_steps(self) -> int:
        """Steps since the start."""
        return len(self) - self.num_start

    # -- writing ------------------------------------------------------------------------------------------------------
    def records(self, tokens: np.ndarray, kind: StepKind, seed: int) -> np.ndarray:
        """Steps (T, N) of one kind and seed as records (T,)."""
        records = np.empty(len(tokens), self._tail.dtype)
        records["tokens"], records["kind"], records["seed"] = tokens, kind, seed
        return records

    def extend(self, log: np.ndarray) -> None:
        """Append steps, as records (T,)."""
        while len(log):
            now = log[: CHUNK - self._num_tail]
            self._tail[self._num_tail : self._num_tail + len(now)] = now
            self._advance_tail(len(now))
            log = log[len(now) :]

    def _advance_tail(self, num_steps: int) -> None:
        self._num_tail += num_steps
        if self._num_tail == CHUNK:
            self._tail.flags.writeable = False
            self._begin += CHUNK
            is_large = self._tail.itemsize > LARGE_STEP
            steps = PackedSteps.pack(self._tail) if is_large else self._tail
            self._chunks = _Chunk(self._chunks, steps, self._begin)
            self._tail, self._num_tail = np.zeros(CHUNK, self._tail.dtype), 0

    def truncate(self, length: int) -> None:
        """Forget all steps but the first `length`."""
        steps = self._tail
        while self._chunks is not None and length < self._begin:
            steps, self._begin, self._chunks = self._chunks.steps, self._chunks.begin, self._chunks.before
        self._tail, self._num_tail = steps.copy(), length - self._begin
        self.snapshots.truncate(length)

    def rewind(self, num_steps: int) -> int:
        """Forget the last steps; returns the seed of the first of them."""
        length = len(self) - num_steps
        seed = int(self.read(length, length + 1)["seed"][0])
        self.truncate(length)
        return seed

    # -- reading ------------------------------------------------------------------------------------------------------
    @property
    def last(self) -> np.ndarray:
        """The tokens (N,) of the newest step."""
        return self.tokens_at(len(self) - 1)

    def tokens_at(self, number: int) -> np.ndarray:
        """The tokens (N,) of a step."""
        if number >= self._begin:
            return self._tail["tokens"][number - self._begin]
        return self.read(number, number + 1)["tokens"][0]

    def read(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Steps first…last - 1, counted as slices do, as records (T,) with the fields tokens, kind and seed."""
        first, last, _ = slice(first, last).indices(len(self))
        last = max(first, last)
        parts, begin = [self._tail[: self._num_tail]], self._begin
        for chunk in self._chain():
            if chunk.end <= first:
                break
            if begin >= last:
                parts.clear()  # what is newer is not asked for
            parts.append(chunk.steps)
            begin = chunk.begin
        steps = np.concatenate(parts[::-1]) if len(parts) > 1 else parts[0]
        return steps[first - begin : last - begin].copy()

    def _chain(self) -> Iterator[_Chunk]:
        """Full chunks, newest first."""
        chunk = self._chunks
        while chunk is not None:
            yield chunk
            chunk = chunk.before

    # -- forks --------------------------------------------------------------------------------------------------------
    def fork(self) -> History:
        """The same steps, to go on with apart from these."""
        other = object.__new__(History)
        other.__dict__ |= self.__dict__ | {"snapshots": self.snapshots.fork(), "_tail": self._tail.copy()}
        return other

    def fork_start(self) -> History:
        """The steps that it was started from, without those that came later."""
        other = History(self._tail.dtype, self.num_start)
        other.extend(self.read(0, self.num_start))
        return other

    def shared_with(self, other: History) -> int:
        """Number of first steps that the two hold in the same chunks."""
        own = {id(chunk) for chunk in self._chain()}
        return next((chunk.end for chunk in other._chain() if id(chunk) in own), 0)

    # -- comparison ---------------------------------------------------------------------------------------------------
    def difference(self, other: History, layout: Layout) -> Difference:
        """Compare two histories; what they share as forks of one takes no time."""
        both = min(len(self), len(other))
        shared = min(self.shared_with(other), both)
        differs = self.read(shared, both)["tokens"] != other.read(shared, both)["tokens"]
        steps = differs.any(-1)
        first = None if len(self) == len(other) else both
        if steps.any():
            first = shared + int(steps.argmax())
        num_tokens = {slot.name: int(differs[:, layout.span(slot.name)].sum()) for slot in layout.token_slots}
        return Difference(first, int(steps.sum()), num_tokens, (len(self), len(other)))
