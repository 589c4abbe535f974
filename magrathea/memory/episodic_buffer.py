"""A buffer of past steps with a key each: what the memories have in common that retrieve past steps.

The newest steps wait until they have left the model's window, for the model attends to them anyway; then they become
entries, which are found by their keys. An entry is replaced by a new step with the same key, and the oldest entry by a
new one where there are `size` of them. So a step costs the same however many there were.

N tokens of a step, E numbers of a key, K retrieved steps, T steps of an episode, I batch indices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.interfaces import EpisodeReadout, MemoryOutputs, MemoryReadout
from magrathea.layout import Layout
from magrathea.memory.base import checked, checked_number, reset_indices
from magrathea.model.config import ModelConfig

NUM_RETRIEVED = 2  # K
MIN_CAPACITY = 64  # entries that there is room for at first


class EpisodicBuffer(ABC):
    """The past steps of one world.

    Args:
        layout: of the steps.
        window: the number of newest steps that are no entries yet.
        size: most entries.
        key: E and the integer type of a key's numbers.

    Attributes:
        entries: arrays (capacity, ...) by name: "tokens" (N,) in the smallest type that holds them; "key" (E,);
            "number", of steps before; "before" and "after", the entries that were made just before and after, -1 for
            none.
        num_entries: of them that are in use.
        newest: records of the same for the steps that wait, (at most window,).
    """

    def __init__(self, layout: Layout, window: int, size: int, key: tuple[int, np.dtype]) -> None:
        self.window, self.size = window, size
        absent = max(slot.absent for slot in layout.slots)
        fields = [("tokens", np.min_scalar_type(absent), (layout.num_tokens,)), ("key", key[1], (key[0],))]
        fields += [("number", np.int64), ("before", np.int32), ("after", np.int32)]
        self.newest = np.zeros(0, np.dtype(fields))
        self.entries = {name: np.ascontiguousarray(self.newest[name]) for name in self.newest.dtype.names or ()}
        self._absent = layout.absent_tokens.numpy()
        self.num_entries = self.num_steps = 0
        self._last_entry = -1

    @property
    def key_limits(self) -> tuple[Any, Any]:
        """The least and the greatest numbers of a key."""
        numbers = np.iinfo(self.newest["key"].dtype)
        return numbers.min, numbers.max

    # -- what a subclass decides --------------------------------------------------------------------------------------
    @abstractmethod
    def key_of(self, step: Int[np.ndarray, " N"]) -> Int[np.ndarray, " E"]:
        """The key of the next step."""

    @abstractmethod
    def query_key(self, action: int | None) -> Int[np.ndarray, " E"]:
        """The key to search for before a step with this action, or an unknown one."""

    @abstractmethod
    def search(self, query: Int[np.ndarray, " E"]) -> list[int]:
        """Up to NUM_RETRIEVED entries, the most relevant first."""

    @abstractmethod
    def find_duplicate(self, key: Int[np.ndarray, " E"]) -> int | None:
        """The entry that a new one with this key replaces."""

    @abstractmethod
    def index_key(self, entry: int, key: Int[np.ndarray, " E"]) -> None:
        """Update the search index: an entry is about to get this key instead of the one it has."""

    # -- writing and reading ------------------------------------------------------------------------------------------
    def append(self, step: Int[np.ndarray, " N"]) -> None:
        """Take in a final step."""
        record = np.zeros(1, self.newest.dtype)
        record[0] = step, self.key_of(step), self.num_steps, -1, -1
        self.newest, self.num_steps = np.concatenate([self.newest, record]), self.num_steps + 1
        if len(self.newest) > self.window:
            self._insert(self.newest[0])
            self.newest = self.newest[1:]

    def retrieve(self, action: int | None) -> list[int]:
        """The entries that are relevant to the next step, which has this action or an unknown one."""
        return self.search(self.query_key(action)) if self.num_entries else []

    def _insert(self, record: np.void) -> None:
        entry = self.find_duplicate(record["key"])
        if entry is None and self.num_entries == self.size:
            entry = int(self.entries["number"].argmin())
            self._unlink(entry)
        elif entry is None:
            entry, self.num_entries = self.num_entries, self.num_entries + 1
            if entry == len(self.entries["number"]):
                self._grow(min(self.size, max(MIN_CAPACITY, 2 * entry)))
        self.index_key(entry, record["key"])
        for name, values in self.entries.items():
            values[entry] = record[name]
        if self._last_entry not in (-1, entry):
            self.entries["after"][self._last_entry], self.entries["before"][entry] = entry, self._last_entry
        self._last_entry = entry

    def _grow(self, capacity: int) -> None:
        for name, values in self.entries.items():
            self.entries[name] = np.zeros((capacity, *values.shape[1:]), values.dtype)
            self.entries[name][: len(values)] = values

    def _unlink(self, entry: int) -> None:
        """Remove the links of other entries to one that is about to be replaced by an unrelated step."""
        for own, other in (("before", "after"), ("after", "before")):
            neighbour = self.entries[own][entry]
            if neighbour >= 0 and self.entries[other][neighbour] == entry:
                self.entries[other][neighbour] = -1

    # -- saving -------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Tensor]:
        """The entries, followed by the steps that wait."""
        state = {"num_steps": torch.tensor(self.num_steps), "last": torch.tensor(self._last_entry)}
        for name, values in self.entries.items():
            both = np.concatenate([values[: self.num_entries], self.newest[name]])
            state[name] = torch.from_numpy(both).clone(memory_format=torch.contiguous_format)
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Set the state of an empty buffer; raises MagratheaError where it is not one of such a buffer."""
        self.num_steps = checked_number(state, "num_steps", 0, 2**40)
        numbers = checked(state, "number", "i", (None,), 0, self.num_steps)
        num_newest = min(self.window, self.num_steps)
        self.num_entries = len(numbers) - num_newest
        if not 0 <= self.num_entries <= self.size or (self.num_entries and not num_newest):
            raise MagratheaError("A memory in a file has another number of steps than it says; take a whole copy.")
        self._last_entry = checked_number(state, "last", -1, self.num_entries - 1)
        for name, low, high in (
            ("tokens", 0, self._absent),
            ("key", *self.key_limits),
            ("before", -1, self.num_entries - 1),
            ("after", -1, self.num_entries - 1),
        ):
            checked(state, name, "i", (len(numbers), *self.newest[name].shape[1:]), low, high)
        self.newest = np.zeros(num_newest, self.newest.dtype)
        for name in self.entries:
            values = state[name].numpy()
            self.newest[name] = values[self.num_entries :]
            self.entries[name] = values[: self.num_entries].astype(self.entries[name].dtype)
        for entry, key in enumerate(self.entries["key"]):
            self.index_key(entry, key)


