"""Finite scalar quantization: a short vector of numbers, each rounded to one of a few levels, is one code.

Mentzer et al. 2023, arXiv 2309.15505. No codebook is learnt, so none can collapse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from magrathea.errors import MagratheaError
from magrathea.spaces import MAX_VOCABULARY

_SLACK = 1e-3  # bounds lie a little outside the outermost levels, so that these are reached


class ScalarQuantizer(nn.Module):
    """D numbers to one of prod(levels) codes, and back. `levels` says to how many values each number is rounded."""

    counts: Tensor
    steps: Tensor
    middle: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(int(level) for level in levels)
        self.num_codes = math.prod(self.levels)
        if not self.levels or min(self.levels) < 2 or self.num_codes > MAX_VOCABULARY:
            raise MagratheaError(f"levels={list(levels)} must be 2 or more, with a product of at most {MAX_VOCABULARY}")
        counts = torch.tensor(self.levels)
        steps = torch.tensor([math.prod(self.levels[:index]) for index in range(len(self.levels))])
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("steps", steps, persistent=False)  # what one level of each number counts in a code
        self.register_buffer("middle", counts // 2, persistent=False)  # the level of the value 0

    def forward(self, latents: Tensor) -> Tensor:
        """latents (..., D) -> quantized (..., D) within [-1, 1]; gradients pass straight through the rounding."""
        bounded = self._bound(latents)
        return (bounded + (bounded.round() - bounded).detach()) / self.middle

    def _bound(self, latents: Tensor) -> Tensor:
        """Numbers to a range in which rounding gives as many values as there are levels."""
        limit = (self.counts - 1) * (1 + _SLACK) / 2
        offset = (1 - self.counts % 2) / 2  # an even number of levels lies half a level off the middle
        return torch.tanh(latents + torch.atanh(offset / limit)) * limit - offset

    def codes(self, quantized: Tensor) -> Tensor:
        """quantized (..., D) -> int64 codes (...) in 0..num_codes - 1."""
        return (((quantized * self.middle).round().long() + self.middle) * self.steps).sum(-1)

    def values(self, codes: Tensor) -> Tensor:
        """The inverse of `codes`: (...) -> float32 (..., D)."""
        return (codes[..., None] // self.steps % self.counts - self.middle) / self.middle
