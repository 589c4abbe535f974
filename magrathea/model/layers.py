"""The transformer's parts: rotary positions over (time, row, column), attention, feed-forward."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magrathea.layout import Layout
from magrathea.model.config import HEAD_WIDTH

TIME_PERIOD = 64  # steps after which a rotary time repeats, exactly: a world can run for ever
# Pairs of numbers turn; a third of them for each axis. Each axis keeps two still pairs, so that a head can also
# look for what a token is, wherever and whenever it is.
_TIME_TURNS = (0, 0, 1, 3, 6, 11, 19, 29)  # whole turns in TIME_PERIOD steps
_SPACE_ANGLES = (0.0, 0.0, 2.2, 1.4, 0.9, 0.5, 0.25, 0.12)  # radians for each row or column


class RotaryPositions(nn.Module):
    """Turns for the queries and keys of a step's positions (Su et al. 2021, over three axes)."""

    time_turns: Tensor
    space_turns: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        turns = torch.arange(TIME_PERIOD, dtype=torch.float64)[:, None] * torch.tensor(_TIME_TURNS)
        angles = torch.tensor(_SPACE_ANGLES, dtype=torch.float64)
        rows, columns = (places[:, None] * angles for places in _coordinates(layout).unbind(-1))
        self.register_buffer("time_turns", _cos_sin(turns * (2 * math.pi / TIME_PERIOD)), persistent=False)
        self.register_buffer("space_turns", _cos_sin(torch.cat([rows, columns], dim=-1)), persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        """time (...,) whole steps -> cosines and sines (2, ..., 1, P, 24), for `apply_rotary`."""
        when = self.time_turns[:, time % TIME_PERIOD].unsqueeze(-2)  # (2, ..., 1, 8)
        num_positions, num_pairs = self.space_turns.shape[1:]
        where = self.space_turns.view(2, *[1] * time.ndim, num_positions, num_pairs)
        shape = (2, *time.shape, num_positions)
        return torch.cat([when.expand(*shape, -1), where.expand(*shape, -1)], dim=-1).unsqueeze(-3)


def _cos_sin(angles: Tensor) -> Tensor:
    """(...) -> (2, ...) float32"""
    return torch.stack([angles.cos(), angles.sin()]).float()


def _coordinates(layout: Layout) -> Tensor:
    """(P, 2) row and column of every position; a slot of one token stands in the middle of nowhere, at (0, 0)."""
    places = [
        torch.cartesian_prod(torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64))
        for rows, columns in (slot.position_grid for slot in layout.slots)
    ]
    return torch.cat([place.reshape(-1, 2) for place in places])


def apply_rotary(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate queries or keys (..., H, P, 48), number i with number i + 24, by turns (2, ..., 1, P, 24)."""
    cos, sin = turns.to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([torch.addcmul(left * cos, right, sin, value=-1), torch.addcmul(left * sin, right, cos)], dim=-1)


def norm(x: Tensor) -> Tensor:
    """Layer norm without weights; the linear layer that follows has them. (Several times faster to learn through
    than the root-mean-square norm, which PyTorch does not fuse on CPUs.)"""
    return F.layer_norm(x, (x.shape[-1],))


class Linear(nn.Linear):
    """A linear layer without bias that computes in the type of its input, whatever its weights are kept in."""

    def __init__(self, num_in: int, num_out: int, scale: float = 1.0) -> None:
        super().__init__(num_in, num_out, bias=False)
        nn.init.normal_(self.weight, std=scale * num_in**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        rows = input.flatten(0, -2)  # as one matrix, or PyTorch multiplies frozen weights in another order
        return F.linear(rows, self.weight.to(input.dtype)).view(*input.shape[:-1], self.out_features)


class Attention(nn.Module):
    """Attention of a step's positions to each other and to past keys and values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // HEAD_WIDTH
        self.logit_scale = nn.Parameter(torch.full((self.num_heads, 1, 1), 1.0))
        self.queries_keys_values = Linear(width, 3 * width)
        self.out = Linear(width, width, scale=0.2)

    def project(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., P, D) -> queries, keys, values, each (..., H, P, 48)."""
        heads = self.queries_keys_values(norm(x)).unflatten(-1, (3, self.num_heads, HEAD_WIDTH))
        heads = heads.movedim(-3, 0).transpose(-2, -3)  # (3, ..., H, P, 48)
        queries, keys = apply_rotary(norm(heads[:2]), turns.unsqueeze(1))
        return queries * self.logit_scale.to(x.dtype), keys, heads[2]

    def gather(self, attended: Tensor) -> Tensor:
        """What the heads attended to (..., H, P, 48) -> (..., P, D)."""
        return self.out(attended.transpose(-2, -3).flatten(-2))


class FeedForward(nn.Module):
    """Two linear layers with a squared rectifier between them (So et al. 2021)."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.up = Linear(width, ratio * width)
        self.down = Linear(ratio * width, width, scale=0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(norm(x)).relu_().square())
