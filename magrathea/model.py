"""The generative heart: one masked, block-causal transformer over steps with holes.

A past step is final, so it is encoded once, alone, by a few layers, and turned into keys and values for every layer
that fills (as the cache of Sun et al. 2024, "You Only Cache Once", is). A step with holes starts from the encoding of
the step before it, and attends to itself, both ways, to the past steps of its window, to a prompt, and to what a
memory reads. Training sees just what sampling sees.

Shapes: B batch, T steps, N tokens of a step, P positions of a step, D width, H heads, L layers, W window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magrathea.config import HEAD_WIDTH, ModelConfig
from magrathea.layout import Layout, Slot
from magrathea.memory import Recall, Recurrence, memory_named
from magrathea.nn import Attention, FeedForward, Linear, RotaryPositions, norm, turn
from magrathea.past import NO_PAST, Past, SegmentPast


class Block(nn.Module):
    """One layer of the transformer, over (B, T, P, D)."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.attention = Attention(config.width)
        self.feed_forward = FeedForward(config.width, config.mlp_ratio)

    def forward(self, x: Tensor, turns: Tensor, past: Past) -> Tensor:
        queries, keys, values = self.attention.project(x, turns)
        steps = zip(queries.unbind(1), keys.unbind(1), values.unbind(1), strict=True)
        attended = []
        for step, (query, own_keys, own_values) in enumerate(steps):
            all_keys, all_values, seen = past.join(self.index, step, own_keys, own_values)
            attended.append(F.scaled_dot_product_attention(query, all_keys, all_values, attn_mask=seen))
        x = x + self.attention.gather(attended[0].unsqueeze(1) if len(attended) == 1 else torch.stack(attended, dim=1))
        return x + self.feed_forward(x)


class StepEmbedding(nn.Module):
    """Tokens with holes -> positions. The tokens of a group are embedded side by side in one position."""

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        self.layout = layout
        self.tokens = nn.ModuleList()
        self.merge = nn.ModuleList()
        for slot in layout.slots:
            table = nn.Embedding(slot.vocab_size + 2, token_width(slot, width))  # tokens, absent, hole
            nn.init.normal_(table.weight, std=0.5)
            self.tokens.append(table)
            self.merge.append(Linear(width, width) if slot.tokens_per_position > 1 else nn.Identity())
        self.position = nn.Parameter(torch.randn(layout.num_positions, width) * 0.5)

    def forward(self, tokens: Tensor, hole_mask: Tensor | None = None) -> Tensor:
        """tokens (..., N), hole_mask (..., N) True = hole -> (..., P, D)"""
        parts = []
        for slot in self.layout.slots:
            span = self.layout.span(slot.name)
            known = tokens[..., span]
            if hole_mask is not None:
                known = known.masked_fill(hole_mask[..., span], slot.vocab_size + 1)
            parts.append(self.of_slot(slot, known))
        return torch.cat(parts, dim=-2) + self.position

    def of_slot(self, slot: Slot, tokens: Tensor) -> Tensor:
        """The tokens of one slot (..., its N) -> its positions (..., its P, D), without the positions' own vectors."""
        index = self.layout.slots.index(slot)
        return self.merge[index](self.tokens[index](group_tokens(tokens, slot)).flatten(-2))


def token_width(slot: Slot, width: int) -> int:
    """How many of a position's D numbers each of its tokens has."""
    return width // slot.tokens_per_position


def group_tokens(values: Tensor, slot: Slot) -> Tensor:
    """(..., tokens of the slot) -> (..., positions of the slot, tokens per position); absent beyond the edges."""
    if slot.tokens_per_position == 1:
        return values.unsqueeze(-1)
    (rows, columns), (height, width) = slot.position_grid, slot.group
    grid = values.unflatten(-1, slot.grid)
    grid = F.pad(grid, (0, columns * width - slot.grid[1], 0, rows * height - slot.grid[0]), value=slot.absent)
    grid = grid.unflatten(-1, (columns, width)).unflatten(-3, (rows, height)).transpose(-2, -3)
    return grid.reshape(*values.shape[:-1], slot.num_positions, slot.tokens_per_position)


