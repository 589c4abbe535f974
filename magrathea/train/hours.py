"""What the same places show at another hour, so that a model learns to believe its clock when its past does not.

A dream that stays dark for one step too long has a past that is dark, and darkness breeds darkness. So some pasts are
shown as they would have looked at another hour, while the clock and what is to be learned stay true.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

NUM_HOURS = 24
LEAST_SURE = 0.5  # of 1: how far the clock's first harmonic must be from 0, where it may be any hour
LEAST_SEEN = 20  # how often a token must have been seen again in an hour
LEAST_LIKELY = 0.02  # rarer is what changes by itself, not with the hour
NUM_STEPS = 8  # that the hour has had to change a place: most were last seen the step before


class Hours:
    """How likely a place that showed one token shows another when it is seen again at an hour.

    Args:
        before: (S, C) tokens that the places of S steps showed when they were last seen; num_tokens where unknown.
        now: (S, C) tokens that they show.
        features: (S, F) of the clock at these steps.
        num_tokens: V.
    """

    def __init__(self, before: np.ndarray, now: np.ndarray, features: np.ndarray, num_tokens: int) -> None:
        hour = hours_of(features)
        known = (hour >= 0)[:, None] & (before < num_tokens) & (now < num_tokens)
        index = (hour[:, None] * num_tokens + before) * num_tokens + now
        counts = np.bincount(index[known], minlength=NUM_HOURS * num_tokens**2)
        counts = counts.reshape(NUM_HOURS, num_tokens, num_tokens).astype(np.float32)
        seen = counts.sum(axis=-1, keepdims=True)
        same = np.eye(num_tokens, dtype=np.float32)
        likely = np.where((seen >= LEAST_SEEN) & (counts >= LEAST_LIKELY * seen), counts, 0)
        likely = np.where(likely.any(axis=-1, keepdims=True), likely, same)
        step = torch.from_numpy(likely / likely.sum(axis=-1, keepdims=True))
        self.num_tokens, self.chances = num_tokens, torch.linalg.matrix_power(step, NUM_STEPS).cumsum(dim=-1)
        self.often = torch.from_numpy(np.bincount(hour[hour >= 0], minlength=NUM_HOURS).astype(np.float32))

    def draw(self, num: int, generator: Generator) -> Tensor:
        """Hours (num,), each as often as it was recorded."""
        return torch.multinomial(self.often, num, replacement=True, generator=generator)

    def show(self, pictures: Tensor, hours: Tensor, dice: Tensor) -> Tensor:
        """Pictures (B, ..., C) of B segments, each at one of the hours (B,); absent tokens stay. What one token becomes
        is drawn once for all of a segment, with dice (B, V) in 0…1, for a dream is of a piece."""
        before = torch.arange(self.num_tokens).expand(len(hours), -1)
        drawn = torch.searchsorted(self.chances[hours[:, None], before], dice[..., None]).squeeze(-1)
        known = pictures.clamp(max=self.num_tokens - 1)
        shown = drawn.clamp(max=self.num_tokens - 1).gather(1, known.flatten(1)).view_as(pictures)
        return torch.where(pictures < self.num_tokens, shown, pictures)


def hours_of(features: np.ndarray) -> np.ndarray:
    """Features (S, F) of a clock -> (S,) which of NUM_HOURS it is, -1 where it may be any."""
    cosine, sine = features[:, 0], features[:, 1]
    hour = (np.arctan2(sine, cosine) / (2 * np.pi) % 1 * NUM_HOURS).astype(np.int64) % NUM_HOURS
    return np.where(np.hypot(cosine, sine) >= LEAST_SURE, hour, -1)
