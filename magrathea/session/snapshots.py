"""The states that a memory had along the way, dense near the end and sparse long ago.

Each is kept as what it changed of the one before, so that a memory which grows with the steps is kept about once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

EVERY = 64  # steps from one checkpoint to the next
MemoryState = dict[str, Tensor]  # of one row


@dataclass(frozen=True)
class Change:
    """What makes a tensor of one state that of a later one.

    Attributes:
        values: (K, ...) some of its rows as they are now; all of the tensor, where `rows` is None.
        rows: (K,) int32, which ones; those beyond the end are new.
    """

    values: Tensor
    rows: Tensor | None = None

    @classmethod
    def between(cls, before: Tensor | None, after: Tensor) -> Change:
        """From a tensor, or nothing, to another one, bit for bit."""
        if before is None or not _may_grow_to(before, after):
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
            raise ValueError("a state of its memory changes rows that are not there")
        if (before.dtype, before.shape[1:]) != (self.values.dtype, self.values.shape[1:]):
            raise ValueError("a state of its memory is unlike the one before")
        after = torch.zeros(length, *before.shape[1:], dtype=before.dtype, device=before.device)
        _bits(after)[: len(before)] = _bits(before)  # PyTorch copies no rows of some whole numbers
        _bits(after)[self.rows.long()] = _bits(self.values)
        return after

    def then(self, later: Change) -> Change:
        """This and a later one in one."""
        if later.rows is None:
            return later
        if self.rows is None:
            return Change(later.applied(self.values))
        stay = ~torch.isin(self.rows, later.rows)
        rows, order = torch.cat([self.rows[stay], later.rows]).sort()
        return Change(torch.cat([self.values[stay], later.values])[order], rows)


Changes = dict[str, Change]  # by the names of the state's tensors


def changes_between(before: MemoryState, after: MemoryState) -> Changes:
    return {name: Change.between(before.get(name), tensor) for name, tensor in after.items()}


def changed(before: MemoryState, changes: Changes) -> MemoryState:
    return {name: change.applied(before.get(name)) for name, change in changes.items()}


class Snapshots:
    """The states of one row's memory after some numbers of steps.

    Attributes:
        changes: number of steps -> what its state changed of the state before it, or of none; oldest first.
        newest: the last state; empty where there is none.
    """

    def __init__(self) -> None:
        self.changes: dict[int, Changes] = {}
        self.newest: MemoryState = {}

    def append(self, number: int, changes: Changes) -> None:
        """One more, after more steps than all before; raises ValueError where it cannot be."""
        if number <= max(self.changes, default=0):
            raise ValueError("the states of its memory are in no order")
        self.changes[number], self.newest = changes, changed(self.newest, changes)

    def keep(self, number: int, state: MemoryState) -> None:
        """One more, in place of any that are not before it. The older ones are thinned out: the farther back, the
        fewer."""
        self.truncate(number - 1)
        self.changes[number], self.newest = changes_between(self.newest, state), state
        for old in self.numbers:
            if not stays(old, number):
                self._drop(old)

    def _drop(self, number: int) -> None:
        """The one after it takes up what it changed."""
        after, own = next(other for other in self.changes if other > number), self.changes.pop(number)
        self.changes[after] = {
            name: own[name].then(change) if name in own else change for name, change in self.changes[after].items()
        }

    def truncate(self, length: int) -> None:
        """Forget those of more than `length` steps."""
        if max(self.changes, default=0) > length:
            self.changes = {number: changes for number, changes in self.changes.items() if number <= length}
            *_, self.newest = {}, *(state for _, state in self.states())

    def fork(self) -> Snapshots:
        """The same states, to go on with apart from these."""
        other = Snapshots()
        other.changes, other.newest = dict(self.changes), self.newest
        return other

    @property
    def numbers(self) -> list[int]:
        """After how many steps there is a state, in order."""
        return list(self.changes)

    def nearest(self, number: int) -> int:
        """The number of steps of the latest state that is not after `number` steps; 0 where there is none."""
        return max((kept for kept in self.changes if kept <= number), default=0)

    def at(self, number: int) -> MemoryState:
        """The state after a number of steps."""
        return next(state for kept, state in self.states() if kept == number)

    def states(self) -> Iterator[tuple[int, MemoryState]]:
        """All of them, oldest first."""
        state: MemoryState = {}
        for number, changes in self.changes.items():
            state = changed(state, changes)
            yield number, state


def stays(old: int, number: int) -> bool:
    """Whether a state after `old` steps is still kept after `number`."""
    times = old // EVERY
    return number - old <= 4 * EVERY * (times & -times)  # the greatest power of two that divides it


def _may_grow_to(before: Tensor, after: Tensor) -> bool:
    alike = (before.dtype, before.device, before.shape[1:]) == (after.dtype, after.device, after.shape[1:])
    return alike and before.ndim == after.ndim > 0 and len(before) <= len(after)


def _bits(tensor: Tensor) -> Tensor:
    """(T, bytes of a row)"""
    return tensor.reshape(len(tensor), math.prod(tensor.shape[1:])).contiguous().view(torch.uint8)