class EpisodicSpec(ABC):
    """The memory spec of episodic buffers."""

    size: ClassVar[int] = 16384  # most entries
    layout: Layout

    @abstractmethod
    def new_buffer(self, window: int) -> EpisodicBuffer:
        """An empty buffer."""

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        return MemoryOutputs(steps=True)

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> None:
        return None

    def new(self, batch_size: int, model: Any) -> EpisodicMemory:
        return EpisodicMemory(self, batch_size, model.config.window)

    def read_episode(self, tokens: Int[Tensor, "T N"], window: int) -> EpisodeReadout:
        """The steps that are retrieved before each step of a recorded episode."""
        buffer = self.new_buffer(window)
        sources = np.full((len(tokens), 2, NUM_RETRIEVED), -1)
        action_token = self.layout.role_span("action").start
        for index, step in enumerate(tokens.numpy()):
            for known, action in enumerate((None, int(step[action_token]))):
                found = buffer.retrieve(action)
                sources[index, known, : len(found)] = buffer.entries["number"][found]
            buffer.append(step)
        return EpisodeReadout(sources=torch.from_numpy(sources))


class EpisodicMemory:
    """The running buffers of B worlds."""

    def __init__(self, spec: EpisodicSpec, batch_size: int, window: int) -> None:
        self._spec, self._window = spec, window
        self._absent, self._actions = spec.layout.absent_tokens.numpy(), spec.layout.role_span("action")
        self.buffers = [spec.new_buffer(window) for _ in range(batch_size)]

    def write(self, tokens: Int[Tensor, "I N"], encodings: Tensor, batch_indices: Sequence[int]) -> None:
        for index, step in zip(batch_indices, tokens.cpu().numpy(), strict=True):
            self.buffers[index].append(step)

    def read(
        self, tokens: Int[Tensor, "I N"], hole_mask: Bool[Tensor, "I N"], batch_indices: Sequence[int]
    ) -> MemoryReadout:
        """The retrieved steps (I, K, N), absent tokens where there are fewer than K."""
        steps = np.tile(self._absent, (len(batch_indices), NUM_RETRIEVED, 1))
        unknown = hole_mask[:, self._actions].any(dim=1).tolist()
        actions = tokens[:, self._actions.start].tolist()
        for i, index in enumerate(batch_indices):
            buffer = self.buffers[index]
            found = buffer.retrieve(None if unknown[i] else actions[i])
            steps[i, : len(found)] = buffer.entries["tokens"][found]
        return MemoryReadout(steps=torch.from_numpy(steps))

    def reset(self, env_mask: Bool[Tensor, " B"] | None = None) -> None:
        for index in reset_indices(env_mask, len(self.buffers)):
            self.buffers[index] = self._spec.new_buffer(self._window)

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        return self.buffers[batch_index].state_dict()

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        self.buffers[batch_index] = self._spec.new_buffer(self._window)
        self.buffers[batch_index].load_state_dict(state)
