"""Arrays of recorded steps in the form that can be learnt: what space they have, and their values in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from magrathea.data.pictures import PictureForm, fitting_size, picture_form
from magrathea.errors import MagratheaError

MOST_CHOICES = 1024  # of an action, up to which whole numbers are choices and no amounts


@dataclass
class Seen:
    """What values of a part of a step were seen.

    Attributes:
        dtype, shape: of a step's.
        low, high: least and greatest.
        is_one_hot: whether every value is one 1 among zeros.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    low: np.ndarray
    high: np.ndarray
    is_one_hot: bool

    @classmethod
    def of(cls, values: np.ndarray, what: str) -> Seen:
        """Of values (T, *shape); raises MagratheaError, which begins with `what`, for what are no finite numbers."""
        if values.dtype.kind not in "biuf" or not values.size:
            raise MagratheaError(f"{what} is an array of {values.dtype}, shape {values.shape}, and not of numbers")
        if not np.isfinite(values).all():
            raise MagratheaError(f"{what} holds NaN or infinite numbers")
        flat = values.reshape(len(values), -1)
        is_one_hot = values.ndim == 2 and values.shape[1] > 1 and bool(((flat == 0) | (flat == 1)).all())
        is_one_hot = is_one_hot and bool((flat.sum(axis=1) == 1).all())
        return cls(values.dtype, values.shape[1:], values.min(axis=0), values.max(axis=0), is_one_hot)

    def add(self, other: Seen, what: str) -> None:
        """Add what was seen elsewhere; raises MagratheaError, which begins with `what`, for another form."""
        if (self.shape, self.dtype.kind) != (other.shape, other.dtype.kind):
            forms = [f"{each.dtype} {each.shape}" for each in (other, self)]
            raise MagratheaError(f"{what} is {forms[0]} where others are {forms[1]}")
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.is_one_hot = self.is_one_hot and other.is_one_hot


class ObservationPart:
    """A part of observations: pictures are converted as those of environments are, other numbers kept.

    Attributes:
        space: of the values that `convert` makes.
    """

    def __init__(self, seen: Seen, size: tuple[int, int] | None) -> None:
        raw = self._raw_space(seen)
        self._form: PictureForm | None = picture_form(raw)
        if self._form is not None:
            own = raw if not self._form.channels_first else self._form.converted
            self._form = picture_form(raw, size or fitting_size(_as_picture(own)))
        self.space: spaces.Box = raw if self._form is None else self._form.converted

    @staticmethod
    def _raw_space(seen: Seen) -> spaces.Box:
        low, high = float(seen.low.min()), float(seen.high.max())
        if seen.dtype == np.uint8:
            return spaces.Box(0, 255, seen.shape, np.uint8)
        if seen.dtype.kind == "f":
            if len(seen.shape) in (2, 3) and low >= 0 and high <= 255:
                as_picture = spaces.Box(0, 1 if high <= 1 else 255, seen.shape, np.float32)
                if picture_form(as_picture) is not None:
                    return as_picture
            return spaces.Box(-np.inf, np.inf, seen.shape, np.float32)
        kind = np.int32 if low >= -(2**31) and high < 2**31 else np.int64
        return spaces.Box(seen.low.astype(kind), seen.high.astype(kind), seen.shape, kind)

    def convert(self, values: np.ndarray, what: str) -> np.ndarray:
        """Values (T, *shape) as ones of the space."""
        if self._form is None:
            return values.astype(self.space.dtype)
        return np.stack([self._form.convert(value, what) for value in values])


def _as_picture(space: spaces.Box) -> spaces.Box:
    return spaces.Box(0, 255, space.shape, np.uint8)


class ActionPart:
    """Actions: choices where they are whole numbers or one-hot, several choices where they are rows of whole numbers,
    amounts otherwise; the choice 0 alone where there are none.

    Attributes:
        space: of the values that `convert` makes.
    """

    def __init__(self, seen: Seen | None) -> None:
        self._seen = seen
        self.space = self._space_of(seen)

    @staticmethod
    def _space_of(seen: Seen | None) -> spaces.Space:
        if seen is None:
            return spaces.Discrete(1)
        if seen.is_one_hot:
            return spaces.Discrete(seen.shape[0])
        is_whole = seen.dtype.kind in "biu" and int(seen.low.min()) >= 0 and int(seen.high.max()) < MOST_CHOICES
        if is_whole and int(np.prod(seen.shape)) == 1:
            return spaces.Discrete(int(seen.high.max()) + 1)
        if is_whole:
            return spaces.MultiDiscrete(seen.high.astype(np.int64) + 1)
        shape = seen.shape or (1,)
        low, high = (np.asarray(each, np.float32).reshape(shape) for each in (seen.low, seen.high))
        return spaces.Box(low, high, shape, np.float32)

    def convert(self, values: np.ndarray | None, length: int) -> np.ndarray:
        """Values (T, *shape), or None, as actions (T, …)."""
        if values is None:
            return np.zeros(length, np.int64)
        if self._seen is not None and self._seen.is_one_hot:
            return values.argmax(axis=1).astype(np.int64)
        return values.reshape(length, *(self.space.shape or ())).astype(self.space.dtype)


def joined_space(parts: Mapping[str, spaces.Space]) -> spaces.Space:
    """The Dict of parts, or the only one."""
    return spaces.Dict(dict(parts)) if len(parts) > 1 else next(iter(parts.values()))


def joined(parts: dict[str, Any]) -> Any:
    """Values of that space."""
    return parts if len(parts) > 1 else next(iter(parts.values()))
