"""Novelty: how far a state is from those that were recorded, as a reward where the environment's rewards say nothing.

The distance to the k-th nearest recorded state, as in APT (Liu and Abbeel 2021), on a random projection of features.
n states, S positions of a state, F features of a position.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from magrathea.data import Dataset

NUM_DIRECTIONS = 32  # of the projection
NEIGHBOUR = 12  # k: what was seen a dozen times is not new


class Novelty:
    """Compares states with recorded ones.

    Args:
        recorded: (n, S, F) standardized features.
        seed: of the projection.
    """

    def __init__(self, recorded: Float[Tensor, "n S F"], seed: int = 0) -> None:
        size = recorded[0].numel()
        self._projection = torch.randn(size, NUM_DIRECTIONS, generator=Generator().manual_seed(seed)) / size**0.5
        self._recorded = recorded.flatten(1) @ self._projection
        self._neighbour = min(NEIGHBOUR, len(recorded))
        self._scale = float(self._distance(self._recorded).mean()) + 1e-6

    def __call__(self, states: Float[Tensor, "*n S F"]) -> Float[Tensor, "*n"]:
        """log(1 + distance), in units of the mean one among the recorded states."""
        distance = self._distance(states.flatten(-2).flatten(0, -2) @ self._projection)
        return torch.log1p(distance / self._scale).unflatten(0, states.shape[:-2])

    def _distance(self, states: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        return torch.cdist(states, self._recorded).kthvalue(self._neighbour, dim=-1).values


def says_nothing(dataset: Dataset) -> bool:
    """Whether every recorded step brought the same reward, and no episode ended by itself."""
    rewards: set[float] = set()
    for number in range(len(dataset)):
        episode = dataset.episode(number)
        rewards |= set(episode.reward.tolist())
        if len(rewards) > 1 or episode.terminated.any():
            return False
    return True
