"""Small videos of a square that moves over a ground, for tests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

NIGHT, CLAY = (20, 30, 60), (150, 60, 30)
SQUARE = (240, 200, 80)


def frames(num: int, height: int = 72, width: int = 128, seed: int = 0, ground: tuple = NIGHT) -> list[np.ndarray]:
    """Pictures in which a square of 8 pixels moves on by (1, 2) pixels and bounces at the edges."""
    rng = np.random.default_rng(seed)
    place, speed = rng.integers(0, (height - 8, width - 8)).astype(int), np.array([1, 2])
    found = []
    for _ in range(num):
        for axis, side in enumerate((height, width)):
            if not 0 <= place[axis] + speed[axis] <= side - 8:
                speed[axis] *= -1
        place = place + speed
        picture = np.full((height, width, 3), ground, np.uint8)
        picture[place[0] : place[0] + 8, place[1] : place[1] + 8] = SQUARE
        found.append(picture)
    return found


def write_video(path: Path, pictures: list[np.ndarray], fps: int = 10, codec: str = "libx264") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


def write_gif(path: Path, pictures: list[np.ndarray], milliseconds: int = 100) -> Path:
    images = [Image.fromarray(picture) for picture in pictures]
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds)
    return path


def write_pictures(folder: Path, pictures: list[np.ndarray], name: str = "frame{}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / name.format(index))
