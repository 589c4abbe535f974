"""Tokenizers of real numbers: `BoxTokenizer` for vectors and arrays, `RewardTokenizer` for rewards; each number is the
index of its nearest bin."""

from __future__ import annotations

from typing import Annotated, Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.settings import Range, check_value
from magrathea.spaces import check_leaf
from magrathea.tokenizers.base import Tokenizer, check_in_space, not_fitted, require_tensor
from magrathea.tokenizers.discrete import grid_of

MOST_BINS = 2**16
NUM_WAVES = 16
SMOOTHING = 3.0  # standard deviation in bins of the targets of training


class _BinsTokenizer(Tokenizer):
    """Numbers as the indices of bins."""

    _num_bins: int  # at most

    def token_features(self) -> np.ndarray | None:
        return None if self.smoothing is None else ordered_features(self.vocab_size)

    @property
    def smoothing(self) -> float | None:
        return SMOOTHING if self.vocab_size == self._num_bins else None  # fewer are the values of the data themselves


class BoxTokenizer(_BinsTokenizer):
    """`Box` of floats or integers, bounded or not: each entry to the nearest of its bins.

    `fit` gives each entry the values of the data themselves where they are at most `num_bins`, and otherwise bins even
    in value, even in symlog or at quantiles, whichever errs least (mean square) on the data. Values outside go to the
    end bins. Unfitted, a bounded box has bins even between its bounds.
    """

    type_name = "box"

    def __init__(self, space: spaces.Box, *, num_bins: int = 256) -> None:
        check_leaf(space, "BoxTokenizer")
        if not isinstance(space, spaces.Box):
            raise MagratheaError(f"BoxTokenizer needs a Box of numbers, got {space}")
        check_value("num_bins", num_bins, Annotated[int, Range(2, MOST_BINS)])
        self.space = space
        self._num_bins = int(num_bins)
        self._centers = self._even_centers()

    def _even_centers(self) -> np.ndarray | None:
        """Centers (entries, bins) between the bounds; None where there are none."""
        low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (self._box.low, self._box.high))
        if not (self._box.is_bounded() and np.isfinite(high - low).all()):
            return None
        if self.value_dtype.kind in "biu" and (high - low).max() < self._num_bins:
            return np.minimum(low[:, None] + np.arange((high - low).max() + 1), high[:, None])
        return low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, self._num_bins)

    @property
    def _box(self) -> spaces.Box:
        assert isinstance(self.space, spaces.Box)
        return self.space

    @property
    def centers(self) -> np.ndarray:
        """The bins' values, float64 (entries, bins), rising along the last axis."""
        if self._centers is None:
            raise not_fitted(self)
        return self._centers

    @property
    def vocab_size(self) -> int:
        return self.centers.shape[1]

    @property
    def grid(self) -> tuple[int, int]:
        return grid_of(self.value_shape)

    def fit(self, values: Any, *, previous: Any = None, seed: int = 0) -> Self:
        array = self.check_values(values).astype(np.float64).reshape(-1, self.tokens_per_step)
        if len(array) == 0:
            raise MagratheaError("BoxTokenizer.fit got no values; give (M, *space.shape) with M > 0")
        per_entry = [_best_centers(column, self._num_bins) for column in array.T]
        num_bins = max([2, *map(len, per_entry)])
        self._centers = np.stack([np.pad(centers, (0, num_bins - len(centers)), "edge") for centers in per_entry])
        return self

    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        if self.value_dtype.kind in "biu":
            check_in_space("BoxTokenizer", values, self._box)
        flat = values.astype(np.float64).reshape(len(values), -1)
        inside = np.clip(flat, self.centers[:, 0], self.centers[:, -1])
        return np.stack([nearest(row, column) for row, column in zip(self.centers, inside.T, strict=True)], axis=1)

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        values = self.centers[np.arange(self.tokens_per_step), tokens]
        if self.value_dtype.kind in "biu":
            values = np.round(values)
        low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (self._box.low, self._box.high))
        if self.value_dtype in (np.int64, np.uint64):  # their last number is no float64
            high = np.where(high >= 2.0 ** (63 + (self.value_dtype.kind == "u")), np.nextafter(high, 0), high)
        return np.clip(values, low, high)

    def to_config(self) -> dict[str, Any]:
        return {"type": self.type_name, "num_bins": self._num_bins}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"centers": torch.from_numpy(self.centers.copy())}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space) -> Tokenizer:
        assert isinstance(space, spaces.Box)
        tokenizer = cls(space, num_bins=config["num_bins"])
        centers = require_tensor(tensors, "centers", 2, "BoxTokenizer").astype(np.float64)
        if len(centers) != tokenizer.tokens_per_step or not np.isfinite(centers).all():
            raise MagratheaError(f"BoxTokenizer has {centers.shape} bins that do not fit {space}; save it again")
        tokenizer._centers = centers
        return tokenizer


