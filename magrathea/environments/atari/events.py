"""What is seen of the events of Pong that make its sounds: the ball bounces, is out, or is served."""

from __future__ import annotations

import numpy as np

FIELD = (35 / 210, 193 / 210)  # top and bottom of where the ball is seen
MORE_GREEN = 55  # than blue, of the field and of the paddles or more; the ball has as much of both
LEAST_LIGHT = 30  # sum of blue above that, of a ball
PADDLES = 0.24, 0.76  # in heights of the picture, left of which and right of which the ball is near one
AT_WALL, AT_PADDLE, OUT, SERVED = 1, 2, 3, 4
LEAST_SPEED = 0.008  # of the picture's height in a step, below which a ball flies straight on


def visible_events(env_id: str, frames: np.ndarray) -> np.ndarray | None:
    """What has happened to the ball since the picture before, for each picture (T, height, width, 3): it was turned
    AT_WALL or AT_PADDLE, is OUT or SERVED, or 0; (T,), or None for other games than Pong."""
    if not env_id.startswith("ALE/Pong"):
        return None
    places = ball_places(frames)
    moves = np.diff(places, axis=0, prepend=np.nan)
    before = np.concatenate([np.full((1, 2), np.nan), moves[:-1]])
    with np.errstate(invalid="ignore"):
        down, across = ((moves * before < 0) & (np.minimum(abs(moves), abs(before)) > LEAST_SPEED)).T
        at_paddle = (places[:, 1] < PADDLES[0]) | (places[:, 1] > PADDLES[1])
    seen = np.pad(~np.isnan(places[:, 0]), 2)
    came_or_went = np.concatenate([[False], seen[2:-3] != seen[3:-2]])
    # a ball that is hidden for one picture has touched what is near
    was_seen, is_seen = seen[:-4] | seen[1:-3], seen[2:-2] | seen[3:-1]
    hidden = came_or_went & was_seen & is_seen
    near_paddle = at_paddle | np.concatenate([[False], at_paddle[:-1]])
    kinds = {
        AT_PADDLE: across | (hidden & near_paddle),
        AT_WALL: down | hidden,
        OUT: came_or_went & was_seen,
        SERVED: came_or_went,
    }
    return np.select(list(kinds.values()), list(kinds), 0)


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
