"""Pictures of a 3D game on a cylinder around the player, in which turning moves everything by the same way.

On the plane that a game draws, what is at the side of the view moves twice as far as what is ahead.
"""

from __future__ import annotations

import math

import numpy as np

from magrathea.data.pictures import resize
from magrathea.errors import MagratheaError

SAMPLES = 4  # of a pixel's side, whose mean it is


class Panorama:
    """Makes pictures of the same angle for every pixel of those that a game draws.

    Args:
        size: (height, width) of the pictures that it makes.
        degrees: that their width shows; each pixel is `degrees / width` wide and high.
        drawn: (height, width) of the pictures of the game, in which lines of texture may flicker where they are thin:
            they are halved first, by averaging.
        field_of_view: degrees that the width of the game's pictures shows.

    Raises:
        MagratheaError: if the game's pictures do not show all of that.
    """

    def __init__(
        self, size: tuple[int, int], degrees: float, drawn: tuple[int, int], field_of_view: float = 90.0
    ) -> None:
        self.size = size
        self._halved = drawn[0] // 2, drawn[1] // 2
        height, width = (side * SAMPLES for side in size)
        angles = math.radians(degrees) / width * (np.arange(width) + 0.5 - width / 2)
        rises = math.radians(degrees) / width * (np.arange(height) + 0.5 - height / 2)
        focus = self._halved[1] / 2 / math.tan(math.radians(field_of_view) / 2)
        columns = self._halved[1] / 2 + focus * np.tan(angles)
        rows = self._halved[0] / 2 + focus * rises[:, None] / np.cos(angles)
        if rows.min() < 0 or columns.min() < 0:
            raise MagratheaError(
                f"A panorama of {degrees:g} degrees and {size[0]}x{size[1]} pixels reaches beyond the game's picture; "
                "give fewer degrees or less height."
            )
        self._where = rows.astype(int), np.broadcast_to(columns.astype(int), rows.shape)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """A picture of the game, uint8 (height, width, 3) -> (height, width, 3) uint8 of the size that is made."""
        height, width = self.size
        samples = resize(picture, self._halved)[self._where].reshape(height, SAMPLES, width, SAMPLES, 3)
        return np.round(samples.mean((1, 3), dtype=np.float32)).astype(np.uint8)
