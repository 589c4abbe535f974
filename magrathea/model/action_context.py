"""What the action says to every position of a text: A positions of the action, D width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from magrathea.model.layers import Linear, norm


class ActionContext(nn.Module):
    """A mean of the action's positions, weighed by a learned query (of a command of few words most are empty), and a
    projection of it; nothing at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))
        self.hidden, self.out = Linear(width, width), Linear(width, width, scale=0.0)

    def forward(self, positions: Float[Tensor, "*n A D"]) -> Float[Tensor, "*n 1 D"]:
        normed = norm(positions)
        weights = (normed @ self.query.to(normed.dtype)).softmax(-1)
        return self.out(F.silu(self.hidden(weights.unsqueeze(-2) @ normed)))
