"""Frames of the dream: what one step shows, as a picture, an image of the uncertainty and a few figures."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from magrathea.plugins import environment_plugin, load_reference
from magrathea.server.engine import StepOutput
from magrathea.server.protocol import DreamHeader, Frame
from magrathea.spaces import find_picture, index_batch, picture_of

CLIP_SECONDS, CLIP_SIDE = 10.0, 256  # of a clip, and pixels that its longer side has at least
CLIP_PIXELS = 2**25  # of all frames of a clip at most; older frames are left out
BAR_HEIGHT, BAR_WIDTH = 48, 8  # pixels, where a space without a picture is drawn as bars


class Renderer:
    """Turns observations of one space into pictures; a space without a picture is drawn as bars.

    Attributes:
        status: says of a picture what its environment's plug-in has to say of it, "" for nothing.
    """

    def __init__(self, space: gymnasium.Space, env_id: str = "") -> None:
        self.space = space
        plugin = environment_plugin(env_id)
        reference = plugin.picture_status if plugin else None
        self.status = load_reference(reference) if reference else lambda _: ""
        path = find_picture(space)
        self.slot = None if path is None else "/".join(map(str, ("observation", *path)))  # that holds the picture

    def render(self, observation: Any) -> np.ndarray:
        """One observation, without a batch dimension, as uint8 (H, W, 3)."""
        if self.slot is None:
            return _bars(np.asarray(gymnasium.spaces.flatten(self.space, observation), dtype=np.float64))
        return picture_of(self.space, observation)

    def png(self, world: Any, tokens: Any) -> bytes:
        """The observation of a step's tokens (1, N) as a PNG file."""
        buffer = io.BytesIO()
        Image.fromarray(self.render(index_batch(world.decode_observation(tokens), 0))).save(buffer, "PNG")
        return buffer.getvalue()


def clip_gif(pictures: Sequence[np.ndarray], fps: float) -> bytes:
    """Pictures (height, width, 3) uint8, fps of them a second, as an animated GIF; small ones are magnified."""
    height, width = pictures[0].shape[:2]
    scale = max(1, round(CLIP_SIDE / max(height, width)))
    most = max(1, CLIP_PIXELS // (height * width * scale**2))
    frames = [
        Image.fromarray(p).resize((width * scale, height * scale), Image.Resampling.NEAREST) for p in pictures[-most:]
    ]
    buffer = io.BytesIO()
    duration = max(20, round(1000 / fps))  # browsers show shorter ones slowly
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0)
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


def step_frame(output: StepOutput, buttons: Sequence[int], renderer: Renderer) -> Frame:
    """The frame of a step that was taken while these buttons were held."""
    result, index = output.result, output.index
    reward = float(result.reward[index])
    picture = renderer.render(index_batch(result.observation, index))
    header = DreamHeader(
        buttons=list(buttons),
        status=renderer.status(picture),
        reward=round(reward, 4) if math.isfinite(reward) else 0.0,
        terminated=bool(result.terminated[index]),
        num_passes=int(result.num_passes[index]),
    )
    parts = {"picture": picture}
    uncertainty = result.uncertainty.get(renderer.slot) if renderer.slot else None
    if uncertainty is not None:
        clipped = np.clip(np.asarray(uncertainty[index], dtype=np.float32), 0, 1)
        parts["uncertainty"] = np.rint(255 * clipped).astype(np.uint8)
    return Frame(header, parts)


def restored_frame(world: Any, tokens: Any, is_start: bool, renderer: Renderer) -> Frame:
    """The frame of the step, tokens (N,), at which a session starts or is restored."""
    terminated = not is_start and bool(world.decode_terminated(tokens[None])[0])
    picture = renderer.render(index_batch(world.decode_observation(tokens[None]), 0))
    return Frame(DreamHeader(terminated=terminated, status=renderer.status(picture)), {"picture": picture})
