"""What a step may attend to of the steps before it.

Keys and values of past steps, for each layer: within a segment (training, and the reference), or in a ring that a
running dream keeps (the cache). L layers, B batch, H heads, P positions of a step, W window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from magrathea.layout import Layout
from magrathea.memory import MemoryReadout
from magrathea.model.config import HEAD_WIDTH, ModelConfig


class KVCache(Protocol):
    """The past keys and values that a step may attend to, for each of the model's layers.

    Attributes:
        recalled: what a memory recalls for the T steps that are filled, (B, T, ...); its steps are among the keys.
        prompt: encodings (B, 1, P, D) of a prompt, or None.
    """

    recalled: MemoryReadout
    prompt: Tensor | None

    def join(self, layer: int, step: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Own keys and values (B, H, P, 48) of the step -> those and the past's (B, H, K, 48), and an attention mask
        (B, 1, 1, K), True where a key may be seen, or None where all may be."""
        ...

    def step_before(self, num_steps: int) -> Tensor:
        """The encodings (B, num_steps, P, D) of the steps just before those that are filled; 0 where there is none."""
        ...

    def tokens_before(self, num_steps: int) -> Tensor:
        """Their tokens (B, num_steps, N); -1 where there is none."""
        ...


class NoKVCache:
    """A step by itself."""

    recalled = MemoryReadout()
    prompt = None

    def join(self, layer: int, step: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, None]:
        return keys, values, None

    def step_before(self, num_steps: int) -> Tensor:
        return torch.zeros(())

    def tokens_before(self, num_steps: int) -> Tensor:
        return torch.tensor(-1)


NO_KV_CACHE = NoKVCache()


class SegmentKVCache:
    """The past within a segment: step t sees the W steps before it. The reference that the cache must agree with.

    Args:
        tokens: of the steps, (B, T, N).
        encodings: of the steps, (B, T, P, D).
        keys, values: of each layer, (L, B, T, H, P, 48).
        window: W.
        first: index of the first step that is filled; steps are counted from it.
        extra: what each step sees besides, steps that a memory recalls: keys and values (L, B, T - first, H, M, 48).
        recalled: what a memory recalls, (B, T - first, ...).
        prompt: encodings of a prompt, (B, 1, P, D).
    """

    def __init__(
        self,
        tokens: Tensor,
        encodings: Tensor,
        keys: Tensor,
        values: Tensor,
        window: int,
        first: int = 0,
        extra: tuple[Tensor, Tensor] | None = None,
        recalled: MemoryReadout = MemoryReadout(),  # noqa: B008 (it never changes)
        prompt: Tensor | None = None,
    ) -> None:
        self.tokens, self.encodings = tokens, encodings
        self.keys = [layer.unbind(1) for layer in keys.unbind(0)]
        self.values = [layer.unbind(1) for layer in values.unbind(0)]
        self.window, self.first, self.extra, self.recalled = window, first, extra, recalled
        self.prompt = prompt

    def select(self, rows: Tensor) -> SegmentKVCache:
        """Of some of the rows."""
        part = object.__new__(SegmentKVCache)
        part.tokens, part.encodings = self.tokens[rows], self.encodings[rows]
        part.window, part.first = self.window, self.first
        part.keys, part.values = (
            [[step[rows] for step in layer] for layer in all_] for all_ in (self.keys, self.values)
        )
        part.extra = None if self.extra is None else (self.extra[0][:, rows], self.extra[1][:, rows])
        part.recalled = self.recalled.each(lambda each: each[rows])
        part.prompt = None if self.prompt is None else self.prompt[rows]
        return part

    def step_before(self, num_steps: int) -> Tensor:
        return self._before(self.encodings, num_steps, none=0)

    def tokens_before(self, num_steps: int) -> Tensor:
        return self._before(self.tokens, num_steps, none=-1)

    def _before(self, steps: Tensor, num_steps: int, none: int) -> Tensor:
        if self.first:
            return steps[:, self.first - 1 : self.first - 1 + num_steps]
        return torch.cat([torch.full_like(steps[:, :1], none), steps[:, : num_steps - 1]], dim=1)

    def join(self, layer: int, step: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, None]:
        now = self.first + step
        seen = slice(max(0, now - self.window), now)
        all_keys, all_values = [keys, *self.keys[layer][seen]], [values, *self.values[layer][seen]]
        if self.extra is not None:
            all_keys.append(self.extra[0][layer, :, step])
            all_values.append(self.extra[1][layer, :, step])
        return torch.cat(all_keys, dim=2), torch.cat(all_values, dim=2), None


