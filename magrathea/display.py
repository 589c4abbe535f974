"""How worlds and sessions show themselves in a notebook: `World._repr_html_` and `Session._repr_png_`."""

from __future__ import annotations

import base64
import html
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from magrathea.spaces import find_picture, index_batch, picture_of

MAX_PICTURES = 64  # of a batch that are shown
MIN_HEIGHT = 126  # pixels of each, by repeating its own


def png_bytes(picture: np.ndarray) -> bytes:
    """A uint8 picture (height, width, 3) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def picture_grid(pictures: np.ndarray, gap: int = 4) -> np.ndarray:
    """Pictures (B, height, width, 3) uint8 side by side in rows, enlarged by a whole factor: (rows, columns, 3)."""
    factor = -(-MIN_HEIGHT // pictures.shape[1])
    enlarged = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    num, height, width, _ = enlarged.shape
    num_columns = math.ceil(math.sqrt(num))
    num_rows = -(-num // num_columns)
    grid = np.full((num_rows * (height + gap) - gap, num_columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, picture in enumerate(enlarged):
        top, left = index // num_columns * (height + gap), index % num_columns * (width + gap)
        grid[top : top + height, left : left + width] = picture
    return grid


def session_png(session: Any) -> bytes | None:
    """The current pictures of a session's first `MAX_PICTURES` dreams as a PNG file; None where there is no picture."""
    space, observation = session.world.observation_space, session.observation
    if find_picture(space) is None:
        return None
    num = min(session.batch_size, MAX_PICTURES)
    pictures = [picture_of(space, index_batch(observation, index)) for index in range(num)]
    return png_bytes(picture_grid(np.stack(pictures)))


def _describe_step(slots: Any) -> str:
    return f"{sum(slot.num_tokens for slot in slots)} tokens in the slots {', '.join(slot.name for slot in slots)}"


def world_html(world: Any) -> str:
    """A table of what a world is, with the picture of its first start state. All text is escaped."""
    model = world.config.model
    facts = {
        "environment": world.metadata.get("env_id", ""),
        "description": world.metadata.get("description", ""),
        "model": f"{sum(weights.numel() for weights in world.model.parameters()):,} parameters, width {model.width}, "
        f"{model.num_layers} layers, window of {model.window} steps",
        "step": _describe_step(world.layout.token_slots),
        "memory": model.memory,
        "action space": str(world.action_space),
        "observation space": str(world.observation_space),
        "start states": str(world.num_starts),
    }
    rows = "".join(f"<tr><th>{name}</th><td>{html.escape(str(fact))}</td></tr>" for name, fact in facts.items() if fact)
    title = html.escape(str(world.metadata.get("name") or "World"))
    return f"<table><caption>{title}</caption>{rows}{_start_picture(world)}</table>"


def _start_picture(world: Any) -> str:
    """The table row with the first start state's picture, "" where there is none."""
    space = world.observation_space
    if not world.num_starts or find_picture(space) is None:
        return ""
    picture = picture_of(space, world.decode_observation(world.starts[0, -1]))
    data = base64.b64encode(png_bytes(picture_grid(picture[None]))).decode()
    return f'<tr><th>start</th><td><img alt="first start state" src="data:image/png;base64,{data}"></td></tr>'
