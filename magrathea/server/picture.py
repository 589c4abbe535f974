"""From observations to pictures: the uint8 RGB array that the page shows."""

from __future__ import annotations

import io
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from magrathea.errors import MagratheaError

BAR_ROWS, BAR_COLUMNS = 48, 8


def is_image(space: gymnasium.Space) -> bool:
    """Whether a space is a picture: a uint8 Box of (H, W), (H, W, 1) or (H, W, 3)."""
    return (
        isinstance(space, gymnasium.spaces.Box)
        and space.dtype == np.uint8
        and (len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[-1] in (1, 3)))
    )


def picture_leaf(space: gymnasium.Space, path: str = "") -> tuple[str, gymnasium.Space] | None:
    """The first picture in a space: its path ("" for the space itself, "camera/left" in a Dict) and its space."""
    if is_image(space):
        return path, space
    children: list[tuple[str, Any]] = []
    if isinstance(space, gymnasium.spaces.Dict):
        children = sorted(space.spaces.items(), key=lambda item: item[0] not in ("image", "rgb", "pixels"))
    elif isinstance(space, gymnasium.spaces.Tuple):
        children = [(str(index), child) for index, child in enumerate(space.spaces)]
    for name, child in children:
        found = picture_leaf(child, f"{path}/{name}" if path else name)
        if found:
            return found
    return None


def leaf_of(observation: Any, path: str) -> Any:
    """The part of a Dict or Tuple observation at a path such as "camera/left"."""
    for name in filter(None, path.split("/")):
        observation = observation[int(name)] if isinstance(observation, tuple | list) else observation[name]
    return observation


class Painter:
    """Makes pictures of one observation space; a space without a picture is drawn as a row of bars."""

    def __init__(self, space: gymnasium.Space) -> None:
        leaf = picture_leaf(space)
        self.space = space
        self.path = leaf[0] if leaf else None

    @property
    def slot(self) -> str | None:
        """The name of the world's slot that holds the picture, or None without one."""
        if self.path is None:
            return None
        return f"observation/{self.path}" if self.path else "observation"

    def paint(self, observation: Any) -> np.ndarray:
        """One observation, without a batch dimension, as uint8 (H, W, 3)."""
        if self.path is None:
            return _bars(np.asarray(gymnasium.spaces.flatten(self.space, observation), dtype=np.float64))
        picture = np.asarray(leaf_of(observation, self.path))
        if picture.ndim == 2:
            picture = picture[..., None]
        if picture.shape[-1] == 1:
            picture = np.repeat(picture, 3, axis=-1)
        return np.ascontiguousarray(picture, dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    """A uint8 (H, W, 3) picture as a PNG file."""
    if picture.dtype != np.uint8 or picture.ndim != 3:
        raise MagratheaError(f"A picture must be uint8 (H, W, 3), not {picture.dtype} {picture.shape}.")
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _bars(values: np.ndarray) -> np.ndarray:
    heights = np.tanh(np.nan_to_num(values.ravel()[:64]))
    picture = np.full((BAR_ROWS, BAR_COLUMNS * max(1, len(heights)), 3), 24, np.uint8)
    middle = BAR_ROWS // 2
    for index, height in enumerate(heights):
        end = middle - round(height * (middle - 2))
        columns = slice(index * BAR_COLUMNS + 1, (index + 1) * BAR_COLUMNS - 1)
        picture[min(middle, end) : max(middle, end) + 1, columns] = (232, 184, 107)
    return picture
