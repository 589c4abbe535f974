"""Resizing the pictures of an environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from magrathea.errors import MagratheaError
from magrathea.spaces import find_picture, is_image, map_leaves


class ResizeImages(gymnasium.ObservationWrapper, gymnasium.utils.RecordConstructorArgs):
    """Resizes every picture of an observation, also inside Dict and Tuple, to (height, width) pixels.

    Gymnasium's ResizeObservation needs OpenCV and does not look into Dict and Tuple. Shrinking averages pixels.
    """

    def __init__(self, env: gymnasium.Env, size: tuple[int, int]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, size=size)
        gymnasium.ObservationWrapper.__init__(self, env)
        if len(size) != 2 or min(size) < 1:
            raise MagratheaError(f"Size {tuple(size)} is no (height, width) in pixels; give two numbers of 1 or more.")
        self.size = (int(size[0]), int(size[1]))
        if find_picture(env.observation_space) is None:
            raise MagratheaError(f"Size resizes pictures, and {env.observation_space} has none; leave out 'size'.")
        self.observation_space = self._resized_space(env.observation_space)

    def observation(self, observation: Any) -> Any:
        return map_leaves(self._resized, self.env.observation_space, observation, "An observation")

    def _resized(self, space: gymnasium.Space, value: Any) -> Any:
        return resize(value, self.size) if is_image(space) else value

    def _resized_space(self, space: gymnasium.Space) -> gymnasium.Space:
        if isinstance(space, spaces.Dict):
            return spaces.Dict({key: self._resized_space(part) for key, part in space.spaces.items()})
        if isinstance(space, spaces.Tuple):
            return spaces.Tuple([self._resized_space(part) for part in space.spaces])
        if not is_image(space):
            return space
        assert space.shape is not None
        return spaces.Box(0, 255, (*self.size, *space.shape[2:]), np.uint8)


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (height, width[, channels]) uint8 at another size (height, width), by averaging pixels."""
    flat = picture[..., 0] if picture.shape[2:] == (1,) else picture
    resized = np.asarray(Image.fromarray(flat).resize((size[1], size[0]), Image.Resampling.BOX))
    return resized[..., None] if picture.shape[2:] == (1,) else resized
