"""Convolutions over the cells of a picture: n pictures, D width, h rows and w columns of cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from magrathea.model.layers import Linear


class ConvBlock(nn.Module):
    """A residual block of two convolutions over the cells of a picture (He et al. 2016), which is also given a vector
    that concerns the whole step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Convolution(width), Convolution(width, scale=0.0)
        self.context_proj = Linear(width, width)

    def forward(self, x: Float[Tensor, "n D h w"], context: Float[Tensor, "n D"]) -> Float[Tensor, "n D h w"]:
        hidden = self.first(F.silu(F.group_norm(x, 8))) + self.context_proj(context)[..., None, None]
        return x + self.second(F.silu(hidden))


class Convolution(nn.Module):
    """3x3, without bias, in the type of its input, whatever its weights are kept in."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width, 3, 3) * (scale * (9 * width) ** -0.5))

    def forward(self, x: Float[Tensor, "n D h w"]) -> Float[Tensor, "n D h w"]:
        weight = self.weight.to(x.dtype).contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, weight, padding=1)
