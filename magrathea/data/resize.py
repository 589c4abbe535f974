"""Wrappers of environments whose observations do not fit as they are."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from magrathea.errors import MagratheaError


class ResizeImages(gymnasium.ObservationWrapper, gymnasium.utils.RecordConstructorArgs):
    """Resizes every picture of an observation, also inside Dict and Tuple, to (height, width) pixels.

    Gymnasium's ResizeObservation needs OpenCV and takes plain pictures only. Pictures are averaged when they shrink.
    """

    def __init__(self, env: gymnasium.Env, size: tuple[int, int]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, size=size)
        gymnasium.ObservationWrapper.__init__(self, env)
        if len(size) != 2 or min(size) < 1:
            raise MagratheaError(f"Size {tuple(size)} is no (height, width) in pixels; give two numbers of 1 or more.")
        self.size = (int(size[0]), int(size[1]))
        if not has_image(env.observation_space):
            raise MagratheaError(f"Size resizes pictures, and {env.observation_space} has none; leave out 'size'.")
        self.observation_space = self._resized_space(env.observation_space)

    def observation(self, observation: Any) -> Any:
        return self._resized(self.env.observation_space, observation)

    def _resized_space(self, space: gymnasium.Space) -> gymnasium.Space:
        if isinstance(space, spaces.Dict):
            return spaces.Dict({key: self._resized_space(part) for key, part in space.spaces.items()})
        if isinstance(space, spaces.Tuple):
            return spaces.Tuple([self._resized_space(part) for part in space.spaces])
        if not is_image(space):
            return space
        assert space.shape is not None
        return spaces.Box(0, 255, (*self.size, *space.shape[2:]), np.uint8)

    def _resized(self, space: gymnasium.Space, value: Any) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._resized(part, value[key]) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self._resized(part, each) for part, each in zip(space.spaces, value, strict=True))
        return resize(value, self.size) if is_image(space) else value


def is_image(space: gymnasium.Space | None) -> bool:
    """Whether a space is of pictures: Box (height, width) or (height, width, 1 or 3) uint8 from 0 to 255."""
    if not (isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)):
        return False
    return space.shape[2:] in ((), (1,), (3,)) and bool((space.low == 0).all() and (space.high == 255).all())


def has_image(space: gymnasium.Space) -> bool:
    """Whether a space is of pictures, or of things that pictures are among."""
    if isinstance(space, spaces.Dict):
        return any(has_image(part) for part in space.spaces.values())
    if isinstance(space, spaces.Tuple):
        return any(has_image(part) for part in space.spaces)
    return is_image(space)


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (height, width[, channels]) uint8 in another size, averaged over its pixels."""
    flat = picture[..., 0] if picture.shape[2:] == (1,) else picture
    resized = np.asarray(Image.fromarray(flat).resize((size[1], size[0]), Image.Resampling.BOX))
    return resized[..., None] if picture.shape[2:] == (1,) else resized
