"""Actions of an agent as tensors: how its outputs become a distribution of them, and they become an environment's.

B batch, O outputs of the actor, A numbers of an action.
"""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from magrathea.errors import MagratheaError

UNIFORM_SHARE = 0.01  # of the probability of discrete actions that is spread evenly (DreamerV3)
MIN_STD, MAX_STD = 0.1, 1.0  # of continuous actions, whose range is -1…1


class Distribution(Protocol):
    """A distribution of a batch of actions (B, A)."""

    def sample(self) -> Tensor: ...

    def mode(self) -> Tensor: ...

    def log_prob(self, actions: Tensor) -> Float[Tensor, " B"]: ...

    def entropy(self) -> Float[Tensor, " B"]: ...


class Categoricals:
    """An independent categorical for each of the A numbers, of logits (B, O) that stand side by side."""

    def __init__(self, outputs: Float[Tensor, "B O"], sizes: tuple[int, ...]) -> None:
        parts = [part.softmax(-1) for part in outputs.split(sizes, dim=-1)]
        self.probs = [(1 - UNIFORM_SHARE) * part + UNIFORM_SHARE / part.shape[-1] for part in parts]

    def sample(self) -> Tensor:
        return torch.cat([torch.multinomial(part, 1) for part in self.probs], dim=-1)

    def mode(self) -> Tensor:
        return torch.stack([part.argmax(-1) for part in self.probs], dim=-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        chosen = [part.gather(-1, own[:, None]) for part, own in zip(self.probs, actions.unbind(-1), strict=True)]
        return torch.cat(chosen, dim=-1).log().sum(-1)

    def entropy(self) -> Tensor:
        return torch.stack([-(part * part.log()).sum(-1) for part in self.probs], dim=-1).sum(-1)


class Gaussians:
    """A normal distribution for each of the A numbers: of O = 2 * A outputs, means squashed to -1…1 and deviations."""

    def __init__(self, outputs: Float[Tensor, "B O"]) -> None:
        mean, std = outputs.chunk(2, dim=-1)
        std = MIN_STD + (MAX_STD - MIN_STD) * torch.sigmoid(std)
        self.normal = torch.distributions.Normal(torch.tanh(mean), std, validate_args=False)

    def sample(self) -> Tensor:
        return self.normal.sample()

    def mode(self) -> Tensor:
        return self.normal.mean

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.normal.log_prob(actions).sum(-1)

    def entropy(self) -> Tensor:
        return self.normal.entropy().sum(-1)


class ActionMap:
    """Actions of a space as tensors (B, A): int64 indices, or numbers of which -1…1 is the space's range.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary, or a Box of floats, in which a bound that is not finite counts as
            -1 or 1. Raises MagratheaError for any other.
    """

    def __init__(self, space: gymnasium.Space) -> None:
        self.space, self.sizes, self._start = space, (), np.zeros(1, np.int64)
        if isinstance(space, spaces.Discrete):
            self.sizes, self._start = (int(space.n),), np.array([space.start])
        elif isinstance(space, spaces.MultiDiscrete):
            self.sizes, self._start = tuple(space.nvec.ravel().tolist()), np.asarray(space.start).ravel()
        elif isinstance(space, spaces.MultiBinary):
            self.sizes = (2,) * int(np.prod(space.shape))
        elif isinstance(space, spaces.Box) and space.dtype.kind == "f":
            self._low = np.where(np.isfinite(space.low), space.low, -1.0).ravel()
            self._high = np.where(np.isfinite(space.high), space.high, 1.0).ravel()
        else:
            raise MagratheaError(
                f"An agent cannot act in {space}; it acts in Discrete, MultiDiscrete, MultiBinary and Box of floats."
            )
        self.num_outputs = sum(self.sizes) or 2 * len(self._low)

    def distribution(self, outputs: Float[Tensor, "B O"]) -> Distribution:
        return Categoricals(outputs, self.sizes) if self.sizes else Gaussians(outputs)

    def to_space(self, actions: Tensor) -> Any:
        """(B, A) -> a batch (B, *shape) of the space's actions, inside its bounds."""
        numbers = actions.cpu().numpy()
        if self.sizes:
            numbers = numbers + self._start
        else:
            numbers = self._low + (np.clip(numbers, -1, 1) + 1) / 2 * (self._high - self._low)
        return numbers.reshape(len(actions), *(self.space.shape or ())).astype(self.space.dtype)

    def from_space(self, actions: Any) -> Tensor:
        """The inverse of `to_space`."""
        numbers = np.asarray(actions).reshape(len(actions), -1)
        if self.sizes:
            return torch.from_numpy((numbers - self._start).astype(np.int64))
        return torch.from_numpy(((numbers - self._low) / (self._high - self._low) * 2 - 1).astype(np.float32))


class ValueBins:
    """A value as a distribution over bins whose places are even in symlog (DreamerV3): logits -> value, and back.

    Args:
        num_bins: an odd number, so that 0 is one of them.
    """

    def __init__(self, num_bins: int = 127, limit: float = 12.0) -> None:
        half = torch.linspace(0, limit, num_bins // 2 + 1).expm1()
        self.places = torch.cat([-half[1:].flip(0), half])

    def value(self, logits: Float[Tensor, "*n K"]) -> Float[Tensor, "*n"]:
        """The mean, summed from the middle outwards, so that what is symmetric around 0 is 0."""
        weighted, middle = logits.softmax(-1) * self.places, len(self.places) // 2
        return (weighted[..., :middle].flip(-1) + weighted[..., middle + 1 :]).sum(-1)

    def loss(self, logits: Float[Tensor, "*n K"], values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Cross-entropy to the two bins around each value, each weighted by how near it is."""
        values = values.clamp(self.places[0], self.places[-1])
        above = torch.searchsorted(self.places, values.contiguous()).clamp(1, len(self.places) - 1)
        low, high = self.places[above - 1], self.places[above]
        share = (values - low) / (high - low)
        chosen = F.log_softmax(logits, dim=-1).gather(-1, torch.stack([above - 1, above], dim=-1))
        return -(chosen * torch.stack([1 - share, share], dim=-1)).sum(-1)
