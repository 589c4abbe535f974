"""Keys and values of the steps before one: what a step may attend to.

Within a segment (training, and the reference that the cache is tested against), or in a ring that a dream keeps.
B batch, T steps, N tokens of a step, P positions of a step, D width, L layers, H heads, E width of a head, W window,
M positions of steps that a memory gives to attend to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from magrathea.interfaces import MemoryReadout
from magrathea.layout import Layout
from magrathea.model.config import HEAD_WIDTH, ModelConfig

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StepEncoding:
    """Final steps as the model sees them when they are past.

    Attributes:
        tokens: (B, T, N) int64.
        encodings: (B, T, P, D), of no positions where nothing reads them.
        keys, values: (L, B, T, H, P, E), likewise.
    """

    tokens: Tensor
    encodings: Tensor
    keys: Tensor
    values: Tensor

    def select(self, batch_indices: Sequence[int]) -> StepEncoding:
        """A part of the batch."""
        if len(batch_indices) == len(self.tokens):
            return self
        index = list(batch_indices)
        return StepEncoding(self.tokens[index], self.encodings[index], self.keys[:, index], self.values[:, index])

    def split_time(self) -> list[StepEncoding]:
        """The steps one by one, each with T = 1."""
        parts = (self.tokens.split(1, 1), self.encodings.split(1, 1), self.keys.split(1, 2), self.values.split(1, 2))
        return [StepEncoding(*step) for step in zip(*parts, strict=True)]

    @staticmethod
    def concatenate(steps: Sequence[StepEncoding]) -> StepEncoding:
        """One batch of several."""
        return StepEncoding(
            torch.cat([step.tokens for step in steps]),
            torch.cat([step.encodings for step in steps]),
            torch.cat([step.keys for step in steps], dim=1),
            torch.cat([step.values for step in steps], dim=1),
        )


@dataclass(frozen=True)
class Conditioning:
    """What steps that are being filled are given in addition to their window.

    Attributes:
        readout: of the memory, (B, T, ...).
        memory_steps: keys and values (L, B, T, H, M, E) of past steps that the memory gives.
        prompt: encodings (B, 1, P, D).
    """

    readout: MemoryReadout = MemoryReadout()  # noqa: RUF009 (it never changes)
    memory_steps: KeysValues | None = None
    prompt: Tensor | None = None

    def select(self, batch_indices: Tensor | None) -> Conditioning:
        """A part of the batch; all of it, if not given."""
        if batch_indices is None:
            return self
        steps = None if self.memory_steps is None else tuple(part[:, batch_indices] for part in self.memory_steps)
        prompt = None if self.prompt is None else self.prompt[batch_indices]
        return Conditioning(self.readout.map(lambda part: part[batch_indices]), steps, prompt)  # type: ignore[arg-type]


NO_CONDITIONING = Conditioning()


def with_memory(
    keys: Tensor, values: Tensor, memory_steps: KeysValues | None, layer: int, step: int
) -> tuple[Tensor, Tensor]:
    """Keys and values (B, H, K, E) of a layer, and behind them those of the steps that a memory gives."""
    if memory_steps is None:
        return keys, values
    more_keys, more_values = (part[layer, :, step] for part in memory_steps)
    return torch.cat([keys, more_keys], dim=2), torch.cat([values, more_values], dim=2)


@runtime_checkable
class KVCache(Protocol):
    """The past that steps with holes may attend to, in each of the model's layers, and what conditions them."""

    conditioning: Conditioning

    def attend(
        self, layer: int, step: int, keys: Float[Tensor, "B H P E"], values: Float[Tensor, "B H P E"]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values of a step itself -> those and the past's (B, H, K, E), and an attention mask (B, 1, 1, K),
        True where a key may be attended to, or None where all may be."""
        ...

    def prev_encodings(self, num_steps: int) -> Tensor:
        """The encodings (B, num_steps, P, D) of the step before each that is filled; 0 where there is none."""
        ...

    def recent_tokens(self, num_steps: int, num_recent: int) -> Tensor:
        """The steps (B, num_steps, num_recent, N) before each, the newest first; where there are fewer, the oldest
        again, and -1 where there is none."""
        ...


class NoKVCache:
    """A step by itself."""

    conditioning = NO_CONDITIONING

    def attend(self, layer: int, step: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, None]:
        return keys, values, None

    def prev_encodings(self, num_steps: int) -> Tensor:
        return torch.zeros(())

    def recent_tokens(self, num_steps: int, num_recent: int) -> Tensor:
        return torch.tensor(-1)


NO_KV_CACHE = NoKVCache()


class SegmentKVCache:
    """The past within a segment: step t attends to the W steps before it.

    Args:
        steps: of the segment, T of them.
        window: W.
        first: index of the first step that is filled; the steps of `attend` are counted from it.
        conditioning: of the T - first steps that are filled.
    """

    def __init__(
        self,
        steps: StepEncoding,
        window: int,
        first: int = 0,
        conditioning: Conditioning = NO_CONDITIONING,
    ) -> None:
        self.tokens, self.encodings = steps.tokens, steps.encodings
        self.keys = [layer.unbind(1) for layer in steps.keys.unbind(0)]
        self.values = [layer.unbind(1) for layer in steps.values.unbind(0)]
        self.window, self.first, self.conditioning = window, first, conditioning

    def select(self, batch_indices: Tensor) -> SegmentKVCache:
        """A part of the batch."""
        part = object.__new__(SegmentKVCache)
        part.tokens, part.encodings = self.tokens[batch_indices], self.encodings[batch_indices]
        part.keys, part.values = (
            [[step[batch_indices] for step in layer] for layer in layers] for layers in (self.keys, self.values)
        )
        part.window, part.first = self.window, self.first
        part.conditioning = self.conditioning.select(batch_indices)
        return part

    def prev_encodings(self, num_steps: int) -> Tensor:
        if self.first:
            return self.encodings[:, self.first - 1 : self.first - 1 + num_steps]
        return torch.cat([torch.zeros_like(self.encodings[:, :1]), self.encodings[:, : num_steps - 1]], dim=1)

    def recent_tokens(self, num_steps: int, num_recent: int) -> Tensor:
        last = torch.arange(self.first - 1, self.first - 1 + num_steps, device=self.tokens.device)
        index = last[:, None] - torch.arange(num_recent, device=self.tokens.device)
        return torch.where(last[:, None, None] < 0, -1, self.tokens[:, index.clamp(min=0)])

    def attend(self, layer: int, step: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, None]:
        now = self.first + step
        window = slice(max(0, now - self.window), now)
        all_keys = torch.cat([keys, *self.keys[layer][window]], dim=2)
        all_values = torch.cat([values, *self.values[layer][window]], dim=2)
        return *with_memory(all_keys, all_values, self.conditioning.memory_steps, layer, step), None


class RingKVCache:
    """The last W steps of B running worlds; takes the same memory and time however long they run.

    The first P columns of each world are room for the step that is being filled; the ring's W steps follow.

    Attributes:
        conditioning: of the next step.
        num_written: of each world, how many steps were written since its reset.
    """

    def __init__(self, config: ModelConfig, batch_size: int, layout: Layout, num_encoded: int, like: Tensor) -> None:
        self.window, self.num_positions = config.window, layout.num_positions
        self.attends_to_window = config.attends_to_window
        columns = (config.window + 1) * self.num_positions if self.attends_to_window else 0
        shape = (config.num_layers, batch_size, config.num_heads, columns, HEAD_WIDTH)
        self.num_written = [0] * batch_size
        encoding = like.new_zeros(batch_size, num_encoded, config.width)
        num_shown = config.window if any(slot.is_sequence for slot in layout.slots) else max(1, config.num_recent)
        tokens = torch.full((batch_size, num_shown, layout.num_tokens), -1, device=like.device)
        self._use(like.new_zeros(shape), like.new_zeros(shape), encoding, tokens)
        self.conditioning = NO_CONDITIONING

    def _use(self, keys: Tensor, values: Tensor, encoding: Tensor, tokens: Tensor) -> None:
        """Store the worlds in these tensors, which may have room for more of them."""
        self._storage, batch_size = (keys, values, encoding, tokens), len(self.num_written)
        self.keys, self.values = keys[:, :batch_size], values[:, :batch_size]
        self.last_encoding, self.last_steps = encoding[:batch_size], tokens[:batch_size]

    # -- reading ------------------------------------------------------------------------------------------------------
    def prev_encodings(self, num_steps: int) -> Tensor:
        return self.last_encoding.unsqueeze(1)

    def recent_tokens(self, num_steps: int, num_recent: int) -> Tensor:
        return self.last_steps[:, :num_recent].unsqueeze(1)

    def attend(self, layer: int, step: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if not self.attends_to_window:
            return *with_memory(keys, values, self.conditioning.memory_steps, layer, step), None
        lengths = [min(count, self.window) for count in self.num_written]
        columns = (1 + max(lengths)) * self.num_positions
        all_keys, all_values = self.keys[layer, :, :, :columns], self.values[layer, :, :, :columns]
        all_keys[:, :, : self.num_positions] = keys
        all_values[:, :, : self.num_positions] = values
        visible: Bool[Tensor, "B 1 1 K"] | None = None
        if min(lengths) < max(lengths):
            ends = (1 + torch.tensor(lengths, device=keys.device)) * self.num_positions
            visible = (torch.arange(columns, device=keys.device) < ends[:, None])[:, None, None]
        memory_steps = self.conditioning.memory_steps
        if memory_steps is not None and visible is not None:
            visible = F.pad(visible, (0, memory_steps[0].shape[-2]), value=True)
        return *with_memory(all_keys, all_values, memory_steps, layer, step), visible

    # -- writing ------------------------------------------------------------------------------------------------------
    def write(self, step: StepEncoding, batch_indices: Sequence[int]) -> None:
        """Append a final step (T = 1) of these worlds, over the oldest of the ring."""
        for place in {self.num_written[index] % self.window for index in batch_indices}:
            here = [i for i, index in enumerate(batch_indices) if self.num_written[index] % self.window == place]
            whole_batch = [batch_indices[i] for i in here] == list(range(len(self.num_written)))
            source = slice(None) if whole_batch else here
            target = slice(None) if whole_batch else [batch_indices[i] for i in here]
            if self.attends_to_window:
                start = (1 + place) * self.num_positions
                self.keys[:, target, :, start : start + self.num_positions] = step.keys[:, source].squeeze(2)
                self.values[:, target, :, start : start + self.num_positions] = step.values[:, source].squeeze(2)
            self.last_encoding[target] = step.encodings[source].squeeze(1)
            new, before = step.tokens[source].to(self.last_steps.device), self.last_steps[target][:, :-1]
            self.last_steps[target] = torch.cat([new, torch.where(before < 0, new, before)], dim=1)
        for index in batch_indices:
            self.num_written[index] += 1

    def reset(self, batch_indices: list[int]) -> None:
        """Empty these worlds' rings."""
        self.last_encoding[batch_indices], self.last_steps[batch_indices] = 0, -1
        for index in batch_indices:
            self.num_written[index] = 0

    # -- worlds that join and leave the batch -------------------------------------------------------------------------
    def select(self, batch_indices: Int[Tensor, " I"]) -> RingKVCache:
        """A copy of some worlds' rings."""
        part = object.__new__(RingKVCache)
        part.window, part.num_positions = self.window, self.num_positions
        part.attends_to_window = self.attends_to_window
        part.num_written = [self.num_written[index] for index in batch_indices.tolist()]
        part._use(
            self.keys.index_select(1, batch_indices),
            self.values.index_select(1, batch_indices),
            self.last_encoding[batch_indices],
            self.last_steps[batch_indices],
        )
        part.conditioning = NO_CONDITIONING
        return part

    def append(self, other: RingKVCache) -> None:
        """Append another's worlds; the own ones are copied only where the tensors have no room for more."""
        have, room = len(self.num_written), len(self._storage[-1])
        self.num_written = self.num_written + other.num_written
        need = len(self.num_written)
        if need > room:
            index = torch.arange(max(need, 2 * have)).clamp(max=have - 1)
            self._storage = (
                self.keys[:, index],
                self.values[:, index],
                self.last_encoding[index],
                self.last_steps[index],
            )
        self._use(*self._storage)
        self.keys[:, have:], self.values[:, have:] = other.keys, other.values
        self.last_encoding[have:], self.last_steps[have:] = other.last_encoding, other.last_steps

    def keep(self, batch_indices: Sequence[int]) -> None:
        """Drop all worlds but these, in this order; those that stay in their places are not copied."""
        places = [place for place, index in enumerate(batch_indices) if index != place]
        moved = [batch_indices[place] for place in places]
        if places:
            self.keys[:, places], self.values[:, places] = self.keys[:, moved], self.values[:, moved]
            self.last_encoding[places] = self.last_encoding[moved]
            self.last_steps[places] = self.last_steps[moved]
        self.num_written = [self.num_written[index] for index in batch_indices]
        keys, values, encoding, tokens = self._storage
        if 4 * len(batch_indices) < len(tokens):
            size = len(batch_indices)
            keys, values = keys[:, :size].clone(), values[:, :size].clone()
            encoding, tokens = encoding[:size].clone(), tokens[:size].clone()
        self._use(keys, values, encoding, tokens)
