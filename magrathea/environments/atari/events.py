"""What is seen of the events of Pong that make its sounds: the ball bounces, is out, or is served."""

from __future__ import annotations

import numpy as np

FIELD = (35 / 210, 193 / 210)  # top and bottom of where the ball is seen
MORE_GREEN = 55  # than blue, of the field and of the paddles or more; the ball has as much of both
LEAST_LIGHT = 30  # sum of blue above that, of a ball
LEAST_SPEED = 0.008  # of the picture's height in a step, below which a ball flies straight on


def visible_events(env_id: str, frames: np.ndarray) -> np.ndarray | None:
    """In which pictures (T, height, width, 3) the ball has turned, come or gone since the one before: (T,); None for
    other games than Pong."""
    if not env_id.startswith("ALE/Pong"):
        return None
    places = ball_places(frames)
    moves = np.diff(places, axis=0, prepend=np.nan)
    before = np.concatenate([np.full((1, 2), np.nan), moves[:-1]])
    with np.errstate(invalid="ignore"):
        turned = ((moves * before < 0) & (np.minimum(abs(moves), abs(before)) > LEAST_SPEED)).any(1)
    is_seen = ~np.isnan(places[:, 0])
    came_or_went = np.concatenate([[False], is_seen[:-1] != is_seen[1:]])
    return turned | came_or_went


def ball_places(frames: np.ndarray) -> np.ndarray:
    """(T, 2): down and across, in heights of the picture; NaN where no ball is seen."""
    height = frames.shape[1]
    top, bottom = (round(share * height) for share in FIELD)
    field = frames[:, top + 1 : bottom - 1].astype(np.float32)
    light = np.maximum(field[..., 2] - field[..., 1] + MORE_GREEN, 0)
    total = light.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        down = (light.sum(2) * np.arange(light.shape[1])).sum(1) / total
        across = (light.sum(1) * np.arange(light.shape[2])).sum(1) / total
    places = np.stack([down, across], axis=1) / height
    return np.where((total >= LEAST_LIGHT)[:, None], places, np.nan)
