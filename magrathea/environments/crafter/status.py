"""What a player should know of the state that a picture of Crafter shows."""

from __future__ import annotations

import numpy as np

MAP_SHARE = 7 / 9  # of the picture's height; the inventory lies below
GREY, TINT = 3.0, 8.0  # asleep, the map is grey, with this much more blue


def picture_status(picture: np.ndarray) -> str:
    """That the player sleeps, which makes the map of a picture (height, width, 3) uint8 grey and blue; else ""."""
    red, green, blue = picture[: round(MAP_SHARE * len(picture))].astype(np.float32).mean(axis=(0, 1))
    asleep = abs(red - green) < GREY and abs(blue - red - TINT) < GREY
    return "Asleep: keys do nothing until you wake up" if asleep else ""
