"""The tokenizer of rewards: the data's own values where they are few, symlog bins where they are many."""

from __future__ import annotations

from typing import Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.tokenizers.base import Tokenizer, require_tensor


def symlog(values: np.ndarray) -> np.ndarray:
    """sign(x) * log(1 + |x|), as in DreamerV3 (Hafner et al. 2023)."""
    return np.sign(values) * np.log1p(np.abs(values))


def symexp(values: np.ndarray) -> np.ndarray:
    """The inverse of `symlog`."""
    return np.sign(values) * np.expm1(np.abs(values))


class RewardTokenizer(Tokenizer):
    """A reward (scalar float32) to its nearest bin; 0 is always a bin, so "no reward" is exact.

    Unfitted, the `num_bins` bins are even in symlog over ±`limit`. `fit` takes the rewards of the data: up to
    `num_bins` different ones (to six decimals) become the bins themselves, more of them get symlog bins.
    """

    type_name = "reward"

    def __init__(self, *, num_bins: int = 255, limit: float = 1000.0) -> None:
        if num_bins < 3 or not limit > 0:
            raise MagratheaError(f"RewardTokenizer needs num_bins >= 3 and limit > 0, got {num_bins} and {limit}")
        self.space = spaces.Box(-np.inf, np.inf, (), np.float32)
        self._num_bins, self._limit = int(num_bins), float(limit)
        self._centers = _symlog_bins(-self._limit, self._limit, self._num_bins)

    @property
    def vocab_size(self) -> int:
        return len(self._centers)

    @property
    def grid(self) -> tuple[int, int]:
        return (1, 1)

    def fit(self, values: Any, *, seed: int = 0) -> Self:
        rewards = self.check_values(values).astype(np.float64).reshape(-1)
        distinct = np.unique(np.append(np.round(rewards, 6), 0.0))
        if len(distinct) <= self._num_bins:
            self._centers = distinct + 0.0
        else:
            self._centers = _symlog_bins(distinct[0], distinct[-1], self._num_bins)
        return self

    def _encode(self, values: np.ndarray) -> np.ndarray:
        return nearest(self._centers, values.astype(np.float64))[:, None]

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        return self._centers[tokens[:, 0]]

    def to_config(self) -> dict[str, Any]:
        return {"type": self.type_name, "num_bins": self._num_bins, "limit": self._limit}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"centers": torch.from_numpy(self._centers.copy())}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space | None = None
    ) -> Tokenizer:
        tokenizer = cls(num_bins=config["num_bins"], limit=config["limit"])
        tokenizer._centers = require_tensor(tensors, "centers", 1, "RewardTokenizer").astype(np.float64)
        return tokenizer


def nearest(centers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Index of the center (sorted, (K,)) nearest to each value (any shape); a tie goes to the lower one."""
    return np.searchsorted((centers[1:] + centers[:-1]) / 2, values, side="left")


def _symlog_bins(low: float, high: float, num_bins: int) -> np.ndarray:
    """`num_bins` centers from low to high with 0 among them, even in symlog on either side of 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    bottom, top = symlog(np.array(low)).item(), symlog(np.array(high)).item()
    below = round((num_bins - 1) * -bottom / (top - bottom))
    below = min(max(below, int(low < 0)), num_bins - 1 - int(high > 0))
    negative = np.linspace(bottom, 0.0, below + 1)[:-1]
    positive = np.linspace(0.0, top, num_bins - below)
    return symexp(np.concatenate([negative, positive]))
