"""DeltaTokenizer: numbers as instructions that say how each is made of the number of the step before."""

from __future__ import annotations

from typing import Annotated, Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.settings import Range, check_value
from magrathea.spaces import check_leaf
from magrathea.tokenizers.base import VALUES, SlotSpec, Tokenizer, check_in_space, not_fitted, require_tensor
from magrathea.tokenizers.delta_codec import LEVELS, DeltaCodec, fit_choices
from magrathea.tokenizers.discrete import grid_of
from magrathea.tokenizers.numbers import ordered_features

_SPARE = 0.25  # share of the range of the data that values may go beyond it, on either side
_BEYOND = 8  # times the range of the data that integers may rise to
_DIVISORS = np.array([part for part in range(1, LEVELS) if (LEVELS - 1) % part == 0])  # of the levels between the ends
_MAX_SETTINGS = 64
EARLIER_WAVES = 6  # of worlds that do not say how many
_FITTING_NUMBERS = 4_000_000  # from which differences and settings are chosen


class DeltaTokenizer(Tokenizer):
    """`Box` of floats or integers to one token for each entry, which keeps it, adds a difference or sets it (see
    `DeltaCodec`). The values follow the tokens, as one of 65,536 levels between an entry's least and greatest.

    Args:
        space: of numbers.
        num_differences: most differences of an entry.
        num_waves: see `DeltaCodec`; if not given, 6 of integers, whose values recur and differ by little of their
            range, and 1 of other numbers.
    """

    type_name = "delta"

    def __init__(self, space: spaces.Box, *, num_differences: int = 255, num_waves: int | None = None) -> None:
        check_leaf(space, "DeltaTokenizer")
        if not isinstance(space, spaces.Box):
            raise MagratheaError(f"DeltaTokenizer needs a Box of numbers, got {space}")
        check_value("num_differences", num_differences, Annotated[int, Range(1, 2**14)])
        self.space, self._num_differences = space, num_differences
        self._num_waves = (6 if self.value_dtype.kind in "biu" else 1) if num_waves is None else num_waves
        check_value("num_waves", self._num_waves, Annotated[int, Range(0, 15)])
        self._range: np.ndarray | None = None  # (2, entries) float64, least and greatest
        self._codec: DeltaCodec | None = None

    # -- sizes --------------------------------------------------------------------------------------------------------
    @property
    def codec(self) -> DeltaCodec:
        if self._codec is None:
            raise not_fitted(self)
        return self._codec

    @property
    def _num_entries(self) -> int:
        return int(np.prod(self.value_shape))

    @property
    def vocab_size(self) -> int:
        return LEVELS

    @property
    def grid(self) -> tuple[int, int]:
        return (1, 2 * self._num_entries)

    @property
    def slot_specs(self) -> dict[str, SlotSpec]:
        grid = grid_of(self.value_shape)
        return {
            "": SlotSpec(self.codec.vocab_size, grid, self.token_features()),
            VALUES: SlotSpec(LEVELS, grid, codec=self.codec),
        }

    def token_features(self) -> np.ndarray | None:
        """Differences that are close, and settings that are, look alike, but of integers, which count things."""
        if self.value_dtype.kind in "biu":
            return None
        num_differences, num_settings = self.codec.differences.shape[1], self.codec.settings.shape[1]
        added, set_to = ordered_features(num_differences), ordered_features(num_settings)
        keep = np.zeros((1, added.shape[1] + set_to.shape[1]), np.float32)
        return np.concatenate(
            [keep, np.pad(added, ((0, 0), (0, set_to.shape[1]))), np.pad(set_to, ((0, 0), (added.shape[1], 0)))]
        )

    # -- learning -----------------------------------------------------------------------------------------------------
    def fit(self, values: Any, *, previous: Any = None, seed: int = 0) -> Self:
        """Choose ranges, differences and settings for values (M, *shape), given those of the step before each."""
        array = self.check_values(values).astype(np.float64).reshape(-1, self._num_entries)
        if len(array) == 0:
            raise MagratheaError("DeltaTokenizer.fit got no values; give (M, *space.shape) with M > 0")
        before = array if previous is None else self.check_values(previous).astype(np.float64).reshape(array.shape)
        self._range = self._fit_range(array)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(array), generator=generator)[
            : max(1, _FITTING_NUMBERS // self._num_entries)
        ].numpy()
        now, then = (torch.from_numpy(self._levels(numbers[chosen])) for numbers in (array, before))
        changes = now - then
        differences, settings = [], []
        for entry in range(self._num_entries):
            own = changes[:, entry]
            moves = own[own != 0]
            differences.append(fit_choices(moves if len(moves) else torch.ones(1).long(), self._num_differences))
            settings.append(fit_choices(now[:, entry], _MAX_SETTINGS))
        scale = changes.double().square().mean(0).sqrt().clamp(min=1)
        self._codec = DeltaCodec(_without_repeats(differences), _without_repeats(settings), scale, self._num_waves)
        return self

    def _fit_range(self, array: np.ndarray) -> np.ndarray:
        """(2, entries) the data's range with something to spare, within the space's bounds; of integers such that each
        is a level, and the same number of levels from the next, where there are enough."""
        low, high = array.min(0), array.max(0)
        spare = np.maximum(_SPARE * (high - low), 1e-6 * np.maximum(1, np.abs(array).max(0)))
        bounds = [np.asarray(bound, np.float64).reshape(-1) for bound in (self._box.low, self._box.high)]
        low, high = np.maximum(low - spare, bounds[0]), np.minimum(high + spare, bounds[1])
        if self.value_dtype.kind in "biu":
            low, high = np.floor(low), np.ceil(high)
            wanted = np.minimum(_BEYOND * (high - low), bounds[1] - low)  # counters go on rising
            parts = _DIVISORS[np.minimum(np.searchsorted(_DIVISORS, wanted), len(_DIVISORS) - 1)]
            high = np.where(wanted < LEVELS, low + parts, high)
        return np.stack([low, np.maximum(high, low + 1e-9)])

    @property
    def _box(self) -> spaces.Box:
        assert isinstance(self.space, spaces.Box)
        return self.space

    @property
    def _fitted_range(self) -> np.ndarray:
        if self._range is None:
            raise not_fitted(self)
        return self._range

    def _levels(self, flat: np.ndarray) -> np.ndarray:
        """(M, entries) float64 -> int64 levels"""
        low, high = self._fitted_range
        return np.round((np.clip(flat, low, high) - low) / (high - low) * (LEVELS - 1)).astype(np.int64)

    # -- tokens -------------------------------------------------------------------------------------------------------
    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        if self.value_dtype.kind in "biu":
            check_in_space("DeltaTokenizer", values, self._box)
        levels = torch.from_numpy(self._levels(values.astype(np.float64).reshape(-1, self._num_entries)))
        if previous is None:
            tokens = self.codec.encode_alone(levels)
        else:
            before = self._levels(previous.astype(np.float64).reshape(-1, self._num_entries))
            tokens = self.codec.encode(levels, torch.from_numpy(before))
        return torch.cat([tokens, levels], dim=-1).numpy()

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        low, high = self._fitted_range
        values = low + tokens[:, self._num_entries :] / (LEVELS - 1) * (high - low)
        if self.value_dtype.kind in "biu":
            values = np.round(values)
        bounds = (np.asarray(bound, np.float64).reshape(-1) for bound in (self._box.low, self._box.high))
        return np.clip(values, *bounds)

    # -- files --------------------------------------------------------------------------------------------------------
    def to_config(self) -> dict[str, Any]:
        return {"type": self.type_name, "num_differences": self._num_differences, "num_waves": self._num_waves}

    def tensors(self) -> dict[str, torch.Tensor]:
        codec = self.codec
        return {
            "range": torch.from_numpy(self._fitted_range.copy()),
            "differences": codec.differences.int(),
            "settings": codec.settings.int(),
            "change_scale": codec.change_scale.clone(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space) -> Tokenizer:
        assert isinstance(space, spaces.Box)
        num_waves = config.get("num_waves", EARLIER_WAVES)
        tokenizer = cls(space, num_differences=config["num_differences"], num_waves=num_waves)
        owner = "DeltaTokenizer"
        bounds = require_tensor(tensors, "range", 2, owner).astype(np.float64)
        differences, settings = (
            require_tensor(tensors, name, 2, owner).astype(np.int64) for name in ("differences", "settings")
        )
        scale = require_tensor(tensors, "change_scale", 1, owner)
        entries = tokenizer._num_entries
        fits = (
            bounds.shape == (2, entries)
            and np.isfinite(bounds).all()
            and (bounds[1] > bounds[0]).all()
            and len(differences) == len(settings) == len(scale) == entries
            and np.abs(differences).max() < LEVELS
            and settings.min() >= 0
            and settings.max() < LEVELS
            and np.isfinite(scale).all()
            and (scale > 0).all()
        )
        if not fits:
            raise MagratheaError(f"DeltaTokenizer has numbers that do not fit {space}; save it again")
        tokenizer._range = bounds
        parts = map(torch.from_numpy, (differences, settings, scale.copy()))
        tokenizer._codec = DeltaCodec(*parts, num_waves=num_waves)
        return tokenizer


def _without_repeats(rows: list[torch.Tensor]) -> torch.Tensor:
    """Rows (C, K), as long as the longest needs; the others repeat their last."""
    longest = max(len(torch.unique(row)) for row in rows)
    return torch.stack([row[:longest] for row in rows])
