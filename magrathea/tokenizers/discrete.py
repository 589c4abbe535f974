"""Tokenizers of spaces that are discrete already: one token per number, exact."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from magrathea.spaces import check_leaf
from magrathea.tokenizers.base import Tokenizer, check_in_space


class DiscreteTokenizer(Tokenizer):
    """`Discrete(n, start)`: one token, value minus start."""

    type_name = "discrete"

    def __init__(self, space: spaces.Discrete) -> None:
        assert isinstance(space, spaces.Discrete)
        check_leaf(space, type(self).__name__)
        self.space = space
        self._start, self._num = int(space.start), int(space.n)

    @property
    def vocab_size(self) -> int:
        return self._num

    @property
    def grid(self) -> tuple[int, int]:
        return (1, 1)

    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        check_in_space("DiscreteTokenizer", values, self.space)
        return (values.astype(np.int64) - self._start)[:, None]

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        return tokens[:, 0] + self._start


class TerminatedTokenizer(Tokenizer):
    """Whether the episode ended by itself: a bool, token 0 (goes on) or 1 (ended)."""

    type_name = "terminated"

    def __init__(self) -> None:
        self.space = spaces.Discrete(2)

    @property
    def vocab_size(self) -> int:
        return 2

    @property
    def grid(self) -> tuple[int, int]:
        return (1, 1)

    @property
    def value_dtype(self) -> np.dtype:
        return np.dtype(bool)

    def _accepts(self, dtype: np.dtype) -> bool:
        return dtype.kind in "biu"

    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        if values.dtype.kind != "b":
            check_in_space("TerminatedTokenizer", values, self.space)
        return values.astype(np.int64)[:, None]

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        return tokens[:, 0] == 1

    @classmethod
    def from_config(
        cls, config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space | None = None
    ) -> Tokenizer:
        return cls()


class MultiDiscreteTokenizer(Tokenizer):
    """`MultiDiscrete(nvec, start)`: a token per entry; the vocabulary is the largest entry's.

    A token that is in the vocabulary but too large for its entry (a model may sample one) decodes to its last value.
    """

    type_name = "multi_discrete"

    def __init__(self, space: spaces.MultiDiscrete) -> None:
        assert isinstance(space, spaces.MultiDiscrete)
        check_leaf(space, type(self).__name__)
        self.space = space
        self._num = np.asarray(space.nvec, dtype=np.int64)
        self._start = np.asarray(space.start, dtype=np.int64)

    @property
    def vocab_size(self) -> int:
        return int(self._num.max())

    @property
    def grid(self) -> tuple[int, int]:
        return grid_of(self.value_shape)

    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        check_in_space("MultiDiscreteTokenizer", values, self.space)
        return (values.astype(np.int64) - self._start).reshape(len(values), -1)

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        return np.minimum(tokens.reshape(-1, *self.value_shape), self._num - 1) + self._start


class MultiBinaryTokenizer(Tokenizer):
    """`MultiBinary(n)`: a token 0 or 1 per entry."""

    type_name = "multi_binary"

    def __init__(self, space: spaces.MultiBinary) -> None:
        assert isinstance(space, spaces.MultiBinary)
        check_leaf(space, type(self).__name__)
        self.space = space

    @property
    def vocab_size(self) -> int:
        return 2

    @property
    def grid(self) -> tuple[int, int]:
        return grid_of(self.value_shape)

    def _accepts(self, dtype: np.dtype) -> bool:
        return dtype.kind in "biu"

    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        if values.dtype.kind != "b":
            check_in_space("MultiBinaryTokenizer", values, self.space)
        return values.astype(np.int64).reshape(len(values), -1)

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        return tokens.reshape(-1, *self.value_shape)


def grid_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) for one token per entry of an array: a matrix keeps its shape, all else is one row."""
    if len(shape) == 2:
        return (shape[0], shape[1])
    return (1, max(1, math.prod(shape)))
