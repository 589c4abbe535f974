"""Snapshots of a memory's state along a history, dense near its end and sparser far back, from which rewinding starts.

Each is stored as its difference to the one before, so that a memory which grows with the steps is stored about once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

EVERY = 64  # steps from one snapshot to the next
FARTHEST = 2 * EVERY  # steps between two, however far back: as many as are computed again at most after rewinding
MemoryState = dict[str, Tensor]  # of one world


@dataclass(frozen=True)
class Change:
    """The difference between a tensor of one state and that of a later one.

    Attributes:
        values: (K, ...) the rows that changed, as they are in the later one; all of it, where `rows` is None.
        rows: (K,) int32, their indices; those beyond the end are new.
    """

    values: Tensor
    rows: Tensor | None = None

    @classmethod
    def between(cls, before: Tensor | None, after: Tensor) -> Change:
        """The difference of a tensor to an earlier one, or to nothing, bit for bit."""
        if before is None or not _is_extension(before, after):
            return cls(after)
        same = (_bits(before) == _bits(after[: len(before)])).all(dim=1)
        new = torch.arange(len(before), len(after), device=same.device)
        rows = torch.cat([(~same).nonzero().flatten(), new])
        return cls(after[rows], rows.int()) if 2 * len(rows) < len(after) else cls(after)

    def applied(self, before: Tensor | None) -> Tensor:
        """The later tensor; raises ValueError where the change is not one of this tensor."""
        if self.rows is None:
            return self.values
        length = max([0 if before is None else len(before), *(self.rows + 1).tolist()])
        if before is None or length > len(before) + len(self.rows) or (self.rows < 0).any():
            raise ValueError("a snapshot of its memory changes rows that do not exist")
        if (before.dtype, before.shape[1:]) != (self.values.dtype, self.values.shape[1:]):
            raise ValueError("a snapshot of its memory does not fit the one before")
        after = torch.zeros(length, *before.shape[1:], dtype=before.dtype, device=before.device)
        _bits(after)[: len(before)] = _bits(before)  # PyTorch copies no rows of some whole numbers
        _bits(after)[self.rows.long()] = _bits(self.values)
        return after

    def then(self, later: Change) -> Change:
        """This difference and a later one in one."""
        if later.rows is None:
            return later
        if self.rows is None:
            return Change(later.applied(self.values))
        stay = ~torch.isin(self.rows, later.rows)
        rows, order = torch.cat([self.rows[stay], later.rows]).sort()
        return Change(torch.cat([self.values[stay], later.values])[order], rows)


Changes = dict[str, Change]  # by the names of the state's tensors


def difference(before: MemoryState, after: MemoryState) -> Changes:
    return {name: Change.between(before.get(name), tensor) for name, tensor in after.items()}


def apply_changes(before: MemoryState, changes: Changes) -> MemoryState:
    return {name: change.applied(before.get(name)) for name, change in changes.items()}


class Snapshots:
    """The states of one world's memory after some numbers of steps.

    Attributes:
        changes: number of steps -> the difference of its state to the snapshot before, or to nothing; oldest first.
        newest: the last snapshot's state; empty where there is none.
    """

    def __init__(self) -> None:
        self.changes: dict[int, Changes] = {}
        self.newest: MemoryState = {}

    def append(self, number: int, changes: Changes) -> None:
        """Add a snapshot after more steps than all others; raises ValueError where it is not, or does not fit."""
        if number <= max(self.changes, default=0):
            raise ValueError("the snapshots of its memory are not in order")
        self.changes[number], self.newest = changes, apply_changes(self.newest, changes)

    def keep(self, number: int, state: MemoryState) -> None:
        """Add a snapshot, in place of any that are not before it, and thin out the older ones: the farther back, the
        fewer."""
        self.truncate(number - 1)
        self.changes[number], self.newest = difference(self.newest, state), state
        for old in self.numbers:
            if not stays(old, number):
                self._drop(old)

    def _drop(self, number: int) -> None:
        """Remove one, whose changes are merged into the next one's."""
        after, own = next(other for other in self.changes if other > number), self.changes.pop(number)
        self.changes[after] = {
            name: own[name].then(change) if name in own else change for name, change in self.changes[after].items()
        }

    def truncate(self, length: int) -> None:
        """Remove those of more than `length` steps."""
        if max(self.changes, default=0) > length:
            newest = self.nearest(length)
            self.newest = self.at(newest) if newest else {}
            self.changes = {number: changes for number, changes in self.changes.items() if number <= length}

    def fork(self) -> Snapshots:
        """The same snapshots, to continue apart from these."""
        other = Snapshots()
        other.changes, other.newest = dict(self.changes), self.newest
        return other

    @property
    def numbers(self) -> list[int]:
        """After how many steps there is a snapshot, in order."""
        return list(self.changes)

    def nearest(self, number: int) -> int:
        """The number of steps of the latest snapshot that is not after `number` steps; 0 where there is none."""
        return max((kept for kept in self.changes if kept <= number), default=0)

    def at(self, number: int) -> MemoryState:
        """The state after a number of steps, at which there is a snapshot."""
        if number == max(self.changes):
            return self.newest
        until = [changes for kept, changes in self.changes.items() if kept <= number]
        return {name: _assemble([changes[name] for changes in until if name in changes]) for name in until[-1]}

    def states(self) -> Iterator[tuple[int, MemoryState]]:
        """All of them, oldest first."""
        state: MemoryState = {}
        for number, changes in self.changes.items():
            state = apply_changes(state, changes)
            yield number, state


def _assemble(changes: list[Change]) -> Tensor:
    """The tensor after changes that fit each other, the first or a later one of which holds all of it."""
    start = max(index for index, change in enumerate(changes) if change.rows is None)
    whole, later = changes[start].values, [change for change in changes[start + 1 :] if len(change.values)]
    if not later:
        return whole
    length = max([len(whole), *(int(change.rows.max()) + 1 for change in later if change.rows is not None)])
    state = torch.zeros(length, *whole.shape[1:], dtype=whole.dtype, device=whole.device)
    _bits(state)[: len(whole)] = _bits(whole)
    for change in later:
        if change.rows is not None:
            _bits(state)[change.rows.long()] = _bits(change.values)
    return state


def stays(old: int, number: int) -> bool:
    """Whether a snapshot after `old` steps is still kept after `number`."""
    times = old // EVERY
    power = times & -times  # the greatest power of two that divides it
    return old % FARTHEST == 0 or number - old <= 4 * EVERY * power


def _is_extension(before: Tensor, after: Tensor) -> bool:
    similar = (before.dtype, before.device, before.shape[1:]) == (after.dtype, after.device, after.shape[1:])
    return similar and before.ndim == after.ndim > 0 and len(before) <= len(after)


def _bits(tensor: Tensor) -> Tensor:
    """(T, bytes of a row)"""
    return tensor.reshape(len(tensor), math.prod(tensor.shape[1:])).contiguous().view(torch.uint8)
