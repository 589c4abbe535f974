"""Slots that have values: how the model sees what their tokens decode to, and predicts them.

The tokens of a slot may be finer than the positions of the transformer, which then has a position for each group of
them. The finer level is narrow and is seen by convolutions alone, before the groups become positions and after, as the
outer level of a U-Net (Ronneberger et al. 2015).

R steps before, C tokens of the slot ("cells"), G tokens of a group, Q values, K features of a cell's values, E width of
a cell, D width of a position.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from magrathea.layout import Codec, Layout, Slot, group_features, ungroup_tokens
from magrathea.model.convolution import ConvBlock
from magrathea.model.layers import Linear, norm

CELL_WIDTH = 48  # E where several cells share a position; elsewhere it is D
CHANGE_WEIGHT = 5.0  # in the loss, of a token that does not keep what was there
NUM_BLOCKS = 1, 2  # of convolutions over such cells, before and after the transformer


class ValuesSlot(nn.Module):
    """The cells of one slot that has values.

    Args:
        slot: of the tokens.
        layout: that has it.
        codec: that decodes its tokens.
        num_recent: R.
        width: D.
    """

    def __init__(self, slot: Slot, layout: Layout, codec: Codec, num_recent: int, width: int) -> None:
        super().__init__()
        self.slot, self.codec = slot, codec
        self.values_slot = layout.values_slots[slot.name]
        self.tokens_span, self.values_span = layout.span(slot.name), layout.span(self.values_slot.name)
        group = slot.tokens_per_position
        self.width = CELL_WIDTH if group > 1 else width
        self.known_proj = Linear(codec.num_features + 1, self.width)
        self.recent_proj = Linear(num_recent * codec.num_features, self.width)
        self.past_proj = Linear(group * codec.num_features, width)
        before, after = NUM_BLOCKS if group > 1 else (0, 0)
        self.blocks_before = nn.ModuleList(ConvBlock(self.width) for _ in range(before))
        self.blocks_after = nn.ModuleList(ConvBlock(self.width, width) for _ in range(after))
        self.merge = Linear(group * self.width, width) if group > 1 else None
        self.split = Linear(width, group * self.width) if group > 1 else None

    def past_positions(self, tokens: Int[Tensor, "*n N"]) -> Float[Tensor, "*n P D"]:
        """Final steps -> the slot's positions."""
        values = tokens[..., self.values_span]
        shown = self._features(torch.stack([values, values], dim=-2))
        return self.past_proj(group_features(shown.squeeze(-3), self.slot))

    def cells(
        self, tokens: Int[Tensor, "*n N"], holes: Tensor, recent: Int[Tensor, "*n R N"], dtype: torch.dtype
    ) -> Float[Tensor, "*n C E"]:
        """Steps with holes (*n, N), True in `holes`, and the steps before, the newest first -> the slot's cells, which
        show its known tokens and what the steps before showed."""
        before, own = recent[..., self.values_span], tokens[..., self.tokens_span]
        shown = self._features(torch.cat([before, before[..., -1:, :]], dim=-2))  # (..., R, C, K)
        x = self.recent_proj(shown.to(dtype).transpose(-2, -3).flatten(-2))
        known = (~holes[..., self.tokens_span] & (own < self.slot.vocab_size)).unsqueeze(-1)
        if known.any():
            last = before[..., 0, :].clamp(min=0)
            decoded = self.codec.features(torch.stack([self.codec.decode(own, last), last], dim=-2)).squeeze(-3)
            decoded = torch.cat([decoded, torch.ones_like(decoded[..., :1])], dim=-1)
            x = x + self.known_proj((decoded * known).to(dtype))
        return self._convolve(x, self.blocks_before)

    def positions(self, cells: Float[Tensor, "*n C E"]) -> Float[Tensor, "*n P D"]:
        """Cells -> the slot's positions."""
        return cells if self.merge is None else self.merge(group_features(cells, self.slot))

    def outputs(
        self, positions: Float[Tensor, "*n P D"], cells: Float[Tensor, "*n C E"], context: Float[Tensor, "m D"] | None
    ) -> Float[Tensor, "*n C E"]:
        """The transformer's output at the slot's positions, the cells that it began with, and a vector for each of the
        steps -> what each cell's token is predicted from."""
        x = norm(positions)
        if self.split is None:
            return x
        split = self.split(x).unflatten(-1, (self.slot.tokens_per_position, self.width))
        return norm(self._convolve(ungroup_tokens(split, self.slot) + cells, self.blocks_after, context))

    def loss(
        self, logits: Float[Tensor, "*n C V"], tokens: Int[Tensor, "*n N"], previous: Int[Tensor, "*n N"], holes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The negative log-likelihood of the values, see `Codec`, at the holes (*n, C), given the true steps and those
        before, summed, and the sum of its weights: what changes counts more."""
        values = self.values_span
        some = holes.any(-1) & (previous[..., values.start] < self.values_slot.vocab_size)
        log_probs = (logits.flatten(0, -3) if some.all() else logits[some]).float().log_softmax(-1)
        made, is_change = self.codec.log_likelihood(log_probs, tokens[some][:, values], previous[some][:, values])
        weights = holes[some] * torch.where(is_change, CHANGE_WEIGHT, 1.0)
        return -(made * weights).sum(), weights.sum()

    def of_values(self, logits: Float[Tensor, "*n C V"], previous: Int[Tensor, "*n N"]) -> Float[Tensor, "*n C V"]:
        """Logits as they are without the weights of the loss, and with one token for each value, given the steps before
        (*n, N)."""
        before = previous[..., self.values_span]
        logits = logits + math.log(CHANGE_WEIGHT) * self.codec.keeps(before)
        return self.codec.merge_alike(logits, before)

    def _convolve(
        self, x: Float[Tensor, "*n C E"], blocks: Iterable[nn.Module], context: Tensor | None = None
    ) -> Float[Tensor, "*n C E"]:
        cells = x.flatten(0, -3).transpose(1, 2).unflatten(2, self.slot.grid)
        for block in blocks:
            cells = block(cells, context)
        return cells.flatten(2).transpose(1, 2).unflatten(0, x.shape[:-2])

    def _features(self, values: Int[Tensor, "*n S Q"]) -> Float[Tensor, "*n S-1 C K"]:
        """What values of steps, the newest first, show, each given those of the step before; 0 where there are none."""
        first = values[..., :-1, :1]
        is_there = (first >= 0) & (first < self.values_slot.vocab_size)
        shown = self.codec.features(values)
        return shown if is_there.all() else shown * is_there.unsqueeze(-1)
