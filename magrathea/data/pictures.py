"""Pictures of an environment in the form that tokenizers learn: uint8 (height, width[, 1|3|4]) that patches divide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import optree
from gymnasium import spaces
from PIL import Image

from magrathea.errors import MagratheaError
from magrathea.patch_sizes import padded_size
from magrathea.sounds import Sound
from magrathea.spaces import checked_array, find_picture, is_image, map_leaves, space_tree, value_at

MAX_SIDE = 4096
MIN_SIDE = 8  # of pictures in another form, from which one is told from a list of numbers
MIN_AUTO_SIDE = 16  # the same where no size was asked for
CHANNELS = (1, 3, 4)
MOST_PIXELS = 9600  # of a picture that is recorded as it is, where no size was asked for


def fitting_size(space: spaces.Space) -> tuple[int, int] | None:
    """The size (height, width) at which the picture of a space can be learnt in minutes: both sides divided by the
    least whole number with which it has at most MOST_PIXELS; None where it is small enough, or there is none."""
    path = find_picture(space)
    if path is None:
        return None
    height, width = value_at(space_tree(space), path).shape[:2]
    divisor = math.ceil((height * width / MOST_PIXELS) ** 0.5)
    return None if divisor <= 1 else (max(1, round(height / divisor)), max(1, round(width / divisor)))


@dataclass(frozen=True)
class PictureForm:
    """How the pictures of a space become uint8 (height, width[, channels]).

    Attributes:
        space: of the pictures as the environment gives them.
        channels_first: whether they are (channels, height, width).
        white: the value that 255 stands for, 1 or 255.
        size: (height, width) that they are resized to, by averaging pixels.
        padded: (height, width) that they are then padded to, at the right and the bottom, by repeating the last pixels.
    """

    space: spaces.Box
    channels_first: bool
    white: int
    size: tuple[int, int]
    padded: tuple[int, int]

    @property
    def converted(self) -> spaces.Box:
        """The space of the pictures that `convert` makes."""
        shape = self.space.shape
        return spaces.Box(0, 255, (*self.padded, *(shape[:1] if self.channels_first else shape[2:])), np.uint8)

    def convert(self, value: Any, what: str) -> np.ndarray:
        """A value as such a picture; raises MagratheaError, which begins with `what`, for one outside of its space."""
        array = checked_array(self.space, value, what)
        array = np.moveaxis(array, 0, -1) if self.channels_first else array
        if array.dtype != np.uint8:
            scaled = np.round(array * (255 / self.white))
            if scaled.min() < 0 or scaled.max() > 255:
                raise MagratheaError(
                    f"{what} holds {array.min():g} to {array.max():g} where its space {self.space} is a picture of "
                    f"values from 0 to {self.white}; correct one of them."
                )
            array = scaled.astype(np.uint8)
        array = resize(array, self.size)
        missing = [(0, padded - size) for padded, size in zip(self.padded, self.size, strict=True)]
        return np.pad(array, [*missing, *[(0, 0)] * (array.ndim - 2)], mode="edge")

    def words(self) -> str:
        """What is done to the pictures, "" where that is nothing."""
        shape, dtype = self.space.shape, np.dtype(self.space.dtype)
        sides = shape[1:] if self.channels_first else shape[:2]
        done = []
        if self.channels_first:
            done.append("their channels are put last")
        if dtype != np.uint8:
            done.append(f"{dtype} from 0 to {self.white} becomes uint8")
        if self.size != sides:
            done.append(f"they are resized to {self.size[0]}x{self.size[1]}")
        if self.padded != self.size:
            done.append(f"they are padded to {self.padded[0]}x{self.padded[1]}, which patches divide")
        return ", ".join(done)


def picture_form(space: gymnasium.Space, size: tuple[int, int] | None = None) -> PictureForm | None:
    """How pictures of a space are converted; None where it is no space of pictures."""
    min_side = MIN_AUTO_SIDE if size is None else MIN_SIDE
    if not isinstance(space, spaces.Box) or np.dtype(space.dtype).kind not in "iuf" or isinstance(space, Sound):
        return None
    white, shape = _white(space), space.shape
    channels_first = len(shape) == 3 and shape[0] in CHANNELS and shape[2] not in CHANNELS
    has_sides = channels_first or len(shape) == 2 or (len(shape) == 3 and shape[2] in CHANNELS)
    if white is None or not has_sides:
        return None
    first = int(channels_first)
    sides = (shape[first], shape[first + 1])
    if not is_image(space) and min(sides) < (MIN_SIDE if space.dtype == np.uint8 else min_side):
        return None
    wanted = sides if size is None else size
    return PictureForm(space, channels_first, white, wanted, padded_size(*wanted))


def _white(space: spaces.Box) -> int | None:
    """The highest value of a space whose values go from 0 to 1 (floats) or 255; None for others."""
    if space.dtype == np.uint8:
        return 255
    highest = [1, 255] if np.dtype(space.dtype).kind == "f" else [255]
    is_dark = bool((space.low == 0).all())
    return next((white for white in highest if is_dark and (space.high == white).all()), None)


class ConvertPictures(gymnasium.ObservationWrapper, gymnasium.utils.RecordConstructorArgs):
    """Converts every picture of an observation, also inside Dict and Tuple, as its `PictureForm` says.

    Attributes:
        changes: what is done to the pictures, in a sentence for each.
    """

    def __init__(self, env: gymnasium.Env, size: tuple[int, int] | None = None) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, size=size)
        gymnasium.ObservationWrapper.__init__(self, env)
        if size is not None:
            if not _is_size(size):
                raise MagratheaError(
                    f"size is {size}; give [height, width] in pixels, each from 1 to {MAX_SIDE}, such as [64, 64]."
                )
            size = (size[0], size[1])
        self.size = size
        self.observation_space = self._converted_space(env.observation_space)
        if size is not None and find_picture(self.observation_space) is None:
            raise MagratheaError(f"Size resizes pictures, and {env.observation_space} has none; leave out 'size'.")
        self.changes = changes_of(env.observation_space, size)

    def observation(self, observation: Any) -> Any:
        return map_leaves(self._converted, self.env.observation_space, observation, "An observation")

    def _converted(self, space: gymnasium.Space, value: Any) -> Any:
        form = picture_form(space, self.size)
        return value if form is None else form.convert(value, "A picture of an observation")

    def _converted_space(self, space: gymnasium.Space) -> gymnasium.Space:
        if isinstance(space, spaces.Dict):
            return spaces.Dict({key: self._converted_space(part) for key, part in space.spaces.items()})
        if isinstance(space, spaces.Tuple):
            return spaces.Tuple([self._converted_space(part) for part in space.spaces])
        form = picture_form(space, self.size)
        return space if form is None else form.converted


def changes_of(space: gymnasium.Space, size: tuple[int, int] | None = None) -> list[str]:
    """What `ConvertPictures` does to the pictures of a space: a sentence for each; none where it does nothing."""
    sentences = []
    paths, leaves, _ = optree.tree_flatten_with_path(space_tree(space))
    for path, leaf in zip(paths, leaves, strict=True):
        form = picture_form(leaf, size)
        if form is not None and form.words():
            name = f"Pictures of '{'/'.join(map(str, path))}'" if path else "Pictures"
            sentences.append(f"{name} are recorded as {form.converted.shape} of uint8: {form.words()}.")
    return sentences


def _is_size(size: Any) -> bool:
    if not isinstance(size, tuple | list) or len(size) != 2:
        return False
    return all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= MAX_SIDE for side in size)


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (height, width[, channels]) uint8 at another size (height, width), by averaging pixels."""
    if picture.shape[:2] == tuple(size):
        return picture
    flat = picture[..., 0] if picture.shape[2:] == (1,) else picture
    resized = np.asarray(Image.fromarray(flat).resize((size[1], size[0]), Image.Resampling.BOX))
    return resized[..., None] if picture.shape[2:] == (1,) else resized
