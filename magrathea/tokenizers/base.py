"""The base class of tokenizers: values of a Gymnasium space to a fixed number of discrete tokens, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import gymnasium
import numpy as np
import torch

from magrathea.errors import MagratheaError
from magrathea.layout import Codec
from magrathea.spaces import first_outside

VALUES = "values"  # name of the kind of tokens that are the values which those before them decode to


@dataclass(frozen=True)
class SlotSpec:
    """Tokens of one kind among those of a value.

    Attributes:
        vocab_size: number of different tokens.
        grid: (rows, columns) in which they are laid out.
        token_features: (vocab_size, F) numbers that are close for similar tokens, or None where no two do.
        is_sequence: whether they follow one another as those of a text do, so that what stands at one place may stand
            at another in the next step.
        group: rows and columns of tokens that share a position of the model; chosen by their number, if not given.
        smoothing, nothing: as of `Slot`.
        codec: given where these are no tokens to predict, but the values that the tokens before them decode to; it
            decodes them.
    """

    vocab_size: int
    grid: tuple[int, int]
    token_features: np.ndarray | None = None
    is_sequence: bool = False
    smoothing: float | None = None
    nothing: int | None = None
    codec: Codec | None = None
    group: tuple[int, int] | None = None


class Tokenizer(ABC):
    """Turns values of `space` into `tokens_per_step` tokens in [0, vocab_size) laid out on `grid`, and back.

    `encode` and `decode` take any leading dimensions (...), are deterministic, and never modify their input. A
    tokenizer may be a conditional codec, whose tokens say how a value is made of the one of the step before; then what
    they decode to follows them, so that `decode` needs nothing else.
    """

    type_name: str = ""
    space: gymnasium.Space

    # -- what a layout needs ------------------------------------------------------------------------------------------
    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of different tokens; raises `MagratheaError` when the tokenizer must be fitted first."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of a step's tokens."""

    @property
    def tokens_per_step(self) -> int:
        """Number of tokens of one value: rows * columns."""
        rows, columns = self.grid
        return rows * columns

    @property
    def leaves(self) -> dict[str, Tokenizer]:
        """The tokenizers that make this one up, by key; `{"": self}` for a tokenizer of a plain space."""
        return {"": self}

    @property
    def slot_specs(self) -> dict[str, SlotSpec]:
        """The kinds of tokens of a value, in their order, by name; {"": …} where all are of one kind."""
        return {"": SlotSpec(self.vocab_size, self.grid, self.token_features(), smoothing=self.smoothing)}

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of one value."""
        shape = self.space.shape
        assert shape is not None
        return shape

    @property
    def value_dtype(self) -> np.dtype:
        """dtype of what `decode` returns."""
        return np.dtype(self.space.dtype)

    # -- what a world needs -------------------------------------------------------------------------------------------
    def fit(self, values: Any, *, previous: Any = None, seed: int = 0) -> Self:
        """Learn from values (M, *space.shape), and those of the step before each, what must be learnt; many tokenizers
        need nothing."""
        del values, previous, seed
        return self

    @property
    def smoothing(self) -> float | None:
        """As of `Slot`; None where tokens that follow one another do not stand for rising numbers."""
        return None

    def token_features(self) -> np.ndarray | None:
        """(vocab_size, F) numbers that are close for tokens that look alike, or None where no two do."""
        return None

    def encode(self, values: Any, previous: Any = None) -> np.ndarray:
        """values (..., *space.shape), and those of the step before where there is one -> int64 tokens
        (..., tokens_per_step); raises MagratheaError on others."""
        array = self.check_values(values)
        leading = array.shape[: array.ndim - len(self.value_shape)]
        before = None if previous is None else self.check_values(previous).reshape(-1, *self.value_shape)
        tokens = self._encode(array.reshape(-1, *self.value_shape), before)
        return tokens.astype(np.int64, copy=False).reshape(*leading, self.tokens_per_step)

    def decode(self, tokens: Any) -> Any:
        """tokens (..., tokens_per_step) -> values (..., *space.shape); raises MagratheaError on foreign tokens."""
        array = self.check_tokens(tokens)
        values = self._decode(array.reshape(-1, self.tokens_per_step))
        return values.astype(self.value_dtype, copy=False).reshape((*array.shape[:-1], *self.value_shape))

    @abstractmethod
    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        """Checked values (M, *space.shape), and those of the step before -> tokens (M, tokens_per_step)."""

    @abstractmethod
    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        """Checked tokens (M, tokens_per_step) -> values (M, *space.shape)."""

    # -- what a file needs --------------------------------------------------------------------------------------------
    def to_config(self) -> dict[str, Any]:
        """JSON-able settings, with the tokenizer's "type"; `tokenizer_from` reads them."""
        return {"type": self.type_name}

    def tensors(self) -> dict[str, torch.Tensor]:
        """What was learnt, for a safetensors file; empty where nothing is."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space) -> Tokenizer:
        """The inverse of `to_config` and `tensors`; where nothing is set or learnt, of the space alone."""
        return cls(space)  # type: ignore[call-arg]

    # -- checks -------------------------------------------------------------------------------------------------------
    def check_values(self, values: Any) -> np.ndarray:
        """values as an array of the right shape, kind and finiteness, or one MagratheaError that says what is wrong."""
        name, shape = type(self).__name__, self.value_shape
        try:
            array = np.asarray(values)
        except ValueError as error:
            raise MagratheaError(f"{name}.encode got values that are no array: {error}") from error
        if array.ndim < len(shape) or array.shape[array.ndim - len(shape) :] != shape:
            raise MagratheaError(f"{name}.encode got shape {array.shape}; give (..., {_listed(shape)})")
        if not self._accepts(array.dtype):
            raise MagratheaError(f"{name}.encode got dtype {array.dtype}; give {self.value_dtype} of {self.space}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise MagratheaError(f"{name}.encode got NaN or infinite values; remove them from the data first")
        return array

    def _accepts(self, dtype: np.dtype) -> bool:
        """Whether values of this dtype can be meant for this space: integers for integers, numbers for floats."""
        return dtype.kind in {"f": "biuf", "b": "biu"}.get(self.value_dtype.kind, "iu")

    def check_tokens(self, tokens: Any) -> np.ndarray:
        """tokens as an integer array (..., tokens_per_step) within the vocabulary, or one MagratheaError."""
        name, array = type(self).__name__, np.asarray(tokens)
        if array.dtype.kind not in "iu":
            raise MagratheaError(f"{name}.decode got dtype {array.dtype}; give integer tokens")
        if array.ndim == 0 or array.shape[-1] != self.tokens_per_step:
            raise MagratheaError(f"{name}.decode got shape {array.shape}; give (..., {self.tokens_per_step}) tokens")
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            low, high = int(array.min()), int(array.max())
            raise MagratheaError(f"{name}.decode got tokens {low}..{high}; they must lie in 0..{self.vocab_size - 1}")
        return array.astype(np.int64, copy=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.space})"


def check_in_space(name: str, values: np.ndarray, space: gymnasium.Space) -> None:
    """Raise MagratheaError, with the first of them, where values (..., *shape) are outside the bounds of a space."""
    outside = first_outside(space, values)
    if outside is not None:
        raise MagratheaError(f"{name}.encode got a value that {outside}; correct one of them.")


def not_fitted(tokenizer: Tokenizer, what: str = "values") -> MagratheaError:
    """The error for using a tokenizer before `fit`."""
    return MagratheaError(f"{type(tokenizer).__name__} is not fitted; call fit({what}) first")


def require_tensor(tensors: dict[str, torch.Tensor], name: str, ndim: int, owner: str) -> np.ndarray:
    """The tensor `name` as an array with `ndim` dimensions, or one MagratheaError that names the tokenizer."""
    if name not in tensors:
        raise MagratheaError(f"{owner} has no tensor '{name}'; the weights file is incomplete, save it again")
    array = tensors[name].detach().cpu().numpy()
    if array.ndim != ndim or array.size == 0:
        raise MagratheaError(f"{owner} tensor '{name}' is {array.shape}, not of {ndim} dimensions; save it again")
    return array


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape)) if shape else "no further dimensions"