def _best_centers(column: np.ndarray, num_bins: int) -> np.ndarray:
    """The bins of one entry from its values (M,)."""
    distinct = np.unique(column)
    if len(distinct) <= num_bins:
        return distinct
    low, high = distinct[0], distinct[-1]
    ranks = (np.arange(num_bins) + 0.5) / num_bins
    candidates = [
        np.linspace(low, high, num_bins),
        symexp(np.linspace(symlog(low), symlog(high), num_bins)),
        np.unique(np.quantile(column, ranks)),
    ]
    errors = [((centers[nearest(centers, column)] - column) ** 2).mean() for centers in candidates]
    return candidates[int(np.argmin(errors))]


class RewardTokenizer(_BinsTokenizer):
    """A reward (scalar float32) to its nearest bin; 0 is always a bin, so "no reward" is exact.

    Unfitted, the `num_bins` bins are even in symlog over ±`limit`. `fit` takes the rewards of the data: up to
    `num_bins` different ones (to six decimals) become the bins themselves, more of them get symlog bins.
    """

    type_name = "reward"

    def __init__(self, *, num_bins: int = 255, limit: float = 1000.0) -> None:
        check_value("num_bins", num_bins, Annotated[int, Range(3, MOST_BINS)])
        check_value("limit", limit, Annotated[float, Range(0, 1e30, above=True)])
        self.space = spaces.Box(-np.inf, np.inf, (), np.float32)
        self._num_bins, self._limit = int(num_bins), float(limit)
        self._centers = _symlog_bins(-self._limit, self._limit, self._num_bins)

    @property
    def vocab_size(self) -> int:
        return len(self._centers)

    @property
    def grid(self) -> tuple[int, int]:
        return (1, 1)

    def fit(self, values: Any, *, previous: Any = None, seed: int = 0) -> Self:
        rewards = self.check_values(values).astype(np.float64).reshape(-1)
        distinct = np.unique(np.append(np.round(rewards, 6), 0.0))
        if len(distinct) <= self._num_bins:
            self._centers = distinct + 0.0
        else:
            self._centers = _symlog_bins(distinct[0], distinct[-1], self._num_bins)
        return self

    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
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


def ordered_features(num: int) -> np.ndarray:
    """(num, 16) features of tokens that stand for rising numbers, close for neighbours: cosines over their order, the
    finer the smaller."""
    place = (np.arange(num) + 0.5) / num
    waves = np.arange(1, NUM_WAVES + 1)
    return (np.cos(np.pi * waves * place[:, None]) / waves).astype(np.float32)


def symlog(values: np.ndarray) -> np.ndarray:
    """sign(x) * log(1 + |x|), as in DreamerV3 (Hafner et al. 2023)."""
    return np.sign(values) * np.log1p(np.abs(values))


def symexp(values: np.ndarray) -> np.ndarray:
    """The inverse of `symlog`."""
    return np.sign(values) * np.expm1(np.abs(values))


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
