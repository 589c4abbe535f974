"""The text that tells a model which of several worlds a step is of."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from magrathea.words import NUM_BUCKETS, buckets_of


class WorldPrompt(nn.Module):
    """The mean of the vectors of a text's words, which is added to all positions of a step; 0 at first.

    Words have their vectors by checksum, so that any text is allowed.
    """

    words: Tensor

    def __init__(self, text: str, width: int) -> None:
        super().__init__()
        self.word_embedding = nn.Embedding(NUM_BUCKETS, width)
        nn.init.zeros_(self.word_embedding.weight)
        self.register_buffer("words", torch.tensor(buckets_of(text)), persistent=False)

    def forward(self) -> Float[Tensor, " D"]:
        return self.word_embedding(self.words).mean(0)
