"""Gymnasium spaces: which can be learnt, as JSON, and values of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import optree
from gymnasium import spaces

from magrathea.errors import MagratheaError

MAX_VOCABULARY = 2**18
"""Tokens of one kind that a model can tell apart."""
MAX_NUMBERS = 4096
"""Numbers of one part of a space; pictures, whose tokens are patches, may have more."""


# -- as JSON ----------------------------------------------------------------------------------------------------------
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
_Sizes = Annotated[list[_Size], msgspec.Meta(max_length=8)]
_Number = Literal[
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"
]


class _BoxConfig(msgspec.Struct, tag="Box", tag_field="type", forbid_unknown_fields=True):
    shape: _Sizes
    dtype: _Number | Literal["bool"]
    low: int | float | str | list
    high: int | float | str | list


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
    raise _no_tokenizer(space)


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


def leaf_spaces_of(space: spaces.Space) -> Iterator[tuple[str, spaces.Space]]:
    """(key, space) of every leaf of nested Dict and Tuple spaces, Dicts by sorted keys, so that a space read from a
    file, whose keys may be reordered, is the same; nested keys join with "/". Raises MagratheaError for a key that
    cannot be part of a name in a file."""
    paths, leaves, _ = optree.tree_flatten_with_path(space_tree(space))
    for path, leaf in zip(paths, leaves, strict=True):
        for key in path:
            if not isinstance(key, int) and not is_name(key):
                raise MagratheaError(
                    f"Key {key!r} of {space} is no text, is empty or has '/', which joins keys; rename it"
                )
        yield "/".join(map(str, path)), leaf


def is_name(key: Any) -> bool:
    """Whether a key of a Dict can be a name in an HDF5 file: a printable text without "/" that is more than dots."""
    return isinstance(key, str) and key.isprintable() and "/" not in key and key.strip(".") != ""


def index_batch(values: Any, index: int | slice | np.ndarray) -> Any:
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


# -- what can be learnt -----------------------------------------------------------------------------------------------
def check_space(space: spaces.Space, what: str) -> None:
    """Check that a tokenizer can learn every part of a space, before anything is recorded.

    Raises:
        MagratheaError: which begins with `what`, for the first part that none can, and says what to do.
    """
    try:
        leaves = dict(leaf_spaces_of(space))
    except MagratheaError as error:
        raise MagratheaError(f"{what}: {error}") from error
    if not leaves:
        raise MagratheaError(f"{what}: {space} holds nothing; give it at least one space.")
    for key, leaf in leaves.items():
        name = f"{what}['{key}']" if key else what
        check_leaf(leaf, name)
        if is_image(leaf):
            assert leaf.shape is not None
            try:
                patch_choices(leaf.shape[0], leaf.shape[1])
            except MagratheaError as error:
                raise MagratheaError(f"{name}: {error}") from error


def check_leaf(space: spaces.Space, what: str) -> None:
    """Check the numbers and the vocabulary of a space without parts; raises MagratheaError as `check_space` does."""
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).kind not in "biuf":
        raise MagratheaError(f"{what}: {space} is no Box of numbers; leave that part out in a wrapper.")
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise MagratheaError(f"{what}: {_no_tokenizer(space)}")
    num_numbers = math.prod(space.shape or ())
    if num_numbers == 0:
        raise MagratheaError(f"{what}: {space} has no numbers; leave that part out in a wrapper.")
    if num_numbers > MAX_NUMBERS and not is_image(space):
        how = CONVERT if is_foreign_picture(space) else "make it smaller in a wrapper"
        raise MagratheaError(
            f"{what}: {space} has {num_numbers} numbers, and at most {MAX_NUMBERS} can be learnt where it is no uint8 "
            f"picture (height, width, 1|3|4); {how}."
        )
    vocab_size = 2
    if isinstance(space, spaces.Discrete):
        vocab_size = int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        vocab_size = int(space.nvec.max())
    if vocab_size > MAX_VOCABULARY:
        raise MagratheaError(
            f"{what}: {space} has {vocab_size} choices, and at most {MAX_VOCABULARY} can be learnt; write them as "
            "several digits (MultiDiscrete) in a wrapper."
        )


def _no_tokenizer(space: spaces.Space) -> MagratheaError:
    return MagratheaError(
        f"Space {space} has no tokenizer; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple."
    )


# -- values of spaces without parts -----------------------------------------------------------------------------------
def checked_array(space: spaces.Space, value: Any, what: str) -> np.ndarray:
    """A copy of a value of a space without parts as an array of its dtype, which holds the same numbers.

    Floats outside the bounds of a Box are kept; see `first_outside`.

    Raises:
        MagratheaError: which begins with `what`, for another shape or kind of numbers, for numbers that are not finite,
            and for the first one that is outside the space, with its index.
    """
    try:
        raw = np.asarray(value)
    except ValueError as error:
        raise MagratheaError(f"{what} is no array ({error}) where its space says {space}; correct it.") from error
    if raw.dtype.kind not in "biuf":
        raise MagratheaError(f"{what} holds {type(value).__name__} where its space says {space}; correct one of them.")
    if raw.shape != (space.shape or ()):
        raise MagratheaError(f"{what} has shape {raw.shape} where its space says {space.shape}; correct one of them.")
    dtype = np.dtype(space.dtype)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = raw.astype(dtype)
        _refuse(~np.isfinite(array), raw, what, f"NaN or infinite in {dtype}; correct it, or replace it in a wrapper")
        return array
    if raw.dtype.kind == "f":
        if is_image(space):
            raise MagratheaError(
                f"{what} holds {raw.dtype} ({raw.min():g} to {raw.max():g}) where its space {space} is a picture of "
                "uint8; multiply it by 255 and round it in a wrapper, or correct the space."
            )
        _refuse(raw != np.round(raw), raw, what, f"no whole number, as its space {space} says; correct one of them")
    outside = first_outside(space, raw)
    if outside is not None:
        raise MagratheaError(f"{what} {outside}; correct one of them.")
    return raw.astype(dtype)


def first_outside(space: spaces.Space, values: np.ndarray) -> str | None:
    """Which of the values (..., *shape) is the first outside the bounds of a space, in words; None where none is."""
    low, high = limits_of(space)
    bad = (values < low) | (values > high)
    if not bad.any():
        return None
    return f"{_first(bad, values)}, outside of its space {space}"


def limits_of(space: spaces.Space) -> tuple[Any, Any]:
    """The least and the greatest value of a space without parts, as numbers or arrays of its shape."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1


