"""Numbers as instructions: each keeps its value, adds a difference, or is set, given the value of the step before.

A value is a whole number 0…LEVELS - 1 of even levels between the least and the greatest value of its entry. The first
token of an entry keeps its value, the next A add a difference in levels, the others set it to one of S levels.

B steps, C entries, A differences, S settings, V = 1 + A + S tokens.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

LEVELS = 2**16
MARGIN = 1.5  # keeping a value is as good as a token whose error is so many times less, or one level
SMOOTHING = 0.05  # standard deviation of the targets over that of the changes
MIN_DEVIATION = 0.5  # of the targets, in levels
MOST_CHANGE = 6.0  # of the feature of a change, in standard deviations


class DeltaCodec(nn.Module):
    """Decodes and compares the tokens of numbers.

    Args:
        differences: (C, A) int64 in levels, none 0.
        settings: (C, S) int64 levels.
        change_scale: (C,) standard deviation of the changes, in levels, above 0.
        num_waves: features of a value are its sine and cosine at so many frequencies, each twice the one before. With
            many of them what is learned of a number does not hold for numbers nearby.
    """

    differences: Tensor
    settings: Tensor
    change_scale: Tensor
    is_few: Tensor

    def __init__(self, differences: Tensor, settings: Tensor, change_scale: Tensor, num_waves: int) -> None:
        super().__init__()
        self.register_buffer("differences", differences, persistent=False)
        self.register_buffer("settings", settings, persistent=False)
        self.register_buffer("change_scale", change_scale.float(), persistent=False)
        repeats = [choices[:, -2:].diff(dim=-1).eq(0).all(-1) for choices in (differences, settings)]
        self.register_buffer("is_few", repeats[0] | repeats[1], persistent=False)  # entries of few values
        self.num_waves, self.num_features = num_waves, 2 + 2 * num_waves

    @property
    def vocab_size(self) -> int:
        return 1 + self.differences.shape[1] + self.settings.shape[1]

    def _choices(self, previous: Int[Tensor, "*n C"]) -> Int[Tensor, "*n C V"]:
        """What every token makes of the values of the step before."""
        before = previous[..., None]
        added = (before + self.differences).clamp(0, LEVELS - 1)
        return torch.cat([before, added, self.settings.expand(*previous.shape, -1)], dim=-1)

    def decode(self, tokens: Int[Tensor, "*n C"], previous: Int[Tensor, "*n C"]) -> Int[Tensor, "*n C"]:
        """The values that tokens make of those of the step before."""
        tokens = tokens.clamp(max=self.vocab_size - 1)
        return self._choices(previous).gather(-1, tokens[..., None]).squeeze(-1)

    def features(self, values: Int[Tensor, "*n S C"]) -> Float[Tensor, "*n S-1 C K"]:
        """What the model sees of values: each at several scales, and how much it changed."""
        values, before = values[..., :-1, :], values[..., 1:, :]
        place = values.float() / (LEVELS - 1) * 2 - 1
        angles = place[..., None] * (math.pi * 2.0 ** torch.arange(self.num_waves, device=values.device))
        change = ((values - before).float() / self.change_scale).clamp(-MOST_CHANGE, MOST_CHANGE)
        return torch.cat([torch.stack([place, change], dim=-1), angles.sin(), angles.cos()], dim=-1)

    def _errors(self, values: Int[Tensor, "*n C"], previous: Int[Tensor, "*n C"]) -> Int[Tensor, "*n C V"]:
        return (self._choices(previous) - values[..., None]).abs()

    def log_likelihood(
        self, log_probs: Float[Tensor, "B C V"], values: Int[Tensor, "B C"], previous: Int[Tensor, "B C"]
    ) -> tuple[Float[Tensor, "B C"], Bool[Tensor, "B C"]]:
        """Averaged over a normal distribution around the values (HL-Gauss, Farebrother et al. 2024), so that what is
        learned of a number holds for numbers nearby; and where keeping a value is worse than another token."""
        errors = self._errors(values, previous)
        deviation = (SMOOTHING * self.change_scale).clamp(min=MIN_DEVIATION)[:, None]
        weights = (-0.5 * (errors / deviation) ** 2).softmax(-1)
        is_change = errors[..., 0] > MARGIN * errors.min(-1).values + 1
        return (weights * log_probs).sum(-1), is_change

    def keeps(self, previous: Int[Tensor, "*n C"]) -> Bool[Tensor, "*n C V"]:
        """Which tokens make the value of the step before, or one that `log_likelihood` takes for it."""
        return (self._choices(previous) - previous[..., None]).abs() <= 1

    def merge_alike(self, logits: Float[Tensor, "*n C V"], previous: Int[Tensor, "*n C"]) -> Float[Tensor, "*n C V"]:
        """Give the first of the tokens that make the same value the probability of all of them, in entries of few
        values: there most tokens are alike, and each has little of what the value has."""
        if not self.is_few.any():
            return logits
        probabilities = logits[..., self.is_few, :].float().softmax(-1)
        values, order = self._choices(previous)[..., self.is_few, :].sort(dim=-1, stable=True)
        is_first = torch.ones_like(values, dtype=torch.bool)
        is_first[..., 1:] = values[..., 1:] != values[..., :-1]
        group = is_first.cumsum(-1) - 1  # of tokens of the same value, in their order
        mass = torch.zeros_like(probabilities).scatter_add_(-1, group, probabilities.gather(-1, order))
        in_order = mass.gather(-1, group).log().masked_fill(~is_first, -math.inf)
        merged = torch.empty_like(in_order).scatter_(-1, order, in_order)
        result = logits.clone()
        result[..., self.is_few, :] = merged.to(logits.dtype)
        return result

    def encode(self, values: Int[Tensor, "*n C"], previous: Int[Tensor, "*n C"]) -> Int[Tensor, "*n C"]:
        """The best token of every entry, the first of several."""
        return self._errors(values, previous).argmin(-1)

    def encode_alone(self, values: Int[Tensor, "*n C"]) -> Int[Tensor, "*n C"]:
        """The nearest setting of values without a step before."""
        errors = (self.settings - values[..., None]).abs()
        return 1 + self.differences.shape[1] + errors.argmin(-1)


def fit_choices(values: Int[Tensor, " M"], most: int) -> Int[Tensor, " most"]:
    """The values themselves where they are few, or else a number for each of `most` parts of equal weight, where a part
    weighs as many values as it has and as wide as it is; the last repeats where there are fewer."""
    different = torch.unique(values)
    if len(different) > most:
        ranks = torch.linspace(0, 1, most)
        by_weight = torch.quantile(values.double()[torch.randperm(len(values))[:100_000]], ranks.double())
        even = torch.linspace(float(different[0]), float(different[-1]), most // 2).double()
        different = torch.unique(torch.cat([by_weight[::2], even]).round().long())
    return torch.cat([different, different[-1:].expand(most - len(different))])
