"""Tokens to the positions of the transformer, and positions back to the chances of tokens.

T steps, N tokens of a step, P positions of a step, D width, E numbers of a position that belong to one of its tokens, V
tokens of a slot's vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magrathea.layout import Layout, Slot
from magrathea.memory import MemoryReadout, Part
from magrathea.model.layers import Linear, norm


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


def principal_components(values: Tensor, width: int) -> Tensor:
    """(V, F) -> (V, width) along the directions in which they differ most, the stronger ones softened by a root."""
    centred = values.float() - values.float().mean(0)
    components, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    components = (components * sizes.sqrt())[:, :width]
    return F.pad(components, (0, width - components.shape[1]))


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
    """Positions -> logits of every slot's tokens.

    What an observation shows is mostly what stood in the same place in the step before, or what a memory recalls there;
    so is its light. A gate says how much each of these two tokens gains, which is to copy it; and E further gates, what
    of its vector is passed on, which is to change it: a red door that opens stays red. What moves from one place of a
    picture to another is passed on from where the head looks: a key that is picked up keeps its colour in the hand.
    """

    def __init__(self, layout: Layout, width: int, recalls: Sequence[Part]) -> None:
        super().__init__()
        self.layout = layout
        self.recalled = ((layout.picture,) if "picture" in recalls else ()) + (
            layout.lights[:1] if "light" in recalls else ()
        )
        self.split = nn.ModuleList(
            Linear(width, width) if slot.tokens_per_position > 1 else nn.Identity() for slot in layout.slots
        )
        self.out = nn.ModuleList(Linear(token_width(slot, width), slot.vocab_size, scale=0.1) for slot in layout.slots)
        self.copy_bias = nn.ModuleList(
            Linear(token_width(slot, width), 1 + self._is_recalled(slot), scale=0.0) if _shows(slot) else nn.Identity()
            for slot in layout.slots
        )
        self.copy_vectors = nn.ModuleList(
            nn.Embedding(slot.vocab_size + 1, token_width(slot, width)) if _shows(slot) else nn.Identity()
            for slot in layout.slots
        )
        self.copy_gate = nn.ModuleList(
            Linear(token_width(slot, width), (1 + self._is_recalled(slot)) * token_width(slot, width), scale=0.0)
            if _shows(slot)
            else nn.Identity()
            for slot in layout.slots
        )
        self.prev_frame_attention = nn.ModuleList(
            PrevFrameAttention(slot, token_width(slot, width)) if _is_picture(slot) else nn.Identity()
            for slot in layout.slots
        )

    def _is_recalled(self, slot: Slot) -> bool:
        return slot in self.recalled

    def sources(self, before: Tensor, recalled: MemoryReadout) -> list[list[Tensor]]:
        """For each slot what may be copied (..., its tokens), of the step before (..., N) and of what is recalled."""
        sources = [[before[..., self.layout.span(slot.name)]] if _shows(slot) else [] for slot in self.layout.slots]
        for slot in self.recalled:
            tokens = recalled.light if slot in self.layout.lights else recalled.picture
            if tokens is not None:
                sources[self.layout.slots.index(slot)].append(tokens)
        return sources

    def features(self, x: Tensor) -> list[Tensor]:
        """x (..., P, D) -> for each slot (..., its tokens, E), ready for its output table."""
        x, start, features = norm(x), 0, []
        for slot, split in zip(self.layout.slots, self.split, strict=True):
            place = split(x[..., start : start + slot.num_positions, :])
            start += slot.num_positions
            features.append(ungroup_tokens(place.unflatten(-1, (slot.tokens_per_position, -1)), slot))
        return features

    def with_prev_frame(self, features: Sequence[Tensor], sources: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """For each slot its features (..., its tokens, E), with what the head looks at in the step before."""
        parts = zip(self.layout.slots, features, sources, self.copy_vectors, self.prev_frame_attention, strict=True)
        return [
            feature + look(feature, vectors(source[0]).to(feature.dtype)) if _is_picture(slot) else feature
            for slot, feature, source, vectors, look in parts
        ]

    def logits(self, index: int, features: Tensor, sources: Sequence[Tensor]) -> Tensor:
        """Features (..., E) of tokens of one slot, and the tokens (...) that may be copied -> (..., V)."""
        if not sources:
            return self.out[index](features)
        known = torch.stack(list(sources), dim=-1)
        gains = self.copy_bias[index](features)[..., : len(sources)]
        passes = self.copy_gate[index](features).unflatten(-1, (-1, features.shape[-1]))[..., : len(sources), :]
        vectors = self.copy_vectors[index](known).to(features.dtype)
        logits = self.out[index](features + (passes * vectors).sum(dim=-2))
        there = known < logits.shape[-1]
        return logits.scatter_add_(-1, known.clamp(max=logits.shape[-1] - 1), (gains * there).to(logits.dtype))

    def forward(self, x: Tensor, sources: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
        """x (..., P, D), for each slot what may be copied -> for each slot's name the logits (..., its tokens, V)."""
        features = self.with_prev_frame(self.features(x), sources)
        each = enumerate(zip(self.layout.slots, features, sources, strict=True))
        return {slot.name: self.logits(index, features, copied) for index, (slot, features, copied) in each}


def _shows(slot: Slot) -> bool:
    return slot.role == "observation"


def _is_picture(slot: Slot) -> bool:
    """Whether things may move from one of its places to another."""
    return _shows(slot) and min(slot.grid) >= 3


class PrevFrameAttention(nn.Module):
    """What a place of a picture takes over from another: attention to the vectors of its tokens (Vaswani et al. 2017),
    and a gate for each of their E numbers, all closed at first. C places.
    """

    def __init__(self, slot: Slot, token_width: int) -> None:
        super().__init__()
        self.queries, self.keys = (Linear(token_width, token_width) for _ in range(2))
        self.query_position, self.key_position = (
            nn.Parameter(torch.randn(slot.num_tokens, token_width) * 0.5) for _ in range(2)
        )
        self.copy_gate = Linear(token_width, token_width, scale=0.0)

    def forward(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Features (..., C, E) of places, and the vectors (..., C, E) of what they showed -> (..., C, E)."""
        queries = self.queries(features) + self.query_position.to(features.dtype)
        keys = self.keys(vectors) + self.key_position.to(features.dtype)
        return self.copy_gate(features) * F.scaled_dot_product_attention(queries, keys, vectors)
