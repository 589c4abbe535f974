"""What memories that find past steps again have in common: a trail of steps, and a key for each.

The newest steps wait until they have left the window, for the model attends to them anyway; then they are entries,
which a key finds. A step whose key is that of an entry takes its place, and there are at most `size` of them: the one
that was written first gives way. So a step costs the same however many there were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from magrathea.interfaces import EpisodeReadout, MemoryOutputs, MemoryReadout
from magrathea.layout import Layout
from magrathea.memory.base import reset_indices
from magrathea.model.config import ModelConfig

NUM_RECALLED = 2  # K
FEWEST = 64  # entries that there is room for at first


class EpisodicBuffer(ABC):
    """The steps of one world.

    Args:
        layout: of the steps.
        window: the number of newest steps that are no entries yet.
        size: most entries.
        key: E and the type of a key's whole numbers.

    Attributes:
        entries: by name arrays (room, ...) of the tokens (N,), in the smallest type that holds them, the key (E,), the
            number of steps before each, and which entries were written just before and after it, -1 for none.
        num_entries: how many of them there are.
        newest: records of the same for the steps that wait, (at most window,).
    """

    def __init__(self, layout: Layout, window: int, size: int, key: tuple[int, np.dtype]) -> None:
        self.window, self.size = window, size
        absent = max(slot.absent for slot in layout.slots)
        fields = [("tokens", np.min_scalar_type(absent), (layout.num_tokens,)), ("key", key[1], (key[0],))]
        fields += [("number", np.int64), ("before", np.int32), ("after", np.int32)]
        self.newest = np.zeros(0, np.dtype(fields))
        self.entries = {name: np.ascontiguousarray(self.newest[name]) for name in self.newest.dtype.names or ()}
        self.num_entries = self.num_steps = 0
        self._last = -1  # the entry that was written last

    # -- what a kind of trail decides ---------------------------------------------------------------------------------
    @abstractmethod
    def key_of(self, step: np.ndarray) -> np.ndarray:
        """The key (E,) of the step (N,) that comes next."""

    @abstractmethod
    def query(self, action: int | None) -> np.ndarray:
        """The key (E,) to look for before a step with this action, or with one that is not known."""

    @abstractmethod
    def nearest(self, query: np.ndarray) -> list[int]:
        """Up to NUM_RECALLED entries, the one that matters most first."""

    @abstractmethod
    def same(self, key: np.ndarray) -> int | None:
        """The entry that a new one with this key replaces."""

    @abstractmethod
    def indexed(self, entry: int, key: np.ndarray) -> None:
        """An entry is about to get this key in place of the one it has."""

    # -- living -------------------------------------------------------------------------------------------------------
    def see(self, step: np.ndarray) -> None:
        """Take in the tokens (N,) of a final step."""
        record = np.zeros(1, self.newest.dtype)
        record[0] = step, self.key_of(step), self.num_steps, -1, -1
        self.newest, self.num_steps = np.concatenate([self.newest, record]), self.num_steps + 1
        if len(self.newest) > self.window:
            self._enter(self.newest[0])
            self.newest = self.newest[1:]

    def find(self, action: int | None) -> list[int]:
        """Entries that matter to the step that comes next."""
        return self.nearest(self.query(action)) if self.num_entries else []

    def _enter(self, record: np.void) -> None:
        entry = self.same(record["key"])
        if entry is None and self.num_entries == self.size:
            entry = int(self.entries["number"].argmin())
            self._unlink(entry)
        elif entry is None:
            entry, self.num_entries = self.num_entries, self.num_entries + 1
            if entry == len(self.entries["number"]):
                self._make_room(min(self.size, max(FEWEST, 2 * entry)))
        self.indexed(entry, record["key"])
        for name, values in self.entries.items():
            values[entry] = record[name]
        if self._last not in (-1, entry):
            self.entries["after"][self._last], self.entries["before"][entry] = entry, self._last
        self._last = entry

    def _make_room(self, room: int) -> None:
        for name, values in self.entries.items():
            self.entries[name] = np.zeros((room, *values.shape[1:]), values.dtype)
            self.entries[name][: len(values)] = values

    def _unlink(self, entry: int) -> None:
        """It is about to become another place, which is not beside those that this one was beside."""
        for own, other in (("before", "after"), ("after", "before")):
            beside = self.entries[own][entry]
            if beside >= 0 and self.entries[other][beside] == entry:
                self.entries[other][beside] = -1

    # -- keeping ------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Tensor]:
        """The tokens, keys and numbers of the entries and, behind them, of the steps that wait."""
        state = {"num_steps": torch.tensor(self.num_steps), "last": torch.tensor(self._last)}
        for name, values in self.entries.items():
            both = np.concatenate([values[: self.num_entries], self.newest[name]])
            state[name] = torch.from_numpy(both).clone(memory_format=torch.contiguous_format)
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Into a trail that is empty."""
        self.num_steps, self._last = int(state["num_steps"]), int(state["last"])
        num_newest = min(self.window, self.num_steps)
        self.num_entries = len(state["number"]) - num_newest
        self.newest = np.zeros(num_newest, self.newest.dtype)
        for name in self.entries:
            values = state[name].numpy()
            self.newest[name] = values[self.num_entries :]
            self.entries[name] = values[: self.num_entries].astype(self.entries[name].dtype)
        for entry, key in enumerate(self.entries["key"]):
            self.indexed(entry, key)


