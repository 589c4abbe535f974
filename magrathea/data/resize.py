"""Resizing the pictures of an environment."""

from __future__ import annotations

from typing import Any, TypeGuard

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from magrathea.errors import MagratheaError
from magrathea.spaces import find_picture, is_foreign_picture, is_image, map_leaves, picture_space, to_picture

MAX_SIDE = 4096


class ResizeImages(gymnasium.ObservationWrapper, gymnasium.utils.RecordConstructorArgs):
    """Resizes every picture of an observation, also inside Dict and Tuple, to (height, width) pixels of uint8.

    Pictures of floats within 0..1 and pictures with their channels first become uint8 (height, width, channels).

    Gymnasium's ResizeObservation needs OpenCV and does not look into Dict and Tuple. Shrinking averages pixels.
    """

    def __init__(self, env: gymnasium.Env, size: tuple[int, int]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, size=size)
        gymnasium.ObservationWrapper.__init__(self, env)
        if not _is_size(size):
            raise MagratheaError(
                f"size is {size}; give [height, width] in pixels, each from 1 to {MAX_SIDE}, such as [64, 64]."
            )
        self.size = (size[0], size[1])
        self.observation_space = self._resized_space(env.observation_space)
        if find_picture(self.observation_space) is None:
            raise MagratheaError(f"Size resizes pictures, and {env.observation_space} has none; leave out 'size'.")

    def observation(self, observation: Any) -> Any:
        return map_leaves(self._resized, self.env.observation_space, observation, "An observation")

    def _resized(self, space: gymnasium.Space, value: Any) -> Any:
        return resize(to_picture(space, value), self.size) if _is_picture(space) else value

    def _resized_space(self, space: gymnasium.Space) -> gymnasium.Space:
        if isinstance(space, spaces.Dict):
            return spaces.Dict({key: self._resized_space(part) for key, part in space.spaces.items()})
        if isinstance(space, spaces.Tuple):
            return spaces.Tuple([self._resized_space(part) for part in space.spaces])
        return picture_space(space, self.size) if _is_picture(space) else space


def _is_picture(space: gymnasium.Space) -> TypeGuard[spaces.Box]:
    return is_image(space) or is_foreign_picture(space)


def _is_size(size: Any) -> bool:
    if not isinstance(size, tuple | list) or len(size) != 2:
        return False
    return all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= MAX_SIDE for side in size)


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (height, width[, channels]) uint8 at another size (height, width), by averaging pixels."""
    flat = picture[..., 0] if picture.shape[2:] == (1,) else picture
    resized = np.asarray(Image.fromarray(flat).resize((size[1], size[0]), Image.Resampling.BOX))
    return resized[..., None] if picture.shape[2:] == (1,) else resized
