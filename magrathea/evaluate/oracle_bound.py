"""How much of what comes could be foretold: the pictures of one who knows all but the places that he has never seen."""

from __future__ import annotations

import numpy as np

from magrathea.evaluate.memory.views import Sights, TileView, sights_of, view_of
from magrathea.evaluate.recordings import Recording
from magrathea.evaluate.slots import leaf_of
from magrathea.layout import Slot
from magrathea.world import World


class OracleBound:
    """Of one recorded episode.

    Args:
        frames: (T + 1, height, width, channels) of the episode.
        view: how they show the map.
        sights: what they show of it.
    """

    def __init__(self, frames: np.ndarray, view: TileView, sights: Sights) -> None:
        self.frames, self.view, self.sights = frames, view, sights
        self.mean_tile = _tiles(frames, view)[sights.shown].mean(axis=0) if sights.shown.any() else np.zeros(())

    def pictures(self, start: int, horizon: int) -> np.ndarray:
        """The H frames after `start` as they were, but with the mean tile wherever a place is shown that no frame
        0…start showed: the least error of one who guesses nothing of what he has not seen. The last frame repeats
        beyond the episode's end. (H, height, width, channels)"""
        steps = np.minimum(start + 1 + np.arange(horizon), len(self.frames) - 1)
        places = self.view.places(self.sights.poses)
        shown = self.sights.shown
        seen = {tuple(place) for place in places[: start + 1][shown[: start + 1]].tolist()}
        known = np.array([tuple(place) in seen for place in places[steps].reshape(-1, 2).tolist()], dtype=bool)
        unforeseen = shown[steps] & ~known.reshape(shown[steps].shape)
        pictures = self.frames[steps].copy()
        _tiles(pictures, self.view)[unforeseen] = self.mean_tile.round().astype(pictures.dtype)
        return pictures


def oracle_bound_of(world: World, recording: Recording, slot: Slot) -> OracleBound | None:
    """None where the privileged state does not tell which places the pictures show."""
    view = view_of(world.metadata.get("env_id", ""), recording.episode.infos, slot)
    if view is None:
        return None
    frames = leaf_of(recording.episode.observation, slot)
    return OracleBound(frames, view, sights_of(world, view, recording, slot))


def _tiles(frames: np.ndarray, view: TileView) -> np.ndarray:
    """frames (T, height, width, channels) -> a view of them (T, rows, columns, tile height, tile width, channels), of
    the tiles that show the map."""
    (grid_rows, grid_columns), (rows, columns) = view.grid, view.shape
    height, width = frames.shape[1] // grid_rows, frames.shape[2] // grid_columns
    tiles = frames.reshape(len(frames), grid_rows, height, grid_columns, width, -1).swapaxes(2, 3)
    return tiles[:, :rows, :columns]