class EpisodicSpec(ABC):
    """A kind of memory whose worlds have trails."""

    size: ClassVar[int] = 16384  # most entries
    layout: Layout

    @abstractmethod
    def trail(self, window: int) -> EpisodicBuffer:
        """An empty one."""

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        return MemoryOutputs(steps=True)

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> None:
        return None

    def new(self, batch_size: int, model: Any) -> EpisodicMemory:
        return EpisodicMemory(self, batch_size, model.config.window)

    def read_episode(self, tokens: Tensor, window: int) -> EpisodeReadout:
        """The steps that are recalled just before each step of a recorded episode (T, N)."""
        trail = self.trail(window)
        sources = np.full((len(tokens), 2, NUM_RECALLED), -1)
        action_token = self.layout.span(self.layout.of_role("action")[0].name).start
        for index, step in enumerate(tokens.numpy()):
            for known, action in enumerate((None, int(step[action_token]))):
                found = trail.find(action)
                sources[index, known, : len(found)] = trail.entries["number"][found]
            trail.see(step)
        return EpisodeReadout(sources=torch.from_numpy(sources))


class EpisodicMemory:
    """The trails of B worlds."""

    def __init__(self, kind: EpisodicSpec, batch_size: int, window: int) -> None:
        self.kind, self.window = kind, window
        layout = kind.layout
        self._absent = np.concatenate([np.full(slot.num_tokens, slot.absent) for slot in layout.slots])
        self._actions = slice(0, sum(slot.num_tokens for slot in layout.of_role("action")))
        self.trails = [kind.trail(window) for _ in range(batch_size)]

    def write(self, tokens: Tensor, encodings: Tensor, batch_indices: Sequence[int]) -> None:
        for index, step in zip(batch_indices, tokens.cpu().numpy(), strict=True):
            self.trails[index].see(step)

    def read(self, tokens: Tensor, hole_mask: Tensor, batch_indices: Sequence[int]) -> MemoryReadout:
        steps = np.tile(self._absent, (len(batch_indices), NUM_RECALLED, 1))
        unknown = hole_mask[:, self._actions].any(dim=1).tolist()
        actions = tokens[:, self._actions.start].tolist()
        for i, index in enumerate(batch_indices):
            trail = self.trails[index]
            found = trail.find(None if unknown[i] else actions[i])
            steps[i, : len(found)] = trail.entries["tokens"][found]
        return MemoryReadout(steps=torch.from_numpy(steps))

    def reset(self, env_mask: Tensor | None = None) -> None:
        for index in reset_indices(env_mask, len(self.trails)):
            self.trails[index] = self.kind.trail(self.window)

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        return self.trails[batch_index].state_dict()

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        self.trails[batch_index] = self.kind.trail(self.window)
        self.trails[batch_index].load_state_dict(state)