def ungroup_tokens(values: Tensor, slot: Slot) -> Tensor:
    """(..., positions of the slot, tokens per position, E) -> (..., tokens of the slot, E)"""
    if slot.tokens_per_position == 1:
        return values.squeeze(-2)
    (rows, columns), (height, width) = slot.position_grid, slot.group
    grid = values.unflatten(-2, (height, width)).unflatten(-4, (rows, columns)).transpose(-3, -4)
    grid = grid.reshape(*values.shape[:-3], rows * height, columns * width, values.shape[-1])
    return grid[..., : slot.grid[0], : slot.grid[1], :].flatten(-3, -2)


class StepHead(nn.Module):
    """Positions -> logits of every slot's tokens."""

    def __init__(self, layout: Layout, width: int, copies_picture: bool) -> None:
        super().__init__()
        self.layout = layout
        self.split = nn.ModuleList(
            Linear(width, width) if slot.tokens_per_position > 1 else nn.Identity() for slot in layout.slots
        )
        self.out = nn.ModuleList(Linear(token_width(slot, width), slot.vocab_size, scale=0.1) for slot in layout.slots)
        self.picture = layout.picture if copies_picture else None
        self.copy = Linear(token_width(layout.picture, width), 1, scale=0.0) if copies_picture else None

    def features(self, x: Tensor) -> list[Tensor]:
        """x (..., P, D) -> for each slot (..., its tokens, E), ready for its output table."""
        x, start, features = norm(x), 0, []
        for slot, split in zip(self.layout.slots, self.split, strict=True):
            place = split(x[..., start : start + slot.num_positions, :])
            start += slot.num_positions
            features.append(ungroup_tokens(place.unflatten(-1, (slot.tokens_per_position, -1)), slot))
        return features

    def logits(self, index: int, features: Tensor, recalled: Tensor | None = None) -> Tensor:
        """Features (..., E) of tokens of one slot, and what is recalled of them (...), or None -> (..., vocabulary).
        What is recalled gains as much as the features say that it still holds."""
        logits = self.out[index](features)
        if self.copy is None or recalled is None:
            return logits
        known = recalled.unsqueeze(-1) < logits.shape[-1]
        where = recalled.unsqueeze(-1).clamp(max=logits.shape[-1] - 1)
        return logits.scatter_add_(-1, where, self.copy(features) * known)

    def forward(self, x: Tensor, recalled: Tensor | None) -> dict[str, Tensor]:
        """x (..., P, D), recalled (..., C) or None -> for each slot's name the logits (..., its tokens, its
        vocabulary)."""
        named = enumerate(zip(self.layout.slots, self.features(x), strict=True))
        return {
            slot.name: self.logits(i, part, recalled if slot is self.picture else None) for i, (slot, part) in named
        }


