"""Gymnasium spaces as JSON, as the config of a world holds them."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.sounds import Sound
from magrathea.spaces import no_tokenizer


def _bound(bound: np.ndarray) -> Any:
    """A bound as one number where it is the same everywhere; JSON has no infinities, so they are written as text."""
    if bound.size == 0:
        return 0
    if bound.dtype.kind in "iu" and np.any((bound > 2**53) | (bound < -(2**53))):  # float64 does not hold them
        return bound.flat[0].item() if (bound == bound.flat[0]).all() else bound.tolist()
    values = np.asarray(bound, dtype=np.float64)
    written = np.vectorize(lambda value: value if np.isfinite(value) else str(value), otypes=[object])(values)
    return written.flat[0] if (values == values.flat[0]).all() else written.tolist()


def _read_bound(written: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    values = np.asarray(written, dtype=object)
    if dtype.kind in "iu":  # version 0.1 wrote integers as floats, and so the last of int64 as one too many
        limits = np.iinfo(dtype)
        values = np.vectorize(
            lambda value: min(max(int(float(value) if isinstance(value, str) else value), limits.min), limits.max),
            otypes=[object],
        )(values)
        return np.broadcast_to(values.astype(dtype), shape)
    values = values.astype(np.float64)
    if np.isnan(values).any():
        raise ValueError("a bound is not a number")
    return np.broadcast_to(values.astype(dtype), shape)


# What a config may hold. Sizes are checked before anything of that size is made.
MOST_NUMBERS = 2**22  # of a value
_Size = Annotated[int, msgspec.Meta(ge=0, le=MOST_NUMBERS)]
_Whole = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
_CodePoint = Annotated[int, msgspec.Meta(ge=0, le=sys.maxunicode)]
_Sizes = Annotated[list[_Size], msgspec.Meta(max_length=8)]
_Number = Literal[
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"
]


class _BoxConfig(msgspec.Struct, tag="Box", tag_field="type", forbid_unknown_fields=True):
    shape: _Sizes
    dtype: _Number | Literal["bool"]
    low: int | float | str | list
    high: int | float | str | list


class _SoundConfig(msgspec.Struct, tag="Sound", tag_field="type", forbid_unknown_fields=True):
    shape: _Sizes
    dtype: Literal["int16", "uint8", "float32"]
    sample_rate: int


class _DiscreteConfig(msgspec.Struct, tag="Discrete", tag_field="type", forbid_unknown_fields=True):
    n: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    start: _Whole


class _MultiDiscreteConfig(msgspec.Struct, tag="MultiDiscrete", tag_field="type", forbid_unknown_fields=True):
    nvec: list
    start: list


class _MultiBinaryConfig(msgspec.Struct, tag="MultiBinary", tag_field="type", forbid_unknown_fields=True):
    n: _Size | _Sizes


class _TextConfig(msgspec.Struct, tag="Text", tag_field="type", forbid_unknown_fields=True):
    max_length: Annotated[int, msgspec.Meta(ge=1, le=MOST_NUMBERS)]
    min_length: _Size
    characters: Annotated[list[tuple[_CodePoint, _CodePoint]], msgspec.Meta(min_length=1, max_length=2**16)]


class _DictConfig(msgspec.Struct, tag="Dict", tag_field="type", forbid_unknown_fields=True):
    spaces: dict[str, _SpaceConfig]


class _TupleConfig(msgspec.Struct, tag="Tuple", tag_field="type", forbid_unknown_fields=True):
    spaces: list[_SpaceConfig]


_LeafConfig = _BoxConfig | _SoundConfig | _DiscreteConfig | _MultiDiscreteConfig | _MultiBinaryConfig | _TextConfig
_SpaceConfig = _LeafConfig | _DictConfig | _TupleConfig


def _num_numbers(config: Any) -> int:
    """How many numbers a value of the space holds."""
    if isinstance(config, _BoxConfig | _SoundConfig):
        return math.prod(config.shape)
    if isinstance(config, _MultiBinaryConfig):
        return config.n if isinstance(config.n, int) else math.prod(config.n)
    if isinstance(config, _DictConfig | _TupleConfig):
        parts = config.spaces.values() if isinstance(config, _DictConfig) else config.spaces
        return sum(map(_num_numbers, parts))
    return 1


def _ranges(characters: str) -> list[list[int]]:
    """Characters as ranges of code points, both ends included."""
    codes = sorted(map(ord, characters))
    begins = [code for before, code in zip([-2, *codes], codes, strict=False) if code > before + 1]
    ends = [code for code, after in zip(codes, [*codes[1:], sys.maxunicode + 2], strict=True) if after > code + 1]
    return [list(pair) for pair in zip(begins, ends, strict=True)]


def space_to_config(space: spaces.Space) -> dict[str, Any]:
    """A JSON-able description of a space; raises MagratheaError for kinds that no tokenizer knows."""
    if isinstance(space, Sound):
        shape, dtype = list(space.shape), str(space.dtype)
        return {"type": "Sound", "shape": shape, "dtype": dtype, "sample_rate": space.sample_rate}
    if isinstance(space, spaces.Box):
        limits = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **limits}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else [int(size) for size in space.n]}
    if isinstance(space, spaces.Text):
        lengths = {"max_length": int(space.max_length), "min_length": int(space.min_length)}
        return {"type": "Text", **lengths, "characters": _ranges(space.characters)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_config(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_config(part) for part in space.spaces]}
    raise no_tokenizer(space)


def space_from_config(config: dict[str, Any]) -> spaces.Space:
    """The space that `space_to_config` described; raises MagratheaError for anything else, and for values of more than
    `MOST_NUMBERS` numbers."""
    try:
        typed = msgspec.convert(config, _SpaceConfig)
        if _num_numbers(typed) > MOST_NUMBERS:
            raise ValueError(f"its values have more than {MOST_NUMBERS:,} numbers")
        return _space_from(typed)
    except (ValueError, TypeError, AssertionError, ArithmeticError, RecursionError) as error:
        raise MagratheaError(f"A space in a config is none that this version knows ({error}).") from error


def _space_from(config: Any) -> spaces.Space:
    if isinstance(config, _BoxConfig):
        shape, dtype = tuple(config.shape), np.dtype(config.dtype)
        low, high = (_read_bound(side, shape, dtype) for side in (config.low, config.high))
        return spaces.Box(low, high, shape, dtype.type)
    if isinstance(config, _SoundConfig):
        return Sound(tuple(config.shape), config.dtype, config.sample_rate)
    if isinstance(config, _DiscreteConfig):
        return spaces.Discrete(config.n, start=config.start)
    if isinstance(config, _MultiDiscreteConfig):
        nvec, start = np.array(config.nvec), np.array(config.start)
        if nvec.dtype.kind != "i" or start.dtype.kind != "i" or not nvec.size or nvec.size > MOST_NUMBERS:
            raise ValueError("a MultiDiscrete needs whole numbers")
        return spaces.MultiDiscrete(nvec, start=start)
    if isinstance(config, _MultiBinaryConfig):
        return spaces.MultiBinary(config.n)
    if isinstance(config, _TextConfig):
        ends = [-1, *(code for pair in config.characters for code in pair)]
        if any(first > last for first, last in pairwise(ends)) or config.min_length > config.max_length:
            raise ValueError("a Text has ranges of characters that do not rise, or a least length above the greatest")
        letters = frozenset(chr(code) for first, last in config.characters for code in range(first, last + 1))
        return spaces.Text(config.max_length, min_length=config.min_length, charset=letters)
    if isinstance(config, _DictConfig):
        return spaces.Dict({key: _space_from(part) for key, part in config.spaces.items()})
    return spaces.Tuple([_space_from(part) for part in config.spaces])
