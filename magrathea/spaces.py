"""Gymnasium spaces as JSON, and values of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import optree
from gymnasium import spaces

from magrathea.errors import MagratheaError


def _bound(bound: np.ndarray) -> Any:
    """A bound as one number where it is the same everywhere; JSON has no infinities, so they are written as text."""
    values = np.asarray(bound, dtype=np.float64)
    written = np.vectorize(lambda value: value if np.isfinite(value) else str(value), otypes=[object])(values)
    return written.flat[0] if (values == values.flat[0]).all() else written.tolist()


def _read_bound(written: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    values = np.asarray(written, dtype=object).astype(np.float64)
    if np.isnan(values).any():
        raise ValueError("a bound is not a number")
    if dtype.kind in "iu":  # the bounds of 64 bits are no floats
        most = np.iinfo(dtype)
        inside = np.clip(values, float(most.min), np.nextafter(float(most.max), 0)).astype(dtype)
        values = np.where(values >= float(most.max), most.max, np.where(values <= float(most.min), most.min, inside))
    return np.broadcast_to(values.astype(dtype), shape)


# What a config may hold. Sizes are checked before anything of that size is made.
MOST_NUMBERS = 2**22  # of a value
_Size = Annotated[int, msgspec.Meta(ge=0, le=MOST_NUMBERS)]
_Whole = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
_Sizes = Annotated[list[_Size], msgspec.Meta(max_length=8)]
_Number = Literal[
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"
]


class _BoxConfig(msgspec.Struct, tag="Box", tag_field="type", forbid_unknown_fields=True):
    shape: _Sizes
    dtype: _Number | Literal["bool"]
    low: float | str | list
    high: float | str | list


class _DiscreteConfig(msgspec.Struct, tag="Discrete", tag_field="type", forbid_unknown_fields=True):
    n: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    start: _Whole


class _MultiDiscreteConfig(msgspec.Struct, tag="MultiDiscrete", tag_field="type", forbid_unknown_fields=True):
    nvec: list
    start: list


class _MultiBinaryConfig(msgspec.Struct, tag="MultiBinary", tag_field="type", forbid_unknown_fields=True):
    n: _Size | _Sizes


class _DictConfig(msgspec.Struct, tag="Dict", tag_field="type", forbid_unknown_fields=True):
    spaces: dict[str, _SpaceConfig]


class _TupleConfig(msgspec.Struct, tag="Tuple", tag_field="type", forbid_unknown_fields=True):
    spaces: list[_SpaceConfig]


_SpaceConfig = _BoxConfig | _DiscreteConfig | _MultiDiscreteConfig | _MultiBinaryConfig | _DictConfig | _TupleConfig


def _num_numbers(config: Any) -> int:
    """How many numbers a value of the space holds."""
    if isinstance(config, _BoxConfig):
        return math.prod(config.shape)
    if isinstance(config, _MultiBinaryConfig):
        return config.n if isinstance(config.n, int) else math.prod(config.n)
    if isinstance(config, _DictConfig | _TupleConfig):
        parts = config.spaces.values() if isinstance(config, _DictConfig) else config.spaces
        return sum(map(_num_numbers, parts))
    return 1


def space_to_config(space: spaces.Space) -> dict[str, Any]:
    """A JSON-able description of a space; raises MagratheaError for kinds that no tokenizer knows."""
    if isinstance(space, spaces.Box):
        limits = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **limits}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else [int(size) for size in space.n]}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_config(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_config(part) for part in space.spaces]}
    raise MagratheaError(
        f"Space {space} has no tokenizer; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple."
    )


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
    if isinstance(config, _DiscreteConfig):
        return spaces.Discrete(config.n, start=config.start)
    if isinstance(config, _MultiDiscreteConfig):
        nvec, start = np.array(config.nvec), np.array(config.start)
        if nvec.dtype.kind != "i" or start.dtype.kind != "i" or not nvec.size or nvec.size > MOST_NUMBERS:
            raise ValueError("a MultiDiscrete needs whole numbers")
        return spaces.MultiDiscrete(nvec, start=start)
    if isinstance(config, _MultiBinaryConfig):
        return spaces.MultiBinary(config.n)
    if isinstance(config, _DictConfig):
        return spaces.Dict({key: _space_from(part) for key, part in config.spaces.items()})
    return spaces.Tuple([_space_from(part) for part in config.spaces])


# -- values of Dict and Tuple spaces ----------------------------------------------------------------------------------
def space_tree(space: spaces.Space) -> Any:
    """The leaf spaces of a space as a tree of dicts and tuples, the shape that its values have."""
    if isinstance(space, spaces.Dict):
        return {key: space_tree(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(space_tree(part) for part in space.spaces)
    return space


def map_leaves(function: Callable[[Any, Any], Any], space: spaces.Space, value: Any, what: str = "The value") -> Any:
    """Apply a function (leaf space, part of the value) at every leaf of a space.

    Returns:
        The results as a tree of dicts and tuples; for a space without parts, the one result.

    Raises:
        MagratheaError: which begins with `what`, where the value is no dict or tuple of the space's parts.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            raise MagratheaError(
                f"{what} is no dict of {sorted(space.spaces)}, as its space says; correct one of them."
            )
        return {key: map_leaves(function, part, value[key], f"{what}['{key}']") for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            raise MagratheaError(f"{what} is no tuple of {len(space.spaces)}, as its space says; correct it.")
        parts = enumerate(zip(space.spaces, value, strict=True))
        return tuple(map_leaves(function, part, each, f"{what}[{index}]") for index, (part, each) in parts)
    return function(space, value)


def index_batch(values: Any, index: int | slice) -> Any:
    """A copy of one member, or of a part, of a batch of values: arrays (B, ...), or a dict or tuple of such."""

    def member(part: Any) -> Any:
        chosen = part[index]
        return chosen.copy() if isinstance(chosen, np.ndarray) else chosen

    return optree.tree_map(member, values)


def value_at(values: Any, path: tuple[str | int, ...]) -> Any:
    """The part of a value of a Dict or Tuple space at a path of keys and indices."""
    for key in path:
        values = values[key]
    return values


# -- pictures ---------------------------------------------------------------------------------------------------------
PICTURE_KEYS = ("image", "rgb", "pixels")  # of the parts of a Dict that are taken for its picture before others


def is_image(space: Any) -> bool:
    """Whether a space is an image: a uint8 Box of (height, width) or (height, width, 1, 3 or 4 channels)."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[2] in (1, 3, 4))


def find_picture(space: spaces.Space) -> tuple[str | int, ...] | None:
    """The path to the picture of a space, the one that is shown where a person looks at its values; () where the space
    itself is one, None where there is none. Of several the first whose key is in `PICTURE_KEYS`, or else the first."""
    paths, leaves, _ = optree.tree_flatten_with_path(space_tree(space))
    found = [path for path, leaf in zip(paths, leaves, strict=True) if is_image(leaf)]
    return min(found, key=lambda path: not any(key in PICTURE_KEYS for key in path), default=None)


def picture_of(space: spaces.Space, value: Any) -> np.ndarray:
    """The picture of a value without batch dimension as uint8 (height, width, 3); transparency is dropped.

    Raises:
        MagratheaError: where the space has no picture.
    """
    path = find_picture(space)
    if path is None:
        raise MagratheaError(f"Space {space} holds no picture; look at its values instead.")
    picture = np.asarray(value_at(value, path))
    picture = picture[..., None] if picture.ndim == 2 else picture
    return np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else np.array(picture[..., :3])