class MaskedTransformer(nn.Module):
    """Fills the holes of a step, given the steps before it."""

    absent: Tensor

    def __init__(self, layout: Layout, config: ModelConfig) -> None:
        super().__init__()
        self.layout, self.config = layout, config
        self.embedding = StepEmbedding(layout, config.width)
        self.prompt_embedding = nn.Parameter(torch.randn(config.width) * 0.5)
        self.positions = RotaryPositions(layout)
        self.memory_layers = nn.ModuleList(Block(config, index) for index in range(config.num_memory_layers))
        self.past_keys_values = Linear(config.width, 2 * config.num_layers * config.width)
        self.carry = Linear(config.width, config.width, scale=0.0)  # learns to begin as a copy
        memory = memory_named(config.memory)
        self.recall = Linear(config.width, config.width, scale=0.0) if "picture" in memory.recalls else None
        recalls_steps = "steps" in memory.recalls
        self.recalled_embedding = nn.Parameter(torch.randn(config.width) * 0.5) if recalls_steps else None
        self.recurrence: Recurrence | None = memory.recurrence(config)  # a module, where there is one
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.num_layers))
        self.head = StepHead(layout, config.width, "picture" in memory.recalls)
        absent = torch.cat([torch.full((slot.num_tokens,), slot.absent) for slot in layout.slots])
        self.register_buffer("absent", absent, persistent=False)
        self.compute_dtype = torch.float32

    @property
    def device(self) -> torch.device:
        return self.prompt_embedding.device

    def encode(self, tokens: Tensor, mark: Tensor | None = None) -> Tensor:
        """Known steps, each by itself: tokens (B, T, N) -> encodings (B, T, P, D). A mark (D,) is added to those that
        do not stand in the window."""
        x = self.embedding(tokens)
        x = (x if mark is None else x + mark).to(self.compute_dtype)
        turns = self.positions(torch.zeros(1, 1, dtype=torch.long, device=tokens.device))
        for layer in self.memory_layers:
            x = layer(x, turns, NO_PAST)
        return norm(x)

    def keys_values(self, encodings: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Encodings (B, T, P, D) at times (B, T) -> keys and values for all layers, each (L, B, T, H, P, 48)."""
        heads = self.past_keys_values(encodings)
        heads = heads.unflatten(-1, (self.config.num_layers, 2, self.config.num_heads, HEAD_WIDTH))
        keys, values = heads.permute(4, 3, 0, 1, 5, 2, 6).unbind(0)  # (L, B, T, H, P, 48)
        return turn(norm(keys), self.positions(time)), values

    def remember(self, tokens: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Final steps (B, T, N) at times (B, T) -> their encodings (B, T, P, D), and their keys and values for every
        layer (L, B, T, H, P, 48)."""
        encodings = self.encode(tokens)
        return encodings, *self.keys_values(encodings, time)

    def prompt(self, tokens: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """A prompt is a step that has not happened: (B, N) and the time now (B,) -> keys, values (L, B, H, P, 48)."""
        keys, values = self.keys_values(self.encode(tokens[:, None], self.prompt_embedding), time[:, None])
        return keys.squeeze(2), values.squeeze(2)

    def recalled_steps(self, tokens: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Steps (B, T, K, N) that a memory recalls for steps at times (B, T) stand before the window, the one that
        matters most last -> keys, values (L, B, T, H, K * P, 48)."""
        ranks = torch.arange(tokens.shape[2], device=time.device)
        when = (time - self.config.window - 1)[..., None] - ranks
        encodings = self.encode(tokens.flatten(1, 2), self.recalled_embedding)
        keys, values = (
            part.unflatten(2, when.shape[1:]).transpose(3, 4).flatten(4, 5)
            for part in self.keys_values(encodings, when.flatten(1))
        )
        return keys, values

    def beside(
        self, time: Tensor, prompt: Tensor | None = None, steps: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """What steps at times (B, T) may attend to beside the window: a prompt (B, N), the same for all, and recalled
        steps (B, T, K, N). Keys and values (L, B, T, H, M, 48), or None where there is nothing."""
        parts = []
        if prompt is not None:
            shown = self.prompt(prompt, time[:, 0])
            parts.append([part.unsqueeze(2).expand(-1, -1, time.shape[1], -1, -1, -1) for part in shown])
        if steps is not None and self.recalled_embedding is not None:
            parts.append(self.recalled_steps(steps, time))
        if not parts:
            return None
        keys, values = (torch.cat(part, dim=4) for part in zip(*parts, strict=True))
        return keys, values

    def segment(
        self,
        tokens: Tensor,
        first: int,
        prompt: Tensor | None = None,
        recalled: Recall = Recall(),  # noqa: B008 (it never changes)
        earlier: Tensor | None = None,
    ) -> SegmentPast:
        """The past of the steps first… of segments (B, T, N), at times 0…, by a prompt (B, N), what is recalled
        (B, T - first, ...), and the steps (B, E, N) before the segments, which a recurrence carries; absent tokens
        where there are none."""
        time = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        encodings, keys, values = self.remember(tokens, time)
        if self.recurrence is not None:
            before = tokens if earlier is None else torch.cat([earlier, tokens], dim=1)
            encoded = encodings if earlier is None else torch.cat([self.encode(earlier), encodings], dim=1)
            states = self.recurrence.states(encoded, (before != self.absent).any(-1))
            recalled = replace(recalled, state=states[:, first - tokens.shape[1] :])
        extra = self.beside(time[:, first:], prompt, recalled.steps)
        return SegmentPast(encodings, keys, values, self.config.window, first, extra, recalled)

    def fill_positions(self, tokens: Tensor, hole_mask: Tensor, time: Tensor, past: Past) -> Tensor:
        """Steps with holes (B, T, N) at times (B, T) -> their positions' last states (B, T, P, D)."""
        x = self.embedding(tokens, hole_mask).to(self.compute_dtype) + self.carry(past.step_before(tokens.shape[1]))
        recalled = past.recalled
        if self.recall is not None and recalled.picture is not None:
            x = x + self._at_picture(self.recall(norm(self._picture(recalled.picture))))
        turns = self.positions(time)
        for index, layer in enumerate(self.layers):
            x = layer(x, turns, past)
            if index == 0 and self.recurrence is not None and recalled.state is not None:
                x = x + self.recurrence.read(recalled.state, x)  # by now all positions know of the action
        return x

    def _picture(self, tokens: Tensor) -> Tensor:
        """Pictures (B, T, C) -> their positions (B, T, those of a picture, D)."""
        return self.embedding.of_slot(self.layout.picture, tokens).to(self.compute_dtype)

    def _at_picture(self, places: Tensor) -> Tensor:
        """(B, T, positions of a picture, D) -> (B, T, P, D), 0 at the step's other positions."""
        slot, start = self.layout.picture, self.layout.first_position(self.layout.picture)
        return F.pad(places, (0, 0, start, self.layout.num_positions - start - slot.num_positions))

    def predict(self, tokens: Tensor, hole_mask: Tensor, time: Tensor, past: Past) -> dict[str, Tensor]:
        """Steps with holes (B, T, N) at times (B, T) -> for each slot logits (B, T, its tokens, its vocabulary)."""
        return self.head(self.fill_positions(tokens, hole_mask, time, past), past.recalled.picture)

    def forward(
        self,
        past_tokens: Tensor,
        tokens: Tensor,
        hole_mask: Tensor,
        prompt: Tensor | None = None,
        first: int = 0,
        recalled: Recall = Recall(),  # noqa: B008 (it never changes)
        earlier: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The training loss of a batch of segments: cross-entropy at the holes, summed, and their weight.

        Args:
            past_tokens: (B, T, N) what the model is shown of the past.
            tokens: (B, T - first, N) the true steps.
            hole_mask: (B, T - first, N) True = hole; holes whose token is absent are not learned.
            prompt: (B, N) or None.
            first: index of the first step that is filled.
            recalled: (B, T - first, ...) what a memory recalls for the steps that are filled.
            earlier: (B, E, N) the steps before, for a recurrence; absent tokens where there are none.
        """
        past = self.segment(past_tokens, first, prompt, recalled, earlier)
        time = torch.arange(first, past_tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        x = self.fill_positions(tokens, hole_mask, time, past)
        return self._loss(self.head.features(x), tokens, hole_mask, recalled.picture)

    def _loss(
        self, features: Sequence[Tensor], tokens: Tensor, hole_mask: Tensor, recalled: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), device=tokens.device)
        num_holes = torch.zeros((), device=tokens.device)
        for index, (slot, feature) in enumerate(zip(self.layout.slots, features, strict=True)):
            span = self.layout.span(slot.name)
            target = tokens[..., span]
            holes = hole_mask[..., span] & (target < slot.vocab_size)
            weight = max(1.0, self.layout.num_tokens / (10 * slot.num_tokens))  # no slot is under a tenth of a step
            known = recalled[holes] if recalled is not None and slot is self.head.picture else None
            logits = self.head.logits(index, feature[holes], known).float()
            total = total + weight * F.cross_entropy(logits, target[holes], reduction="sum")
            num_holes = num_holes + weight * holes.sum()
        return total, num_holes
