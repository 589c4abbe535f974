"""What a step brought, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from magrathea.sampler import FillResult
from magrathea.world import World


@dataclass(frozen=True)
class StepResult:
    """What a step of B worlds brought.

    Attributes:
        observation: (B, *shape), a dict or tuple of such for composite spaces.
        reward: (B,) float32.
        terminated: (B,) bool.
        tokens: (B, N) int64.
        uncertainty: for each slot (B, rows, columns), 1 - the probability of the likeliest token when it was filled.
        num_passes: (B,) passes of the model that the step took.
    """

    observation: Any
    reward: np.ndarray
    terminated: np.ndarray
    tokens: Tensor
    uncertainty: dict[str, np.ndarray]
    num_passes: np.ndarray

    @classmethod
    def of(cls, world: World, filled: FillResult) -> StepResult:
        """Decode the steps that were filled."""
        tokens, unsure = filled.tokens.cpu(), 1 - filled.confidence.cpu().numpy()
        return cls(
            observation=world.decode_observation(tokens),
            reward=world.decode_reward(tokens),
            terminated=world.decode_terminated(tokens),
            tokens=tokens,
            uncertainty={
                slot.name: unsure[:, world.layout.span(slot.name)].reshape(-1, *slot.grid)
                for slot in world.layout.slots
            },
            num_passes=filled.num_passes.cpu().numpy(),
        )
