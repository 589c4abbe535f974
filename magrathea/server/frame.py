"""Frames: what one step of a session shows, as a picture, an image of the uncertainty and a few figures."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from magrathea.server.engine import StepOutput
from magrathea.spaces import index_batch

BAR_HEIGHT, BAR_WIDTH = 48, 8  # pixels, where a space without a picture is drawn as bars


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


class Renderer:
    """Turns observations of one space into pictures; a space without a picture is drawn as bars."""

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

    def render(self, observation: Any) -> np.ndarray:
        """One observation, without a batch dimension, as uint8 (H, W, 3)."""
        if self.path is None:
            return _bars(np.asarray(gymnasium.spaces.flatten(self.space, observation), dtype=np.float64))
        picture = np.asarray(leaf_of(observation, self.path))
        if picture.ndim == 2:
            picture = picture[..., None]
        if picture.shape[-1] == 1:
            picture = np.repeat(picture, 3, axis=-1)
        return np.ascontiguousarray(picture, dtype=np.uint8)

    def png(self, world: Any, tokens: Any) -> bytes:
        """The observation of a step's tokens (1, N) as a PNG file."""
        buffer = io.BytesIO()
        Image.fromarray(self.render(index_batch(world.decode_observation(tokens), 0))).save(buffer, "PNG")
        return buffer.getvalue()


def _bars(values: np.ndarray) -> np.ndarray:
    heights = np.tanh(np.nan_to_num(values.ravel()[:64]))
    picture = np.full((BAR_HEIGHT, BAR_WIDTH * max(1, len(heights)), 3), 24, np.uint8)
    middle = BAR_HEIGHT // 2
    for index, height in enumerate(heights):
        end = middle - round(height * (middle - 2))
        columns = slice(index * BAR_WIDTH + 1, (index + 1) * BAR_WIDTH - 1)
        picture[min(middle, end) : max(middle, end) + 1, columns] = (232, 184, 107)
    return picture


@dataclass(frozen=True)
class StepFrame:
    """What one step shows.

    Attributes:
        picture: uint8 (H, W, 3).
        uncertainty: uint8 (rows, columns), 0 = certain, 255 = uniform over the codebook.
        action: its index, from 0; None if no action led here.
    """

    picture: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    action: int | None = None
    reward: float = 0.0
    terminated: bool = False
    num_passes: int = 0

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The images of a frame, by name."""
        images = {"picture": self.picture, "uncertainty": self.uncertainty}
        return {name: image for name, image in images.items() if image is not None}


def step_frame(output: StepOutput, action: int, renderer: Renderer) -> StepFrame:
    """The frame of a step that an action led to."""
    result, index = output.result, output.index
    uncertainty = result.uncertainty.get(renderer.slot) if renderer.slot else None
    if uncertainty is not None:
        clipped = np.clip(np.asarray(uncertainty[index], dtype=np.float32), 0, 1)
        uncertainty = np.rint(255 * clipped).astype(np.uint8)
    reward = float(result.reward[index])
    return StepFrame(
        picture=renderer.render(index_batch(result.observation, index)),
        uncertainty=uncertainty,
        action=action,
        reward=reward if math.isfinite(reward) else 0.0,
        terminated=bool(result.terminated[index]),
        num_passes=int(result.num_passes[index]),
    )


def restored_frame(world: Any, tokens: Any, is_start: bool, renderer: Renderer) -> StepFrame:
    """The frame of the step, tokens (N,), at which a session starts or is restored."""
    return StepFrame(
        picture=renderer.render(index_batch(world.decode_observation(tokens[None]), 0)),
        terminated=not is_start and bool(world.decode_terminated(tokens[None])[0]),
    )
