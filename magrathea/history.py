"""The log of one dream: every step's tokens, where it came from, and the seed of its dice.

A log is a chain of full chunks, which never change and are shared by all forks, and a tail of its own. So a step costs
the same however long the log is, and so does a fork.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from torch import Tensor

from magrathea.layout import Layout

CHUNK = 64  # steps
MemoryState = dict[str, Tensor]  # of one row


class StepKind(IntEnum):
    """Where a step came from."""

    START = 0
    DREAMT = 1
    OBSERVED = 2


def record_of(layout: Layout) -> np.dtype:
    """The type of a logged step: tokens (N,) in the smallest unsigned type that holds them, kind, seed."""
    tokens = np.min_scalar_type(max(slot.absent for slot in layout.slots))
    return np.dtype([("tokens", tokens, (layout.num_tokens,)), ("kind", np.uint8), ("seed", np.int64)])


@dataclass(frozen=True, eq=False)
class _Chunk:
    """CHUNK steps that no longer change, and those before them."""

    before: _Chunk | None
    steps: np.ndarray
    end: int  # number of steps up to here


class History:
    """All steps of one dream since it was started, oldest first.

    Attributes:
        num_start: how many of them it was started from.
        checkpoints: number of steps -> the memory's state after them; dense near the end, sparse long ago.
    """

    def __init__(self, record: np.dtype) -> None:
        self.num_start = 0
        self.checkpoints: dict[int, MemoryState] = {}
        self._chunks: _Chunk | None = None
        self._tail = np.zeros(CHUNK, record)
        self._num_tail = 0

    def __len__(self) -> int:
        return (self._chunks.end if self._chunks else 0) + self._num_tail

    @property
    def num_steps(self) -> int:
        """Steps since the start."""
        return len(self) - self.num_start

    @property
    def last(self) -> np.ndarray:
        """The tokens (N,) of the newest step."""
        if self._num_tail:
            return self._tail["tokens"][self._num_tail - 1]
        assert self._chunks is not None, "an empty history has no last step"
        return self._chunks.steps["tokens"][-1]

    def append(self, tokens: np.ndarray, kind: StepKind, seed: int) -> None:
        """One more step; tokens (N,)."""
        place = self._num_tail
        self._tail["tokens"][place], self._tail["kind"][place], self._tail["seed"][place] = tokens, kind, seed
        self._num_tail += 1
        if self._num_tail == CHUNK:
            self._tail.flags.writeable = False
            self._chunks = _Chunk(self._chunks, self._tail, len(self))
            self._tail, self._num_tail = np.zeros(CHUNK, self._tail.dtype), 0

    def extend(self, steps: np.ndarray) -> None:
        """Further steps (T,) as `read` gives them."""
        for step in steps:
            self.append(step["tokens"], step["kind"], step["seed"])

    def read(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Steps first…last - 1 (all, if not given) as records (T,) with the fields tokens, kind and seed.

        A negative `first` counts from the end.
        """
        last = len(self) if last is None else last
        first = min(first if first >= 0 else max(0, len(self) + first), last)
        parts = [self._tail[: self._num_tail]]
        chunk = self._chunks
        while chunk is not None and chunk.end > first:
            parts.append(chunk.steps)
            chunk = chunk.before
        begin = chunk.end if chunk else 0
        steps = parts[0] if len(parts) == 1 else np.concatenate(parts[::-1])
        return steps[first - begin : last - begin].copy()

    def fork(self) -> History:
        """The same steps, to go on with apart from these."""
        other = object.__new__(History)
        other.num_start, other.checkpoints = self.num_start, dict(self.checkpoints)
        other._chunks, other._tail, other._num_tail = self._chunks, self._tail.copy(), self._num_tail
        return other

    def truncate(self, length: int) -> None:
        """Forget all steps but the first `length`."""
        if length == len(self):
            return
        while self._chunks is not None and self._chunks.end > length:
            self._tail, self._num_tail = self._chunks.steps, CHUNK
            self._chunks = self._chunks.before
        self._tail = self._tail.copy()
        self._num_tail = length - (self._chunks.end if self._chunks else 0)
        self.checkpoints = {number: state for number, state in self.checkpoints.items() if number <= length}

    def shared_with(self, other: History) -> int:
        """Number of first steps that the two hold in the same chunks."""
        ends = {id(chunk): chunk.end for chunk in self._chain()}
        return next((chunk.end for chunk in other._chain() if id(chunk) in ends), 0)

    def _chain(self) -> Iterator[_Chunk]:
        """Full chunks, newest first."""
        chunk = self._chunks
        while chunk is not None:
            yield chunk
            chunk = chunk.before

    # -- the memory's states ------------------------------------------------------------------------------------------
    def keep(self, number: int, state: MemoryState) -> None:
        """Keep the memory's state after `number` steps, and thin out the older ones: the farther back, the fewer."""
        self.checkpoints[number] = state
        for old in list(self.checkpoints):
            if number - old > 4 * CHUNK * _twos(old // CHUNK):
                del self.checkpoints[old]

    def nearest(self, number: int) -> int:
        """The number of steps of the latest state that is not after `number` steps; 0 where there is none."""
        return max((kept for kept in self.checkpoints if kept <= number), default=0)


def _twos(number: int) -> int:
    """The greatest power of two that divides it."""
    return number & -number