class RingKVCache:
    """The last W steps of B running worlds. Takes the same memory and time however long they have lived.

    Each row's first P columns are room for the step that is being filled; the ring's W steps follow.
    """

    def __init__(self, config: ModelConfig, batch_size: int, layout: Layout, like: Tensor) -> None:
        self.window, self.num_positions = config.window, layout.num_positions
        columns = (config.window + 1) * self.num_positions
        shape = (config.num_layers, batch_size, config.num_heads, columns, HEAD_WIDTH)
        self.num_written = [0] * batch_size
        last = like.new_zeros(batch_size, self.num_positions, config.width)
        last_tokens = torch.full((batch_size, layout.num_tokens), -1, device=like.device)
        self._use(like.new_zeros(shape), like.new_zeros(shape), last, last_tokens)
        self.beside(NO_CONDITIONING)

    def _use(self, keys: Tensor, values: Tensor, last: Tensor, last_tokens: Tensor) -> None:
        """Live in these tensors, which may have room for more rows."""
        self._room, num_rows = (keys, values, last, last_tokens), len(self.num_written)
        self.keys, self.values = keys[:, :num_rows], values[:, :num_rows]
        self.last, self.last_tokens = last[:num_rows], last_tokens[:num_rows]

    def beside(self, beside: Conditioning) -> None:
        """What the next step gets beside the window."""
        self.extra, self.recalled, self.prompt = beside.extra, beside.recalled, beside.prompt

    def write(
        self, tokens: Tensor, encoding: Tensor, keys: Tensor, values: Tensor, rows: list[int] | None = None
    ) -> None:
        """Keep a final step (R, N), as the model remembers it: encoding (R, 1, P, D), keys and values
        (L, R, 1, H, P, 48) of these rows (all, if not given)."""
        rows = list(range(len(self.num_written))) if rows is None else rows
        for place in {self.num_written[row] % self.window for row in rows}:
            here = [i for i, row in enumerate(rows) if self.num_written[row] % self.window == place]
            everywhere = [rows[i] for i in here] == list(range(len(self.num_written)))
            given = slice(None) if everywhere else here
            row = slice(None) if everywhere else [rows[i] for i in here]
            start = (1 + place) * self.num_positions
            self.keys[:, row, :, start : start + self.num_positions] = keys[:, given].squeeze(2)
            self.values[:, row, :, start : start + self.num_positions] = values[:, given].squeeze(2)
            self.last[row], self.last_tokens[row] = encoding[given].squeeze(1), tokens[given].to(self.last.device)
        for row in rows:
            self.num_written[row] += 1

    def forget(self, rows: list[int]) -> None:
        """Empty these rows."""
        self.last[rows], self.last_tokens[rows] = 0, -1
        for row in rows:
            self.num_written[row] = 0

    def select(self, rows: Tensor) -> RingKVCache:
        """A copy of some rows."""
        part = object.__new__(RingKVCache)
        part.window, part.num_positions = self.window, self.num_positions
        part.num_written = [self.num_written[row] for row in rows.tolist()]
        part._use(
            self.keys.index_select(1, rows), self.values.index_select(1, rows), self.last[rows], self.last_tokens[rows]
        )
        part.beside(NO_CONDITIONING)
        return part

    def take_in(self, other: RingKVCache) -> None:
        """Take in another's rows, after the own ones; those are copied only where there is no room for more."""
        have, room = len(self.num_written), len(self._room[-1])
        self.num_written = self.num_written + other.num_written
        need = len(self.num_written)
        if need > room:
            rows = torch.arange(max(need, 2 * have)).clamp(max=have - 1)
            self._room = (self.keys[:, rows], self.values[:, rows], self.last[rows], self.last_tokens[rows])
        self._use(*self._room)
        self.keys[:, have:], self.values[:, have:] = other.keys, other.values
        self.last[have:], self.last_tokens[have:] = other.last, other.last_tokens

    def keep(self, rows: Sequence[int]) -> None:
        """Give up all rows but these, in this order; those that stay in their places are not copied."""
        places = [place for place, row in enumerate(rows) if row != place]
        moved = [rows[place] for place in places]
        if places:
            self.keys[:, places], self.values[:, places] = self.keys[:, moved], self.values[:, moved]
            self.last[places], self.last_tokens[places] = self.last[moved], self.last_tokens[moved]
        self.num_written = [self.num_written[row] for row in rows]
        keys, values, *last = self._room
        if 4 * len(rows) < len(last[0]):
            keys, values, *last = (
                *(part[:, : len(rows)].clone() for part in (keys, values)),
                *(part[: len(rows)].clone() for part in last),
            )
        self._use(keys, values, *last)

    def step_before(self, num_steps: int) -> Tensor:
        return self.last.unsqueeze(1)

    def tokens_before(self, num_steps: int) -> Tensor:
        return self.last_tokens.unsqueeze(1)

    def join(self, layer: int, step: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        lengths = [min(count, self.window) for count in self.num_written]
        columns = (1 + max(lengths)) * self.num_positions
        all_keys, all_values = self.keys[layer, :, :, :columns], self.values[layer, :, :, :columns]
        all_keys[:, :, : self.num_positions] = keys
        all_values[:, :, : self.num_positions] = values
        seen = None
        if min(lengths) < max(lengths):
            ends = (1 + torch.tensor(lengths, device=keys.device)) * self.num_positions
            seen = (torch.arange(columns, device=keys.device) < ends[:, None])[:, None, None]
        if self.extra is not None:
            all_keys = torch.cat([all_keys, self.extra[0][layer, :, step]], dim=2)
            all_values = torch.cat([all_values, self.extra[1][layer, :, step]], dim=2)
            if seen is not None:
                seen = torch.nn.functional.pad(seen, (0, self.extra[0].shape[-2]), value=True)
        return all_keys, all_values, seen


@dataclass(frozen=True)
class StepEncoding:
    """One step of R rows: tokens (R, N), encodings (R, 1, P, D), keys and values (L, R, 1, H, P, 48)."""

    tokens: Tensor
    encodings: Tensor
    keys: Tensor
    values: Tensor

    def of(self, rows: list[int]) -> StepEncoding:
        if len(rows) == len(self.tokens):
            return self
        return StepEncoding(self.tokens[rows], self.encodings[rows], self.keys[:, rows], self.values[:, rows])

    @staticmethod
    def together(steps: list[StepEncoding]) -> StepEncoding:
        return StepEncoding(
            torch.cat([step.tokens for step in steps]),
            torch.cat([step.encodings for step in steps]),
            torch.cat([step.keys for step in steps], dim=1),
            torch.cat([step.values for step in steps], dim=1),
        )


@dataclass(frozen=True)
class Conditioning:
    """What the next step of R rows gets beside its window.

    Attributes:
        recalled: by the memory, (R, 1, ...).
        extra: keys and values (L, R, 1, H, M, 48) of recalled steps.
        prompt: encodings (R, 1, P, D).
    """

    recalled: MemoryReadout = MemoryReadout()  # noqa: RUF009 (it never changes)
    extra: tuple[Tensor, Tensor] | None = None
    prompt: Tensor | None = None

    def of(self, rows: Tensor | None) -> Conditioning:
        """Of some of the rows; of all, if not given."""
        if rows is None:
            return self
        extra = None if self.extra is None else (self.extra[0][:, rows], self.extra[1][:, rows])
        prompt = None if self.prompt is None else self.prompt[rows]
        return Conditioning(self.recalled.each(lambda part: part[rows]), extra, prompt)


NO_CONDITIONING = Conditioning()
