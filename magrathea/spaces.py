"""Gymnasium spaces: which can be learnt, and values of them. As JSON: `space_config`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optree
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.patch_sizes import patch_choices
from magrathea.sounds import Sound

MAX_VOCABULARY = 2**18
"""Tokens of one kind that a model can tell apart."""
MAX_NUMBERS = 4096
"""Numbers of one part of a space; pictures, whose tokens are patches, may have more."""


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


def stack(values: Sequence[Any]) -> Any:
    """Values of one space as a batch: arrays (B, ...), of objects where they are texts, or a dict or tuple of such."""
    return optree.tree_map(lambda *parts: np.stack([to_array(part) for part in parts]), *values)


def to_array(value: Any) -> np.ndarray:
    """A value of a space without parts as an array; a text as one of objects, since arrays of text drop NULs."""
    return np.array(str(value), dtype=object) if isinstance(value, str) else np.asarray(value)


def from_gymnasium_batch(space: spaces.Space, values: Any) -> Any:
    """A batch as Gymnasium's vector environments have it, texts in tuples, as arrays (B, ...), or a dict or tuple of
    such."""
    return map_leaves(lambda leaf, part: text_array(part) if isinstance(leaf, spaces.Text) else part, space, values)


def to_gymnasium_batch(space: spaces.Space, values: Any) -> Any:
    """The inverse of `from_gymnasium_batch`, as a copy."""
    return map_leaves(
        lambda leaf, part: tuple(part.tolist()) if isinstance(leaf, spaces.Text) else np.array(part), space, values
    )


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
    if isinstance(space, spaces.Text):
        _check_text_space(space, what)
        return
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise MagratheaError(f"{what}: {no_tokenizer(space)}")
    num_numbers = math.prod(space.shape or ())
    if num_numbers == 0:
        raise MagratheaError(f"{what}: {space} has no numbers; leave that part out in a wrapper.")
    if num_numbers > MAX_NUMBERS and not is_image(space) and not isinstance(space, Sound):
        raise MagratheaError(
            f"{what}: {space} has {num_numbers} numbers, and at most {MAX_NUMBERS} can be learnt where it is no picture"
            f" of 1, 3 or 4 channels of uint8, or of floats within 0…1, and no declared sound; {_smaller(space)}."
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


def _smaller(space: spaces.Space) -> str:
    if len(space.shape or ()) < 3:
        return "make it smaller in a wrapper"
    return (
        "make it one in a wrapper; where it is a stack of frames, take off that wrapper, since the model sees past "
        "steps by itself"
    )


def no_tokenizer(space: spaces.Space) -> MagratheaError:
    """The error for a space of a kind that no tokenizer knows."""
    return MagratheaError(
        f"Space {type(space).__name__} has no tokenizer; use Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict or "
        "Tuple."
    )


# -- values of spaces without parts -----------------------------------------------------------------------------------
def checked_array(space: spaces.Space, value: Any, what: str) -> np.ndarray:
    """A copy of a value of a space without parts as an array of its dtype, which holds the same numbers.

    Floats outside the bounds of a Box are kept; see `first_outside`.

    Raises:
        MagratheaError: which begins with `what`, for another shape or kind of numbers, for numbers that are not finite,
            and for the first one that is outside the space, with its index.
    """
    if isinstance(space, spaces.Text):
        return _checked_text(space, value, what)
    try:
        raw = np.asarray(value)
    except ValueError as error:
        raise MagratheaError(f"{what} is no array ({error}) where its space says {space}; correct it.") from error
    if raw.dtype.kind not in "biuf":
        raise MagratheaError(f"{what} holds {type(value).__name__} where its space says {space}; correct one of them.")
    if raw.shape != (space.shape or ()):
        how = "pad it with silence, or cut it, in a wrapper" if isinstance(space, Sound) else "correct one of them"
        raise MagratheaError(f"{what} has shape {raw.shape} where its space says {space.shape}; {how}.")
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


def checked_batch(space: spaces.Space, values: Any, length: int, what: str) -> np.ndarray:
    """Values (length, *shape) of a space without parts as an array of its dtype, which holds the same numbers.

    Floats outside the bounds of a Box are kept. Raises MagratheaError as `checked_array` does; the indices begin with
    that of the value.
    """
    if isinstance(space, spaces.Text):
        texts = text_array(values)
        if texts.shape != (length,):
            raise MagratheaError(
                f"{what} has shape {texts.shape} where its space says ({length},); correct one of them."
            )
        return stack([_checked_text(space, text, f"{what}, text {index},") for index, text in enumerate(texts)])
    raw, shape, dtype = np.asarray(values), (length, *(space.shape or ())), np.dtype(space.dtype)
    if raw.dtype.kind not in "biuf":
        raise MagratheaError(f"{what} holds no numbers where its space says {space}; correct one of them.")
    if raw.shape != shape:
        raise MagratheaError(f"{what} has shape {raw.shape} where its space says {shape}; correct one of them.")
    with np.errstate(over="ignore", invalid="ignore"):
        array = raw.astype(dtype, copy=False)
    if dtype.kind == "f":
        _refuse(~np.isfinite(array), raw, what, f"NaN or infinite in {dtype}; correct it")
        return array
    if raw.dtype != dtype:
        _refuse(array != raw, raw, what, f"no number of {dtype}, as its space {space} says; correct one of them")
    outside = first_outside(space, raw)
    if outside is not None:
        raise MagratheaError(f"{what} {outside}; correct one of them.")
    return array


def first_outside(space: spaces.Space, values: np.ndarray) -> str | None:
    """Which of the values (..., *shape) is the first outside the bounds of a space, in words; None where none is."""
    if isinstance(space, spaces.Text):
        return next((f"is {why}" for text in values.ravel() if (why := _text_outside(space, text))), None)
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


# -- texts ------------------------------------------------------------------------------------------------------------
def text_array(values: Any) -> np.ndarray:
    """Texts, in an array, or in lists and tuples of any depth, as an array of objects."""
    array = np.empty((), dtype=object)
    if isinstance(values, str):
        array[()] = str(values)
        return array
    if isinstance(values, np.ndarray):
        return values.astype(object)
    return np.stack([text_array(value) for value in values]) if len(values) else np.empty(0, dtype=object)


def _check_text_space(space: spaces.Text, what: str) -> None:
    if not space.characters or not space.max_length:
        raise MagratheaError(f"{what}: {_shown(space)} has no characters; leave that part out in a wrapper.")


def _checked_text(space: spaces.Text, value: Any, what: str) -> np.ndarray:
    """A text as an array () of objects; raises MagratheaError, which begins with `what`, for what is none of the
    space."""
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if not isinstance(value, str):
        raise MagratheaError(
            f"{what} holds {type(value).__name__} where its space says {_shown(space)}; give a text (str)."
        )
    outside = _text_outside(space, value)
    if outside is not None:
        raise MagratheaError(f"{what} is {outside}; {_text_remedy(space, value)}.")
    if "\0" in value:
        raise MagratheaError(f"{what} holds the character NUL, which files of texts cannot; replace it in a wrapper.")
    return to_array(value)


def _text_outside(space: spaces.Text, text: str) -> str | None:
    """Why a text is not in its space, in words that follow "is"; None where it is."""
    shown = repr(text if len(text) <= 40 else f"{text[:40]}…")
    if not space.min_length <= len(text) <= space.max_length:
        return f"{shown} of {len(text):,} characters, outside of its space {_shown(space)}"
    foreign = sorted(set(text) - space.character_set)
    if foreign:
        return f"{shown} with the character {foreign[0]!r}, outside of its space {_shown(space)}"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return f"{shown} with a surrogate, which is half a character"
    return None


def _text_remedy(space: spaces.Text, text: str) -> str:
    """What its environment can do about a text outside of its space."""
    if len(text) < space.min_length:
        return f"give the space min_length={len(text)}, or write something, such as '...', in a wrapper"
    if len(text) > space.max_length:
        return "give the space a larger max_length, or cut the text in a wrapper"
    return f"give all characters that occur, as Text({space.max_length}, charset=...); by default 0-9, a-z, A-Z"


def _shown(space: spaces.Text) -> str:
    """A Text space without its characters, which may be many."""
    return f"Text({space.min_length}, {space.max_length}, {len(space.characters):,} characters)"


# -- counters ---------------------------------------------------------------------------------------------------------
COUNTERS = "counters"  # the part of a Dict that holds whole numbers of the environment's `info`


def has_counters(space: spaces.Space) -> bool:
    """Whether a space is a Dict that has counters: a Box (K,) of int32 under that key."""
    box = space.spaces.get(COUNTERS) if isinstance(space, spaces.Dict) else None
    return isinstance(box, spaces.Box) and box.dtype == np.int32 and len(box.shape) == 1


def counter_names(space: spaces.Space, metadata: Mapping[str, Any]) -> list[str]:
    """The names of a space's counters, [] where it has none: those of the metadata, or numbers."""
    if not has_counters(space):
        return []
    assert isinstance(space, spaces.Dict)
    (num,), names = space.spaces[COUNTERS].shape or (0,), metadata.get(COUNTERS)  # type: ignore[misc]
    if isinstance(names, list) and len(names) == num and all(isinstance(name, str) for name in names):
        return list(names)
    return [f"{COUNTERS} {index}" for index in range(num)]


# -- pictures ---------------------------------------------------------------------------------------------------------
PICTURE_KEYS = ("image", "rgb", "pixels")  # of the parts of a Dict that are taken for its picture before others


def is_image(space: Any) -> bool:
    """Whether a space is an image: a uint8 Box of (height, width) or (height, width, 1, 3 or 4 channels)."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or isinstance(space, Sound):
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