def _refuse(bad: np.ndarray, values: np.ndarray, what: str, why: str) -> None:
    if bad.any():
        raise MagratheaError(f"{what} {_first(bad, values)}, {why}.")


def _first(bad: np.ndarray, values: np.ndarray) -> str:
    index = tuple(int(number) for number in np.unravel_index(int(np.argmax(bad)), bad.shape))
    return f"is {values[index]}" + (f" at index {index}" if index else "")


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
    return to_rgb(picture[..., None] if picture.ndim == 2 else picture)


def to_rgb(pictures: np.ndarray) -> np.ndarray:
    """Pictures (..., height, width, 1, 3 or 4 channels) as (..., height, width, 3); transparency is dropped."""
    return np.repeat(pictures, 3, axis=-1) if pictures.shape[-1] == 1 else np.array(pictures[..., :3])


CONVERT = """'--env-kwargs {"size": [64, 64]}' makes it one"""
"""What to do with a picture that is not uint8 (height, width, channels)."""


def is_foreign_picture(space: Any) -> bool:
    """Whether a space is a picture in another form than `is_image` asks for, which `size` converts: channels first, or
    floats within 0..1."""
    return isinstance(space, spaces.Box) and (_has_channels_first(space) or _is_float_picture(space))


def picture_space(space: spaces.Box, size: tuple[int, int]) -> spaces.Box:
    """The space of the pictures of a space as `to_picture` makes them and at a size (height, width)."""
    assert space.shape is not None
    channels = space.shape[:1] if _has_channels_first(space) else space.shape[2:]
    return spaces.Box(0, 255, (*size, *channels), np.uint8)


def to_picture(space: spaces.Box, value: Any) -> np.ndarray:
    """A value of a picture of any form as uint8 (height, width[, channels])."""
    array = checked_array(space, value, "A picture")
    array = np.moveaxis(array, 0, -1) if _has_channels_first(space) else array
    return array if array.dtype == np.uint8 else np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)


def _has_channels_first(space: spaces.Box) -> bool:
    is_kind = space.dtype == np.uint8 or _is_unit(space)
    shape = space.shape or ()
    return is_kind and len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4) and min(shape[1:]) >= 8


def _is_float_picture(space: spaces.Box) -> bool:
    shape = space.shape or ()
    has_sides = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))
    return _is_unit(space) and has_sides and min(shape[:2]) >= 8


def _is_unit(space: spaces.Box) -> bool:
    return np.dtype(space.dtype).kind == "f" and bool((space.low == 0).all() and (space.high == 1).all())


def patch_choices(height: int, width: int) -> list[tuple[int, int]]:
    """Patch sizes that divide a picture, are nearly square and give 49..256 tokens (or as near to that as there is)."""
    shapes = [
        (patch_height, patch_width)
        for patch_height in _divisors(height)
        for patch_width in _divisors(width)
        if 0.5 <= patch_height / patch_width <= 2
    ]
    distance = {shape: _away_from_range(height * width // math.prod(shape)) for shape in shapes}
    least = min(distance.values(), default=math.inf)
    if least > 3:  # e.g. 61x61: one token or 3,721
        raise MagratheaError(
            f"A {height}x{width} image has no patch size that gives 49 to 256 tokens; resize it, as "
            """'--env-kwargs {"size": [64, 64]}' does, or pass patch=(h, w)"""
        )
    return sorted((shape for shape in shapes if distance[shape] <= least), key=math.prod, reverse=True)


def _divisors(number: int) -> list[int]:
    return [value for value in range(1, number + 1) if number % value == 0]


def _away_from_range(num_tokens: int) -> float:
    """How many doublings a number of tokens is away from 49..256."""
    return max(0.0, math.log2(49 / num_tokens), math.log2(num_tokens / 256))
