"""What a text takes over from the texts before it: a pointer-generator (See et al. 2017, arXiv 1704.04368).

C tokens of a slot, R past steps, S = R * C of their tokens, E width of a token, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from magrathea.layout import Slot

POSITION_SCALE = 0.6  # of the vectors of positions: at first each token points at those of its own place
FIRST_GATE = -1.0  # log odds of copying
LEAST = 1e-9  # probability of a copy that no source offers


@dataclass(frozen=True)
class Copies:
    """For each token of a slot (*n, C) or of those that are holes (n,): the log odds of copying, which of S past tokens
    is copied, as probabilities, and these tokens."""

    gate: Float[Tensor, "*n"]
    weights: Float[Tensor, "*n S"]
    tokens: Int[Tensor, "*n S"]

    def at(self, holes: Bool[Tensor, "*n"]) -> Copies:
        """Those of the holes."""
        return Copies(self.gate[holes], self.weights[holes], self.tokens[holes])

    def mix(self, logits: Float[Tensor, "*n V"]) -> Float[Tensor, "*n V"]:
        """The logits of drawing a token by itself -> the log probabilities of drawing or copying it."""
        copied = torch.zeros(logits.shape, device=logits.device).scatter_add(-1, self.tokens, self.weights.float())
        gate = self.gate.float().unsqueeze(-1)
        own = logits.float().log_softmax(-1) + F.logsigmoid(-gate)
        return torch.logaddexp(own, copied.clamp(min=LEAST).log() + F.logsigmoid(gate)).to(logits.dtype)


class PointerCopy(nn.Module):
    """Attention from each token of a sequence to those of the last R steps, by what they and the tokens before them
    are, by their places and by their age."""

    def __init__(self, slot: Slot, num_steps: int, token_width: int) -> None:
        super().__init__()
        self.num_steps, self.vocab_size = num_steps, slot.vocab_size
        self.queries = nn.Linear(token_width, token_width, bias=False)
        self.keys = nn.Linear(2 * token_width, token_width, bias=False)
        self.token_vectors = nn.Embedding(slot.vocab_size + 1, token_width)
        nn.init.normal_(self.token_vectors.weight, std=0.5)
        positions = torch.randn(slot.num_tokens, token_width) * POSITION_SCALE
        self.query_position, self.key_position = nn.Parameter(positions), nn.Parameter(positions.clone())
        self.age_embedding = nn.Parameter(torch.randn(num_steps, 1, token_width) * POSITION_SCALE)
        self.gate = nn.Linear(token_width, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, FIRST_GATE)

    def forward(self, features: Float[Tensor, "*n C E"], recent: Int[Tensor, "*n R C"]) -> Copies:
        """Features of the tokens, and the texts of the last steps, the newest first; -1 or absent where there is
        none."""
        features = features.float()
        present = (recent >= 0) & (recent < self.vocab_size)
        vectors = self.token_vectors(torch.where(present, recent, self.vocab_size))
        before = F.pad(vectors[..., :-1, :], (0, 0, 1, 0))
        keys = self.keys(torch.cat([before, vectors], dim=-1)) + self.key_position + self.age_embedding
        queries = self.queries(features) + self.query_position
        scores = queries @ keys.flatten(-3, -2).transpose(-2, -1) / math.sqrt(features.shape[-1])
        there = present.flatten(-2).unsqueeze(-2)
        weights = scores.masked_fill(~there, torch.finfo(scores.dtype).min).softmax(-1)
        gate = self.gate(features).squeeze(-1).masked_fill(~there.any(-1), -1e4)
        tokens = torch.where(present, recent, 0).flatten(-2).unsqueeze(-2)
        return Copies(gate, weights, tokens.expand(weights.shape))
